"""Qwen2.5-VL-3B's shape through one training step and one listing of sampling, on a CPU.

    make check-3b                          two cores and 24 GiB
    python benchmarks/check_3b.py --keep build/3b    keep the checkpoint, 7.5 GB, for the next time

Weights are random and in bfloat16. Each part is a process of its own and prints one JSON line with
its seconds and its peak memory; the check fails where a figure is not what it must be:

    checkpoint   written as transformers writes one
    step         the shared-prefix DPO step of a listing with five images: 7,372,800 parameters with
                 finite gradients, and a loss of ln 2, as of every policy that is its own reference
    adapter      a PEFT adapter of the paper's rank and targets
    sampling     the adapter merged, proved by the probe as far as its noise allows, and seven
                 chains of two questions from vLLM
"""

import argparse
import json
import math
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

PARAMETERS = 7_372_800
GIB = 1 << 20
"""Of what ``getrusage`` counts in."""
Figures = dict[str, Any]


def checkpoint(place: Path, layers: int) -> Figures:
    from random_checkpoint import write_checkpoint

    written = write_checkpoint(place / "base", layers)
    size = sum(file.stat().st_size for file in written.glob("*.safetensors"))
    return {"gigabytes": round(size / 1e9, 2)}


def step(place: Path, layers: int) -> Figures:
    import torch
    from gpu_phases import build_examples
    from transformers import AutoProcessor

    from raypipe.config import LoraConfig
    from raypipe.models.base_model import load_base_model
    from raypipe.models.families import family_of
    from raypipe.training import shared_prefix
    from raypipe.training.examples import Examples
    from raypipe.training.lora import with_adapter
    from raypipe.training.loss import LossOptions, preference_losses
    from raypipe.training.reference import reference_logprobs
    from raypipe.training.trees import build_trees

    processor = AutoProcessor.from_pretrained(place / "base")
    model = with_adapter(load_base_model(str(place / "base"), None, "bfloat16"), LoraConfig(), None)
    base = model.get_base_model()
    family = family_of(model)
    family.bound_pixels(processor, 224)
    shared_prefix.prepare_model(base, checkpointing=True)
    drawn = build_examples(processor, 1, smoke=False)
    examples = Examples(drawn.rows[:2], drawn.images)
    trees = build_trees(examples, processor, family.tokens_per_image(224, lambda: processor))
    collate = shared_prefix.Collator(processor, examples.images, family.rope_index(base))
    reference = reference_logprobs(base, trees, collate, 8192)
    trees = [t.with_reference(row) for t, row in zip(trees, reference, strict=True)]
    batch = collate(trees)
    assert batch is not None
    started = time.monotonic()
    losses, _ = preference_losses(
        shared_prefix.chain_logprobs(base, batch), batch, LossOptions(beta=0.1)
    )
    loss = losses.mean()
    loss.backward()
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    assert abs(loss.item() - math.log(2)) < 1e-4, f"the loss is {loss.item()}, not ln 2"
    assert all(bool(w.grad is not None and w.grad.isfinite().all()) for w in trained)
    count = sum(weight.numel() for weight in trained)
    assert count == PARAMETERS * layers // 36, count
    return {
        "tokens": len(batch.token_ids),
        "parameters": count,
        "loss": round(loss.item(), 6),
        "forward_backward_s": round(time.monotonic() - started, 1),
        "threads": torch.get_num_threads(),
    }


def adapter(place: Path, layers: int) -> Figures:
    from random_checkpoint import write_adapter

    write_adapter(place / "base", place / "adapter")
    return {}


def sampling(place: Path, layers: int) -> Figures:
    from raypipe.config import ModelConfig, SamplingConfig
    from raypipe.embedded.catalog import listing
    from raypipe.sampling.engine import Engine, Prompt, Request

    environment = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_NUM_OF_RESERVED_CPU": "0"}
    engine_arguments = {
        "enforce_eager": True,
        "max_model_len": 2048,
        "max_num_batched_tokens": 2048,
        "enable_chunked_prefill": False,
        "block_size": 32,
    }
    settings = SamplingConfig(
        engine_in_actor=True, max_tokens=24, environment=environment, engine=engine_arguments
    )
    model = ModelConfig(path=str(place / "base"), dtype="bfloat16")
    started = time.monotonic()
    engine = Engine(
        model,
        settings,
        base=model.path,
        adapter=place / "adapter",
        policy_id="0123456789abcdef",
        image_size=224,
        max_images=5,
    )
    ready = time.monotonic()
    images = tuple(listing(0, "pool", 0).images()[:5])
    prompts = [f"what is the most suitable value for {name} for this shoe." for name in "ab"]
    names = tuple(str(number) for number in range(len(images)))
    answers = engine.generate([Request(Prompt(text, images, names), 7, 1) for text in prompts])
    chains = [chain for answer in answers if isinstance(answer, list) for chain in answer]
    assert len(chains) == 14, answers
    assert all(chain.token_ids for chain in chains), answers
    return {
        "start_s": round(ready - started, 1),
        "chains": len(chains),
        "chains_s": round(time.monotonic() - ready, 1),
        **{name: round(value, 5) for name, value in engine.probe_figures.items()},
    }


PARTS: dict[str, Callable[[Path, int], Figures]] = {
    "checkpoint": checkpoint,
    "step": step,
    "adapter": adapter,
    "sampling": sampling,
}


def run_part(name: str, place: Path, layers: int) -> None:
    """In this process, which ends with it: vLLM leaves threads behind."""
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    os.environ["HOME"] = str(place / "home")  # merged weights are kept there
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    started = time.monotonic()
    figures = PARTS[name](place, layers)
    whose = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)  # a merge is a child, and ends first
    peak = max(resource.getrusage(one).ru_maxrss for one in whose) / GIB
    figures |= {"s": round(time.monotonic() - started, 1), "peak_gib": round(peak, 2)}
    print(json.dumps({"part": name, **figures}), flush=True)
    os._exit(0)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--keep", type=Path, help="directory for checkpoint and adapter")
    parser.add_argument("--layers", type=int, default=36, help="of the language model")
    parser.add_argument("--here", action="store_true", help="in this process (internal)")
    options = parser.parse_args()
    if options.here:
        run_part(options.parts[0], options.keep, options.layers)
    with tempfile.TemporaryDirectory() as temporary:
        place = (options.keep or Path(temporary)).resolve()
        (place / "home").mkdir(parents=True, exist_ok=True)
        for name in options.parts or PARTS:
            command = [sys.executable, __file__, name, "--here", f"--keep={place}"]
            ran = subprocess.run([*command, f"--layers={options.layers}"], check=False)
            if ran.returncode:
                print(f"check-3b: {name} failed", file=sys.stderr)
                return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
