"""What is told of a run: done, under way, interrupted, next, broken."""

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from raypipe.cli import status
from raypipe.cli.main import main
from raypipe.config import load
from raypipe.experiments.arms import plan_arms, scope_of
from raypipe.labeling.label_versions import set_decision
from raypipe.maintenance.status import RunStatus, inspect
from raypipe.store.artifacts import Run
from tests.fakes.documents import record, summary_json
from tests.fakes.label_rows import DIGEST
from tests.fakes.partial_runs import (
    PREPARED,
    ROUND_1,
    SFT,
    STAGES,
    Begin,
    Finish,
    WriteRows,
    summarise,
)


def states(run: Run) -> dict[str, str]:
    run_status = inspect(run, time.time())
    return {line.name: line.state for line in (*run_status.stages, *run_status.others)}


def age(run: Run, scope: str, seconds: float) -> None:
    """Make everything below a scope as old as that."""
    then = time.time() - seconds
    for path in Path(run.path(scope)).rglob("*"):
        os.utime(path, (then, then))


def test_of_a_run_that_was_only_begun_the_catalog_is_next(begin: Begin) -> None:
    run = begin()
    found = states(run)
    assert list(found) == STAGES
    assert found["catalog/seed"] == "next"
    assert set(list(found.values())[1:]) == {"waiting"}
    assert inspect(run, time.time()).summary == "next: catalog/seed"


@pytest.mark.parametrize("done", range(1, len(STAGES)))
def test_the_first_stage_that_is_not_done_is_next(begin: Begin, finish: Finish, done: int) -> None:
    run = begin()
    finish(run, *STAGES[:done])
    found = list(states(run).items())
    assert found[:done] == [(name, "done") for name in STAGES[:done]]
    assert found[done] == (STAGES[done], "next")
    assert inspect(run, time.time()).summary == f"next: {STAGES[done]}"


def test_a_finished_run_is_told_with_rows_seconds_and_the_policy_to_use(
    begin: Begin, finish: Finish, write_rows: WriteRows, capsys: pytest.CaptureFixture[str]
) -> None:
    run = begin()
    write_rows(run, "catalog/truth", "a", "b", refused="c").commit(counts={"images": 9})
    finish(run, *(name for name in STAGES if name != "catalog/truth"))
    summarise(run)
    assert main(["status", run.location]) == 0
    shown = capsys.readouterr().out
    (truth,) = [line for line in shown.splitlines() if "catalog/truth" in line]
    assert [cell.strip() for cell in truth.split("│")][1:6] == [
        "✓",
        "catalog/truth",
        "done",
        "2",
        "1",
    ]
    assert "9 images" in truth
    assert "accuracy 0.750" in shown
    assert "3 steps, loss 0.500" in shown
    assert shown.splitlines()[-1] == "done: the policy to use is round-1"


def test_an_attempt_under_way_is_told_with_its_rows_and_its_age(
    begin: Begin, finish: Finish, write_rows: WriteRows, capsys: pytest.CaptureFixture[str]
) -> None:
    run = begin()
    finish(run, *PREPARED)
    write_rows(run, "pretrained/chains", "a", "b", "c", refused="d")
    torn = Path(run.path("pretrained/chains/data/0123456789ab-01234567/1.parquet"))
    torn.parent.mkdir()
    torn.write_bytes(b"PAR1 and no end")
    assert main(["status", run.location]) == 0
    shown = capsys.readouterr().out
    (line,) = [line for line in shown.splitlines() if "pretrained/chains" in line and "│" in line]
    assert [cell.strip() for cell in line.split("│")][2:6] == [
        "pretrained/chains",
        "under way",
        "3",
        "1",
    ]
    assert "4 files, last written 0 s ago" in line
    age(run, "pretrained", 3 * 3600)
    assert main(["status", run.location]) == 0
    shown = capsys.readouterr().out
    assert "interrupted" in shown
    assert "last written 3 h ago" in shown
    assert "next: pretrained/chains, where the same command goes on" in shown


def test_a_training_under_way_is_told_by_its_checkpoints(begin: Begin, finish: Finish) -> None:
    run = begin()
    finish(run, *STAGES[: STAGES.index("sft/adapter")])
    checkpoint = Path(run.path(".training/sft/0123456789ab/checkpoint_1/adapter.safetensors"))
    checkpoint.parent.mkdir(parents=True)
    checkpoint.touch()
    assert states(run)["sft/adapter"] == "under way"


def test_a_name_is_looked_for_below_the_directory_of_runs(
    begin: Begin, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = begin()
    parent = Path(run.root).parents[1]
    monkeypatch.chdir(parent)
    assert main(["status", "mine"]) == 0
    assert main(["status", "mine", "--directory", f"{parent}/runs"]) == 0
    assert main(["status", "runs/mine"]) == 0
    assert capsys.readouterr().out.count("next: catalog/seed") == 3


def test_what_is_no_run_is_refused_with_what_it_is(
    begin: Begin,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    begin()
    monkeypatch.chdir(tmp_path)
    assert main(["status", "runs"]) == 3
    assert "runs is no run: it has no run.json, and holds mine" in capsys.readouterr().err
    assert main(["status", "absent"]) == 3
    assert "no run at absent or runs/absent; runs in runs: mine" in capsys.readouterr().err
    assert not (tmp_path / "absent").exists()
    assert not (tmp_path / "runs" / "absent").exists()
    assert main(["status", "zz://bucket/run"]) == 2
    assert "is no place of a run" in capsys.readouterr().err
    assert main(["status", f"file://{tmp_path}/absent"]) == 3
    assert "absent is no run" in capsys.readouterr().err
    assert not (tmp_path / "absent").exists()


def test_a_corrupt_manifest_is_a_line_and_exits_3(
    begin: Begin, finish: Finish, capsys: pytest.CaptureFixture[str]
) -> None:
    run = begin()
    finish(run, *STAGES)
    Path(run.path("sft/chains/_COMMIT.json")).write_text('{"artifact": "sft/ch')
    assert main(["status", run.location]) == 3
    shown = capsys.readouterr()
    assert "✗ sft/chains/_COMMIT.json is unreadable" in shown.out
    assert "broken: sft/chains must be restored" in shown.out
    assert "Traceback" not in shown.err


@pytest.mark.parametrize("how", ["gone", "cut"])
def test_a_committed_file_that_is_gone_or_cut_is_told(
    begin: Begin, finish: Finish, how: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run = begin()
    finish(run, *STAGES)
    (weights,) = Path(run.path("sft/adapter")).rglob("*.safetensors")
    weights.unlink() if how == "gone" else weights.write_bytes(b"s")
    assert main(["status", run.location]) == 3
    said = "is missing" if how == "gone" else "has 1 bytes instead of 11"
    assert said in capsys.readouterr().out


def test_a_run_json_that_cannot_be_read_hides_nothing_else(
    begin: Begin, finish: Finish, capsys: pytest.CaptureFixture[str]
) -> None:
    run = begin()
    finish(run, *STAGES)
    run.replace("run.json", b"{")
    assert main(["status", run.location]) == 3
    shown = capsys.readouterr().out
    assert "run.json is unreadable" in shown
    assert "accuracy 0.750" in shown


@pytest.mark.parametrize(
    ("outcome", "says"),
    [
        ("no_pairs", "the chains gave no pair"),
        ("unchanged", "training changed nothing"),
        ("diverged", "loss is nan"),
    ],
)
def test_a_run_that_ended_early_is_done_and_says_why(
    begin: Begin, finish: Finish, outcome: str, says: str
) -> None:
    run = begin("rounds.num_rounds=3")
    finish(run, *(name for name in STAGES if name not in ROUND_1))
    summarise(run, outcome, best="sft")
    run_status = inspect(run, time.time())
    assert run_status.is_done
    assert run_status.summary == f"done: the policy to use is sft; round 1 has no policy: {says}"
    assert set(states(run).values()) == {"done"}


def test_a_run_that_is_continued_with_more_rounds_is_told_by_what_is_there(
    begin: Begin, finish: Finish
) -> None:
    run = begin()
    finish(run, *STAGES, "round-2-draw/chains", "round-2-draw/consensus", "round-2/adapter")
    found = states(run)
    assert "round-1/consensus" not in found  # it was the last round once, and drew no chains
    assert found["round-2-draw/pairs"] == "next"


def test_without_its_summary_a_run_is_not_done(begin: Begin, finish: Finish) -> None:
    run = begin()
    finish(run, *STAGES)
    run_status = inspect(run, time.time())
    assert not run_status.is_done
    assert run_status.summary == "next: summary and report, which the same command writes"


def test_labels_evaluations_and_a_sweep_are_told_in_short(begin: Begin, finish: Finish) -> None:
    run = begin("sweep.groups=[table4]")
    arms = [scope_of(0, arm.name) for arm in plan_arms(load(None, ["sweep.groups=[table4]"]), 0)]
    finish(run, *PREPARED, *(f"{arm}/evaluation" for arm in arms[:2]))
    finish(run, "labels/000001/labels", f"labels/000002/decisions/{DIGEST}/calibration")
    set_decision(run, "labels/000001", DIGEST)
    finish(run, "evaluations/gpt-0123456789ab/chains", "evaluations/catalog-0123456789ab/listings")
    run_status = inspect(run, time.time())
    told = {line.name: (line.state, line.detail) for line in run_status.others}
    assert told["seed-0"] == ("next", f"2 of {len(arms)} arms")
    assert told["labels/000001/labels"][0] == "done"
    assert told["labels/000002/labels"][0] == "next"
    assert told["evaluations/gpt-0123456789ab/evaluation"][0] == "next"
    assert len(told) == 4
    assert [line.name for line in run_status.stages] == PREPARED  # no rounds were begun


def test_labels_that_a_finished_generation_supersedes_are_not_next(
    begin: Begin,
    finish: Finish,
    write_rows: WriteRows,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = begin()
    finish(run, *STAGES, f"labels/000001/decisions/{DIGEST}/calibration", "labels/000002/labels")
    set_decision(run, "labels/000002", DIGEST)
    summarise(run)
    assert states(run)["labels/000001/labels"] == "superseded"
    finish(run, f"labels/000003/decisions/{DIGEST}/calibration")
    write_rows(run, "labels/shards/0a1b", "a")
    line = {line.name: line for line in inspect(run, time.time()).others}["labels/000003/labels"]
    assert (line.state, line.detail) == ("under way", "1 shards are open")
    assert inspect(run, time.time()).summary == "under way: labels/000001/labels"
    age(run, "labels/shards", 3600)
    assert (
        inspect(run, time.time()).summary
        == "next: labels/000003/labels, where the same command goes on"
    )
    age(run, "labels/shards", 0)
    run.artifact("labels/shards/0a1b").attempt({}).commit()
    run.artifact("labels/000003/labels").attempt({}).commit()
    assert inspect(run, time.time()).summary == "next: labels/000003/labels"
    set_decision(run, "labels/000003", DIGEST)
    monkeypatch.setattr(status.time, "sleep", lambda _: pytest.fail("there is nothing to wait for"))
    assert main(["status", run.location, "--watch"]) == 0
    shown = capsys.readouterr().out
    assert "superseded" in shown
    assert "done: the policy to use is round-1" in shown


def test_an_older_generation_that_somebody_is_at_work_on_counts(
    begin: Begin, finish: Finish, write_rows: WriteRows
) -> None:
    run = begin()
    finish(run, *PREPARED, "labels/000002/labels")
    set_decision(run, "labels/000002", DIGEST)
    finish(run, f"labels/000001/decisions/{DIGEST}/calibration")
    write_rows(run, "labels/shards/0a1b", "a")
    assert inspect(run, time.time()).summary == "under way: labels/000001/labels"
    age(run, "labels/shards", 3600)
    assert inspect(run, time.time()).is_done


def test_annotations_are_told_and_one_that_was_given_up_for_another_does_not_count(
    begin: Begin, finish: Finish, write_rows: WriteRows
) -> None:
    run = begin()
    finish(run, *STAGES)
    summarise(run)
    left = "annotation/aaaaaaaaaaaa/answers"
    write_rows(run, left, "a")
    age(run, "annotation", 3600)
    assert inspect(run, time.time()).summary == f"next: {left}, where the same command goes on"
    done = write_rows(run, "annotation/bbbbbbbbbbbb/answers", "a", "b")
    done.commit(written=done.salvage(), counts={"questions": 9, "answered": 8})
    run.create("annotation/replies/ab/abcd.json", b"{}")
    run_status = inspect(run, time.time())
    told = {line.name: (line.state, line.detail) for line in run_status.others}
    assert told[left][0] == "superseded"
    assert told["annotation/bbbbbbbbbbbb/answers"] == ("done", "8 answered")
    assert len(told) == 2
    assert run_status.is_done


@pytest.mark.parametrize(
    "summary",
    [
        {"best": None},
        {"best": "../elsewhere"},
        {"pairs": [{"round": 1}]},
        {"pairs": [record(1, outcome="stopped")]},
        {"pairs": [record(1, round="first")]},
        {"pairs": 3},
        {"alarm": {"policy": "round-1"}},
        {"note": "one field too many"},
    ],
)
def test_a_malformed_summary_is_a_line_that_names_the_field_and_exits_3(
    begin: Begin, finish: Finish, capsys: pytest.CaptureFixture[str], summary: dict[str, Any]
) -> None:
    run = begin()
    finish(run, *STAGES)
    run.replace("summary.json", json.dumps(summary_json(**summary)).encode())
    assert main(["status", run.location]) == 3
    shown = capsys.readouterr().out
    assert "summary.json is unreadable: " + next(iter(summary)) in " ".join(shown.split())
    assert "next: summary and report" in shown


def test_json_holds_what_the_table_shows(
    begin: Begin, finish: Finish, capsys: pytest.CaptureFixture[str]
) -> None:
    run = begin()
    finish(run, *PREPARED, "pretrained/chains")
    assert main(["status", run.location, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["summary"] == "next: pretrained/evaluation"
    assert not told["is_done"]
    by_name = {line["name"]: line for line in told["stages"]}
    assert by_name["pretrained/chains"]["detail"] == "70 chains, 700 tokens"
    assert by_name["sft/adapter"]["state"] == "waiting"


def test_watching_ends_when_the_run_is_done(
    begin: Begin,
    finish: Finish,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = begin()
    finish(run, *PREPARED)
    pauses: list[float] = []

    def work(seconds: float) -> None:
        pauses.append(seconds)
        finish(run, *(name for name in STAGES if name not in PREPARED))
        summarise(run)

    monkeypatch.setattr(status.time, "sleep", work)
    assert main(["status", run.location, "--watch", "--every", "2"]) == 0
    assert pauses == [2.0]
    assert "done: the policy to use is round-1" in capsys.readouterr().out


def test_watching_ends_with_the_keyboard(begin: Begin, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(status.time, "sleep", interrupt)
    assert main(["status", begin().location, "--watch"]) == 130


def test_looking_changes_nothing(begin: Begin, finish: Finish) -> None:
    run = begin()
    finish(run, *SFT)

    def files() -> dict[str, Any]:
        return {str(path): path.stat().st_mtime_ns for path in Path(run.root).rglob("*")}

    before = files()
    assert isinstance(inspect(run, time.time()), RunStatus)
    assert files() == before
