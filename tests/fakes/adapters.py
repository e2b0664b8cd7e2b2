"""A run with a trained-looking adapter of the nano, its evaluation and what it came from."""

import json
from pathlib import Path

import torch
from peft import get_peft_model
from transformers import AutoModelForImageTextToText

from raypipe.config import Config, ModelConfig, flatten, resolve
from raypipe.models.policies import model_identity, model_path
from raypipe.store.artifacts import Run
from raypipe.store.paths import RUN
from raypipe.store.runs import LAYOUT
from raypipe.summaries import Metrics
from raypipe.training.lora import lora_config
from tests.fakes.documents import metrics, record, split_metrics, summary_json

NANO = ModelConfig(path="embedded:nano", dtype="float32")
PAIRS_DIGEST = "0123abcd"
NAMED = {"run": {"name": "shoes"}, "rounds": {"num_rounds": 1}}


def nano_config(**model: str) -> Config:
    values = {**NANO.model_dump(), "allow_unpinned": True, **model}
    return resolve({**NAMED, "model": values})


def write_adapter(directory: Path, seed: int, std: float = 0.05) -> Path:
    """A PEFT directory as the trainer writes it; ``std`` 0 is an adapter that changes nothing."""
    base = AutoModelForImageTextToText.from_pretrained(model_path(NANO))
    model = get_peft_model(base, lora_config(nano_config().lora))
    torch.manual_seed(seed)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=std)
    model.save_pretrained(directory)
    (directory / "README.md").unlink(missing_ok=True)
    return directory


def adapted_run(location: Path, std: float = 0.05) -> Run:
    """Round 1 is committed and evaluated, and the run has its summary."""
    run = Run(str(location))
    run.create(RUN, json.dumps({"layout": LAYOUT} | nano_config().shown()).encode())
    catalog = nano_config().catalog
    images = {f"catalog.{key}": getattr(catalog, key) for key in ("image_size", "max_images")}
    for name, fingerprint in (("catalog/listings", images), ("catalog/seed", {})):
        run.artifact(name).attempt(fingerprint).commit()
    for name, accuracy in (("pretrained", 0.5), ("round-1", 0.6)):
        attempt = run.artifact(f"{name}/evaluation").attempt({})
        measured = split_metrics(accuracy, queries=400, invalid=0.025)
        written = metrics().model_copy(update={"eval": measured, "anchor": measured})
        attempt.write_json(Metrics.FILE, written.to_json())
        attempt.commit()
    attempt = run.artifact("round-1/adapter").attempt(
        {
            "training.method": "dpo",
            "upstream.pairs": PAIRS_DIGEST,
            "versions.peft": "0.21.2",
            **model_identity(NANO),
            **flatten(nano_config().lora.outcome_keys(), "lora."),
        }
    )
    write_adapter(attempt.local_files(), seed=1, std=std)
    attempt.commit(counts={"num_examples": 96, "num_steps": 6})
    summarise(run)
    return run


def summarise(run: Run) -> None:
    """Write the summary of round 1."""
    comparison = {"from": "sft", "to": "round-1", "difference": 0.031, "ci95": [-0.01, 0.07]}
    written = summary_json(
        best="round-1",
        pairs=[record(1, pairs=96, queries=40)],
        comparison=comparison | {"queries": 400},
    )
    run.replace("summary.json", json.dumps(written).encode())
