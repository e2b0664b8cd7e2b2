"""One policy served by vLLM."""

import io
import logging
import math
import os
import re
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from raypipe.attributes.prompts import messages
from raypipe.config import ModelConfig, SamplingConfig
from raypipe.config.models import AnswerFormat
from raypipe.errors import EngineDiedError, EngineStartError
from raypipe.models.families import family_of_checkpoint
from raypipe.models.processors import load_processor
from raypipe.sampling import probe
from raypipe.sampling.chains import Chain
from raypipe.sampling.clients import Client, InProcessEngine, SeparateEngine
from raypipe.sampling.probe import Reference
from raypipe.sampling.weights import adapter_reference, merged_checkpoint
from raypipe.store.documents import parse_object

logger = logging.getLogger("raypipe.sampling.engine")

ENGINE_DEFAULTS: dict[str, Any] = {
    "enable_prefix_caching": True,
    "generation_config": "vllm",  # no sampling parameter comes from the checkpoint
    "disable_log_stats": True,
    "load_format": "safetensors",  # never a pickle in place of weights
    "seed": 0,
}
_START_ADVICE = (
    "the vLLM engine did not start. Common causes: too little memory for weights and cache "
    "(lower sampling.engine.gpu_memory_utilization or max_model_len; on a CPU set "
    "sampling.environment.VLLM_CPU_KVCACHE_SPACE), a model that does not load, or a busy GPU"
)


@dataclass(frozen=True)
class Prompt:
    """A listing's images (encoded, already squashed) with one question."""

    text: str
    images: tuple[bytes, ...]
    image_hashes: tuple[str, ...]


@dataclass(frozen=True)
class Request:
    """``num_chains`` chains of one prompt; chain ``i`` draws from ``seed + i``. Greedy if 0.

    With ``options`` decoding is constrained to the answer format with one of them. Without
    ``logprobs`` the chains have NaN for theirs, and the engine's front-end less to do.
    """

    prompt: Prompt
    num_chains: int
    seed: int
    options: tuple[str, ...] = ()
    logprobs: bool = False


@dataclass(frozen=True)
class Failure:
    """Why the engine could not answer one request; others are not affected."""

    detail: str


class Engine:
    """A vLLM engine that serves one policy, after a check that its adapter is active.

    Several threads may call :meth:`generate` at once; their requests share the engine's queue.

    Args:
        base: base checkpoint directory or Hugging Face id.
        adapter: PEFT directory of the policy, None for the base model.
        policy_id: names the adapter and the merged weights; unique per weights.

    Raises:
        EngineStartError: vLLM could not start; says what to try.
        AdapterInactiveError: the engine does not serve the adapter.
        MergeLossError: merged weights would keep too little of it.
    """

    def __init__(
        self,
        model: ModelConfig,
        sampling: SamplingConfig,
        *,
        base: str,
        adapter: Path | None,
        policy_id: str,
        image_size: int,
        max_images: int,
    ) -> None:
        os.environ.update(sampling.variables(os.environ))
        from vllm.lora.request import LoRARequest

        self._sampling = sampling
        self._answer_format = model.answer_format
        self._lora: Any = None
        reference: Reference | None = None
        family = family_of_checkpoint(base, model.revision)
        arguments = ENGINE_DEFAULTS | {
            "model": base,
            "revision": model.revision,
            "dtype": model.dtype,
            "limit_mm_per_prompt": {"image": max_images, "video": 0},
            **family.engine_arguments(image_size),
        }
        if adapter is not None and sampling.adapter == "merged":
            merged = merged_checkpoint(base, model.revision, model.dtype, adapter, policy_id)
            reference = merged.reference
            arguments |= {"model": merged.path, "revision": None}
        elif adapter is not None:
            reference = adapter_reference(base, model.revision, model.dtype, adapter, policy_id)
            self._lora = LoRARequest(policy_id, 1, str(adapter))
            arguments |= {"enable_lora": True, "max_loras": 1, "max_lora_rank": _rank(adapter)}
        arguments |= sampling.engine
        try:
            self._client: Client = (
                InProcessEngine(arguments)
                if sampling.engine_in_actor
                else SeparateEngine(arguments)
            )
        except (RuntimeError, ValueError, OSError) as error:
            raise EngineStartError(f"{_START_ADVICE}: {error}") from error
        # Each image stands for one token in the template and for many in the engine.
        visual = max_images * family.tokens_per_image(
            image_size, partial(load_processor, base, model.revision)
        )
        self.max_prompt_tokens = self._client.max_model_len - sampling.max_tokens - visual
        self.probe_figures = {} if reference is None else self._prove(reference)

    def generate(self, requests: Sequence[Request]) -> list[list[Chain] | Failure]:
        """Chains per request, in order. Requests of one listing should be adjacent: they share
        the system prompt, the images and thereby the engine's prefix cache.

        Raises:
            EngineDiedError: the engine is gone, and all requests with it.
        """
        images = _DecodedImages()
        answers = [
            self._client.submit(
                self._engine_prompt(request.prompt, images), self._parameters(request), self._lora
            )
            for request in requests
        ]
        return [_chains(answer) for answer in answers]

    def num_prompt_tokens(self, prompt: Prompt) -> int:
        """Length of a prompt in tokens, each image counted as one."""
        return len(self._client.tokenizer.encode(self._text(prompt)))

    def _parameters(self, request: Request) -> Any:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams

        greedy = request.num_chains == 0
        grammar = None
        if request.options:
            grammar = StructuredOutputsParams(
                regex=answer_pattern(request.options, self._answer_format)
            )
        return SamplingParams(
            n=1 if greedy else request.num_chains,
            temperature=0.0 if greedy else self._sampling.temperature,
            top_p=1.0 if greedy else self._sampling.top_p,
            top_k=-1,
            min_p=0.0,
            repetition_penalty=1.0,
            presence_penalty=0.0,
            frequency_penalty=0.0,
            max_tokens=self._sampling.max_tokens,
            seed=None if greedy else request.seed,
            logprobs=0 if request.logprobs else None,
            flat_logprobs=True,  # a list of numbers in place of an object for each token
            output_kind=RequestOutputKind.FINAL_ONLY,
            structured_outputs=grammar,
        )

    def _text(self, prompt: Prompt) -> str:
        return prompt_text(self._client.tokenizer, prompt, self._answer_format)

    def _engine_prompt(self, prompt: Prompt, images: "_DecodedImages") -> dict[str, Any]:
        return {
            "prompt": self._text(prompt),
            "multi_modal_data": {"image": images.of(prompt.images)},
            "multi_modal_uuids": {"image": list(prompt.image_hashes)},
        }

    def score(self, texts: Sequence[Sequence[int]], *, adapted: bool = True) -> list[list[float]]:
        """Log-probabilities (nats) of each text's tokens but its first.

        Args:
            texts: token ids.
            adapted: False asks the base model, where the adapter is served beside the weights.
        """
        from vllm import SamplingParams

        parameters = SamplingParams(
            max_tokens=1, temperature=0.0, prompt_logprobs=0, flat_logprobs=True, detokenize=False
        )
        lora = self._lora if adapted else None
        answers = [
            self._client.submit({"prompt_token_ids": list(text)}, parameters, lora)
            for text in texts
        ]
        return [_scored(answer.result()) for answer in answers]

    def _prove(self, reference: Reference) -> dict[str, float]:
        served = self.score(reference.token_ids)
        if self._lora is None:
            changed = probe.difference(_from(served, reference.shared), reference.base)
        else:
            base = self.score(reference.token_ids, adapted=False)
            changed = _from(probe.difference(served, base), reference.shared)
        figures = probe.check(changed, reference)
        if not figures["probe_shown"]:
            logger.warning("%s", probe.not_shown(figures))
        return figures


def _scored(output: Any) -> list[float]:
    scored = zip(output.prompt_token_ids[1:], output.prompt_logprobs[1:], strict=True)
    return [float(entry[token_id].logprob) for token_id, entry in scored]


def _from(rows: list[list[float]], shared: int) -> list[list[float]]:
    return [row[shared - 1 :] for row in rows]


class _DecodedImages:
    """Decodes a listing's images once for all of its queries, which are adjacent."""

    def __init__(self) -> None:
        self._encoded: tuple[bytes, ...] = ()
        self._decoded: list[Any] = []

    def of(self, images: tuple[bytes, ...]) -> list[Any]:
        from PIL import Image

        if images != self._encoded:
            opened = [Image.open(io.BytesIO(content)) for content in images]
            self._encoded, self._decoded = images, [image.convert("RGB") for image in opened]
        return self._decoded


def _chains(answer: "Future[Any]") -> list[Chain] | Failure:
    try:
        output = answer.result()
    except EngineDiedError:
        raise
    except Exception as error:  # noqa: BLE001 - vLLM refuses a request with errors of any kind
        return Failure(f"{type(error).__name__}: {error}")
    return [
        Chain(
            text=completion.text,
            token_ids=tuple(completion.token_ids),
            logprob=_number(completion.cumulative_logprob),
            finish_reason=str(completion.finish_reason),
        )
        for completion in sorted(output.outputs, key=lambda item: item.index)
    ]


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)


def prompt_text(tokenizer: Any, prompt: Prompt, answer_format: AnswerFormat) -> str:
    """A prompt by the chat template; vLLM expands the token that stands for each image."""
    turns = messages(prompt.text, len(prompt.images), answer_format)
    return str(tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False))


def answer_pattern(options: Sequence[str], answer_format: AnswerFormat) -> str:
    """Regular expression of the completions that answer one of ``options``."""
    allowed = "|".join(re.escape(option) for option in options)
    answer = f"<answer>({allowed})</answer>"
    if answer_format == "answer_only":
        return answer
    return f"<reasoning>[^<]+</reasoning>{answer}"


def _rank(adapter: Path) -> int:
    path = adapter / "adapter_config.json"
    return int(parse_object(path.read_bytes(), str(path))["r"])
