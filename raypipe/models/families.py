"""What depends on a model family, in one place.

A family is known by the ``model_type`` of its configuration. Those listed here are trained with
shared prefixes, and have their processor and engine held to the size of the prepared images. Any
other vision-language model is a plain :class:`ModelFamily`: TRL trains it
(``training.step=stock``), and its processor keeps the settings that its checkpoint comes with.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from raypipe.errors import ConfigError

Licence = Mapping[str, str]
"""A licence in the keys of the Hub's front matter."""


@dataclass(frozen=True)
class ModelFamily:
    """A vision-language model that transformers, TRL and vLLM know.

    Trainer and engine load its processor with the settings of the checkpoint, so that both see the
    same pixels.
    """

    model_type: str
    language_model: str = "language_model"
    """Module name of the language model within its parent."""

    def check_side(self, side: int) -> None:
        """Refuse images of ``side`` pixels with a ConfigError, where they are no whole tokens."""

    def bound_pixels(self, processor: Any, side: int) -> None:
        """Keep a processor from resizing images of ``side`` pixels, where that is known."""

    def engine_arguments(self, side: int) -> dict[str, Any]:
        """The same bound as arguments of vLLM."""
        return {}

    def tokens_per_image(self, side: int, load_processor: Callable[[], Any]) -> int:
        """Tokens that an image of ``side`` pixels becomes, markers around it included."""
        from PIL import Image

        processor = load_processor()
        turn = {"role": "user", "content": [{"type": "image"}]}
        text = processor.apply_chat_template([turn], tokenize=False)
        image = Image.new("RGB", (side, side))
        expanded = processor(text=[text], images=[[image]])["input_ids"][0]
        return len(expanded) - len(processor.tokenizer(text)["input_ids"]) + 1

    def lora_pattern(self, targets: Sequence[str]) -> str:
        """Regular expression of the modules that get an adapter: never the vision tower's."""
        return rf".*{self.language_model}.*\.({'|'.join(targets)})"


@dataclass(frozen=True)
class QwenVLFamily(ModelFamily):
    """Qwen2-VL and its successors: M-RoPE, and as many tokens as an image has merged patches."""

    patch_size: int = 14
    merge_size: int = 2
    """Patches along a side that become one token."""
    image_token: str = "<|image_pad|>"
    vision_end: str = "<|vision_end|>"
    turn_end: str = "<|im_end|>\n"
    """What ends an assistant's turn, scored by trainers: the chat template has the line break."""
    control_tokens: tuple[str, ...] = (
        "<|endoftext|>",
        "<|im_start|>",
        "<|im_end|>",
        "<|object_ref_start|>",
        "<|object_ref_end|>",
        "<|box_start|>",
        "<|box_end|>",
        "<|quad_start|>",
        "<|quad_end|>",
        "<|vision_start|>",
        "<|vision_end|>",
        "<|vision_pad|>",
        "<|image_pad|>",
        "<|video_pad|>",
    )
    licences: Mapping[str, Licence] = field(default_factory=dict)
    """Of the base models that the shipped configurations name, by ``model.path``."""

    @property
    def pixel_multiple(self) -> int:
        """Sides of images are multiples of this."""
        return self.patch_size * self.merge_size

    def check_side(self, side: int) -> None:
        """Refuse images of ``side`` pixels that are no whole number of tokens.

        Raises:
            ConfigError: names the nearest sides.
        """
        multiple = self.pixel_multiple
        if side % multiple:
            below = side // multiple * multiple
            sides = " or ".join(str(near) for near in (below, below + multiple) if near)
            raise ConfigError(
                f"catalog.image_size={side}: images of '{self.model_type}' have sides that are "
                f"multiples of {multiple}; set {sides}"
            )

    def pixel_size(self, side: int) -> dict[str, int]:
        """The image processor's ``size``: areas in pixels, whatever the keys say."""
        return {"shortest_edge": side**2, "longest_edge": side**2}

    def bound_pixels(self, processor: Any, side: int) -> None:
        """Keep a processor from resizing images of ``side`` pixels."""
        processor.image_processor.size = self.pixel_size(side)

    def engine_arguments(self, side: int) -> dict[str, Any]:
        """The same bound as arguments of vLLM."""
        return {"mm_processor_kwargs": {"min_pixels": side**2, "max_pixels": side**2}}

    def grid_side(self, side: int) -> int:
        """Tokens along a side of an image."""
        return side // self.pixel_multiple

    def tokens_per_image(self, side: int, load_processor: Callable[[], Any] | None = None) -> int:
        """Tokens that an image of ``side`` pixels becomes, without the markers around it."""
        return self.grid_side(side) ** 2

    def language_model_of(self, model: Any) -> Any:
        """The language model of a conditional-generation model."""
        return getattr(model.model, self.language_model)

    def rope_index(self, model: Any) -> Callable[..., Any]:
        """The model's own rule of (3, batch, tokens) positions; text goes on after an image."""
        rule: Callable[..., Any] = model.model.get_rope_index
        return rule


_APACHE = {"license": "apache-2.0"}
_QWEN_RESEARCH = {
    "license": "other",
    "license_name": "qwen-research",
    "license_link": "https://huggingface.co/Qwen/Qwen2.5-VL-3B-Instruct/blob/main/LICENSE",
}
QWEN2_VL = QwenVLFamily("qwen2_vl", licences={"Qwen/Qwen2-VL-2B-Instruct": _APACHE})
QWEN2_5_VL = QwenVLFamily(
    "qwen2_5_vl",
    licences={
        "embedded:nano": _APACHE,
        "Qwen/Qwen2.5-VL-7B-Instruct": _APACHE,
        "Qwen/Qwen2.5-VL-3B-Instruct": _QWEN_RESEARCH,
    },
)
QWEN3_VL = QwenVLFamily(
    "qwen3_vl",
    patch_size=16,
    licences={f"Qwen/Qwen3-VL-{size}-Instruct": _APACHE for size in ("2B", "4B", "8B")},
)
FAMILIES = {family.model_type: family for family in (QWEN2_VL, QWEN2_5_VL, QWEN3_VL)}
LICENCES = {path: text for family in FAMILIES.values() for path, text in family.licences.items()}


def family_named(model_type: str) -> ModelFamily:
    """The family of a ``model_type``; a plain one where raypipe knows none."""
    return FAMILIES.get(model_type) or ModelFamily(model_type)


def family_of(model: Any) -> ModelFamily:
    """The family of a loaded model, in a PEFT wrapper or out of it.

    Raises:
        ConfigError: transformers does not name its language model.
    """
    base = model.get_base_model() if hasattr(model, "peft_config") else model
    known = FAMILIES.get(base.config.model_type)
    if known is not None:
        return known
    decoder = base.get_decoder()
    names = [name for name, module in base.named_modules() if module is decoder and name]
    if not names:
        raise ConfigError(f"'{base.config.model_type}': no language model to put adapters on")
    return ModelFamily(base.config.model_type, names[0].rpartition(".")[2])


def family_of_checkpoint(path: str, revision: str | None) -> ModelFamily:
    """The family of a checkpoint: a directory, or a model of the Hub.

    Raises:
        ConfigError: its configuration cannot be loaded.
    """
    for family in FAMILIES.values():
        if path in family.licences:
            return family
    return family_named(str(model_settings(path, revision).model_type))


def model_settings(path: str, revision: str | None) -> Any:
    """The configuration of a checkpoint, as transformers loads it, and never code of its own.

    Raises:
        ConfigError: it cannot be loaded.
    """
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(path, revision=revision, trust_remote_code=False)
    except Exception as error:  # what a malformed value raises is any error at all
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise ConfigError(f"model.path={path} cannot be loaded: {reason}") from error
