"""Engines, actors and drivers that die while listings are sampled; every id comes out once."""

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from raypipe.errors import EXIT_RETRY, EngineDiedError, EngineStartError
from raypipe.store.artifacts import Run
from tests.fakes.scripted_engine import (
    CHAINS_OF,
    EVERY,
    IN_FLIGHT,
    LISTINGS_PER_CALL,
    Driver,
    assert_exact,
    is_committed,
    make_catalog,
    new_script,
    refusals,
    sample,
)

pytestmark = pytest.mark.engine
NUM_LISTINGS = 400
TWO_PERCENT = NUM_LISTINGS // 50
TWO_ENGINES = "sampling.num_actors=2"


@pytest.fixture
def ids(run: Run) -> list[str]:
    return make_catalog(run, NUM_LISTINGS)


def rows_on_disk(run: Run) -> int:
    """Listings in the files of a sampling under way, for engines that answer whole calls."""
    written = Path(run.path(CHAINS_OF, "chains", "data")).rglob("*.parquet")
    return LISTINGS_PER_CALL * len(list(written))


@pytest.mark.usefixtures("wide_ray")
def test_a_listing_that_ends_its_engine_is_refused_after_two_deaths_and_no_neighbour_is(
    run: Run, ids: list[str], tmp_path: Path
) -> None:
    poison, failing = ids[137], ids[300]
    script = new_script(tmp_path, acts={poison: "exit", failing: "fail"}, seconds=0.02)
    sample(run, script, TWO_ENGINES)
    assert_exact(run, ids)
    assert refusals(run) == {poison: "engine_crash", failing: "engine_error"}
    assert script.page("died") == [poison] * 2
    assert script.redone() <= 2 * IN_FLIGHT + TWO_PERCENT


@pytest.mark.usefixtures("wide_ray")
def test_an_engine_that_dies_once_costs_time_alone(
    run: Run, ids: list[str], tmp_path: Path
) -> None:
    script = new_script(tmp_path, acts={ids[200]: "die once"}, seconds=0.02)
    sample(run, script, TWO_ENGINES)
    assert_exact(run, ids)
    assert refusals(run) == {}
    assert script.page("died") == [ids[200]]
    assert script.redone() <= IN_FLIGHT + TWO_PERCENT


@pytest.mark.usefixtures("wide_ray")
def test_a_killed_actor_is_replaced(run: Run, ids: list[str], tmp_path: Path) -> None:
    script = new_script(tmp_path, seconds=0.05)

    def kill() -> None:
        hold = Path(script.diary, "hold")
        hold.touch()
        time.sleep(0.5)  # by then every engine is in a call, whose listings need another one
        os.kill(int(script.page("started")[0]), signal.SIGKILL)
        hold.unlink()

    with once(lambda: len(script.answered) > NUM_LISTINGS // 3, kill):
        sample(run, script, TWO_ENGINES)
    assert_exact(run, ids)
    assert refusals(run) == {}
    assert len(script.page("started")) == 3
    assert script.redone() <= IN_FLIGHT + TWO_PERCENT


@pytest.mark.usefixtures("wide_ray")
def test_engines_that_always_die_end_the_stage_which_goes_on_later(
    run: Run, ids: list[str], tmp_path: Path
) -> None:
    deadly = new_script(tmp_path, acts={EVERY: "exit"})
    with pytest.raises(EngineDiedError, match=r"sampling\.max_engine_deaths=3") as raised:
        sample(run, deadly, "sampling.max_engine_deaths=3")
    assert raised.value.exit_code == EXIT_RETRY
    assert len(deadly.page("started")) == 4
    assert not is_committed(run)
    sample(run, new_script(tmp_path))
    assert_exact(run, ids)


@pytest.mark.usefixtures("wide_ray")
def test_an_engine_that_cannot_start_ends_the_stage_at_once(
    run: Run, ids: list[str], tmp_path: Path
) -> None:
    began = time.monotonic()
    with pytest.raises(EngineStartError, match="the script says that it does not start") as raised:
        sample(run, new_script(tmp_path, starts=False), TWO_ENGINES)
    assert raised.value.exit_code == EXIT_RETRY
    assert time.monotonic() - began < 60
    assert not is_committed(run)


@pytest.mark.usefixtures("wide_ray")
@pytest.mark.parametrize("breaks", ["raise", "exit"])
def test_one_engine_of_four_that_never_starts_costs_no_listing(
    breaks: str, run: Run, ids: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    script = new_script(tmp_path, broken=1, breaks=breaks, seconds=0.02)
    hold = Path(script.diary, "hold")
    hold.touch()
    with once(lambda: len(script.page("broke")) > 2, hold.unlink):
        sample(run, script, "sampling.num_actors=4")
    assert_exact(run, ids)
    assert refusals(run) == {}
    assert "engine starts failed, the last one with" in caplog.text


@pytest.mark.usefixtures("wide_ray")
@pytest.mark.parametrize("breaks", ["raise", "exit"])
def test_engines_that_never_start_end_the_stage_with_the_cause(
    breaks: str, run: Run, ids: list[str], tmp_path: Path
) -> None:
    script = new_script(tmp_path, broken=2, breaks=breaks)
    cause = "429 Client Error" if breaks == "raise" else "its process ended"
    with pytest.raises((EngineStartError, EngineDiedError), match=cause) as raised:
        sample(run, script, TWO_ENGINES)
    assert raised.value.exit_code == EXIT_RETRY
    assert not is_committed(run)


def test_a_driver_killed_at_three_moments_leaves_what_it_did_to_the_next(
    run: Run, ids: list[str], tmp_path: Path
) -> None:
    script = new_script(tmp_path, seconds=0.1)

    def half_written() -> bool:
        return rows_on_disk(run) > NUM_LISTINGS // 2

    Driver(run, script, TWO_ENGINES).kill_when(half_written)
    assert not is_committed(run)
    kept = rows_on_disk(run)

    before_commit = Driver(run, script, TWO_ENGINES, "--killed-before-commit")
    assert before_commit.wait() == -signal.SIGKILL
    assert not is_committed(run)
    assert set(script.answered) == set(ids)
    assert script.redone() <= 2 * IN_FLIGHT + TWO_PERCENT
    everything = len(script.answered)
    assert NUM_LISTINGS <= rows_on_disk(run) <= everything

    Driver(run, script, TWO_ENGINES).kill_when(lambda: is_committed(run))
    assert_exact(run, ids)
    commit = run.artifact(f"{CHAINS_OF}/chains").require_commit()
    assert commit.counts["salvaged"] == NUM_LISTINGS >= kept
    assert sample(run, script, TWO_ENGINES).reused
    assert run.artifact(f"{CHAINS_OF}/chains").require_commit() == commit
    assert len(script.answered) == everything, "what was written was asked again"
    assert_exact(run, ids)


class once:
    """While the body runs, wait for a moment and act on it once."""

    def __init__(self, reached: Callable[[], bool], act: Callable[[], None]) -> None:
        self._reached, self._act = reached, act
        self._over = threading.Event()
        self._acted = False
        self._thread = threading.Thread(target=self._watch)

    def _watch(self) -> None:
        while not self._over.wait(0.01):
            if self._reached():
                self._act()
                self._acted = True
                return

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        assert self._acted, "the moment never came"
