"""A process that labels a catalog, and may kill itself and its workers on the way.

python -m tests.fakes.label_process RUN CATALOG DIARY [--killed-at shard|root] [--seconds S]
"""

import argparse
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import raypipe.labeling.catalog_labels as catalog_labels
from raypipe import config as configuration
from raypipe.attributes.schema import AttributeSchema
from raypipe.catalog import shards
from raypipe.config import Config
from raypipe.labeling.label_shards import CommitShard
from raypipe.models.policies import Policy
from raypipe.runtime.cluster import ray_session
from raypipe.sampling.chains import Chain
from raypipe.sampling.engine import Request
from raypipe.store.artifacts import Attempt, Run
from raypipe.store.manifest import CommittedPart
from raypipe.store.merging import read_merged
from tests.fakes.catalog_files import SCHEMA
from tests.fakes.labeled_catalog import InstantEngine, LabeledCatalog
from tests.fakes.small_run import ROOT, job_environment

SETTINGS = (
    "catalog.image_size=28",
    "sampling.num_chains=2",
    "sampling.listings_per_call=3",
    "sampling.num_actors=1",
)
SHARD_ROWS, LEAST_ROWS, MOST_ROWS = 12, 8, 24


def small_shards() -> None:
    """Each file of eight listings or more is a shard."""
    shards.SHARD_ROWS, shards.LEAST_ROWS, shards.MOST_ROWS = SHARD_ROWS, LEAST_ROWS, MOST_ROWS


@dataclass(frozen=True)
class KilledCommit(CommitShard):
    """Dies, and its driver with it, when a shard is written but not committed."""

    driver: int = 0

    def __call__(self, key: str) -> CommittedPart:
        attempt = self.store.attempt(key)
        merged = read_merged(attempt)
        attempt.store(merged.rows)
        attempt.artifact.run.delete(merged.files[:1])
        os.kill(self.driver, signal.SIGKILL)
        os._exit(1)


class SlowEngine(InstantEngine):
    """Takes its time."""

    def __init__(self, asked: Path, seconds: float) -> None:
        super().__init__(asked)
        self._seconds = seconds

    def generate(self, requests: list[Request]) -> list[list[Chain]]:
        time.sleep(self._seconds)
        return super().generate(requests)


def labeled_catalog(run: str, catalog: str, diary: Path, seconds: float = 0.0) -> LabeledCatalog:
    config = configuration.load(None, SETTINGS)

    def start(config: Config, policy: Policy) -> SlowEngine:
        return SlowEngine(diary, seconds)

    schema = AttributeSchema.from_json(SCHEMA)
    return LabeledCatalog(Run(run), config, schema, catalog, diary, start)


def started(*arguments: str, log: Path) -> "subprocess.Popen[bytes]":
    """The process, with small shards."""
    with log.open("w") as file:
        return subprocess.Popen(
            [sys.executable, "-m", "tests.fakes.label_process", *arguments],
            cwd=ROOT,
            env=job_environment(),
            stdout=file,
            stderr=subprocess.STDOUT,
        )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("run")
    parser.add_argument("catalog")
    parser.add_argument("diary", type=Path)
    parser.add_argument("--killed-at", choices=("shard", "root"))
    parser.add_argument("--seconds", type=float, default=0.0)
    arguments = parser.parse_args()
    small_shards()
    if arguments.killed_at == "shard":
        driver = os.getpid()

        def killed(*values: Any) -> KilledCommit:
            return KilledCommit(*values, driver=driver)

        catalog_labels.CommitShard = killed  # type: ignore[assignment,misc]
    if arguments.killed_at == "root":

        def die(*_: Any, **__: Any) -> None:
            os.kill(os.getpid(), signal.SIGKILL)

        Attempt.commit_parts = die  # type: ignore[assignment,method-assign]
    shop = labeled_catalog(arguments.run, arguments.catalog, arguments.diary, arguments.seconds)
    with ray_session(shop.config.cluster):
        commit, asked = shop.label()
    sys.stdout.write(f"{commit.digest} {len(asked)}\n")


if __name__ == "__main__":
    main()
