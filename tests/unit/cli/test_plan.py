"""What a run of rounds would take, before it; and that the other jobs are asked for theirs."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from raypipe.cli.main import main
from raypipe.config import Config, load, resolve
from raypipe.rounds.estimate import plan_rounds
from raypipe.runtime import progress
from raypipe.runtime.cost import Plan
from raypipe.schemas import LISTINGS
from raypipe.store.artifacts import Run
from tests.conftest import CommitRows, MakeListing

GREEDY = 2 * (3 + 2)  # two questions for each listing of eval and anchor


@pytest.fixture(autouse=True)
def _leaves_the_process_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress.logger, "handlers", [])
    monkeypatch.setattr(progress.logger, "propagate", True)


@pytest.fixture
def prepared(tmp_path: Path, make_listing: MakeListing, commit_rows: CommitRows) -> Path:
    """A directory whose run 'local' has a catalog of 5 listings to learn from, 3 to be judged on,
    2 to be guarded by and 1 that is annotated."""
    rows = [
        make_listing(f"{split}{number}", split)
        for split, size in (("pool", 5), ("eval", 3), ("anchor", 2), ("seed", 1))
        for number in range(size)
    ]
    commit_rows(Run(str(tmp_path / "local")), "catalog/listings", LISTINGS, rows)
    return tmp_path


def settings(directory: Path, **sections: Any) -> Config:
    return resolve({"run": {"directory": str(directory)}, **sections})


def chains(plan: Plan) -> dict[str, int]:
    return {item.name: item.chains for item in plan.items}


def examples(plan: Plan) -> dict[str, int]:
    return {item.name: item.examples for item in plan.items}


def test_chains_are_counted_policy_by_policy(prepared: Path) -> None:
    expected = plan_rounds(settings(prepared, rounds={"num_rounds": 2}))
    sampled = GREEDY + 7 * 2 * (5 + 2)
    assert expected.counted
    assert chains(expected) == {
        "pretrained": GREEDY,
        "sft": sampled,
        "round-1": sampled,
        "round-2": GREEDY,  # no round learns from it
    }
    assert expected.left.chains == 2 * (GREEDY + sampled)


def test_pairs_are_bounded_by_the_votes_that_a_query_needs(prepared: Path) -> None:
    expected = plan_rounds(settings(prepared, rounds={"num_rounds": 1}, sft={"epochs": 3}))
    assert examples(expected) == {"pretrained": 0, "sft": 3 * 2, "round-1": 2 * 5 * (7 - 4)}
    method = {"method": "self_learning"}
    imitating = plan_rounds(settings(prepared, rounds={"num_rounds": 1}, training=method))
    assert examples(imitating)["round-1"] == 2 * 5 * 7


def test_rounds_from_the_pretrained_model_have_no_sft(prepared: Path) -> None:
    rounds = {"num_rounds": 1, "start": "pretrained"}
    expected = plan_rounds(settings(prepared, rounds=rounds))
    assert chains(expected) == {"pretrained": GREEDY + 7 * 2 * (5 + 2), "round-1": GREEDY}


def test_a_slice_of_the_pool_is_asked_less(prepared: Path) -> None:
    whole = plan_rounds(settings(prepared, rounds={"num_rounds": 2}))
    halves = plan_rounds(settings(prepared, rounds={"num_rounds": 2, "pool_slices": 2}))
    assert chains(whole)["sft"] - chains(halves)["sft"] == 7 * 5
    assert examples(halves)["round-1"] == examples(whole)["round-1"] / 2


def test_what_is_made_is_not_counted_again_and_gives_the_pace(prepared: Path) -> None:
    run = Run(str(prepared / "local"))
    before = plan_rounds(settings(prepared, rounds={"num_rounds": 1}))
    assert before.left.tokens is None
    attempt = run.artifact("pretrained/chains").attempt({})
    attempt.started -= 5.0
    attempt.commit(counts={"chains": GREEDY, "tokens": 20 * GREEDY})
    config = settings(prepared, rounds={"num_rounds": 1})
    after = plan_rounds(config)
    assert before.left.chains - after.left.chains == GREEDY
    assert after.left.tokens == pytest.approx(20 * after.left.chains)
    hours = after.left.engine_hours
    assert hours == pytest.approx(after.left.chains / (GREEDY / 5.0) / 3600, rel=0.1)


def test_rates_and_prices_make_money(prepared: Path) -> None:
    rates = {"chains_per_second": 10.0, "examples_per_second": 5.0}
    known = settings(prepared, rates={**rates, "engine_hour": 2.0, "trainer_hour": 6.0})
    expected = plan_rounds(known)
    engines, trainers = expected.left.chains / 10 / 3600, expected.left.examples / 5 / 3600
    assert expected.left.price(known) == pytest.approx(2 * engines + 6 * trainers)
    assert expected.left.price(settings(prepared, rates=rates)) is None
    assert plan_rounds(settings(prepared)).left.engine_hours is None


def test_the_plan_of_a_prepared_run_is_one_table(
    prepared: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rates = "rates={chains_per_second: 10, examples_per_second: 5, engine_hour: 2, trainer_hour: 6}"
    assert main(["plan", f"run.directory={prepared}", "rounds.num_rounds=1", rates]) == 0
    shown = capsys.readouterr().out
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in shown.splitlines()]
    assert ["sft", "10", "20", "108", "6"] in rows
    assert ["to make", "", "", "128", "36"] in rows
    assert "pool 5 listings with 10 queries" in shown
    assert "(counted)" in shown
    assert "at most 8,192" in shown  # 128 chains of 64 tokens
    assert "unknown" not in shown


def test_what_nobody_knows_is_said_to_be_unknown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gpu = str(Path(__file__).parents[3] / "jobs" / "configs" / "qwen2.5-vl-3b.yaml")
    assert main(["plan", "--config", gpu, f"run.directory={tmp_path}/runs"]) == 0
    shown = capsys.readouterr().out
    assert shown.count("unknown") == 3  # engine hours, trainer hours, cost
    assert "set rates.chains_per_second, rates.engine_hour" in shown
    assert "assumed: the catalog is not prepared yet" in shown
    assert "the sizes are the paper's, not your catalog's" in shown
    assert not (tmp_path / "runs").exists()
    assert main(["plan", f"run.directory=file://{tmp_path}/runs"]) == 0
    assert not (tmp_path / "runs").exists()


def test_a_plan_of_labels_says_that_it_does_work_first(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["plan", "--help"], ["label", "--help"]):
        with pytest.raises(SystemExit):
            main(arguments)
        told = " ".join(capsys.readouterr().out.split())
        assert "the run's own catalog" in told
        assert "nothing is sampled" in told.lower()


def test_a_wrong_configuration_exits_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "training.bata=1"]) == 2
    assert capsys.readouterr().err.startswith("ConfigError: unknown key 'training.bata'")


def test_a_sweep_and_labels_are_planned_by_their_own_jobs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        main(["plan", "--job", "sweep", f"run.directory={tmp_path}", "sweep.groups=[table4]"]) == 0
    )
    assert "What the sweep would take" in capsys.readouterr().out
    seen: list[tuple[Config, bool]] = []
    label: Callable[..., None] = lambda config, console, *, plan_only: seen.append(  # noqa: E731
        (config, plan_only)
    )
    monkeypatch.setattr("raypipe.labeling.driver.label_catalog", label)
    (tmp_path / "own.yaml").write_text("catalog: {embedded: {}}\nrun: {name: own}\n")
    own = str(tmp_path / "own.yaml")
    assert main(["plan", "--job", "label", "--config", own, "labeling.mode=greedy"]) == 0
    assert seen == [(load(own, ["labeling.mode=greedy"]), True)]
