"""Who may make an artifact, in a local run and in an object store."""

import json
import os
import signal
import subprocess
import threading
import time

import pytest

from raypipe.errors import ArtifactError, StorageError
from raypipe.schemas import CHAINS
from raypipe.store import lease as leases
from raypipe.store.artifacts import Attempt, Run, get_or_commit
from raypipe.store.lease import LEASES, lease
from raypipe.store.manifest import Commit

NAME = "round-1/chains"


@pytest.fixture
def remote(remote_run: Run, monkeypatch: pytest.MonkeyPatch) -> Run:
    for name, value in {
        "HEARTBEAT_S": 0.1,
        "EXPIRY_S": 2.0,
        "_LOOK_S": 0.02,
        "_LOOK_AWAY_S": 0.02,
    }.items():
        monkeypatch.setattr(leases, name, value)
    return remote_run


@pytest.fixture(params=["local", "remote"])
def place(request: pytest.FixtureRequest, run: Run) -> Run:
    return request.getfixturevalue("remote") if request.param == "remote" else run


def held_elsewhere(run: Run, number: int = 1, **holder: object) -> None:
    """A lease that somebody took and never renews."""
    content = {"host": "another", "pid": 1, "started": 0.0, "beat": 7} | holder
    run.create(f"{LEASES}/round-1.chains/{number:06d}.json", json.dumps(content).encode())


def test_nobody_waits_for_a_lease_that_is_free(place: Run) -> None:
    for _ in range(2):
        with lease(place, NAME) as has_waited:
            assert not has_waited


def test_several_makers_take_turns(place: Run) -> None:
    inside, most, turns = 0, 0, []

    def make() -> None:
        nonlocal inside, most
        with lease(place, NAME) as has_waited:
            inside += 1
            most = max(most, inside)
            time.sleep(0.1)
            inside -= 1
            turns.append(has_waited)

    threads = [threading.Thread(target=make) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1
    assert sorted(turns) == [False, True, True, True]


def test_an_error_gives_the_lease_back(place: Run) -> None:
    with pytest.raises(ArtifactError), lease(place, NAME):
        raise ArtifactError
    with lease(place, NAME) as has_waited:
        assert not has_waited


def test_other_names_have_other_leases(place: Run) -> None:
    with lease(place, NAME), lease(place, "round-2/chains") as has_waited:
        assert not has_waited


def test_an_artifact_is_made_once_by_two_that_want_it_at_once(place: Run) -> None:
    made: list[Commit] = []

    def make(attempt: Attempt) -> Commit:
        time.sleep(0.2)
        made.append(attempt.commit())
        return made[-1]

    def want() -> None:
        found.append(get_or_commit(place.artifact(NAME, CHAINS), {"seed": 0}, make))

    found: list[Commit] = []
    threads = [threading.Thread(target=want) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1
    assert found == made * 3


def test_a_holder_that_renews_its_lease_keeps_it(remote: Run) -> None:
    order: list[str] = []

    def wait() -> None:
        with lease(remote, NAME):
            order.append("second")

    with lease(remote, NAME):
        second = threading.Thread(target=wait)
        second.start()
        time.sleep(2.5 * leases.EXPIRY_S)
        order.append("first")
    second.join()
    assert order == ["first", "second"]


def test_a_lease_that_is_not_renewed_expires(remote: Run, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    held_elsewhere(remote)
    began = time.monotonic()
    with lease(remote, NAME) as has_waited:
        assert has_waited
    assert time.monotonic() - began >= leases.EXPIRY_S
    assert f"waiting for process 1 on another, which makes {NAME}" in caplog.text
    with lease(remote, NAME) as has_waited:
        assert not has_waited, "what expired was left behind"


@pytest.mark.parametrize("content", [b"", b"\xff"])
def test_a_lease_that_cannot_be_read_expires_too(remote: Run, content: bytes) -> None:
    remote.create(f"{LEASES}/round-1.chains/000001.json", content)
    with lease(remote, NAME) as has_waited:
        assert has_waited


@pytest.mark.parametrize("is_other", [False, True])
def test_nobody_waits_for_a_process_of_this_machine_that_has_ended(
    remote: Run, is_other: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its number may be another process's by now."""
    monkeypatch.setattr(leases, "EXPIRY_S", 600.0)
    ended = subprocess.Popen(["true"])
    pid = os.getpid() if is_other else ended.pid
    identity = leases._identity(ended.pid)
    ended.wait()
    held_elsewhere(remote, pid=pid, process=identity)
    with lease(remote, NAME) as has_waited:
        assert not has_waited


@pytest.mark.parametrize("place", [0, 1])
def test_a_process_of_another_machine_or_container_may_live_whatever_its_number(
    remote: Run, place: int
) -> None:
    identity = leases._identity(os.getpid())
    assert identity is not None
    identity[place] = "another"
    held_elsewhere(remote, pid=2**22 + 1, process=identity)
    with lease(remote, NAME) as has_waited:
        assert has_waited


def test_a_holder_that_could_not_renew_for_long_takes_the_lease_anew(
    remote: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace = remote.replace

    def away(path: str, content: bytes) -> None:
        if time.monotonic() < back:
            raise StorageError("away")
        replace(path, content)

    with lease(remote, NAME):
        back = time.monotonic() + 2 * leases.EXPIRY_S
        monkeypatch.setattr(remote, "replace", away)
        time.sleep(2.5 * leases.EXPIRY_S)
        assert remote.read(f"{LEASES}/round-1.chains/000002.json") is not None
    with lease(remote, NAME) as has_waited:
        assert not has_waited


def test_a_holder_that_was_overtaken_stops(remote: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    stopped = threading.Event()
    asked: list[tuple[int, int]] = []

    def kill(pid: int, number: int) -> None:
        asked.append((pid, number))
        stopped.set()

    monkeypatch.setattr(os, "kill", kill)
    with lease(remote, NAME):
        held_elsewhere(remote, number=2)
        assert stopped.wait(10)
    assert asked == [(os.getpid(), signal.SIGTERM)]
    assert remote.read(f"{LEASES}/round-1.chains/000002.json") is not None
