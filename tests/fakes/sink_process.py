"""Publishes labels in a process of its own, which may be killed.

It prints what the table holds before (JSON), a line for each part that it reads, and the result.
"""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from raypipe.exports.sinks import upsert
from tests.fakes.sink_parts import parts_of, values_of, watched
from tests.fakes.table_formats import Lake

ROOT = Path(__file__).resolve().parents[2]
NUM_PARTS = 8
LISTINGS_PER_PART = 20


def shards(value: str) -> list[dict[tuple[str, str], str | None]]:
    """The labels of every listing, all of one value."""
    return [
        {
            (f"L{number:03d}", attribute): value
            for number in range(place * LISTINGS_PER_PART, (place + 1) * LISTINGS_PER_PART)
            for attribute in ("colour", "heel")
        }
        for place in range(NUM_PARTS)
    ]


class SinkProcess:
    """One call that publishes all labels with a value, a part at a time."""

    def __init__(self, lake: Lake, value: str, environment: dict[str, str]) -> None:
        arguments = [lake.kind, str(lake.directory), lake.store, value]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.fakes.sink_process", *arguments],
            cwd=ROOT,
            env={**os.environ, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def kill_after(self, num_reads: int, wait_s: float) -> int:
        """SIGKILL it, so long after it has begun to read its n-th part; its exit code."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            num_reads -= line.startswith("read ")
            if num_reads == 0:
                time.sleep(wait_s)
                self._process.send_signal(signal.SIGKILL)
                break
        self._process.communicate()
        return self._process.returncode

    def finish(self) -> tuple[dict[str, int], dict[str, Any]]:
        """How many labels had which value before, and the result."""
        out, err = self._process.communicate(timeout=120)
        assert self._process.returncode == 0, err
        first, *_, last = out.splitlines()
        return json.loads(first), json.loads(last)


def main(kind: str, directory: str, store: str, value: str) -> None:
    lake = Lake(kind, Path(directory), store)
    counts: dict[str, int] = {}
    if lake.exists("labels"):
        for found in values_of(lake.read("labels")).values():
            counts[str(found)] = counts.get(str(found), 0) + 1
    say(json.dumps(counts))
    parts = watched(parts_of(shards(value)), lambda name: say(f"read {name}"))
    location = lake.location("labels")
    result = upsert(location, parts, iceberg=lake.properties, version=value, batch_bytes=1)
    say(json.dumps(asdict(result)))


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
