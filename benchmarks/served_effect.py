"""The share of an adapter's effect that an engine serves in bfloat16, on the embedded nano model.

    python benchmarks/served_effect.py                 the SFT adapter of runs/local (make round)
    python benchmarks/served_effect.py --adapter DIR --ways merged lora nearest

The adapter is scaled so that the entries of B have the standard deviations that the paper's
learning rates leave. Ways to serve it:

    merged    ``sampling.adapter=merged``, as shipped: rounded for the inputs that layers meet
    lora      ``sampling.adapter=lora``: beside the weights, by vLLM's LoRA
    nearest   merged by PEFT, each sum rounded to the nearest bfloat16

What the engine's log-probabilities change by, against a second engine with the base model, is
regressed on what the adapter changes in float32 by transformers: 1 is all of the effect. Intervals
are of 95 %, clustered by text. The texts are the probe's, more of them the smaller the adapter is:
its effect is a tenth of the engines' noise. Every engine is a process of its own. The last line is
JSON:

    {"benchmark": "served_effect", "merged": {"0.0001": [share, low, high], …}, …}
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from raypipe import config as configuration
from raypipe.config import Config
from raypipe.models.policies import Policy, model_path, policy
from raypipe.sampling import calibration
from raypipe.store.artifacts import Run

WAYS = ("merged", "lora", "nearest")
STDS = (1e-4, 2e-4, 4e-4, 7e-4)


def shipped(way: str) -> Config:
    """The settings of a GPU run that matter here, for the nano model on a CPU."""
    served = "lora" if way == "lora" else "merged"
    return configuration.load(None, ["model.dtype=bfloat16", f"sampling.adapter={served}"])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--adapter", type=Path)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=["merged"])
    parser.add_argument("--stds", nargs="+", type=float, default=STDS)
    parser.add_argument("--tokens", type=int, default=600_000, help="for the smallest adapter")
    parser.add_argument("--score", choices=("base", *WAYS), help="one engine (internal)")
    parser.add_argument("--output", type=Path, help="where it writes its scores (internal)")
    options = parser.parse_args()
    if options.score:
        np.save(options.output, scores(options.score, options.adapter, options.tokens))
        return
    with tempfile.TemporaryDirectory() as place:
        found = measure(options, Path(place))
    print(json.dumps({"benchmark": "served_effect", "tokens": options.tokens, **found}))


def measure(
    options: argparse.Namespace, place: Path
) -> dict[str, dict[str, tuple[float, float, float]]]:
    trained = options.adapter or sft_adapter()
    found: dict[str, dict[str, tuple[float, float, float]]] = {way: {} for way in options.ways}
    base = engine_scores("base", trained, options.tokens, place)
    for std in options.stds:
        adapter = scaled(trained, std, place / f"std-{std}")
        num_tokens = int(options.tokens * min(options.stds) / std)
        texts = token_ids(num_tokens)
        exact = exact_change(adapter, texts)
        effect = float(np.sqrt((exact**2).mean()))
        for way in options.ways:
            served = engine_scores(way, adapter, num_tokens, place)
            change = served - base[: len(served)]
            share, error = slope(change, exact, [len(text) - 1 for text in texts])
            found[way][str(std)] = tuple(
                round(value, 3) for value in (share, share - 1.96 * error, share + 1.96 * error)
            )
            print(f"  std(B) {std:.0e}  {effect:.4f} nats a token  {way:8s}", end=" ")
            print("{:.2f} [{:.2f}, {:.2f}]".format(*found[way][str(std)]), flush=True)
    return found


def sft_adapter() -> Path:
    config = configuration.load()
    adapter = policy(Run("runs/local"), config.model, "sft").adapter_directory()
    if adapter is None:
        sys.exit("runs/local has no SFT adapter: run 'make round', or name one with --adapter")
    return adapter


def scaled(adapter: Path, std: float, target: Path) -> Path:
    """The adapter with its B scaled to a standard deviation."""
    import torch
    from safetensors.torch import load_file, save_file

    target.mkdir()
    weights = load_file(adapter / "adapter_model.safetensors")
    drawn = torch.cat([w.flatten() for name, w in weights.items() if "lora_B" in name])
    factor = std / float(drawn.std())
    updated = {n: w * factor if "lora_B" in n else w for n, w in weights.items()}
    save_file(updated, target / "adapter_model.safetensors", {"format": "pt"})
    settings = (adapter / "adapter_config.json").read_text()
    (target / "adapter_config.json").write_text(settings)
    return target


def token_ids(num_tokens: int) -> list[list[int]]:
    from transformers import AutoProcessor

    processor = AutoProcessor.from_pretrained(model_path(shipped("merged").model))
    return calibration.texts(processor, num_tokens)


def exact_change(adapter: Path, texts: list[list[int]]) -> np.ndarray:
    """What the adapter changes of base weights in bfloat16, by arithmetic in float32."""
    import torch
    from peft import PeftModel

    from raypipe.models.base_model import load_base_model
    from raypipe.sampling.reference import logprobs

    base = load_base_model(model_path(shipped("merged").model), None, "bfloat16")
    model = PeftModel.from_pretrained(base.to(torch.float32), str(adapter)).eval()
    policy_scores = np.concatenate(logprobs(model, texts))
    with model.disable_adapter():
        return policy_scores - np.concatenate(logprobs(model, texts))


def engine_scores(way: str, adapter: Path, num_tokens: int, place: Path) -> np.ndarray:
    output = place / "scores.npy"
    command = [sys.executable, __file__, f"--score={way}", f"--adapter={adapter}"]
    command += [f"--tokens={num_tokens}", f"--output={output}"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return np.load(output)  # type: ignore[no-any-return]


def scores(way: str, adapter: Path, num_tokens: int) -> np.ndarray:
    """Log-probabilities of all texts by an engine, one after the other."""
    from raypipe.sampling.engine import Engine

    config = shipped(way)
    base, served = model_path(config.model), adapter if way in ("merged", "lora") else None
    if way == "nearest":
        base = nearest(base, adapter)
    engine = Engine(
        config.model,
        config.sampling,
        base=base,
        adapter=served,
        policy_id=Policy(way, config.model, adapter).policy_id,
        image_size=config.catalog.image_size,
        max_images=config.catalog.max_images,
    )
    return np.concatenate(engine.score(token_ids(num_tokens)))


def nearest(base: str, adapter: Path) -> str:
    from peft import PeftModel
    from transformers import AutoProcessor

    from raypipe.models.base_model import load_base_model

    target = adapter / "nearest"
    model = PeftModel.from_pretrained(load_base_model(base, None, "bfloat16"), str(adapter))
    model.merge_and_unload().save_pretrained(target)
    AutoProcessor.from_pretrained(base).save_pretrained(target)
    return str(target)


def slope(change: np.ndarray, exact: np.ndarray, lengths: list[int]) -> tuple[float, float]:
    """Least squares through the origin, with its standard error clustered by text."""
    power = float(exact @ exact)
    found = float(change @ exact) / power
    starts = np.cumsum([0, *lengths])[:-1]
    sums = np.add.reduceat(exact * (change - found * exact), starts)
    return found, float(np.sqrt(sums @ sums)) / power


if __name__ == "__main__":
    main()
