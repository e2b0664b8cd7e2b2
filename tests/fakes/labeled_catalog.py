"""Labels a catalog with an engine that answers at once, in parts of a few listings."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

import raypipe.sampling.stage as sampling
from raypipe.attributes.prompts import completion
from raypipe.attributes.schema import AttributeSchema
from raypipe.catalog.distributed import SourceReader
from raypipe.catalog.sources import LISTINGS_COLUMNS, open_source
from raypipe.config import Config
from raypipe.labeling.catalog_labels import CatalogLabels, OpenLabels
from raypipe.labeling.driver import draw_of
from raypipe.labeling.label_versions import open_label_version
from raypipe.labeling.labels import Labeler
from raypipe.models.policies import Policy, policy
from raypipe.runtime.parts import PartStore
from raypipe.sampling.chains import Chain
from raypipe.sampling.engine import Prompt, Request
from raypipe.schemas import LABELS
from raypipe.store.artifacts import Attempt, Run, get_or_commit
from raypipe.store.manifest import Commit
from raypipe.store.paths import LABEL_SHARDS


class InstantEngine:
    """Answers every question with one value, and writes down which listings it was asked."""

    max_prompt_tokens = 100_000

    def __init__(self, asked: Path) -> None:
        self._asked = asked

    def generate(self, requests: list[Request]) -> list[list[Chain]]:
        with self._asked.open("a") as file:
            for request in requests:
                file.write(f"{request.prompt.image_hashes[0]}\n")
        chain = Chain(completion("Red", "It looks red.", "reasoning"), (1, 2), -0.1, "stop")
        return [[chain] * request.num_chains for request in requests]

    def num_prompt_tokens(self, prompt: Prompt) -> int:
        return len(prompt.text)


@dataclass
class LabeledCatalog:
    """A catalog and its labels.

    Args:
        run: where they lie.
        location: of the catalog's files.
        diary: a file for what the engine is asked.
        start: starts the engine; None for one that answers at once.
    """

    run: Run
    config: Config
    schema: AttributeSchema
    location: str
    diary: Path
    start: Callable[[Config, Policy], Any] | None = None
    fingerprint: str = "fingerprint"
    opened: list[OpenLabels] = field(default_factory=list)

    def labels(self) -> CatalogLabels:
        source = open_source(self.location, LISTINGS_COLUMNS)
        return CatalogLabels(
            self.config,
            self.run,
            SourceReader(source, self.schema, self.config.catalog),
            PartStore(self.run, LABEL_SHARDS, LABELS),
            self.schema,
            self.fingerprint,
            f"recipe of {self.fingerprint} {self.schema.to_json()}",
        )

    def label(self) -> tuple[Commit, list[str]]:
        """The commit, and the listings that were asked, by their first image."""
        labels = self.labels()
        before = len(self._lines())
        place = [shard.key for shard in labels.shards]
        version = open_label_version(self.run, {"listings": place})

        def make(attempt: Attempt) -> Commit:
            found = labels.open(version.scope, version.previous)
            self.opened.append(found)
            return labels.commit(
                attempt,
                found,
                self._pool(),
                sampling.actor_resources(self.config),
                {"engines": 1},
            )

        commit = get_or_commit(version.labels(self.run), {"place": place}, make)
        return commit, sorted(set(self._lines()[before:]))

    def rows(self, commit: Commit) -> list[dict[str, Any]]:
        """The labels of a commit, by listing and attribute."""
        table: pa.Table = self.run.artifact(commit.artifact, LABELS).read()
        return sorted(table.to_pylist(), key=lambda row: (row["listing_id"], row["attribute"]))

    def refused(self, commit: Commit) -> dict[str, str]:
        """Why listings were refused."""
        rows = self.run.artifact(commit.artifact, LABELS).read(kind="quarantine").to_pylist()
        return {row["id"]: f"{row['reason']} {row['detail']}" for row in rows}

    def _lines(self) -> list[str]:
        return self.diary.read_text().splitlines() if self.diary.exists() else []

    def _pool(self) -> sampling.EnginePool:
        diary = self.diary
        labeler = Labeler(
            schema=self.schema,
            mode="vote",
            num_chains=self.config.sampling.num_chains,
            answer_format="reasoning",
            policy_id="policy",
            outcome_fingerprint=self.fingerprint,
        )
        start = self.start or (lambda config, own: InstantEngine(diary))
        own = policy(self.run, self.config.model, "pretrained")
        return sampling.EnginePool(self.config, start, own, draw_of(self.config), labeler)
