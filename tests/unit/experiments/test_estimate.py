"""What a sweep would take, before anything is made."""

from pathlib import Path
from typing import Any

import pytest

from raypipe.config import Config, load, resolve
from raypipe.experiments.console import print_plan
from raypipe.experiments.estimate import plan_sweep
from raypipe.runtime.console import Console
from raypipe.runtime.cost import Plan
from raypipe.schemas import LISTINGS
from raypipe.store.artifacts import Run
from tests.conftest import CommitRows, MakeListing


def settings(directory: Path, **sections: Any) -> Config:
    return resolve({"run": {"directory": str(directory)}, **sections})


def by_arm(plan: Plan) -> dict[str, int]:
    return {item.name: item.chains for item in plan.items}


def test_a_prepared_catalog_is_counted(
    tmp_path: Path, make_listing: MakeListing, commit_rows: CommitRows
) -> None:
    rows = [
        make_listing(f"{split}{number}", split)
        for split, size in (("pool", 5), ("eval", 3), ("anchor", 2), ("seed", 1))
        for number in range(size)
    ]
    commit_rows(Run(str(tmp_path / "local")), "catalog/listings", LISTINGS, rows)
    expected = plan_sweep(settings(tmp_path))
    assert expected.counted
    greedy = 2 * (3 + 2)  # two questions a listing
    chains = by_arm(expected)
    assert chains["DPO from SFT, C > 0.3"] == greedy
    assert chains["Pretrained"] == greedy + 7 * 2 * (5 + 2)
    assert chains["SFT"] == greedy + 7 * 2 * (5 + 2 + 3)  # and the vote on eval
    assert chains["Vote of SFT's chains"] == 0
    assert expected.left.chains == sum(chains.values())


def test_without_a_catalog_the_papers_sizes_are_assumed_and_no_run_is_made(tmp_path: Path) -> None:
    catalog = {"embedded": None, "listings": "l", "attribute_schema": "a", "seed": "s"}
    expected = plan_sweep(settings(tmp_path / "runs", catalog=catalog | {"truth": "t"}))
    assert not expected.counted
    assert expected.splits["eval"].queries == pytest.approx(7145, abs=5)
    assert not (tmp_path / "runs").exists()


def test_every_seed_adds_its_arms(tmp_path: Path) -> None:
    one = plan_sweep(settings(tmp_path))
    three = plan_sweep(settings(tmp_path, sweep={"seeds": [0, 1, 2]}))
    more = {(item.seed, item.name) for item in three.items}
    assert {(0, item.name) for item in one.items} < more
    assert (2, "DPO from SFT") in more
    assert (2, "DPO on pairs in random order") not in more


def test_rates_and_prices_make_hours_and_money(tmp_path: Path) -> None:
    rates = {"chains_per_second": 100.0, "examples_per_second": 10.0}
    assert plan_sweep(settings(tmp_path)).left.price(settings(tmp_path)) is None
    config = settings(tmp_path, rates=rates | {"engine_hour": 2.0, "trainer_hour": 5.0})
    expected = plan_sweep(config)
    engines, trainers = expected.left.chains / 100 / 3600, expected.left.examples / 10 / 3600
    assert expected.left.engine_hours == pytest.approx(engines)
    assert expected.left.price(config) == pytest.approx(2 * engines + 5 * trainers)


def test_the_plan_names_what_is_unknown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = load(None, [f"run.directory={tmp_path}/runs"])
    print_plan(config, Console())
    shown = capsys.readouterr().out
    assert "DPO from SFT, C > 0.3, equal pairs" in shown
    assert "rates.chains_per_second" in shown
    assert "assumed: the catalog is not prepared yet" in shown
