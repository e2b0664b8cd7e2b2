"""How many labels of a label version are published under a decision, and why others are not.

Counted once, file by file on the cluster, and committed below the decision.
"""

from collections import Counter
from dataclasses import dataclass

import pyarrow.compute as pc

from raypipe.attributes.publishing import PublishingRule, columns_read, published
from raypipe.runtime.tasks import run_tasks
from raypipe.store.artifacts import Artifact, Attempt, Run, get_or_commit
from raypipe.store.manifest import Commit, File
from raypipe.store.paths import PUBLISHED_COUNTS, Paths
from raypipe.summaries import Document


class PublishedCounts(Document):
    """Labels by reason: published, or why not."""

    FILE = PUBLISHED_COUNTS

    reasons: dict[str, int]


def count_published(run: Run, labels: Artifact, decision: Paths) -> Commit:
    """Commit ``<decision>/published`` with ``published.json``.

    Args:
        labels: committed labels.
        decision: scope of a committed calibration.
    """
    calibration = run.artifact(decision.calibration)

    def make(attempt: Attempt) -> Commit:
        rule = PublishingRule.of(calibration)
        counted: Counter[str] = Counter()
        for found in run_tasks(_Count(rule), labels.placed_files()):
            counted.update(found)
        counts = PublishedCounts(reasons=dict(counted.most_common()))
        attempt.write_json(counts.FILE, counts.to_json())
        return attempt.commit(counts={"labels": counted.total()})

    fingerprint = {
        "upstream.labels": labels.require_commit().digest,
        "upstream.calibration": calibration.require_commit().digest,
    }
    return get_or_commit(run.artifact(decision.published), fingerprint, make)


@dataclass(frozen=True)
class _Count:
    rule: PublishingRule

    def __call__(self, placed: tuple[Artifact, File]) -> Counter[str]:
        artifact, file = placed
        labels = artifact.rows_of(file, columns_read((), self.rule))
        reasons = published(labels, self.rule).column("reason")
        return Counter(
            {entry["values"]: entry["counts"] for entry in pc.value_counts(reasons).to_pylist()}
        )
