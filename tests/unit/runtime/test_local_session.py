"""What a local session is given, without a Ray."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from raypipe.runtime.local_session import joins_cluster, local_session


@pytest.fixture(autouse=True)
def _own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    for name in ("RAY_ADDRESS", "RAY_TMPDIR", "RAY_AUTH_TOKEN_PATH", "VLLM_HOST_IP"):
        monkeypatch.delenv(name, raising=False)


def mode(path: str | Path) -> int:
    return stat.S_IMODE(Path(path).stat().st_mode)


def test_a_session_has_a_private_directory_that_is_gone_after_it() -> None:
    with local_session() as where:
        private = Path(where["_temp_dir"]).parent
        assert mode(private) == 0o700
        assert os.environ["VLLM_HOST_IP"] == "127.0.0.1"
        # Ray's longest name in it; a socket's path may have 107 bytes.
        session = f"{where['_temp_dir']}/session_2026-11-28_10-03-19_530255_4194304"
        assert len(f"{session}/sockets/plasma_store") < 107
    assert not private.exists()
    assert "VLLM_HOST_IP" not in os.environ


def test_a_long_temporary_directory_is_left_for_one_whose_sockets_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = tmp_path / ("long" * 10)
    long.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(long))
    with local_session() as where:
        assert len(where["_temp_dir"]) < 36
        assert list(long.iterdir()) == []


def test_what_a_killed_session_has_left_goes_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("raypipe.runtime.local_session._LONGEST_DIRECTORY", 400)
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "lock").touch()
    (tmp_path / "raypipe-link").symlink_to(precious)
    (tmp_path / "raypipe-mine").mkdir()
    program = (
        "import os, signal, tempfile\nfrom raypipe.runtime import local_session as made\n"
        f"tempfile.tempdir = {str(tmp_path)!r}\nmade._LONGEST_DIRECTORY = 400\n"
        "with made.local_session() as where: os.kill(os.getpid(), signal.SIGKILL)"
    )
    with local_session() as first:
        subprocess.run([sys.executable, "-c", program], check=False)
        killed = {*tmp_path.glob("raypipe-*")} - {Path(first["_temp_dir"]).parent}
        killed -= {tmp_path / "raypipe-link", tmp_path / "raypipe-mine"}
        assert len(killed) == 1
    kept = {"home", "precious", "raypipe-link", "raypipe-mine"}
    with local_session() as first, local_session() as second:
        open_ones = {Path(where["_temp_dir"]).parent.name for where in (first, second)}
        assert {path.name for path in tmp_path.iterdir()} == kept | open_ones
    assert {path.name for path in tmp_path.iterdir()} == kept


def test_a_variable_that_is_empty_names_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RAY_TMPDIR", "RAY_ADDRESS", "VLLM_HOST_IP", "GLOO_SOCKET_IFNAME"):
        monkeypatch.setenv(name, "")
    with local_session() as where:
        assert Path(where["_temp_dir"]).parent.is_dir()
        assert os.environ["VLLM_HOST_IP"] == "127.0.0.1"
        assert os.environ["GLOO_SOCKET_IFNAME"] == "lo"


def test_the_users_own_directory_and_addresses_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.setenv("VLLM_HOST_IP", "10.1.2.3")
    with local_session() as where:
        assert where == {}
        assert os.environ["VLLM_HOST_IP"] == "10.1.2.3"
    assert tmp_path.exists()


@pytest.mark.parametrize("before", [None, 0o644, 0o600])
def test_nobody_else_can_read_rays_token(tmp_path: Path, before: int | None) -> None:
    token = tmp_path / "home" / ".ray" / "auth_token"
    if before is not None:
        token.parent.mkdir()
        token.write_text("kept")
        token.chmod(before)
    with local_session():
        assert mode(token) == 0o600
        content = token.read_text()
        assert content == "kept" if before is not None else len(content) == 64


def test_no_process_of_a_session_outlives_it() -> None:
    with local_session():
        # The parent ends at once, as an actor's does that is killed.
        orphan = "import subprocess; print(subprocess.Popen(['sleep', '600'], stdout=-3).pid)"
        done = subprocess.run(
            [sys.executable, "-c", orphan],
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        pid = int(done.stdout)
        assert psutil.pid_exists(pid)
    assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


@pytest.mark.parametrize(
    ("address", "joins"), [("", False), ("local", False), ("auto", True), ("10.0.0.1:6379", True)]
)
def test_a_cluster_is_joined_where_one_is_named(
    monkeypatch: pytest.MonkeyPatch, address: str, joins: bool
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address)
    assert joins_cluster() is joins
