"""The phases of ``gpu.py``: ``gpu_phases.py PHASE`` runs one and prints its figures."""

import argparse
import copy
import io
import json
import os
import random
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import dpo
import numpy as np
import torch
from PIL import Image

from raypipe.attributes.prompts import SYSTEM_PROMPTS
from raypipe.embedded import nano
from raypipe.training import shared_prefix
from raypipe.training.examples import Examples
from raypipe.training.lora import with_adapter
from raypipe.training.loss import LossOptions, preference_losses
from raypipe.training.packing import PackingPlan, plan_packs
from raypipe.training.shared_prefix import Batch
from raypipe.training.trees import Tree, build_trees
from raypipe.training.vision import NAME, register

CUDA = torch.cuda.is_available()
DEVICE = "cuda" if CUDA else "cpu"
PEAK_FLOPS = {"H100": 989e12, "H200": 989e12, "A100": 312e12, "L40S": 362e12, "A10G": 70e12}
"""Of cards in bfloat16, dense, by a part of their names."""
MAX_TOKENS = 8192
LOSS = LossOptions(beta=dpo.BETA)
IMAGES, ATTRIBUTES = 5, 4
REPEATS = 3
NUM_LISTED = 25
Figures = dict[str, Any]


def gib(number: float) -> float:
    return round(number / 2**30, 2)


def clear_memory() -> None:
    if CUDA:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def peak_gib() -> float:
    return gib(torch.cuda.max_memory_allocated()) if CUDA else 0.0


def build_examples(processor: Any, num_listings: int, *, smoke: bool) -> Examples:
    """Listings of the paper's size (§3), of different lengths: one to three pairs a query.

    A smoke test's have one image, and a tenth of the words.
    """
    rng = random.Random(0)
    share = 10 if smoke else 1
    tokenizer = processor.tokenizer
    decoded = (tokenizer.decode([index]) for index in range(len(tokenizer)))
    words = [text for text in decoded if text.startswith(" ") and text[1:].isalpha()]

    def text(fewest: int, most: int) -> str:
        return "".join(rng.choice(words) for _ in range(rng.randint(fewest, most) // share))

    rows: list[dict[str, Any]] = []
    images: dict[str, list[bytes]] = {}
    for number in range(num_listings):
        listing_id = f"listing-{number:03d}"
        images[listing_id] = [_image(rng) for _ in range(1 if smoke else IMAGES)]
        for attribute in range(ATTRIBUTES):
            row = {"listing_id": listing_id, "attribute": f"attribute-{attribute}"}
            prompt = [
                {"role": "system", "content": SYSTEM_PROMPTS["reasoning"]},
                {"role": "user", "content": text(90, 170)},
            ]
            for _ in range(rng.randint(1, 3)):
                answers = {
                    side: [{"role": "assistant", "content": text(40, 150)}]
                    for side in ("chosen", "rejected")
                }
                rows.append(row | {"prompt": prompt} | answers)
    return Examples(rows, images)


def _image(rng: random.Random) -> bytes:
    shape = (dpo.IMAGE_SIDE, dpo.IMAGE_SIDE, 3)
    pixels = np.random.default_rng(rng.randrange(1 << 30)).integers(0, 255, shape)
    stream = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(stream, "JPEG", quality=95, subsampling=0)
    return stream.getvalue()


class StepBenchmark:
    """A policy of the 3B's shape, or a tiny one, and listings to train it on."""

    def __init__(self, options: argparse.Namespace, num_listings: int | None = None) -> None:
        self.options = options
        self.processor = nano.build_processor()
        pixels = dpo.IMAGE_SIDE**2
        self.processor.image_processor.size = {"shortest_edge": pixels, "longest_edge": pixels}
        self.model = self._policy()
        self.base = self.model.get_base_model()
        chosen = 2 if options.smoke else num_listings or options.listings
        self.examples = build_examples(self.processor, chosen, smoke=options.smoke)

    def _policy(self) -> Any:
        from transformers import Qwen2_5_VLForConditionalGeneration

        torch.manual_seed(0)
        config = dpo.build_config("tiny" if self.options.smoke else "qwen2.5-vl-3b", self.processor)
        if not self.options.smoke:
            config.text_config.num_hidden_layers = self.options.layers
            config.text_config.layer_types = ["full_attention"] * self.options.layers
        dtype = torch.bfloat16 if CUDA else torch.float32
        with torch.device(DEVICE):
            base = Qwen2_5_VLForConditionalGeneration._from_config(config, dtype=dtype)
        model = with_adapter(base, dpo.LORA, None).to(DEVICE)
        torch.manual_seed(1)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "lora_B" in name:
                    parameter.normal_(0, 0.001)
        return model

    def prepare(self, *, checkpointing: bool = True) -> None:
        shared_prefix.prepare_model(self.base, checkpointing=checkpointing)
        self.model.train()

    def collator(self) -> shared_prefix.Collator:
        rope_index = self.base.model.get_rope_index
        return shared_prefix.Collator(self.processor, self.examples.images, rope_index)

    def plan(self) -> PackingPlan[Tree]:
        """All examples as one step, with an improbable reference: its values cost nothing."""
        bare = build_trees(self.examples, self.processor, dpo.TOKENS_PER_IMAGE)
        trees = [tree.with_reference([-100.0] * len(tree.chains)) for tree in bare]
        return plan_packs(
            trees,
            batch_size=len(self.examples.rows),
            epochs=1,
            num_workers=1,
            max_tokens=MAX_TOKENS,
            seed=0,
        )

    def batches(self) -> list[Batch]:
        collate = self.collator()
        packs = (pack for step in self.plan().steps for pack in step.packs[0])
        return [batch for batch in map(collate, packs) if batch is not None]

    def loss(self, batch: Batch) -> torch.Tensor:
        logprobs = shared_prefix.chain_logprobs(self.base, batch)
        return preference_losses(logprobs, batch, LOSS)[0].sum()

    def flops(self, batch: Batch) -> float:
        """Useful FLOPs of a pack: forward, and the gradient of activations. Frozen weights have no
        gradient of their own, and what checkpointing computes again is not counted."""
        text, vision = dpo.flops_per_token(self.base)
        head = 2.0 * self.base.lm_head.weight.numel()
        images = 0 if batch.grids is None else len(batch.grids)
        tokens, scored = len(batch.token_ids), len(batch.target)
        return 2 * text * tokens + vision * images * dpo.TOKENS_PER_IMAGE + 2 * head * scored


@dataclass
class Timer:
    """Seconds in it, added up."""

    seconds: float = 0.0

    @contextmanager
    def running(self) -> Iterator[None]:
        dpo.synchronize()
        started = time.perf_counter()
        yield
        dpo.synchronize()
        self.seconds += time.perf_counter() - started


@contextmanager
def vision_timed(timer: Timer) -> Iterator[None]:
    """Time the vision tower within the step."""
    plain = shared_prefix.visual_features

    def timed(*arguments: Any) -> Any:
        with timer.running():
            return plain(*arguments)

    shared_prefix.visual_features = timed
    try:
        yield
    finally:
        shared_prefix.visual_features = plain


def environment(options: argparse.Namespace) -> Figures:
    import peft
    import transformers

    found: Figures = {
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "peft": peft.__version__,
        "device": torch.cuda.get_device_name() if CUDA else "cpu",
    }
    if CUDA:
        order = torch._C._get_sdp_priority_order()  # type: ignore[attr-defined]
        names = {0: "math", 1: "flash", 2: "efficient", 3: "cudnn"}
        found["cudnn"] = torch.backends.cudnn.version()
        found["sdpa_order"] = [names.get(int(backend), int(backend)) for backend in order]
    return found


def step(options: argparse.Namespace, *, checkpointing: bool = True) -> Figures:
    bench = StepBenchmark(options)
    bench.prepare(checkpointing=checkpointing)
    collating = Timer()
    with collating.running():
        batches = bench.batches()
    clear_memory()
    weights = gib(torch.cuda.memory_allocated()) if CUDA else 0.0
    epochs = [epoch(bench, batches) for _ in range(REPEATS)]
    return {
        "pairs": len(bench.examples.rows),
        "tokens": [len(batch.token_ids) for batch in batches],
        "collating_s_a_pack": round(collating.seconds / len(batches), 3),
        "weights_gib": weights,
        "epochs": epochs,
        "peak_gib": peak_gib(),
    }


def epoch(bench: StepBenchmark, batches: Sequence[Batch]) -> Figures:
    """Every pack forward and backward."""
    whole, vision, forward, backward = Timer(), Timer(), Timer(), Timer()
    with whole.running(), vision_timed(vision):
        for batch in batches:
            with forward.running():
                loss = bench.loss(batch)
            with backward.running():
                loss.backward()
    bench.model.zero_grad()
    rate = sum(map(bench.flops, batches)) / whole.seconds
    tokens = sum(len(batch.token_ids) for batch in batches)
    return {
        "s": round(whole.seconds, 3),
        "vision_s": round(vision.seconds, 3),
        "forward_s": round(forward.seconds, 3),
        "backward_s": round(backward.seconds, 3),
        "pairs_per_s": round(len(bench.examples.rows) / whole.seconds, 2),
        "tokens_per_s": round(tokens / whole.seconds),
        "tflops": round(rate / 1e12, 1),
        "mfu": None if peak_flops() is None else round(rate / peak_flops(), 3),
    }


def peak_flops() -> float | None:
    """Of this card; None where it is not known."""
    name = torch.cuda.get_device_name() if CUDA else ""
    return next((peak for card, peak in PEAK_FLOPS.items() if card in name), None)


def vision(options: argparse.Namespace) -> Figures:
    bench = StepBenchmark(options)
    batches = bench.batches()

    def fastest(implementation: str) -> float:
        bench.base.model.visual.config._attn_implementation = implementation
        seconds = []
        for _ in range(REPEATS):
            timer = Timer()
            with timer.running():
                for batch in batches:
                    shared_prefix.visual_features(bench.base, batch, DEVICE)
            seconds.append(timer.seconds)
        return round(min(seconds), 3)

    register()
    images = sum(len(batch.grids) for batch in batches if batch.grids is not None)
    found = {"transformers_s": fastest("sdpa"), "one_call_a_layer_s": fastest(NAME)}
    return {"images": images} | found


def kernels(options: argparse.Namespace) -> Figures:
    from torch.profiler import ProfilerActivity, profile

    bench = StepBenchmark(options, 4)
    bench.prepare()
    batch = bench.batches()[0]
    bench.loss(batch).backward()
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if CUDA else [])]
    with profile(activities=activities) as profiler:
        bench.loss(batch).backward()
        dpo.synchronize()
    events = profiler.key_averages()
    total = "self_device_time_total" if CUDA else "self_cpu_time_total"
    events = sorted(events, key=lambda event: getattr(event, total), reverse=True)
    launches = sum(event.count for event in events if event.key == "cudaLaunchKernel")
    return {
        "tokens": len(batch.token_ids),
        "launches": launches,
        "kernel_ms_calls": [
            [event.key[:90], round(getattr(event, total) / 1e3, 1), event.count]
            for event in events[:NUM_LISTED]
        ],
    }


def trl(options: argparse.Namespace) -> Figures:
    from trl import DPOConfig, DPOTrainer

    bench = StepBenchmark(options, 1)
    pairs = len(bench.examples.rows) // 2 * 2
    examples = Examples(bench.examples.rows[:pairs], bench.examples.images)
    timer = dpo.StepTimer()
    with tempfile.TemporaryDirectory() as directory:
        arguments = dpo.arguments(
            directory, per_device_train_batch_size=2, gradient_accumulation_steps=pairs // 2
        )
        trainer = DPOTrainer(
            model=bench.model,
            args=DPOConfig(**arguments, beta=dpo.BETA, max_length=None),
            train_dataset=examples.dataset(),
            processing_class=bench.processor,
            callbacks=[timer],
        )
        clear_memory()
        for _ in range(REPEATS):
            trainer.train()
    fastest = min(timer.seconds)
    return {
        "pairs": pairs,
        "s": [round(seconds, 2) for seconds in timer.seconds],
        "pairs_per_s": round(pairs / fastest, 2),
        "peak_gib": peak_gib(),
    }


def agree(options: argparse.Namespace) -> Figures:
    bench = StepBenchmark(options, 1)
    examples = Examples(bench.examples.rows[:2], bench.examples.images)
    with tempfile.TemporaryDirectory() as directory:
        model = copy.deepcopy(bench.model)
        stock = dpo.stock_side("trl", model, examples, bench.processor, directory)
        theirs = dpo.gradients(stock)
        reference = dpo.Reference(bench.model, examples, bench.processor)
        reference.step()
        name, trees = "shared_prefix_checkpointing", reference.trees()
        ours = dpo.gradients(
            dpo.shared_side(name, bench.model, examples, trees, bench.processor, directory)
        )
    largest = max(gradient.abs().max().item() for gradient in theirs.values())
    worst = max((theirs[name] - ours[name]).abs().max().item() for name in theirs)
    flat = [torch.cat([side[name].flatten().float() for name in theirs]) for side in (theirs, ours)]
    return {
        "largest_difference": round(worst / largest, 4),
        "cosine": round(torch.cosine_similarity(flat[0], flat[1], dim=0).item(), 5),
    }


def zero(options: argparse.Namespace) -> Figures:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29511"}
    os.environ |= {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}
    return {f"stage {stage}": deepspeed_step(options, stage) for stage in (1, 0)}


def deepspeed_step(options: argparse.Namespace, stage: int) -> Figures:
    from transformers import TrainingArguments

    from raypipe.training.loop import deepspeed_config
    from raypipe.training.trainer import SharedPrefixTrainer

    bench = StepBenchmark(options, 2)
    bench.prepare()
    laid_out = bench.plan()
    clear_memory()
    timer = dpo.StepTimer()
    with tempfile.TemporaryDirectory() as directory:
        arguments = dpo.arguments(
            directory,
            per_device_train_batch_size=1,
            gradient_accumulation_steps=laid_out.packs_per_step,
            deepspeed=deepspeed_config(stage),
            optim="adamw_torch",
        )
        SharedPrefixTrainer(
            model=bench.model,
            args=TrainingArguments(**arguments),
            plan=laid_out,
            collator=bench.collator(),
            objective="preference",
            loss=LOSS,
            callbacks=[timer],
        ).train()
    return {"peak_gib": peak_gib(), "s": [round(seconds, 2) for seconds in timer.seconds]}


PHASES: dict[str, Callable[[argparse.Namespace], Figures]] = {
    "env": environment,
    "step": step,
    "step-full": lambda options: step(options, checkpointing=False),
    "vision": vision,
    "kernels": kernels,
    "trl": trl,
    "agree": agree,
    "zero": zero,
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("phase", choices=PHASES)
    parser.add_argument("--smoke", action="store_true")
    parser.add_argument("--listings", type=int, default=12)
    parser.add_argument("--layers", type=int, default=36)
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    if not CUDA:
        os.environ["DS_ACCELERATOR"] = "cpu"
    started = time.monotonic()
    figures = PHASES[options.phase](options)
    seconds = round(time.monotonic() - started, 1)
    print(json.dumps({"phase": options.phase, "seconds": seconds} | figures), flush=True)


if __name__ == "__main__":
    main()
