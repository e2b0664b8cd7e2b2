"""The nano checkpoint's architecture, tokenizer and processor: a real Qwen2.5-VL, very small."""

import json
from pathlib import Path

import torch
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import (
    GenerationConfig,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2Tokenizer,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
)
from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX

from raypipe.attributes.prompts import (
    SYSTEM_PROMPTS,
    TEMPLATE_VERSION,
    Question,
    completion,
    template_digest,
    user_prompt,
)
from raypipe.embedded.canvas import SIDE
from raypipe.embedded.captions import reasoning
from raypipe.embedded.schema import VIEWS, attributes
from raypipe.models.families import QWEN2_5_VL as FAMILY

NANO_PATH = Path(__file__).with_name("nano")
TEMPLATE_FILE = "prompt_template.json"
"""Which prompt template the checkpoint was pretrained on."""
VOCABULARY_SIZE = 1024
# Qwen2.5-VL's own chat template.
CHAT_TEMPLATE = (
    "{% set image_count = namespace(value=0) %}{% set video_count = namespace(value=0) %}"
    "{% for message in messages %}"
    "{% if loop.first and message['role'] != 'system' %}"
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}"
    "<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}<|im_end|>\n"
    "{% else %}{% for content in message['content'] %}"
    "{% if content['type'] == 'image' or 'image' in content or 'image_url' in content %}"
    "{% set image_count.value = image_count.value + 1 %}"
    "{% if add_vision_id %}Picture {{ image_count.value }}: {% endif %}"
    "<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif content['type'] == 'video' or 'video' in content %}"
    "{% set video_count.value = video_count.value + 1 %}"
    "{% if add_vision_id %}Video {{ video_count.value }}: {% endif %}"
    "<|vision_start|><|video_pad|><|vision_end|>"
    "{% elif 'text' in content %}{{ content['text'] }}{% endif %}"
    "{% endfor %}<|im_end|>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def corpus() -> list[str]:
    """Every text that the embedded default asks or expects of the model."""
    texts = [*SYSTEM_PROMPTS.values(), "system\n", "user\n", "assistant\n"]
    for vertical, entries in attributes().items():
        for entry in entries:
            question = Question(vertical, entry.name, entry.description, entry.values)
            texts.append(user_prompt(question))
            for view in VIEWS[vertical]:
                for phrasing in range(2):
                    for value in entry.values:
                        reason = reasoning(view, entry.name, value, phrasing=phrasing)
                        texts.append(completion(value, reason, "reasoning"))
    return texts


def build_tokenizer() -> Qwen2Tokenizer:
    """Train a byte-level BPE on :func:`corpus` and give it Qwen's special tokens."""
    bpe = Tokenizer(models.BPE())
    bpe.normalizer = normalizers.NFC()
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PRETOKENIZE_REGEX), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_SIZE - len(FAMILY.control_tokens),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(corpus(), trainer)
    trained = models_of(bpe)
    tokenizer = Qwen2Tokenizer(
        vocab=trained[0],
        merges=trained[1],
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        unk_token="<|endoftext|>",
        model_max_length=32768,
        chat_template=CHAT_TEMPLATE,
    )
    tokenizer.add_tokens([AddedToken(text, special=True) for text in FAMILY.control_tokens])
    return tokenizer


def models_of(bpe: Tokenizer) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """The vocabulary and merges of a trained BPE, in rank order."""
    model = json.loads(bpe.to_str())["model"]
    return model["vocab"], [(left, right) for left, right in model["merges"]]


def build_processor() -> Qwen2_5_VLProcessor:
    """Qwen2.5-VL's processor with the pixel count fixed, so that an image is 16 tokens."""
    size = FAMILY.pixel_size(SIDE)
    return Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessor(size=size),
        tokenizer=build_tokenizer(),
        video_processor=Qwen2VLVideoProcessor(size=size),
        chat_template=CHAT_TEMPLATE,
    )


def build_config(tokenizer: Qwen2Tokenizer) -> Qwen2_5_VLConfig:
    """Four layers of vision and four of text; every attention head is 32 wide."""
    ids = {text: tokenizer.convert_tokens_to_ids(text) for text in FAMILY.control_tokens}
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": 192,
        "intermediate_size": 512,
        "num_hidden_layers": 4,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "max_position_embeddings": 4096,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 10000.0,
            "mrope_section": [4, 6, 6],
        },
        "tie_word_embeddings": True,
        "bos_token_id": ids["<|endoftext|>"],
        "eos_token_id": ids["<|im_end|>"],
        "pad_token_id": ids["<|endoftext|>"],
    }
    vision = {
        "depth": 4,
        "hidden_size": 128,
        "intermediate_size": 384,
        "num_heads": 4,
        "out_hidden_size": 192,
        "patch_size": FAMILY.patch_size,
        "spatial_merge_size": FAMILY.merge_size,
        "temporal_patch_size": 2,
        "window_size": SIDE,
        "fullatt_block_indexes": [0, 1, 2, 3],
    }
    return Qwen2_5_VLConfig(
        text_config=text,
        vision_config=vision,
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=True,
    )


def build_model(processor: Qwen2_5_VLProcessor, *, seed: int) -> Qwen2_5_VLForConditionalGeneration:
    """A randomly initialised model in float32, the same for the same seed."""
    torch.manual_seed(seed)
    config = build_config(processor.tokenizer)
    model = Qwen2_5_VLForConditionalGeneration(config)
    model.generation_config = GenerationConfig(
        bos_token_id=config.text_config.bos_token_id,
        eos_token_id=[config.text_config.eos_token_id, config.text_config.pad_token_id],
        pad_token_id=config.text_config.pad_token_id,
        do_sample=True,
        temperature=1.0,
    )
    return model


def save(
    model: Qwen2_5_VLForConditionalGeneration, processor: Qwen2_5_VLProcessor, directory: Path
) -> None:
    """Write the checkpoint; weights are rounded to bfloat16, half the size of float32.

    It names the prompt template, which cannot change without pretraining again.
    """
    directory.mkdir(parents=True, exist_ok=True)
    model.to(torch.bfloat16).save_pretrained(directory)
    processor.save_pretrained(directory)
    write_template(directory)


def write_template(directory: Path) -> None:
    """Name today's prompt template as the one that a checkpoint was pretrained on."""
    record = {"version": TEMPLATE_VERSION, "digest": template_digest()}
    (directory / TEMPLATE_FILE).write_text(json.dumps(record, indent=2) + "\n")
