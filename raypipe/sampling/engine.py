"""The only place that imports vLLM."""

import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raypipe.config import ModelConfig, SamplingConfig
from raypipe.errors import EngineStartError
from raypipe.prompts import messages
from raypipe.sampling import probe
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


@dataclass(frozen=True)
class Prompt:
    """A listing's images (encoded, already squashed) with one question."""

    text: str
    images: tuple[bytes, ...]
    image_hashes: tuple[str, ...]


@dataclass(frozen=True)
class Request:
    """``num_chains`` chains of one prompt; chain ``i`` draws from ``seed + i``. Greedy if 0."""

    prompt: Prompt
    num_chains: int
    seed: int


@dataclass(frozen=True)
class Chain:
    """One completion: ``logprob`` is the sum over its tokens in nats."""

    text: str
    token_ids: tuple[int, ...]
    logprob: float
    finish_reason: str


class Engine:
    """A vLLM engine that serves one policy, proved active before it is used.

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
        from vllm import LLM
        from vllm.lora.request import LoRARequest

        self._sampling = sampling
        self._answer_format = model.answer_format
        self._lora: Any = None
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
        try:
            self._llm = LLM(**arguments)
        except (RuntimeError, ValueError, OSError) as error:
            raise EngineStartError(f"{_START_ADVICE}: {error}") from error
        self._tokenizer = self._llm.get_tokenizer()
        # Each image stands for one token in the template and for many in the engine.
        visual = (image_size // 28) ** 2 * max_images
        self.max_prompt_tokens = self._llm.model_config.max_model_len - sampling.max_tokens - visual
        self.probe_figures = self._prove(merged)

    def generate(self, requests: Sequence[Request]) -> list[list[Chain]]:
        """Chains per request, in order. Requests of one listing should be adjacent: they share
        the system prompt, the images and thereby the engine's prefix cache."""
        outputs = self._llm.generate(
            [self._engine_prompt(request.prompt) for request in requests],
            [self._parameters(request) for request in requests],
            lora_request=self._lora,
            use_tqdm=False,
        )
        return [
            [
                Chain(
                    text=completion.text,
                    token_ids=tuple(completion.token_ids),
                    logprob=float(completion.cumulative_logprob),
                    finish_reason=str(completion.finish_reason),
                )
                for completion in sorted(output.outputs, key=lambda item: item.index)
            ]
            for output in outputs
        ]

    def num_prompt_tokens(self, prompt: Prompt) -> int:
        """Length of a prompt in tokens, each image counted as one."""
        return len(self._tokenizer.encode(self._engine_prompt(prompt)["prompt"]))

    def _parameters(self, request: Request) -> Any:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        greedy = request.num_chains == 0
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
        )

    def _engine_prompt(self, prompt: Prompt) -> dict[str, Any]:
        from PIL import Image

        conversation = messages(prompt.text, len(prompt.images), self._answer_format)
        return {
            "prompt": self._tokenizer.apply_chat_template(
                conversation, add_generation_prompt=True, tokenize=False
            ),
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
        output = self._llm.generate([probe.TEXT], parameters, lora_request=lora, use_tqdm=False)[0]
        scored = zip(output.prompt_token_ids[1:], output.prompt_logprobs[1:], strict=True)
        return [float(entry[token_id].logprob) for token_id, entry in scored]


def _rank(adapter: Path) -> int:
    import json

    return int(json.loads((adapter / "adapter_config.json").read_text())["r"])
