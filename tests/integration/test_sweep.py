"""A small sweep on the real engine, two arms at a time: the job as a user runs it."""

import json
import re
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from raypipe.experiments.results import Results
from raypipe.schemas import CHAINS, CONSENSUS, EVALUATION, LISTINGS, PAIRS
from raypipe.store.artifacts import Run
from tests.fakes.small_run import ROOT, SMALL, job_environment

pytestmark = pytest.mark.engine
ARMS = {"pretrained", "sft", "dpo-sft", "sl-sft"}


def sweep(directory: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
    small = [key for key in SMALL if not key.startswith("rounds.")]
    settings = ("sweep.groups=[rounds]", "sweep.num_rounds=1", f"run.directory={directory}")
    return subprocess.run(
        [sys.executable, "jobs/sweep.py", *small, *settings, *overrides],
        cwd=ROOT,
        env=job_environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=840,
    )


@cache
def finished(base: Path) -> tuple[Run, str]:
    directory = base / "sweep"
    done = sweep(directory, "sweep.arms_at_once=2", "cluster.num_cpus=8")
    assert done.returncode == 0, done.stdout + done.stderr
    return Run(str(directory / "local")), done.stdout


@pytest.fixture
def finished_sweep(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, str]:
    return finished(tmp_path_factory.getbasetemp())


def results_of(run: Run) -> Results:
    content = run.read(Results.FILE)
    assert content is not None
    return Results.model_validate_json(content)


def test_every_arm_has_its_figures_and_the_page_is_written(finished_sweep: tuple[Run, str]) -> None:
    run, output = finished_sweep
    results = results_of(run)
    assert {arm.name for arm in results.arms} == ARMS
    assert results.refused == {}
    assert "sft − pretrained" in {found.name for found in results.comparisons}
    page = run.read("report/index.html")
    assert page is not None
    assert b"DPO from SFT" in page
    assert "Claims" in output


def test_the_engine_ran_once_for_every_policy(finished_sweep: tuple[Run, str]) -> None:
    run, _ = finished_sweep
    made = list(Path(run.root).rglob("chains/_COMMIT.json"))
    policies = {json.loads(path.read_text())["fingerprint"]["policy_id"] for path in made}
    assert len(made) == len(policies) == len(ARMS)


def test_what_is_learned_from_holds_no_eval_listing(finished_sweep: tuple[Run, str]) -> None:
    run, _ = finished_sweep
    listings = run.artifact("catalog/listings", LISTINGS).read(["listing_id", "split"]).to_pylist()
    held_out = {row["listing_id"] for row in listings if row["split"] == "eval"}

    def ids(name: str, table: Any) -> set[str]:
        return set(run.artifact(name, table).read(["listing_id"]).column(0).to_pylist())

    assert held_out & ids("seed-0/sft/chains", CHAINS) == held_out
    assert held_out <= ids("seed-0/dpo-sft/evaluation", EVALUATION)
    for arm in ("dpo-sft", "sl-sft"):
        assert not held_out & ids(f"seed-0/{arm}/consensus", CONSENSUS)
        assert not held_out & ids(f"seed-0/{arm}/pairs", PAIRS)
    assert not held_out & ids("seed-0/sft-votes-4/consensus", CONSENSUS)


def test_only_evaluation_depends_on_the_truth(finished_sweep: tuple[Run, str]) -> None:
    run, _ = finished_sweep
    truth = run.artifact("catalog/truth").require_commit().digest
    readers = {
        path.parent.name
        for path in Path(run.root).rglob("_COMMIT.json")
        if truth in json.loads(path.read_text())["fingerprint"].values()
    }
    assert readers == {"evaluation"}


def test_the_same_command_makes_nothing_again(finished_sweep: tuple[Run, str]) -> None:
    run, _ = finished_sweep
    before = results_of(run)
    again = sweep(Path(run.root).parent)
    assert again.returncode == 0, again.stdout + again.stderr
    stages = re.findall(r"✓ \S+ +(\S.*)", again.stdout)
    assert stages
    assert all(stage.startswith("already done") for stage in stages)
    after = results_of(run)
    assert after.arms == before.arms
    assert after.comparisons == before.comparisons


def test_a_policy_judged_alone_gets_the_same_accuracy(finished_sweep: tuple[Run, str]) -> None:
    run, _ = finished_sweep
    small = [key for key in SMALL if not key.startswith("rounds.")]
    where = f"run.directory={Path(run.root).parent}"
    adapter = run.artifact("seed-0/dpo-sft/adapter").local_directory()
    done = subprocess.run(
        [sys.executable, "jobs/evaluate.py", *small, where, f"evals.policy={adapter}"],
        cwd=ROOT,
        env=job_environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=840,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    [path] = Path(run.root).glob("evaluations/*/evaluation/files/*/metrics.json")
    judged = json.loads(path.read_text())["eval"]
    arm = results_of(run).arm("dpo-sft")
    assert arm is not None
    assert (judged["accuracy"], judged["queries"]) == (arm.accuracy, results_of(run).eval_queries)
