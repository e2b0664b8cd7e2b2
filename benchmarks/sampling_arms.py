"""The arms of benchmarks/sampling.py: each makes the same chains in a process of its own.

Every arm's clock runs in the process that calls the engine, from the first prompt that comes in to
the last chain that comes out. Engine, actor and plan are up by then, and the engine has answered a
few listings greedily. Ours and Ray Data's are charged with all that Ray does in between.
"""

import asyncio
import functools
import io
import json
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from PIL import Image

from raypipe import seeds
from raypipe.config import Config
from raypipe.models.families import family_of_checkpoint
from raypipe.models.policies import PRETRAINED, Policy, model_path
from raypipe.runtime.cluster import ray_session
from raypipe.sampling import stage
from raypipe.sampling.engine import ENGINE_DEFAULTS, Prompt, Request, prompt_text
from raypipe.schemas import CHAINS, LISTINGS
from raypipe.store.artifacts import Artifact, Run

ROUND = 1
RAY_DATA_BATCH = 32  # and eight batches at once, both Ray's defaults: 256 rows, max_num_seqs
UNSHARED = {"enable_prefix_caching": False, "mm_processor_cache_gb": 0}


@dataclass(frozen=True)
class Workload:
    """What every arm is given: LISTINGS rows to sample, and others to warm up with, greedily."""

    config: Config
    listings: list[dict[str, Any]]
    warm: list[dict[str, Any]]

    @functools.cached_property
    def requests(self) -> dict[str, Request]:
        return dict(requests_of(self.config, self.listings))

    @functools.cached_property
    def warm_requests(self) -> list[Request]:
        found = requests_of(self.config, self.warm)
        return [replace(request, num_chains=0, seed=0) for _, request in found]

    def named(self, chains: Iterable[list[int]]) -> dict[str, list[int]]:
        """Chains in the order of the requests, by listing, attribute and number."""
        numbers = range(self.config.sampling.num_chains)
        names = [f"{query}/{number}" for query in self.requests for number in numbers]
        return dict(zip(names, chains, strict=True))


def requests_of(
    config: Config, listings: Iterable[dict[str, Any]]
) -> Iterator[tuple[str, Request]]:
    """Every query with the request that raypipe's actor makes of it, seeds included."""
    for row in listings:
        images, hashes = tuple(row["images"]), tuple(row["image_hashes"])
        for query in row["queries"]:
            key = (row["listing_id"], query["attribute"])
            seed = seeds.derive(config.run.seed, "round", ROUND, *key)
            prompt = Prompt(query["prompt"], images, hashes)
            yield "/".join(key), Request(prompt, config.sampling.num_chains, seed)


def single(request: Request) -> list[Request]:
    """A request for each chain, with the seed that vLLM gives it among its siblings."""
    chains = range(request.num_chains)
    return [replace(request, num_chains=1, seed=request.seed + index) for index in chains]


@dataclass
class ArmMeasurement:
    """What an arm did: seconds, its greedy chains of the warm-up, and every sampled chain."""

    seconds: float
    greedy: list[list[int]]
    counted: dict[str, int]
    drawn: dict[str, list[int]]


@dataclass
class Counted:
    """An engine's own statistics: prompt tokens, those of them that no prefix cache had, and images
    through the vision tower. All 0 unless ``disable_log_stats`` is off."""

    prompt: int = 0
    computed: int = 0
    encoded: int = 0

    def since(self, before: "Counted") -> dict[str, int]:
        return {name: value - getattr(before, name) for name, value in asdict(self).items()}

    def watch(self) -> None:
        """Sum up what the engine that starts next tells this process of each of its steps."""
        from vllm.v1.metrics.loggers import PrometheusStatLogger

        original = PrometheusStatLogger.record

        def record(logger: Any, scheduler: Any, iteration: Any, *rest: Any, **named: Any) -> None:
            if iteration is not None:
                self.prompt += iteration.prompt_token_stats.total
                self.computed += iteration.prompt_token_stats.computed
            if scheduler is not None and scheduler.iteration_details is not None:
                self.encoded += scheduler.iteration_details.num_encoder_inputs
            original(logger, scheduler, iteration, *rest, **named)

        PrometheusStatLogger.record = record


def prepared(config: Config) -> Counted:
    """Make this process ready to start an engine."""
    os.environ.update(config.sampling.variables(os.environ))
    counted = Counted()
    if not config.sampling.engine.get("disable_log_stats", True):
        counted.watch()
    return counted


def engine_arguments(config: Config) -> dict[str, Any]:
    """The arguments of raypipe's engine for the base model."""
    family = family_of_checkpoint(model_path(config.model), config.model.revision)
    return {
        **ENGINE_DEFAULTS,
        "model": model_path(config.model),
        "revision": config.model.revision,
        "dtype": config.model.dtype,
        "limit_mm_per_prompt": {"image": config.catalog.max_images, "video": 0},
        **family.engine_arguments(config.catalog.image_size),
        **config.sampling.engine,
    }


def parameters(config: Config, request: Request) -> dict[str, Any]:
    """The sampling parameters of raypipe's engine as vLLM's arguments, and two that make every
    chain ``max_tokens`` long."""
    from vllm.sampling_params import RequestOutputKind

    greedy = request.num_chains == 0
    return {
        "n": max(1, request.num_chains),
        "temperature": 0.0 if greedy else config.sampling.temperature,
        "top_p": 1.0 if greedy else config.sampling.top_p,
        "top_k": -1,
        "max_tokens": config.sampling.max_tokens,
        "seed": None if greedy else request.seed,
        "output_kind": RequestOutputKind.FINAL_ONLY,
        "ignore_eos": True,
        "min_tokens": config.sampling.max_tokens,
    }


@functools.cache
def tokenizer(path: str, revision: str | None) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(path, revision=revision)


def text(config: Config, prompt: Prompt) -> str:
    """A prompt by the chat template, each image one token."""
    chat = tokenizer(model_path(config.model), config.model.revision)
    return prompt_text(chat, prompt, config.model.answer_format)


def decoded(images: Iterable[bytes]) -> list[Image.Image]:
    return [Image.open(io.BytesIO(content)).convert("RGB") for content in images]


def engine_requests(
    config: Config, requests: Iterable[Request], *, shared: bool = True
) -> list[tuple[dict[str, Any], Any]]:
    """Prompts and parameters as vLLM takes them. Unshared, images have no names, so that every
    request brings new ones."""
    from vllm import SamplingParams

    made = []
    for request in requests:
        prompt: dict[str, Any] = {"prompt": text(config, request.prompt)}
        prompt["multi_modal_data"] = {"image": decoded(request.prompt.images)}
        if shared:
            prompt["multi_modal_uuids"] = {"image": [*request.prompt.image_hashes]}
        made.append((prompt, SamplingParams(**parameters(config, request))))
    return made


def token_ids(outputs: Iterable[Any]) -> list[list[int]]:
    """Of every chain of vLLM's outputs, in order."""
    return [[*map(int, chain.token_ids)] for output in outputs for chain in output.outputs]


def llm(work: Workload, *, shared: bool = True) -> ArmMeasurement:
    """All prompts at once through ``LLM.generate``; unshared, each chain is a request."""
    counted = prepared(work.config)
    from vllm import LLM

    engine = LLM(**engine_arguments(work.config) | ({} if shared else UNSHARED))

    def generate(requests: list[Request]) -> tuple[float, list[list[int]]]:
        ready = engine_requests(work.config, requests, shared=shared)
        prompts, chosen = [prompt for prompt, _ in ready], [each for _, each in ready]
        begun = time.perf_counter()
        outputs = engine.generate(prompts, chosen, use_tqdm=False)
        return time.perf_counter() - begun, token_ids(outputs)

    _, greedy = generate(work.warm_requests)
    before = replace(counted)
    split = [[request] if shared else single(request) for request in work.requests.values()]
    seconds, drawn = generate([one for requests in split for one in requests])
    return ArmMeasurement(seconds, greedy, counted.since(before), work.named(drawn))


def unshared(work: Workload) -> ArmMeasurement:
    """Batched by the engine, but each chain prefills its prompt and encodes its images anew."""
    return llm(work, shared=False)


def async_llm(work: Workload) -> ArmMeasurement:
    """Every request a coroutine of its own on one ``AsyncLLM``."""
    return asyncio.run(_async_llm(work))


async def _async_llm(work: Workload) -> ArmMeasurement:
    counted = prepared(work.config)
    from vllm import AsyncEngineArgs
    from vllm.usage.usage_lib import UsageContext
    from vllm.v1.engine.async_llm import AsyncLLM

    # With the batch sizes that vLLM's LLM has by default.
    engine = AsyncLLM.from_engine_args(
        AsyncEngineArgs(**engine_arguments(work.config)), usage_context=UsageContext.LLM_CLASS
    )

    async def last(prompt: Any, chosen: Any, name: str) -> Any:
        return [output async for output in engine.generate(prompt, chosen, name)][-1]

    async def generate(requests: list[Request], kind: str) -> tuple[float, list[list[int]]]:
        ready = engine_requests(work.config, requests)
        begun = time.perf_counter()
        waiting = [last(*request, f"{kind}-{index}") for index, request in enumerate(ready)]
        outputs = await asyncio.gather(*waiting)
        return time.perf_counter() - begun, token_ids(outputs)

    try:
        _, greedy = await generate(work.warm_requests, "warm")
        before = replace(counted)
        seconds, drawn = await generate([*work.requests.values()], "timed")
    finally:
        engine.shutdown()
    return ArmMeasurement(seconds, greedy, counted.since(before), work.named(drawn))


class Clock:
    """First prompt in and last chain out, kept in a file for another process to read."""

    def __init__(self, path: Path, greedy: list[list[int]], counted: Counted) -> None:
        self._path, self._greedy = path, greedy
        self._counted, self._before = counted, replace(counted)
        self._first = 0.0
        self._lock = threading.Lock()

    def enter(self) -> None:
        with self._lock:
            self._first = self._first or time.perf_counter()

    def leave(self) -> None:
        with self._lock:
            seconds = time.perf_counter() - self._first
            counted = self._counted.since(self._before)
            self._path.write_text(json.dumps([seconds, self._greedy, counted]))


class ClockedEngine:
    """raypipe's engine behind a clock; to count a prompt's tokens starts it too."""

    def __init__(self, engine: Any, clock: Clock) -> None:
        self._engine = engine
        self._clock = clock

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def generate(self, requests: list[Request]) -> Any:
        self._clock.enter()
        chains = self._engine.generate(requests)
        self._clock.leave()
        return chains

    def num_prompt_tokens(self, prompt: Prompt) -> int:
        self._clock.enter()
        return int(self._engine.num_prompt_tokens(prompt))


def start_clocked(path: Path, warm: list[Request], config: Config, policy: Policy) -> Any:
    """raypipe's own engine, warm, with a clock, and held to the other arms' parameters."""
    from vllm import SamplingParams

    counted = prepared(config)
    engine: Any = stage.start_engine(config, policy)
    usual = engine._parameters

    def held(request: Request) -> Any:
        made = usual(request)
        made.ignore_eos, made.min_tokens = True, config.sampling.max_tokens
        return made

    for request in (warm[0], replace(warm[0], num_chains=7, seed=11)):
        theirs = SamplingParams(**parameters(config, request))
        assert repr(held(request)) == repr(theirs), f"{held(request)} is not {theirs}"
    engine._parameters = held
    greedy = [[*chain.token_ids] for chains in engine.generate(warm) for chain in chains]
    return ClockedEngine(engine, Clock(path, greedy, counted))


def raypipe(work: Workload) -> ArmMeasurement:
    """The stage itself: Ray Data, actor, engine, Parquet and commit."""
    return policy_outcome(work, Policy(PRETRAINED, work.config.model))


def policy_outcome(work: Workload, policy: Policy) -> ArmMeasurement:
    """What the stage makes of the work with a policy."""
    with tempfile.TemporaryDirectory() as directory:
        run, clock_file = Run(f"{directory}/run"), Path(directory) / "clock.json"
        commit_listings(run, work.listings)
        start = functools.partial(start_clocked, clock_file, work.warm_requests)
        with ray_session(work.config.cluster):
            stage.run(
                work.config, run, policy=policy, scope="bench", round_index=ROUND, start=start
            )
        rows = run.artifact("bench/chains", CHAINS).read().to_pylist()
        clock = json.loads(clock_file.read_text())
    drawn = {
        f"{row['listing_id']}/{query['attribute']}/{index}": chain["token_ids"]
        for row in rows
        for query in row["queries"]
        for index, chain in enumerate(query["chains"])
    }
    return ArmMeasurement(*clock, drawn)


def commit_listings(run: Run, rows: list[dict[str, Any]]) -> Artifact:
    artifact = run.artifact("catalog/listings", LISTINGS)
    attempt = artifact.attempt({})
    attempt.write(LISTINGS.from_rows(rows))
    attempt.commit()
    return artifact


def ray_data_llm(work: Workload) -> ArmMeasurement:
    """``ray.data.llm``'s engine stage alone, fed with templated prompts and decoded images."""
    with tempfile.TemporaryDirectory() as directory, ray_session(work.config.cluster):
        import pyarrow.parquet as pq
        import ray.data

        listings = commit_listings(Run(f"{directory}/run"), work.listings)
        clock_file, target = Path(directory) / "clock.json", f"{directory}/chains"
        rows = (
            ray.data.read_parquet(listings.paths())
            .flat_map(functools.partial(_chain_rows, work.config))
            .repartition(target_num_rows_per_block=RAY_DATA_BATCH)
        )
        _processor(work, clock_file)(rows).write_parquet(target)
        made = pq.read_table(target).to_pylist()
        drawn = {row["key"]: row["tokens"] for row in made}
        return ArmMeasurement(*json.loads(clock_file.read_text()), drawn)


def _chain_rows(config: Config, listing: dict[str, Any]) -> list[dict[str, Any]]:
    """As many rows as a listing will have chains: the engine stage keeps one chain of a row."""
    split = ((query, single(request)) for query, request in requests_of(config, [listing]))
    return [
        _row(f"{query}/{i}", chain) for query, chains in split for i, chain in enumerate(chains)
    ]


def _row(key: str, request: Request) -> dict[str, Any]:
    images, hashes = [*request.prompt.images], [*request.prompt.image_hashes]
    row = {"key": key, "text": request.prompt.text, "images": images, "hashes": hashes}
    return row | {"num_chains": request.num_chains, "seed": request.seed}


def _stage_row(config: Config, row: dict[str, Any]) -> dict[str, Any]:
    """What ``ray.data.llm``'s own multimodal stage would hand on (it does not run on vLLM 0.32)."""
    prompt = Prompt(row.pop("text"), tuple(row.pop("images")), tuple(row.pop("hashes")))
    request = Request(prompt, row.pop("num_chains"), row.pop("seed"))
    return {
        "prompt": text(config, prompt),
        "multimodal_data": {"image": decoded(prompt.images)},
        "multimodal_uuids": {"image": [*prompt.image_hashes]},
        "sampling_params": parameters(config, request),
    }


def _processor(work: Workload, clock_file: Path) -> Any:
    from ray.data.llm import build_processor, vLLMEngineProcessorConfig

    arguments = engine_arguments(work.config)
    stages = ("prepare_multimodal", "chat_template", "tokenize", "detokenize")
    processor = build_processor(
        vLLMEngineProcessorConfig(
            model_source=arguments.pop("model"),
            engine_kwargs=arguments,
            batch_size=RAY_DATA_BATCH,
            concurrency=1,
            log_engine_metrics=False,
            placement_group_config={"bundles": [{"CPU": 1}]},
            runtime_env={"env_vars": work.config.sampling.variables(os.environ)},
            **{f"{name}_stage": False for name in stages},
        ),
        preprocess=functools.partial(_stage_row, work.config),
        postprocess=lambda row: {"key": row["key"], "tokens": row["generated_tokens"]},
    )
    engine_stage = processor.get_stage_by_name("vLLMEngineStage")
    # Plain assignment would validate the stage again, which by then asks for a GPU.
    object.__setattr__(engine_stage, "fn", _clocked_stage(work, clock_file))
    return processor


def _clocked_stage(work: Workload, clock_file: Path) -> Any:
    """Ray's engine stage, warm before its first batch, and with a clock."""
    from ray.llm._internal.batch.stages.vllm_engine_stage import vLLMEngineStageUDF

    class ClockedStage(vLLMEngineStageUDF):  # type: ignore[misc]
        def __init__(self, *arguments: Any, **named: Any) -> None:
            self._counted = prepared(work.config)
            super().__init__(*arguments, **named)
            self._clock: Clock | None = None
            self._starting = asyncio.Lock()

        async def udf(self, batch: list[dict[str, Any]]) -> Any:
            async with self._starting:
                self._clock = self._clock or await self._warm()
            self._clock.enter()
            async for row in super().udf(batch):
                yield row
            self._clock.leave()

        async def _warm(self) -> Clock:
            rows = [_stage_row(work.config, _row("", one)) for one in work.warm_requests]
            waiting = [self.llm.generate_async(row | {"__idx_in_batch": 0}) for row in rows]
            greedy = [[*made["generated_tokens"]] for _, made, _ in await asyncio.gather(*waiting)]
            return Clock(clock_file, greedy, self._counted)

    return ClockedStage


ARMS: dict[str, Callable[[Workload], ArmMeasurement]] = {
    arm.__name__: arm for arm in (raypipe, llm, async_llm, ray_data_llm, unshared)
}
