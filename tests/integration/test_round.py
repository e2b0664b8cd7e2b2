"""The main job, for real: what it leaves, and what the same command does the second time."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from raypipe import config as configuration
from raypipe.exports.preferences import export_preferences
from raypipe.models.policies import policy
from tests.fakes.small_run import SMALL, FinishedRun, run_job

pytestmark = pytest.mark.engine


def test_the_summary_tells_every_policy(finished_run: FinishedRun) -> None:
    summary = json.loads(finished_run.run.read("summary.json") or b"")
    assert [stage["name"] for stage in summary["stages"]] == ["pretrained", "sft", "round-1"]
    for stage in summary["stages"]:
        low, high = stage["ci95"]
        assert low <= stage["accuracy"] <= high
        assert stage["queries"] == summary["stages"][0]["queries"] > 0
        assert 0 <= stage["invalid"] <= 1
    assert summary["funnel"]["sft"]["chains"]["requested"] > 0
    assert summary["pairs"][0]["pairs"] > 0
    assert set(summary["seconds"]) == set(summary["digests"])


def test_the_output_says_what_a_person_wants_to_know(finished_run: FinishedRun) -> None:
    for words in ("Accuracy on the eval split", "Where the time went", "report", "round-1"):
        assert words in finished_run.output
    assert "Traceback" not in finished_run.output


def test_the_report_is_one_static_page(finished_run: FinishedRun) -> None:
    page = (finished_run.run.read("report/index.html") or b"").decode()
    assert "round-1" in page
    assert "<script src" not in page


def test_the_same_command_recomputes_nothing(finished_run: FinishedRun) -> None:
    before = finished_run.run.read("summary.json")
    again = run_job(finished_run.directory)
    assert again.returncode == 0, again.stdout + again.stderr
    assert finished_run.run.read("summary.json") == before
    stage_lines = [line for line in again.stdout.splitlines() if line.startswith("✓")]
    done = [line for line in stage_lines if "already done" in line]
    assert len(done) == len([line for line in stage_lines if "anchor accuracy" not in line])


@pytest.mark.parametrize("key", ["sampling.temperature=0.9", "consensus.threshold=0.7"])
def test_a_changed_outcome_key_is_refused_and_named(finished_run: FinishedRun, key: str) -> None:
    refused = run_job(finished_run.directory, key)
    assert refused.returncode == 2
    assert key.split("=")[0] in refused.stderr
    assert "Traceback" not in refused.stderr


def test_a_changed_resource_key_is_not_refused(finished_run: FinishedRun) -> None:
    done = run_job(finished_run.directory, "sampling.num_actors=2", "cluster.micro_batch_size=2")
    assert done.returncode == 0, done.stderr


def test_the_adapter_loads_as_a_peft_model(finished_run: FinishedRun) -> None:
    from peft import PeftModel
    from transformers import AutoModelForImageTextToText

    from raypipe.models.policies import model_path

    config = configuration.load()
    adapter = policy(finished_run.run, config.model, "round-1").adapter_directory()
    base = AutoModelForImageTextToText.from_pretrained(model_path(config.model))
    model = PeftModel.from_pretrained(base, str(adapter))
    updates = [p for name, p in model.named_parameters() if "lora_B" in name]
    assert updates
    assert all(bool(p.abs().sum() > 0) for p in updates)


SERVE = """
import sys
from raypipe import config as configuration
from raypipe.store.artifacts import Run
from raypipe.models.policies import policy
from raypipe.sampling.stage import start_engine

if __name__ == "__main__":
    config = configuration.load(None, sys.argv[2:])
    engine = start_engine(config, policy(Run(sys.argv[1]), config.model, "round-1"))
    print("probe slope", engine.probe_figures["probe_slope"])
"""


@pytest.mark.parametrize(
    ("override", "tolerance"), [("sampling.adapter=lora", 0.01), ("model.dtype=bfloat16", 0.2)]
)
def test_the_adapter_is_proved_active_as_a_vllm_lora_and_merged_in_bfloat16(
    finished_run: FinishedRun, tmp_path: Path, override: str, tolerance: float
) -> None:
    script = tmp_path / "serve.py"
    script.write_text(SERVE)
    served = subprocess.run(
        [sys.executable, str(script), finished_run.run.location, override],
        capture_output=True,
        text=True,
        check=False,
        timeout=400,
    )
    assert served.returncode == 0, served.stderr
    slope = float(served.stdout.rsplit("probe slope", 1)[1].split()[0])
    assert slope == pytest.approx(1, abs=tolerance)


def test_trl_trains_on_the_exported_pairs_unchanged(
    finished_run: FinishedRun, tmp_path: Path
) -> None:
    from datasets import load_dataset
    from peft import LoraConfig
    from transformers import AutoModelForImageTextToText, AutoProcessor
    from trl import DPOConfig, DPOTrainer

    from raypipe.models.policies import model_path

    config = configuration.load(None, SMALL)
    path = export_preferences(config, finished_run.run, "sft", tmp_path)
    pairs = load_dataset("parquet", data_files=str(path), split="train", cache_dir=str(tmp_path))
    assert {"prompt", "chosen", "rejected", "images"} <= set(pairs.column_names)
    base = model_path(config.model)
    settings = DPOConfig(
        output_dir=str(tmp_path / "trl"),
        per_device_train_batch_size=2,
        max_steps=1,
        max_length=None,
        use_cpu=True,
        bf16=False,
        report_to="none",
        save_strategy="no",
    )
    trainer = DPOTrainer(
        model=AutoModelForImageTextToText.from_pretrained(base),
        args=settings,
        train_dataset=pairs,
        processing_class=AutoProcessor.from_pretrained(base),
        peft_config=LoraConfig(r=4, target_modules=["q_proj", "v_proj"]),
    )
    assert trainer.train().training_loss == pytest.approx(0.693, abs=0.05)
