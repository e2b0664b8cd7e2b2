"""Ctrl-C and SIGTERM, wherever the process is when they come."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from raypipe.runtime import interruption
from raypipe.runtime.interruption import KEPT, ended_by, is_stopping, stoppable
from tests.fakes.small_run import ROOT

# What a job may be at when the signal comes; each says "ready" first.
BODIES = {
    "python": "ready()\nwhile True: pass",
    "waiting": "ready()\nthreading.Event().wait()",
    "deep in a library": "ready()\nsubprocess.run(['sleep', '600'], preexec_fn=os.setsid)",
    "a thread that never ends": (
        "threading.Thread(target=time.sleep, args=(600,)).start()\nready()\ntime.sleep(600)"
    ),
    "a library that swallows it": (
        "ready()\nwhile True:\n  try: time.sleep(600)\n  except KeyboardInterrupt: pass"
    ),
    "a library that takes the signal": (
        "kept = os.dup(1)\n"  # of what is printed after the signal, nothing is shown
        "for one in (2, 15): signal.signal(one, lambda *_: os.write(kept, b'mine'))\n"
        "ready()\nwhile True: time.sleep(600)"
    ),
    "a loop": "async def body():\n  ready()\n  await asyncio.sleep(600)\nasyncio.run(body())",
    "unwinding that prints": (
        "ready()\ntry: time.sleep(600)\nfinally: print('late'); traceback.print_stack()"
    ),
    "an error of its own": (
        "ready()\ntry: time.sleep(600)\nexcept KeyboardInterrupt: raise OSError(5, 'broken')"
    ),
}
PROGRAM = """
import asyncio, os, signal, subprocess, sys, threading, time, traceback
from raypipe.cli import jobs
def ready(): print('ready', flush=True)
def body(config):
{body}
jobs._JOBS['report'] = body
sys.exit(jobs.main('report', None, []))
"""


JOBS = sorted((ROOT / "jobs").glob("*.py"))


def started(body: str, program: str = PROGRAM) -> "subprocess.Popen[str]":
    indented = "\n".join(f"    {line}" for line in body.splitlines())
    job = subprocess.Popen(
        [sys.executable, "-c", program.format(body=indented)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # A runner in the background has SIGINT ignored, and a child inherits that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert job.stdout is not None
    assert job.stdout.readline() == "ready\n"
    return job


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("what", BODIES)
def test_a_stopped_job_says_one_line_and_exits_with_the_signal(
    what: str, number: signal.Signals
) -> None:
    job = started(BODIES[what])
    try:
        job.send_signal(number)
        said, complaint = job.communicate(timeout=60)
    finally:
        job.kill()
    assert job.returncode == 128 + number
    assert complaint == f"{KEPT}\n"
    assert said == ("mine" if what == "a library that takes the signal" else "")


def test_a_second_signal_waits_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    program = PROGRAM.replace(
        "from raypipe.cli import jobs",
        "from raypipe.cli import jobs; from raypipe.runtime import interruption; "
        "interruption.GRACE_S = 600",
    )
    job = started(BODIES["a library that swallows it"], program)
    assert job.stderr is not None
    try:
        job.send_signal(signal.SIGINT)
        assert job.stderr.readline() == f"{KEPT}\n"
        job.send_signal(signal.SIGINT)
        assert job.wait(60) == 130
    finally:
        job.kill()
        job.communicate()


def test_what_was_started_is_ended_on_the_way(tmp_path: Path) -> None:
    note = tmp_path / "ended"
    body = (
        "from raypipe.runtime.interruption import ended_by\n"
        f"with ended_by(lambda: open({str(note)!r}, 'w').close()):\n"
        "  ready()\n"
        "  while True:\n"
        "    try: time.sleep(600)\n"
        "    except KeyboardInterrupt: pass"
    )
    job = started(body)
    try:
        job.send_signal(signal.SIGTERM)
        job.communicate(timeout=60)
    finally:
        job.kill()
    assert job.returncode == 143
    assert note.exists()


def test_every_command_ends_the_same_way() -> None:
    program = PROGRAM.replace("jobs.main('report', None, [])", "cli.main(['status', 'x'])")
    program = program.replace("jobs._JOBS['report'] = body", "status.run = body").replace(
        "from raypipe.cli import jobs", "from raypipe.cli import main as cli, status"
    )
    job = started(BODIES["python"], program)
    try:
        job.send_signal(signal.SIGINT)
        _, complaint = job.communicate(timeout=60)
    finally:
        job.kill()
    assert (job.returncode, complaint) == (130, "stopped\n")


COMMANDS = [
    *(f"runpy.run_path('jobs/{path.name}', run_name='__main__')" for path in JOBS),
    "from raypipe.cli.main import main; main(['status', 'x'])",
    "from raypipe.cli.main import main; main(['prepare'])",
]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_signal_is_heard_while_a_command_is_imported(command: str) -> None:
    program = (
        "import os, runpy, signal, sys\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "class Finder:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name == 'pydantic': os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.argv = ['job', 'no key']\n"
        f"sys.meta_path.insert(0, Finder())\n{command}"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 130
    assert done.stderr in (f"{KEPT}\n", "stopped\n")


def test_a_body_without_a_signal_leaves_the_process_as_it_was() -> None:
    before = [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)]
    with stoppable():
        assert not is_stopping()
        with ended_by(pytest.fail):
            pass
        with stoppable():  # within another one it is the outer one's matter
            pass
        assert signal.getsignal(signal.SIGTERM) not in before
        interruption.listen()
    assert [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)] == before


def test_an_ignored_signal_stays_ignored() -> None:
    former = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with stoppable():
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.05)
            assert not is_stopping()
    finally:
        signal.signal(signal.SIGINT, former)


def test_outside_of_the_main_thread_nothing_is_taken() -> None:
    found = []

    def body() -> None:
        with stoppable():
            found.append(signal.getsignal(signal.SIGTERM))

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    assert found == [before]
