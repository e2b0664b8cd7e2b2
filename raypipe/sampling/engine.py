"""The only place that imports vLLM."""

import asyncio
import io
import itertools
import os
import re
import threading
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from raypipe.config import ModelConfig, SamplingConfig
from raypipe.errors import EngineDiedError, EngineStartError
from raypipe.prompts import AnswerFormat, messages
from raypipe.sampling import probe
from raypipe.sampling.chains import Chain
from raypipe.sampling.weights import MergedCheckpoint, merged_checkpoint

ENGINE_DEFAULTS: dict[str, Any] = {
    "enable_prefix_caching": True,
    "generation_config": "vllm",  # nothing of the sampling law comes from the checkpoint
    "disable_log_stats": True,
    "seed": 0,
}
_START_ADVICE = (
    "the vLLM engine did not start. Common causes: too little memory for weights and cache "
    "(lower sampling.engine.gpu_memory_utilization or max_model_len; on a CPU set "
    "sampling.environment.VLLM_CPU_KVCACHE_SPACE), a model that does not load, or a busy GPU"
)
_T = TypeVar("_T")


@dataclass(frozen=True)
class Prompt:
    """A listing's images (encoded, already squashed) with one question."""

    text: str
    images: tuple[bytes, ...]
    image_hashes: tuple[str, ...]


@dataclass(frozen=True)
class Request:
    """``num_chains`` chains of one prompt; chain ``i`` draws from ``seed + i``. Greedy if 0.

    With ``options`` the engine writes nothing but the answer format with one of them.
    """

    prompt: Prompt
    num_chains: int
    seed: int
    options: tuple[str, ...] = ()


@dataclass(frozen=True)
class Failure:
    """Why the engine could not answer one request; the others are not touched by it."""

    detail: str


class Engine:
    """A vLLM engine that serves one policy, proved active before it is used.

    Several threads may call :meth:`generate` at once; their requests share the engine's queue.

    Args:
        base: base checkpoint directory or Hugging Face id.
        adapter: PEFT directory of the policy, None for the base model.
        policy_id: names the adapter and the merged weights; unique per weights.

    Raises:
        EngineStartError: vLLM could not start; says what to try.
        AdapterInactiveError: the engine does not serve the adapter.
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
        os.environ.update(sampling.environment)
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.lora.request import LoRARequest
        from vllm.v1.engine.async_llm import AsyncLLM

        self._sampling = sampling
        self._answer_format = model.answer_format
        self._lora: Any = None
        self._numbers = itertools.count()
        merged: MergedCheckpoint | None = None
        arguments = ENGINE_DEFAULTS | {
            "model": base,
            "revision": model.revision,
            "dtype": model.dtype,
            "limit_mm_per_prompt": {"image": max_images, "video": 0},
            "mm_processor_kwargs": {"min_pixels": image_size**2, "max_pixels": image_size**2},
        }
        if adapter is not None and sampling.adapter == "merged":
            merged = merged_checkpoint(base, model.revision, model.dtype, adapter, policy_id)
            arguments |= {"model": merged.path, "revision": None}
        elif adapter is not None:
            self._lora = LoRARequest(policy_id, 1, str(adapter))
            arguments |= {"enable_lora": True, "max_loras": 1, "max_lora_rank": _rank(adapter)}
        arguments |= sampling.engine
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, name="engine", daemon=True).start()

        async def started() -> Any:
            return AsyncLLM.from_engine_args(
                AsyncEngineArgs(**arguments, enable_log_requests=False)
            )

        try:
            self._llm = self._wait(started())
        except (RuntimeError, ValueError, OSError) as error:
            raise EngineStartError(f"{_START_ADVICE}: {error}") from error
        self._tokenizer = self._llm.get_tokenizer()
        # Each image stands for one token in the template and for many in the engine.
        visual = (image_size // 28) ** 2 * max_images
        self.max_prompt_tokens = self._llm.model_config.max_model_len - sampling.max_tokens - visual
        self.probe_figures = self._prove(merged)

    def generate(self, requests: Sequence[Request]) -> list[list[Chain] | Failure]:
        """Chains per request, in order. Requests of one listing should be adjacent: they share
        the system prompt, the images and thereby the engine's prefix cache.

        Raises:
            EngineDiedError: the engine is gone, and all requests with it.
        """
        made = [
            self._generate(self._engine_prompt(request.prompt), self._parameters(request))
            for request in requests
        ]

        async def answered() -> list[Any]:
            return await asyncio.gather(*made, return_exceptions=True)

        return [self._chains(output) for output in self._wait(answered())]

    def num_prompt_tokens(self, prompt: Prompt) -> int:
        """Length of a prompt in tokens, each image counted as one."""
        return len(self._tokenizer.encode(self._text(prompt)))

    def _wait(self, work: Coroutine[Any, Any, _T]) -> _T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    async def _generate(self, prompt: Any, parameters: Any, lora: Any = ...) -> Any:
        """The final output of one request."""
        outputs = self._llm.generate(
            prompt,
            parameters,
            request_id=str(next(self._numbers)),
            lora_request=self._lora if lora is ... else lora,
        )
        return [output async for output in outputs][-1]

    def _chains(self, output: Any) -> list[Chain] | Failure:
        if isinstance(output, BaseException):
            from vllm.v1.engine.exceptions import EngineDeadError

            if isinstance(output, EngineDeadError):
                raise EngineDiedError(str(output))
            return Failure(f"{type(output).__name__}: {output}")
        return [
            Chain(
                text=completion.text,
                token_ids=tuple(completion.token_ids),
                logprob=float(completion.cumulative_logprob),
                finish_reason=str(completion.finish_reason),
            )
            for completion in sorted(output.outputs, key=lambda item: item.index)
        ]

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
            logprobs=0,
            output_kind=RequestOutputKind.FINAL_ONLY,
            structured_outputs=grammar,
        )

    def _text(self, prompt: Prompt) -> str:
        conversation = messages(prompt.text, len(prompt.images), self._answer_format)
        return str(
            self._tokenizer.apply_chat_template(
                conversation, add_generation_prompt=True, tokenize=False
            )
        )

    def _engine_prompt(self, prompt: Prompt) -> dict[str, Any]:
        from PIL import Image

        return {
            "prompt": self._text(prompt),
            "multi_modal_data": {
                "image": [Image.open(io.BytesIO(content)) for content in prompt.images]
            },
            "multi_modal_uuids": {"image": list(prompt.image_hashes)},
        }

    def _prove(self, merged: MergedCheckpoint | None) -> dict[str, float]:
        if merged is not None:
            served = self._score(None)
            return probe.check_merged(served, merged.policy_logprobs, merged.base_logprobs)
        if self._lora is not None:
            return probe.check_attached(
                self._score(self._lora), self._score(None), self._score(None)
            )
        return {}

    def _score(self, lora: Any) -> list[float]:
        """Per-token log-probabilities (nats) of the probe text but for its first token."""
        from vllm import SamplingParams

        parameters = SamplingParams(max_tokens=1, temperature=0.0, prompt_logprobs=0)
        output = self._wait(self._generate(probe.TEXT, parameters, lora))
        scored = zip(output.prompt_token_ids[1:], output.prompt_logprobs[1:], strict=True)
        return [float(entry[token_id].logprob) for token_id, entry in scored]


def answer_pattern(options: Sequence[str], answer_format: AnswerFormat) -> str:
    """Regular expression of the completions that answer one of ``options``."""
    allowed = "|".join(re.escape(option) for option in options)
    answer = f"<answer>({allowed})</answer>"
    if answer_format == "answer_only":
        return answer
    return f"<reasoning>[^<]+</reasoning>{answer}"


def _rank(adapter: Path) -> int:
    import json

    return int(json.loads((adapter / "adapter_config.json").read_text())["r"])
