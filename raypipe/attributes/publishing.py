"""Which labels are published: a rule turns what chains answered into what the catalog gets."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import ArrayLike, NDArray
from pydantic import Field

from raypipe.attributes.vote import BELOW_PRECISION, PUBLISHED
from raypipe.schemas import LABELS, PUBLISHED_LABELS
from raypipe.store.artifacts import Artifact
from raypipe.store.paths import CALIBRATION, DECISION, DECISION_DIGEST
from raypipe.summaries import Document, Figure, Part

Floats = NDArray[np.float64]
Knots = tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Calibration:
    """A rising line from confidence to the probability that the answer is right.

    Linear between its knots and constant beyond them, as scikit-learn's ``IsotonicRegression``
    with ``out_of_bounds="clip"``. Without knots nothing is known and every probability is 0.
    """

    confidences: tuple[float, ...]
    knots: tuple[float, ...]

    def probabilities(self, confidences: ArrayLike) -> Floats:
        """One probability (0-1) for each confidence."""
        values = np.asarray(confidences, dtype=np.float64)
        if not self.confidences:
            return np.zeros_like(values)
        return np.interp(values, self.confidences, self.knots)

    @property
    def points(self) -> Knots:
        return tuple(zip(self.confidences, self.knots, strict=True))

    @classmethod
    def through(cls, points: Sequence[tuple[float, float]]) -> "Calibration":
        return cls(tuple(x for x, _ in points), tuple(y for _, y in points))


class ScopeRule(Part):
    """The rule of a vertical, or of an attribute of one."""

    knots: Knots
    threshold: Figure


class PublishingRule(Document):
    """What is published: a calibration on the anchor split, and the threshold for a precision."""

    FILE = CALIBRATION

    signal: Literal["confidence"]
    """The column of labels that the calibration maps to a probability."""
    knots: Knots
    """Of a rising line from the signal to a probability."""
    threshold: Figure
    """The lowest probability that is published; null publishes nothing."""
    scopes: dict[str, ScopeRule]
    """Rules that replace knots and threshold, by "vertical/attribute" or "vertical"; of two that
    apply, that of the attribute."""
    target_precision: float
    queries: int
    answered: int
    anchor_precision: Figure
    anchor_coverage: float


class CurrentDecision(Document):
    """Names the decision by which a label version is published."""

    FILE = DECISION
    REMEDY = "jobs/label.py writes it again"

    digest: str = Field(pattern=rf"^{DECISION_DIGEST}\Z")


def published(labels: pa.Table, rule: PublishingRule) -> pa.Table:
    """Labels as a rule publishes them.

    Args:
        labels: LABELS rows; of their columns at least vertical, attribute, reason, answer and the
            rule's signal.

    Returns:
        The same rows and columns in the order of PUBLISHED_LABELS, with ``value`` and
        ``probability``, and in ``reason`` whether an answer is published.
    """
    probabilities, thresholds = _applied(labels, rule)
    answered = pc.is_valid(labels.column("answer")).combine_chunks()
    enough = pc.and_(answered, pa.array(probabilities >= thresholds))
    nothing = pa.scalar(None, pa.string())
    columns = {name: labels.column(name) for name in labels.column_names} | {
        "value": pc.if_else(enough, labels.column("answer"), nothing),
        "probability": pa.array(probabilities, mask=~answered.to_numpy(zero_copy_only=False)),
        "reason": pc.if_else(
            answered, pc.if_else(enough, PUBLISHED, BELOW_PRECISION), labels.column("reason")
        ),
    }
    fields = [field for field in PUBLISHED_LABELS.schema if field.name in columns]
    return pa.table([columns[field.name] for field in fields], schema=pa.schema(fields))


def read_published(
    labels: Artifact, rule: PublishingRule, columns: Sequence[str] | None = None
) -> Iterator[pa.Table]:
    """Committed labels as a rule publishes them, file by file.

    Args:
        columns: of PUBLISHED_LABELS; by default all.

    Raises:
        ArtifactError: a file is missing or corrupt.
        StorageError: the storage cannot be reached.
    """
    wanted = None if columns is None else columns_read(columns, rule)
    for table in labels.read_files(wanted):
        made = published(table, rule)
        yield made if columns is None else made.select(list(columns))


def columns_read(columns: Sequence[str], rule: PublishingRule) -> list[str]:
    """The columns of LABELS from which :func:`published` makes some of PUBLISHED_LABELS."""
    needed = {"vertical", "attribute", "reason", "answer", rule.signal, *columns}
    return [name for name in LABELS.schema.names if name in needed]


def _applied(labels: pa.Table, rule: PublishingRule) -> tuple[Floats, Floats]:
    """The probability of each row's answer, and the threshold that it must reach."""
    names = pa.array(list(rule.scopes), pa.string())
    vertical, attribute = labels.column("vertical"), labels.column("attribute")
    of_attribute = pc.index_in(pc.binary_join_element_wise(vertical, attribute, "/"), names)
    scope = pc.coalesce(of_attribute, pc.index_in(vertical, names), -1).to_numpy()
    signal = labels.column(rule.signal).to_numpy()
    probabilities, thresholds = np.empty(len(labels)), np.empty(len(labels))
    whole = ScopeRule(knots=rule.knots, threshold=rule.threshold)
    for number, part in enumerate([whole, *rule.scopes.values()], start=-1):
        mask = scope == number
        probabilities[mask] = Calibration.through(part.knots).probabilities(signal[mask])
        thresholds[mask] = np.inf if part.threshold is None else part.threshold
    return probabilities, thresholds
