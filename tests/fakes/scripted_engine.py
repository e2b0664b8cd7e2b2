"""An engine that follows a script, and a driver around it that may be killed.

    python -m tests.fakes.scripted_engine RUN SCRIPT [--killed-before-commit] [section.key=value …]

samples the run's ``catalog/listings`` with the engine that SCRIPT (JSON) describes, and ends like a
job: with the exit code of a raypipe error, its message on stderr.
"""

import argparse
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import ray

from raypipe import config as configuration
from raypipe.attributes.prompts import completion
from raypipe.config import Config
from raypipe.errors import EngineDiedError, EngineStartError, RaypipeError
from raypipe.models.policies import Policy
from raypipe.runtime.cluster import ray_session
from raypipe.runtime.console import Console
from raypipe.runtime.interruption import stoppable
from raypipe.sampling import stage
from raypipe.sampling.chains import Chain
from raypipe.sampling.engine import Failure, Prompt, Request
from raypipe.schemas import CHAINS, LISTINGS
from raypipe.store.artifacts import Attempt, Run
from raypipe.store.manifest import COMMIT, Commit
from tests.fakes.small_run import ROOT, job_environment

CHAINS_OF = "sft"
LISTINGS_PER_CALL, CALLS_IN_FLIGHT = 8, 2
IN_FLIGHT = LISTINGS_PER_CALL * CALLS_IN_FLIGHT
"""Listings under way in one engine."""
SETTINGS = (
    "sampling.num_chains=2",
    f"sampling.listings_per_call={LISTINGS_PER_CALL}",
    f"sampling.calls_in_flight={CALLS_IN_FLIGHT}",
)
EVERY = "*"


@dataclass(frozen=True)
class Script:
    """What an engine does.

    Args:
        diary: directory in which it writes down its starts (process ids), what it has answered
            and what it died of (listing ids). While a file ``hold`` is in it, nothing is answered;
            once a file ``hurry`` is in it, a call takes no time.
        acts: what happens when a listing (or EVERY one) is asked: ``exit`` ends the process at
            once, ``die`` is an engine that says that it died, ``fail`` refuses the request;
            ``exit once`` and ``die once`` do it the first time alone.
        seconds: that a call takes.
        voice: another one says other things.
        padding: characters that are added to a chain.
        starts: whether it can be started.
        broken: actors whose engine never starts, which others do.
        breaks: how those end: ``raise`` an error, or ``exit``.
    """

    diary: str
    acts: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    voice: str = ""
    padding: int = 0
    starts: bool = True
    broken: int = 0
    breaks: str = "raise"

    def note(self, page: str, *lines: object) -> None:
        """Append lines to a page of the diary, whole also when several processes do."""
        content = "".join(f"{line}\n" for line in lines).encode()
        page_file = os.open(f"{self.diary}/{page}", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.write(page_file, content)
        os.close(page_file)

    def page(self, name: str) -> list[str]:
        path = Path(self.diary, name)
        return path.read_text().splitlines() if path.exists() else []

    def has(self, name: str) -> bool:
        return Path(self.diary, name).exists()

    @property
    def answered(self) -> list[str]:
        return self.page("answered")

    def redone(self) -> int:
        """Listings answered again."""
        return len(self.answered) - len(set(self.answered))


class ScriptedEngine:
    max_prompt_tokens = 10_000

    def __init__(self, script: Script) -> None:
        script.note("started", os.getpid())
        if not script.starts:
            raise EngineStartError("the script says that it does not start")
        if self._is_broken(script):
            script.note("broke", os.getpid())
            if script.breaks == "exit":
                os._exit(1)
            raise OSError("429 Client Error: Too Many Requests")
        self._script = script

    @staticmethod
    def _is_broken(script: Script) -> bool:
        """The first actors that ask are, and stay so."""
        actor = str(ray.get_runtime_context().get_actor_id())
        for number in range(script.broken):
            place = Path(script.diary, f"broken-{number}")
            with contextlib.suppress(FileExistsError):
                place.open("x").write(actor)
            if place.read_text() == actor:
                return True
        return False

    def generate(self, requests: list[Request]) -> list[list[Chain] | Failure]:
        script = self._script
        asked = dict.fromkeys(request.prompt.image_hashes[0] for request in requests)
        for listing in asked:
            self._suffer(listing)
        if not script.has("hurry"):
            time.sleep(script.seconds)
        while script.has("hold"):
            time.sleep(0.02)
        made = [self._chains(request) for request in requests]
        script.note("answered", *asked)
        return made

    def num_prompt_tokens(self, prompt: Prompt) -> int:
        return len(prompt.text)

    def _suffer(self, listing: str) -> None:
        acts = self._script.acts
        act, _, once = acts.get(listing, acts.get(EVERY, "")).partition(" ")
        if act not in ("exit", "die"):
            return
        if once and listing in self._script.page("died"):
            return
        self._script.note("died", listing)
        if act == "exit":
            os._exit(1)
        raise EngineDiedError("the script says so")

    def _chains(self, request: Request) -> list[Chain] | Failure:
        listing = request.prompt.image_hashes[0]
        acts = self._script.acts
        if acts.get(listing, acts.get(EVERY)) == "fail":
            return Failure("ValueError: the script says so")
        seeds = range(request.seed, request.seed + max(1, request.num_chains))
        return [self._chain(listing, seed) for seed in seeds]

    def _chain(self, listing: str, seed: int) -> Chain:
        padding = random.Random(seed).randbytes(self._script.padding // 2).hex()
        words = f"{self._script.voice} {listing} {seed} {padding}"
        return Chain(completion("Red", words, "reasoning"), (seed % 100,), -1.0, "stop")


def make_catalog(run: Run, number: int, per_file: int = 64) -> list[str]:
    """Commit ``catalog/listings`` of tiny listings; their ids."""
    ids = [f"l{index:05}" for index in range(number)]
    attempt = run.artifact("catalog/listings", LISTINGS).attempt({})
    for first in range(0, number, per_file):
        rows = [_listing(listing_id) for listing_id in ids[first : first + per_file]]
        attempt.write(LISTINGS.from_rows(rows))
    attempt.commit(expected=ids)
    return ids


def _listing(listing_id: str) -> dict[str, Any]:
    query = {"attribute": "colour", "prompt": f"colour of {listing_id}?", "options": ["Red"]}
    return {
        "listing_id": listing_id,
        "vertical": "Shoe",
        "split": "pool",
        "group_id": None,
        "images": [f"image of {listing_id}".encode()],
        "image_hashes": [listing_id],
        "queries": [query | {"seller_value": None}],
        "source_key": None,
    }


def new_script(directory: Path, **behaviour: Any) -> Script:
    """A script with an empty diary in ``directory``."""
    diary = directory / "diary"
    diary.mkdir(parents=True, exist_ok=True)
    return Script(str(diary), **behaviour)


def sample(run: Run, script: Script, *overrides: str) -> Commit:
    """Sample the run's listings in the Ray session that there is."""
    config = configuration.load(None, [*SETTINGS, *overrides])
    policy = Policy("pretrained", config.model)
    start = partial(_start, script)
    return stage.run(config, run, policy=policy, scope=CHAINS_OF, round_index=1, start=start)


def _start(script: Script, config: Config, policy: Policy) -> ScriptedEngine:
    return ScriptedEngine(script)


def assert_exact(run: Run, ids: Sequence[str], name: str = f"{CHAINS_OF}/chains") -> None:
    """What came out and what was refused is what went in, each once."""
    artifact = Run(run.location).artifact(name, CHAINS)
    written = artifact.read(["listing_id"]).column("listing_id").to_pylist()
    refused = artifact.read(["id"], "quarantine").column("id").to_pylist()
    assert sorted(written + refused) == sorted(ids)


def refusals(run: Run) -> dict[str, str]:
    """Reason by listing."""
    rows = run.artifact(f"{CHAINS_OF}/chains", CHAINS).read(kind="quarantine").to_pylist()
    return {row["id"]: row["reason"] for row in rows}


def is_committed(run: Run) -> bool:
    return run.read(f"{CHAINS_OF}/chains/{COMMIT}") is not None


class Driver:
    """A sampling in a process of its own, with a Ray session of its own."""

    def __init__(
        self,
        run: Run,
        script: Script,
        *arguments: str,
        environment: dict[str, str] | None = None,
    ) -> None:
        command = [
            sys.executable,
            "-m",
            "tests.fakes.scripted_engine",
            run.location,
            json.dumps(asdict(script)),
        ]
        self._log = Path(script.diary, f"driver-{time.time_ns()}.log")
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [*command, *arguments],
                cwd=ROOT,
                env=job_environment() | (environment or {}),
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                # A runner in the background has SIGINT ignored, and a child inherits that.
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
            )

    @property
    def output(self) -> str:
        return self._log.read_text()

    def in_its_group(self) -> set[str]:
        """Names of the processes that a signal to the driver's process group reaches."""
        found = set()
        for child in psutil.Process(self._process.pid).children(recursive=True):
            with contextlib.suppress(ProcessLookupError, psutil.Error):  # ended meanwhile
                if os.getpgid(child.pid) == self._process.pid:
                    found.add(child.name())
        return found

    def wait(self, seconds: float = 300) -> int:
        """The exit code; whatever outlives the driver is ended."""
        try:
            return self._process.wait(seconds)
        finally:
            self.end()

    def kill_when(self, reached: Callable[[], bool], seconds: float = 300) -> None:
        """SIGKILL of the driver's process alone; Ray notices by itself."""
        deadline = time.monotonic() + seconds
        try:
            while not reached():
                assert self._process.poll() is None, self.output
                assert time.monotonic() < deadline, f"never reached: {self.output}"
                time.sleep(0.005)
            self._process.kill()
            self._process.wait()
        except BaseException:
            self.end()
            raise

    def stop_when(self, reached: Callable[[], bool], number: signal.Signals, *, group: bool) -> int:
        """Send a signal to the driver, or to all that a terminal sends it to; its exit code."""
        deadline = time.monotonic() + 300
        try:
            while not reached():
                assert self._process.poll() is None, self.output
                assert time.monotonic() < deadline, f"never reached: {self.output}"
                time.sleep(0.005)
            (os.killpg if group else os.kill)(self._process.pid, number)
            return self._process.wait(60)
        except BaseException:
            self.end()
            raise

    def end(self) -> None:
        try:
            os.killpg(self._process.pid, signal.SIGKILL)
        except ProcessLookupError:
            return
        self._process.wait()


def _killed(*_: Any, **__: Any) -> Commit:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run")
    parser.add_argument("script", type=json.loads)
    parser.add_argument("--killed-before-commit", action="store_true")
    parser.add_argument("overrides", nargs="*")
    asked = parser.parse_args()
    if asked.killed_before_commit:
        Attempt.commit = _killed  # type: ignore[method-assign]
    config = configuration.load(None, asked.overrides)
    Console()  # shows progress
    try:
        with stoppable(), ray_session(config.cluster):
            sample(Run(asked.run), Script(**asked.script), *asked.overrides)
    except RaypipeError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)  # noqa: T201
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
