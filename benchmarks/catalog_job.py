"""One call of ``label`` for benchmarks/catalog.py, with an engine that answers at once.

    python benchmarks/catalog_job.py RUN CATALOG REPORT [section.key=value …]

The engine is *scripted*: it answers every question with one of its options, so that what is left is
raypipe's own work. REPORT is a JSON file that is written when the call ends, and again whenever the
engine is asked for the first time; times are seconds since the process began.
"""

import gc
import json
import resource
import sys
import threading
import time
import tracemalloc
from copy import deepcopy
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
from ray.data.block import BlockStats

from raypipe import config as configuration
from raypipe.attributes.prompts import completion
from raypipe.config import Config
from raypipe.errors import RaypipeError
from raypipe.labeling.driver import LabelingDriver
from raypipe.models.policies import Policy
from raypipe.runtime.cluster import ray_session
from raypipe.runtime.console import Console
from raypipe.sampling.chains import Chain
from raypipe.sampling.engine import Prompt, Request
from raypipe.store.runs import open_run

OVERRIDES = (
    *(f"catalog.embedded.{name}" for name in ("num_pool=8", "num_eval=24", "num_anchor=24")),
    "catalog.embedded.seed_per_vertical=1",
    "catalog.image_size=28",
    "labeling.policy=pretrained",
    "labeling.precision=0.2",
    "sampling.num_chains=3",
    "sampling.listings_per_call=128",
    "sampling.num_actors=1",
)


class ScriptedEngine:
    """Answers with an option of the question, by the seed; writes down when it was first asked."""

    max_prompt_tokens = 4096

    def __init__(self, asked: Path) -> None:
        self._asked = asked
        self._known: dict[str, list[Chain]] = {}

    def generate(self, requests: list[Request]) -> list[list[Chain]]:
        if not self._asked.exists():
            self._asked.write_text(str(time.time()))
        return [self._answer(request) for request in requests]

    def num_prompt_tokens(self, prompt: Prompt) -> int:
        return len(prompt.text) // 4

    def _answer(self, request: Request) -> list[Chain]:
        text = request.prompt.text
        if text not in self._known:
            options = [word.strip("' ]") for word in text.rpartition("Options: [")[2].split(",")]
            self._known[text] = [_chain(option) for option in options]
        found = self._known[text]
        kind = request.seed % len(found)
        other = (kind + (request.seed >> 8) % 2) % len(found)
        return [found[kind], found[kind], found[other]][: request.num_chains]


def _chain(option: str) -> Chain:
    reasoning = f"The only view shows it in full, and what shows is {option}."
    return Chain(completion(option, reasoning, "reasoning"), tuple(range(40)), -2.0, "stop")


class LiveBytes:
    """Bytes that the driver holds: Python's, and Arrow's; the most that two samples share, so that
    a single peak does not count. Beside it, how many of them are Ray Data's statistics of blocks,
    which it keeps until the plan ends."""

    def __init__(self) -> None:
        tracemalloc.start()
        self.samples: list[int] = []
        self._blocks = 0
        self._example: BlockStats | None = None
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def end(self) -> int:
        """The largest of the lower of two neighbours."""
        self._over.set()
        self._thread.join()
        pairs = zip(self.samples, self.samples[1:], strict=False)
        return max((min(pair) for pair in pairs), default=0)

    @property
    def block_stats(self) -> int:
        """Bytes of Ray Data's statistics, from their number and the size of copies."""
        if not self._blocks:
            return 0
        before = tracemalloc.get_traced_memory()[0]
        copies = [deepcopy(self._example) for _ in range(1000)]
        held = tracemalloc.get_traced_memory()[0] - before
        return self._blocks * held // len(copies)

    def _watch(self) -> None:
        while not self._over.wait(2.0):
            gc.collect()
            self.samples.append(tracemalloc.get_traced_memory()[0] + pa.total_allocated_bytes())
            kept = [one for one in gc.get_objects() if isinstance(one, BlockStats)]
            if len(kept) > self._blocks:
                self._blocks, self._example = len(kept), kept[0]


def main() -> None:
    run_name, catalog, report, *overrides = sys.argv[1:]
    began, place = psutil.Process().create_time(), Path(report)
    directory, _, name = run_name.rpartition("/")
    own = [f"run.directory={directory}", f"run.name={name}", f"labeling.listings={catalog}"]
    traced = "traced" in overrides
    overrides = [text for text in overrides if text != "traced"]
    config = configuration.load(None, [*OVERRIDES, *own, *overrides])
    asked = place.with_suffix(".asked")

    def start(config: Config, policy: Policy) -> ScriptedEngine:
        return ScriptedEngine(asked)

    values: dict[str, Any] = {}
    try:
        run = open_run(config)
        with ray_session(config.cluster):
            live = LiveBytes() if traced else None
            values["session_s"] = round(time.time() - began, 2)
            called = time.perf_counter()
            LabelingDriver(config, run, Console(), start).go()
            values["call_s"] = round(time.perf_counter() - called, 2)
            if live is not None:
                values["live_bytes"] = live.end()
                values["block_stats"] = live.block_stats
    except RaypipeError as error:
        values["error"] = f"{type(error).__name__}: {error}"
    values["peak_rss"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
    if asked.exists():
        values["first_chain_s"] = round(float(asked.read_text()) - began, 2)
    place.write_text(json.dumps(values))


if __name__ == "__main__":
    main()
