"""Publishes labels, also in a process of its own, which may be killed and says what it reads."""

import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from raypipe.exports.sinks import SinkResult, upsert
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
    """The same call in a process of its own."""

    def __init__(self, lake: Lake, value: str) -> None:
        arguments = [lake.kind, str(lake.directory), lake.store, value]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.fakes.sink_process", *arguments],
            cwd=ROOT,
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


def counts(lake: Lake) -> Counter[str]:
    """How many labels of the table have which value."""
    found = values_of(lake.read("labels")) if lake.exists("labels") else {}
    return Counter(map(str, found.values()))


def publish(lake: Lake, value: str, say: Callable[[str], None] = lambda name: None) -> SinkResult:
    """One call that publishes all labels with a value; each part that it reads is said."""
    return upsert(
        lake.location("labels"),
        watched(parts_of(shards(value)), say),
        iceberg=lake.properties,
        version=value,
        batch_bytes=1,
    )


def say_read(name: str) -> None:
    sys.stdout.write(f"read {name}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    kind, directory, store, value = sys.argv[1:]
    publish(Lake(kind, Path(directory), store), value, say_read)
