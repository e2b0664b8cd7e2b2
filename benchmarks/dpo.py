"""Seconds per preference pair: raypipe's shared-prefix DPO step against TRL's DPOTrainer.

    python benchmarks/dpo.py                          two CPU cores, a small model
    python benchmarks/dpo.py --family qwen3-vl        the same of another family
    python benchmarks/dpo.py --model qwen2.5-vl-3b    random weights of the real shape, a GPU

Both sides are Trainers that take real optimizer steps on the same pairs and the same weights; what
is timed is a step's forward and backward passes, collation left out. Sides alternate, medians are
compared, and every ratio is stock seconds over ours. Before anything is timed the two losses must
agree. The last line is JSON.
"""

import argparse
import copy
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from dpo_examples import Shape, build_examples
from dpo_models import (
    FAMILIES,
    IMAGE_SIDE,
    TOKENS_PER_IMAGE,
    build_config,
    build_model,
    build_processor,
    flops_per_token,
)
from transformers import (
    AutoModelForImageTextToText,
    PrinterCallback,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)

from raypipe.config import ClusterConfig, LoraConfig
from raypipe.training import shared_prefix
from raypipe.training.examples import Examples
from raypipe.training.lora import with_adapter
from raypipe.training.loss import LossOptions
from raypipe.training.packing import plan_packs
from raypipe.training.trainer import SharedPrefixTrainer
from raypipe.training.trees import Tree, build_trees

LORA = LoraConfig()
BETA = 0.2
# Pairs that TRL puts through the model at once: all, or those of the 3B's configuration.
STOCK_PAIRS = {torch.float32: 1 << 30, torch.bfloat16: 2}
LISTINGS_OF_PACKS = 6


@dataclass(frozen=True)
class Side:
    """One way to take a step; ``seconds`` of its forward and backward passes."""

    name: str
    trainer: Any
    clock: Any

    def step(self) -> float:
        self.trainer.remove_callback(PrinterCallback)
        self.trainer.train()
        return float(self.clock.seconds.pop())


class StepTimer(TrainerCallback):  # type: ignore[misc]
    """From the first micro-batch of a step to just before the optimizer moves."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self._started = 0.0

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        synchronize()
        self._started = time.perf_counter()

    def on_pre_optimizer_step(self, *_: Any, **__: Any) -> None:
        synchronize()
        self.seconds.append(time.perf_counter() - self._started)


def synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def arguments(directory: str, **changed: Any) -> dict[str, Any]:
    return {
        "output_dir": directory,
        "max_steps": 1,
        "learning_rate": 1e-6,
        "report_to": "none",
        "disable_tqdm": True,
        "save_strategy": "no",
        "logging_strategy": "no",
        "log_level": "error",
        "remove_unused_columns": False,
        "use_cpu": not torch.cuda.is_available(),
        "bf16": False,
    } | changed


def stock_side(name: str, model: Any, examples: Examples, processor: Any, directory: str) -> Side:
    """TRL's DPOTrainer; its default is to checkpoint."""
    from trl import DPOConfig, DPOTrainer

    clock = StepTimer()
    checkpointing = {} if name == "trl" else {"gradient_checkpointing": False}
    pairs = len(examples.rows)
    at_once = min(pairs, STOCK_PAIRS[model.dtype])
    sizes = {
        "per_device_train_batch_size": at_once,
        "gradient_accumulation_steps": pairs // at_once,
    }
    settings = DPOConfig(
        **arguments(directory, **sizes, **checkpointing),
        beta=BETA,
        max_length=None,
    )
    trainer = DPOTrainer(
        model=model,
        args=settings,
        train_dataset=examples.dataset(),
        processing_class=processor,
        callbacks=[clock],
    )
    return Side(name, trainer, clock)


def shared_side(
    name: str,
    model: Any,
    examples: Examples,
    trees: list[Tree],
    processor: Any,
    directory: str,
    max_tokens: int = 1 << 30,
) -> Side:
    clock = StepTimer()
    base = model.get_base_model()
    shared_prefix.prepare_model(base, checkpointing=name.endswith("checkpointing"))
    laid_out = plan_packs(
        trees,
        batch_size=len(examples.rows),
        epochs=1,
        num_workers=1,
        max_tokens=max_tokens,
        seed=0,
    )
    sizes = {"per_device_train_batch_size": 1}
    sizes |= {"gradient_accumulation_steps": laid_out.packs_per_step}
    trainer = SharedPrefixTrainer(
        model=model,
        args=TrainingArguments(**arguments(directory, **sizes)),
        plan=laid_out,
        collator=shared_prefix.Collator(processor, examples.images, base.model.get_rope_index),
        objective="preference",
        loss=LossOptions(BETA),
        callbacks=[clock],
    )
    return Side(name, trainer, clock)


class DpoBenchmark:
    """All sides on the same weights and pairs; the reference is the policy before the step."""

    def __init__(self, model: str, family: str, shape: Shape, directory: str) -> None:
        self.shape = shape
        self.directory = directory
        self.processor = build_processor(family)
        self.tokens_per_image = FAMILIES[family].tokens_per_image(IMAGE_SIDE)
        self.examples = build_examples(shape, self.processor, self.tokens_per_image)
        self.base = build_model(model, self.processor, family)

    def model(self) -> Any:
        """The same frozen weights with an adapter of its own that is not the identity, always the
        same one: of a 3B they are in memory once for all sides."""
        set_seed(1)
        frozen = {id(weight): weight for weight in (*self.base.parameters(), *self.base.buffers())}
        model = with_adapter(copy.deepcopy(self.base, frozen), LORA, None)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "lora_B" in name:
                    parameter.normal_(0, 0.01)
        return model

    def side(self, name: str) -> Side:
        model = self.model()
        if name.startswith("trl"):
            return stock_side(name, model, self.examples, self.processor, self.directory)
        reference = Reference(model, self.examples, self.processor, self.tokens_per_image)
        reference.step()
        return shared_side(
            name, model, self.examples, reference.trees(), self.processor, self.directory
        )


class Reference:
    """The pass over the reference policy that the shared-prefix step needs once per pair set."""

    name = "reference"

    def __init__(
        self,
        model: Any,
        examples: Examples,
        processor: Any,
        tokens_per_image: int = TOKENS_PER_IMAGE,
    ) -> None:
        self._model = model.get_base_model()
        shared_prefix.prepare_model(self._model, checkpointing=False)
        rope_index = self._model.model.get_rope_index
        self._bare = build_trees(examples, processor, tokens_per_image)
        collator = shared_prefix.Collator(processor, examples.images, rope_index)
        self._batch = collator(self._bare)
        self._logprobs: list[float] = []

    def step(self) -> float:
        synchronize()
        started = time.perf_counter()
        with torch.no_grad():
            self._logprobs = shared_prefix.chain_logprobs(self._model, self._batch).tolist()
        return time.perf_counter() - started

    def trees(self) -> list[Tree]:
        values = iter(self._logprobs)
        return [tree.with_reference([next(values) for _ in tree.chains]) for tree in self._bare]


def gradients(side: Side) -> dict[str, torch.Tensor]:
    """The adapter's gradient of one step, nothing moved."""
    trainer = side.trainer
    parts = trainer.args.gradient_accumulation_steps
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = parts
    for inputs in itertools.islice(trainer.get_train_dataloader(), parts):
        trainer.training_step(trainer.model, inputs)
    found = {n: p.grad.clone() for n, p in trainer.model.named_parameters() if p.grad is not None}
    trainer.model.zero_grad()
    return found


def disagreement(stock: Side, shared: Side) -> float:
    """The largest difference between two sides' gradients, relative to the largest gradient."""
    theirs, ours = gradients(stock), gradients(shared)
    assert theirs.keys() == ours.keys(), "the sides train different parameters"
    largest = max(grad.abs().max().item() for grad in theirs.values())
    return max((theirs[n] - ours[n]).abs().max().item() for n in theirs) / largest


def timed(sides: list[Any], repeats: int) -> dict[str, list[float]]:
    """Seconds a step of every side, there and back again in each repeat."""
    seconds: dict[str, list[float]] = {side.name: [] for side in sides}
    for side in sides:
        side.step()
    for _ in range(repeats):
        for side in (*sides, *reversed(sides)):
            seconds[side.name].append(side.step())
    return seconds


def measure(options: argparse.Namespace, shape: Shape, directory: str) -> dict[str, Any]:
    """Median seconds a pair of every side."""
    bench = DpoBenchmark(options.model, options.family, shape, directory)
    names = ("trl", "trl_no_checkpointing", "shared_prefix", "shared_prefix_checkpointing")
    sides = {name: bench.side(name) for name in names}
    gap = disagreement(sides["trl"], sides["shared_prefix"])
    limit = 1e-4 if bench.base.dtype == torch.float32 else 0.1
    assert gap < limit, f"the two steps disagree: gradients differ by {gap:.2g}"
    reference = Reference(bench.model(), bench.examples, bench.processor, bench.tokens_per_image)
    seconds = timed([*sides.values(), reference], options.repeats)
    again = timed([sides["shared_prefix"], copy.copy(sides["shared_prefix"])], options.repeats)
    first, second = again["shared_prefix"][::2], again["shared_prefix"][1::2]
    found = {name: statistics.median(values) / shape.pairs for name, values in seconds.items()}
    for name, value in found.items():
        print(f"  {name:28s} {value:8.4f} s a pair")
    found["noise"] = abs(statistics.median(first) / statistics.median(second) - 1)
    found["disagreement"] = gap
    return found


def measure_packs(options: argparse.Namespace, directory: str) -> dict[str, Any]:
    """Packs as shipped: several listings in one, as many tokens and the checkpointing that a
    configuration has by default. One warm step, then medians."""
    cluster, shape = ClusterConfig(), Shape()
    bench = DpoBenchmark(options.model, options.family, shape, directory)
    every = [
        build_examples(shape, bench.processor, bench.tokens_per_image, seed)
        for seed in range(LISTINGS_OF_PACKS)
    ]
    rows = [row for examples in every for row in examples.rows]
    images = {name: shown for examples in every for name, shown in examples.images.items()}
    examples = Examples(rows, images)
    trees = build_trees(examples, bench.processor, bench.tokens_per_image)
    # The reference is one number a chain: what it is does not change what a step costs.
    trees = [tree.with_reference([-1.0 for _ in tree.chains]) for tree in trees]
    name = "packs_checkpointing" if cluster.gradient_checkpointing else "packs"
    limit = cluster.tokens_per_pack
    made = (bench.model(), examples, trees, bench.processor, directory, limit)
    side = shared_side(name, *made)
    side.step()
    seconds = statistics.median(side.step() for _ in range(2 * options.repeats))
    tokens = sum(tree.num_tokens for tree in trees)
    packs = side.trainer.plan.packs_per_step
    print(f"  packs of {limit:,} tokens {seconds / len(rows):18.4f} s a pair")
    return {
        "tokens_per_pack": limit,
        "checkpointing": cluster.gradient_checkpointing,
        "listings": LISTINGS_OF_PACKS,
        "packs": packs,
        "pairs_per_s": round(len(rows) / seconds, 2),
        "tokens_per_s": round(tokens / seconds),
    }


def peak_memory(options: argparse.Namespace, shape: Shape) -> float:
    """GiB that one step adds at its peak to what is there before it."""
    with tempfile.TemporaryDirectory() as directory:
        bench = DpoBenchmark(options.model, options.family, shape, directory)
        taken = bench.side(options.memory)
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated() / (1 << 30)
            taken.step()
            return torch.cuda.max_memory_allocated() / (1 << 30) - before
        Path("/proc/self/clear_refs").write_text("5")  # forget the peak of building
        before = resident_gib("VmRSS")
        taken.step()
        return resident_gib("VmHWM") - before


def resident_gib(name: str) -> float:
    """Resident memory of this process on Linux, now (VmRSS) or at its peak (VmHWM)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    value = next(line for line in lines if line.startswith(name))
    return int(value.split()[1]) / (1 << 20)


def memory_of(arguments: argparse.Namespace, side: str) -> float:
    """The peak of a side in a process of its own: on a CPU memory is the process's."""
    command = [sys.executable, __file__, "--model", arguments.model, "--memory", side]
    command += ["--family", arguments.family]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", choices=("tiny", "qwen2.5-vl-3b"), default="tiny")
    parser.add_argument("--family", choices=tuple(FAMILIES), default="qwen2.5-vl")
    parser.add_argument("--repeats", type=int, default=3, help="of there and back again")
    parser.add_argument("--threads", type=int, default=2, help="of torch on a CPU")
    parser.add_argument("--memory", metavar="SIDE", help="print the peak memory of one side")
    options = parser.parse_args()
    if options.model != "tiny" and options.family != "qwen2.5-vl":
        parser.error(f"--model {options.model} is of the family qwen2.5-vl")
    warnings.filterwarnings("ignore")
    if not torch.cuda.is_available():
        os.environ["DS_ACCELERATOR"] = "cpu"
    torch.set_num_threads(options.threads)
    if options.memory:
        print(peak_memory(options, Shape()))
        return
    report(options)


def report(options: argparse.Namespace) -> None:
    shape, single = Shape(), Shape(attributes=1, pairs_per_query=1)
    with tempfile.TemporaryDirectory() as directory:
        print(f"{shape.attributes} attributes, {shape.pairs_per_query} pairs a query:")
        many = measure(options, shape, directory)
        print("1 attribute, 1 pair:")
        one = measure(options, single, directory)
        print(f"{LISTINGS_OF_PACKS} listings, packs as shipped:")
        packs = measure_packs(options, directory)
    sides = ("trl", "trl_no_checkpointing", "shared_prefix", "shared_prefix_checkpointing")
    peaks = {side: memory_of(options, side) for side in sides}
    for side, peak in peaks.items():
        print(f"  {side:28s} {peak:8.2f} GiB more at the peak of a step")
    found = compared(many, one, peaks) | work_done(options, shape, many)
    print(json.dumps(found | {"packs_as_shipped": packs}))


def compared(
    many: dict[str, float], one: dict[str, float], peaks: dict[str, float]
) -> dict[str, Any]:
    """Stock over ours, by seconds a pair and by memory a step."""
    stock, ours = many["trl"], many["shared_prefix"]
    ratios = {
        "trl": stock / ours,
        "trl_no_checkpointing": many["trl_no_checkpointing"] / ours,
        "trl_all_in": stock / (ours + many["reference"]),
        "trl_single_pair": one["trl"] / one["shared_prefix"],
        "trl_both_checkpointing": stock / many["shared_prefix_checkpointing"],
    }
    both = peaks["shared_prefix_checkpointing"] / peaks["trl"]
    return {
        "benchmark": "dpo",
        "ratios": {name: round(value, 2) for name, value in ratios.items()},
        "memory_ratio": round(peaks["shared_prefix"] / peaks["trl"], 2),
        "memory_ratio_both_checkpointing": round(both, 2),
        "noise": round(max(many["noise"], one["noise"]), 3),
    }


def work_done(options: argparse.Namespace, shape: Shape, many: dict[str, float]) -> dict[str, Any]:
    """The shape, and what our step gets through. FLOPs are of the blocks, forward and, for the
    language model, as many backward: frozen weights have no gradient of their own."""
    model, family = options.model, options.family
    processor = build_processor(family)
    per_image = FAMILIES[family].tokens_per_image(IMAGE_SIDE)
    config = build_config(model, processor, family)
    with torch.device("meta"):
        text, vision = flops_per_token(AutoModelForImageTextToText.from_config(config))
    trees = build_trees(build_examples(shape, processor, per_image), processor, per_image)
    tokens = sum(tree.num_tokens for tree in trees)
    seconds = many["shared_prefix"] * shape.pairs
    flops = 2 * text * tokens + vision * shape.images * per_image
    return {
        "family": family,
        "shape": asdict(shape)
        | {"model": model, "vision_to_text_flops": round(vision / text, 2), "tokens": tokens},
        "throughput": {
            "pairs_per_s": round(shape.pairs / seconds, 2),
            "tokens_per_s": round(tokens / seconds),
            "tflops": round(flops / seconds / 1e12, 3),
        },
    }


if __name__ == "__main__":
    main()
