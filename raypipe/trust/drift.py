"""What has changed between two label versions: shares of values, abstention and confidence.

The units are listings, which have each attribute once. Where a listing is in both versions, chance
turns its label from one value into another as often as back, so the changes into a value and out of
it are two sides of a coin (sign test). Listings of one version alone are compared as two samples
(Fisher's exact test for a value, Mann and Whitney's for confidence). All tests of a comparison
share one error (Bonferroni).
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from scipy import stats

FALSE_ALARMS = 0.01
"""How often random change is called drift: in one comparison of a hundred at most."""
ABSTAINED = "(no value)"
CONFIDENCE = "(confidence)"
_KEY = ["listing_id", "vertical", "attribute"]


@dataclass(frozen=True)
class ShareChange:
    """A value's share of an attribute's labels in two versions, or the mean confidence.

    Args:
        value: an allowed value, ``ABSTAINED`` or ``CONFIDENCE``.
        before, after: 0-1, of the listings that are in both versions, or of those in one alone.
        same_listings: which of the two.
        listings: so many in each version.
        p_value: of the test, corrected for the number of tests.
    """

    vertical: str
    attribute: str
    value: str
    before: float
    after: float
    same_listings: bool
    listings: tuple[int, int]
    p_value: float

    @property
    def found(self) -> bool:
        return self.p_value <= FALSE_ALARMS


@dataclass(frozen=True)
class _Labels:
    """Of one attribute, by listing; a value is None where the version has no such listing."""

    values: NDArray[np.object_]
    confidences: NDArray[np.float64]

    def where(self, mask: NDArray[np.bool_]) -> "_Labels":
        return _Labels(self.values[mask], self.confidences[mask])

    @property
    def there(self) -> NDArray[np.bool_]:
        return np.array([value is not None for value in self.values], bool)


def drift(before: pa.Table, after: pa.Table) -> list[ShareChange]:
    """Every value that changed in number, and confidence, the least likely change first.

    Those that are ``found`` are drift. Nothing is returned of labels that are all equal.

    Args:
        before, after: labels of two versions with the columns listing_id, vertical, attribute,
            value and confidence, each listing and attribute once; a null value is an abstention.
    """
    joined = _filled(before).join(
        _filled(after), _KEY, join_type="full outer", right_suffix="_after"
    )
    changes = [
        replace(change, vertical=vertical, attribute=attribute)
        for vertical, attribute, old, new in _by_attribute(joined)
        for change in _changes(old, new)
    ]
    corrected = [replace(each, p_value=min(1.0, each.p_value * len(changes))) for each in changes]
    return sorted(corrected, key=lambda each: (each.p_value, each.vertical, each.attribute))


def _filled(labels: pa.Table) -> pa.Table:
    columns = {name: labels.column(name) for name in _KEY}
    columns["value"] = pc.fill_null(labels.column("value"), ABSTAINED)
    columns["confidence"] = labels.column("confidence")
    return pa.table(columns)


def _by_attribute(joined: pa.Table) -> Iterator[tuple[str, str, _Labels, _Labels]]:
    ordered = joined.sort_by([("vertical", "ascending"), ("attribute", "ascending")])
    if not len(ordered):
        return
    pairs = pc.binary_join_element_wise(ordered["vertical"], ordered["attribute"], "\x1f")
    ends = pc.run_end_encode(pairs.combine_chunks()).run_ends.to_pylist()
    for start, end in zip([0, *ends], ends, strict=False):
        part = ordered.slice(start, end - start)
        old, new = (
            _Labels(
                part[f"value{suffix}"].to_numpy(),
                part[f"confidence{suffix}"].to_numpy(),
            )
            for suffix in ("", "_after")
        )
        yield part["vertical"][0].as_py(), part["attribute"][0].as_py(), old, new


def _changes(old: _Labels, new: _Labels) -> Iterator[ShareChange]:
    """With p-values that are not corrected yet."""
    both = old.there & new.there
    yield from _of_same_listings(old.where(both), new.where(both))
    gone, come = old.where(old.there & ~both), new.where(new.there & ~both)
    if len(gone.values) and len(come.values):
        yield from _of_other_listings(gone, come)


def _of_same_listings(old: _Labels, new: _Labels) -> Iterator[ShareChange]:
    listings = len(old.values)
    changed = old.values != new.values
    for value in sorted({*old.values[changed], *new.values[changed]}):
        had, has = old.values == value, new.values == value
        lost, won = int((had & changed).sum()), int((has & changed).sum())
        p_value = stats.binomtest(lost, lost + won).pvalue
        shares = float(had.mean()), float(has.mean())
        yield _change(value, shares, True, (listings, listings), p_value)
    rises = int((new.confidences > old.confidences).sum())
    falls = int((new.confidences < old.confidences).sum())
    if rises + falls:
        p_value = stats.binomtest(rises, rises + falls).pvalue
        means = float(old.confidences.mean()), float(new.confidences.mean())
        yield _change(CONFIDENCE, means, True, (listings, listings), p_value)


def _of_other_listings(gone: _Labels, come: _Labels) -> Iterator[ShareChange]:
    sizes = len(gone.values), len(come.values)
    for value in sorted({*gone.values, *come.values}):
        counts = int((gone.values == value).sum()), int((come.values == value).sum())
        table = [[count, size - count] for count, size in zip(counts, sizes, strict=True)]
        shares = counts[0] / sizes[0], counts[1] / sizes[1]
        yield _change(value, shares, False, sizes, stats.fisher_exact(table).pvalue)
    test = stats.mannwhitneyu(gone.confidences, come.confidences)
    means = float(gone.confidences.mean()), float(come.confidences.mean())
    yield _change(CONFIDENCE, means, False, sizes, test.pvalue)


def _change(
    value: str,
    shares: tuple[float, float],
    same_listings: bool,
    listings: tuple[int, int],
    p_value: float,
) -> ShareChange:
    return ShareChange("", "", value, *shares, same_listings, listings, float(p_value))
