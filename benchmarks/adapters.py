"""Chains per second of an adapter merged into the weights, and of one that the engine serves beside
them (``sampling.adapter``).

    python benchmarks/adapters.py                      the embedded nano model
    python benchmarks/adapters.py --repeats 5 sampling.engine_in_actor=true

The adapter has the configuration's rank and targets and small random weights; listings, engine and
clock are those of ``benchmarks/sampling.py``. Each measurement is a process of its own; both ways
take turns, there and back again; medians are compared. The last line is JSON:

    {"benchmark": "adapters", "merged": chains/s, "lora": chains/s, "ratio": merged over lora}
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import sampling
from sampling_arms import policy_outcome

from raypipe import config as configuration
from raypipe.config import Config
from raypipe.models.policies import Policy, model_path

WAYS = ("merged", "lora")


def random_adapter(config: Config, directory: Path) -> Path:
    """A PEFT adapter whose weights are random, so that the engine's probe finds it active."""
    import torch
    from peft import get_peft_model
    from transformers import AutoModelForImageTextToText

    from raypipe.training.lora import lora_config

    base = AutoModelForImageTextToText.from_pretrained(
        model_path(config.model), revision=config.model.revision
    )
    model = get_peft_model(base, lora_config(config.lora))
    torch.manual_seed(0)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.02)
    model.save_pretrained(directory)
    return directory


def measure(options: argparse.Namespace) -> float:
    work = sampling.make_work(sampling.load(options), options.listings)
    policy = Policy("adapter", work.config.model, options.adapter)
    outcome = policy_outcome(work, policy)
    return len(outcome.drawn) / outcome.seconds


def compare(options: argparse.Namespace, adapter: Path) -> dict[str, float]:
    found: dict[str, list[float]] = {way: [] for way in WAYS}
    for _ in range(options.repeats):
        for way in (*WAYS, *reversed(WAYS)):
            command = [sys.executable, __file__, f"--adapter={adapter}"]
            command += [f"--{key}={getattr(options, key)}" for key in sampling.SIZES]
            command += [*options.overrides, f"sampling.adapter={way}"]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            found[way].append(float(done.stdout.splitlines()[-1]))
            print(f"  {way:8s} {found[way][-1]:9.2f} chains/s", file=sys.stderr, flush=True)
    return {way: round(statistics.median(values), 2) for way, values in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    sampling.add_sizes(parser)
    parser.add_argument("--repeats", type=int, default=2, help="of there and back again")
    parser.add_argument("--adapter", type=Path, help="measure this adapter once")
    options = parser.parse_args()
    if options.adapter:
        print(measure(options))
        return
    with tempfile.TemporaryDirectory() as directory:
        config = configuration.load(None, options.overrides)
        speed = compare(options, random_adapter(config, Path(directory)))
    ratio = round(speed["merged"] / speed["lora"], 3)
    print(json.dumps({"benchmark": "adapters", **speed, "ratio": ratio}))


if __name__ == "__main__":
    main()
