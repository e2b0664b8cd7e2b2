"""What a sweep would take, before anything is made."""

from pathlib import Path
from typing import Any

import pytest

from raypipe.artifacts import Run
from raypipe.config import Config, load, resolve
from raypipe.schemas import LISTINGS
from raypipe.sweep.console import SweepConsole
from raypipe.sweep.estimate import Expectation, expect
from tests.conftest import CommitRows, MakeListing


def settings(directory: Path, **sections: Any) -> Config:
    return resolve({"run": {"directory": str(directory)}, **sections})


def by_arm(expected: Expectation) -> dict[str, int]:
    return {line.arm.name: line.chains for line in expected.lines}


def test_a_prepared_catalog_is_counted(
    tmp_path: Path, make_listing: MakeListing, commit_rows: CommitRows
) -> None:
    rows = [
        make_listing(f"{split}{number}", split)
        for split, size in (("pool", 5), ("eval", 3), ("anchor", 2), ("seed", 1))
        for number in range(size)
    ]
    commit_rows(Run(str(tmp_path / "local")), "catalog/listings", LISTINGS, rows)
    expected = expect(settings(tmp_path))
    assert expected.counted
    greedy = 2 * (3 + 2)  # two questions a listing
    chains = by_arm(expected)
    assert chains["dpo-sft-c0.3"] == greedy
    assert chains["pretrained"] == greedy + 7 * 2 * (5 + 2)
    assert chains["sft"] == greedy + 7 * 2 * (5 + 2 + 3)  # and the vote on eval
    assert chains["vote-sft"] == 0
    assert expected.chains == sum(chains.values())


def test_without_a_catalog_the_papers_sizes_are_assumed_and_no_run_is_made(tmp_path: Path) -> None:
    catalog = {"embedded": None, "listings": "l", "attribute_schema": "a", "seed": "s"}
    expected = expect(settings(tmp_path / "runs", catalog=catalog | {"truth": "t"}))
    assert not expected.counted
    assert expected.splits["eval"].queries == pytest.approx(7145, abs=5)
    assert not (tmp_path / "runs").exists()


def test_every_seed_adds_its_arms(tmp_path: Path) -> None:
    one = expect(settings(tmp_path))
    three = expect(settings(tmp_path, sweep={"seeds": [0, 1, 2]}))
    more = {(line.seed, line.arm.name) for line in three.lines}
    assert {(0, line.arm.name) for line in one.lines} < more
    assert (2, "dpo-sft") in more
    assert (2, "dpo-sft-null") not in more


def test_rates_and_prices_make_hours_and_money(tmp_path: Path) -> None:
    rates = {"chains_per_second": 100.0, "examples_per_second": 10.0}
    assert expect(settings(tmp_path)).cost(settings(tmp_path)) is None
    config = settings(tmp_path, rates=rates | {"engine_hour": 2.0, "trainer_hour": 5.0})
    expected = expect(config)
    engines, trainers = expected.chains / 100 / 3600, expected.examples / 10 / 3600
    assert expected.engine_hours(config) == pytest.approx(engines)
    assert expected.cost(config) == pytest.approx(2 * engines + 5 * trainers)


def test_the_plan_names_what_is_unknown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = load(None, [f"run.directory={tmp_path}/runs"])
    SweepConsole().plan(config, expect(config))
    shown = capsys.readouterr().out
    assert "DPO from SFT, C > 0.3, equal pairs" in shown
    assert "rates.chains_per_second" in shown
    assert "assumed: the catalog is not prepared yet" in shown
