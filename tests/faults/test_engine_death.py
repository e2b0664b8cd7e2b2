"""SIGKILL of a real engine's process; the actor goes with it, and both come back."""

import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from raypipe import config as configuration
from raypipe.catalog import stage as catalog
from raypipe.models.policies import Policy
from raypipe.sampling import stage as sampling
from raypipe.schemas import CHAINS, LISTINGS
from raypipe.store.artifacts import Run
from tests.fakes.scripted_engine import assert_exact
from tests.fakes.small_run import SMALL

pytestmark = [pytest.mark.engine, pytest.mark.usefixtures("local_ray")]


def engine_processes() -> Iterator[psutil.Process]:
    """vLLM's own processes of the actors that this test's Ray started."""
    for process in psutil.Process().children(recursive=True):
        try:
            if "EngineCore" in process.name() or "EngineCore" in " ".join(process.cmdline()):
                yield process
        except psutil.NoSuchProcess:
            continue


def kill_engine_once_it_has_answered(run: Run, killed: list[int], over: threading.Event) -> None:
    while not killed and not over.wait(0.05):
        if not any(Path(run.path("pretrained/chains/data")).rglob("*.parquet")):
            continue
        for process in engine_processes():
            process.send_signal(signal.SIGKILL)
            killed.append(process.pid)


def test_a_killed_engine_process_costs_no_listing(tmp_path: Path) -> None:
    separate = ("sampling.engine_in_actor=false", "sampling.listings_per_call=4")
    config = configuration.load(None, [*SMALL, *separate, "sampling.num_chains=3"])
    run = Run(str(tmp_path))
    catalog.run(config, run)
    over, killed = threading.Event(), []
    killer = threading.Thread(target=kill_engine_once_it_has_answered, args=(run, killed, over))
    killer.start()
    try:
        policy = Policy("pretrained", config.model)
        commit = sampling.run(config, run, policy=policy, scope="pretrained", round_index=1)
    finally:
        over.set()
        killer.join()
    assert len(killed) == 1, "no engine process was found"
    listings = run.artifact("catalog/listings", LISTINGS).read(["listing_id", "split"])
    asked = [row["listing_id"] for row in listings.to_pylist() if row["split"] != "seed"]
    assert_exact(run, asked, "pretrained/chains")
    assert commit.quarantined == 0
    rows = run.artifact("pretrained/chains", CHAINS).read().to_pylist()
    sampled = [row for row in rows if row["split"] in sampling.SAMPLED_SPLITS]
    assert all(
        len(query["chains"]) == config.sampling.num_chains
        for row in sampled
        for query in row["queries"]
    )
