"""The collapse alarm: is a policy more confident without being better?

A round that works makes a policy more confident and more often right. After a collapse it is only
more confident: its chains agree because they give the same answer whatever the images show. The
alarm needs all three: more confident (confidence and unanimity), not more often right (anchor
accuracy), and less varied (the entropy of the answers, or one value that takes over an attribute).
A change within the noise of the anchor split does not count.
"""

from dataclasses import dataclass
from math import hypot

from raypipe.config import RoundsConfig
from raypipe.summaries import (
    Change,
    CollapseMetrics,
    Comparison,
    Evidence,
    Gain,
    OverpredictedValue,
)

# A value takes over when its share of an attribute's answers has risen by more than this.
_TAKEOVER = 0.3
# Standard errors that a fall of entropy must exceed, whatever the limit.
_ERRORS_OF_A_FALL = 2.0
# How much further entropy must fall where no vote says whether the policy is surer.
_UNVOTED = 2.0
# Width of a 95 % interval in standard errors.
_WIDTH_95 = 3.92


@dataclass(frozen=True)
class Measured:
    """A policy on the anchor split."""

    policy: str
    anchor_accuracy: float
    metrics: CollapseMetrics


def gain_of(comparison: Comparison) -> Gain:
    low, high = comparison.ci95
    return Gain(difference=comparison.difference, error=(high - low) / _WIDTH_95)


def collapse(
    before: Measured, after: Measured, gain: Gain, limits: RoundsConfig
) -> Evidence | None:
    """The evidence that a policy has collapsed since an earlier one; None when it has not.

    It has when confidence and unanimity rose by more than ``alarm_confidence_rise``, anchor
    accuracy is not up by more than a standard error, and entropy fell by more than
    ``alarm_entropy_fall`` (and two standard errors) or one value took over an attribute. Where one
    of the two was not voted on, entropy alone speaks, and must have fallen by twice as much.
    """
    if gain.is_up:
        return None
    earlier, later = before.metrics, after.metrics
    confidence = _change(earlier.confidence, later.confidence)
    unanimity = _change(earlier.unanimity, later.unanimity)
    takeover = _takeover(earlier, later)
    if confidence is None or unanimity is None:
        collapsed = _narrowed(earlier, later, _UNVOTED * limits.alarm_entropy_fall)
    else:
        surer = min(_rise(confidence), _rise(unanimity)) > limits.alarm_confidence_rise
        narrower = _narrowed(earlier, later, limits.alarm_entropy_fall) or takeover is not None
        collapsed = surer and narrower
    if not collapsed:
        return None
    evidence = Evidence(
        policy=after.policy,
        since=before.policy,
        anchor_accuracy=(before.anchor_accuracy, after.anchor_accuracy),
        gain=gain,
        confidence=confidence,
        unanimity=unanimity,
        entropy=_change(earlier.entropy, later.entropy),
        takeover=takeover,
        reason="",
    )
    return evidence.model_copy(update={"reason": _reason(evidence)})


def _reason(evidence: Evidence) -> str:
    """The evidence in one sentence."""
    right = "anchor accuracy {:.3f} → {:.3f}".format(*evidence.anchor_accuracy)
    found = []
    if evidence.confidence is not None and evidence.unanimity is not None:
        sure = "confidence {:.2f} → {:.2f}, unanimous {:.0%} → {:.0%}"
        found.append(sure.format(*evidence.confidence, *evidence.unanimity))
    if evidence.entropy is not None:
        found.append(
            "entropy of the answers {:.2f} → {:.2f} of the truth's".format(*evidence.entropy)
        )
    if (over := evidence.takeover) is not None:
        found.append(
            f"'{over.value}' is {over.share:.0%} of the answers for {over.attribute} and "
            f"{over.truth_share:.0%} of the verified values"
        )
    return (
        f"{evidence.policy} collapsed: since {evidence.since} it is no more often right ({right}), "
        f"yet {'; '.join(found)}"
    )


def _narrowed(before: CollapseMetrics, after: CollapseMetrics, limit: float) -> bool:
    entropy = _change(before.entropy, after.entropy)
    if entropy is None:
        return False
    error = hypot(before.entropy_error or 0.0, after.entropy_error or 0.0)
    return -_rise(entropy) > max(limit, _ERRORS_OF_A_FALL * error)


def _takeover(before: CollapseMetrics, after: CollapseMetrics) -> OverpredictedValue | None:
    """The value that has risen most, of those that rose far enough and not by chance."""
    shares = {(over.attribute, over.value): over.share for over in before.overpredicted}
    found: list[tuple[float, OverpredictedValue]] = []
    for over in after.overpredicted:
        # A value that was not overpredicted had at most its share of the verified values.
        share = shares.get((over.attribute, over.value), over.truth_share)
        if over.exceeds(max(share, over.truth_share)) and over.share - share > _TAKEOVER:
            found.append((over.share - share, over))
    return max(found, key=lambda rise: rise[0])[1] if found else None


def _change(before: float | None, after: float | None) -> Change | None:
    return None if before is None or after is None else (before, after)


def _rise(change: Change) -> float:
    return change[1] - change[0]
