"""The published view of a label version, part by part, for a sink."""

from functools import partial

import pyarrow as pa

from raypipe.attributes.publishing import PublishingRule, published
from raypipe.exports.sinks import SinkPart
from raypipe.schemas import PUBLISHED_LABELS
from raypipe.store.artifacts import Artifact, Run
from raypipe.store.manifest import CommittedPart
from raypipe.store.paths import Paths


def published_parts(run: Run, labels: Artifact, decision: Paths) -> list[SinkPart]:
    """The parts of committed labels as a decision publishes them; none is read yet.

    Args:
        decision: scope of a committed calibration.
    """
    calibration = run.artifact(decision.calibration)
    rule, digest = PublishingRule.of(calibration), calibration.require_commit().digest
    return [
        SinkPart(part.name, f"{part.digest}-{digest}", partial(_read, labels, part, rule))
        for part in labels.require_commit().parts
    ]


def _read(labels: Artifact, part: CommittedPart, rule: PublishingRule) -> pa.Table:
    artifact = Artifact(labels.run, part.name, labels.table)
    tables = [artifact.rows_of(file) for file in part.files if file.kind == "data"]
    empty = PUBLISHED_LABELS.schema.empty_table()
    return pa.concat_tables([empty, *(published(table, rule) for table in tables)])
