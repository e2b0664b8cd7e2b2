"""The collapse alarm: has a policy got surer without getting better?

A round that works makes a policy surer and more often right. One that collapses makes it surer
alone: its chains agree because they have come to say the same, whatever the images show. The alarm
asks for all three: surer (confidence and unanimity), not more often right (anchor accuracy), and
less varied (the entropy of the answers, or one value that takes over an attribute). What the anchor
split is too small to tell is never held against a policy.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import hypot
from typing import Any

from raypipe.config import RoundsConfig
from raypipe.evaluation.signs import Lean, Signs

# A value takes over when its share of an attribute's answers has risen by more than this.
_TAKEOVER = 0.3
# Standard errors that a fall of entropy must exceed, whatever the limit.
_ERRORS_OF_A_FALL = 2.0
# How much further entropy must fall where no vote says whether the policy is surer.
_UNVOTED = 2.0
# Width of a 95 % interval in standard errors.
_WIDTH_95 = 3.92

Change = tuple[float, float]
"""Before and after."""


@dataclass(frozen=True)
class Measured:
    """What the anchor split says of a policy."""

    policy: str
    anchor_accuracy: float
    signs: Signs


@dataclass(frozen=True)
class Gain:
    """Anchor accuracy of one policy less that of another (0-1), paired on the same queries."""

    difference: float
    error: float

    @classmethod
    def of(cls, comparison: Mapping[str, Any]) -> "Gain":
        """From what ``evaluation.compare`` returns."""
        low, high = comparison["ci95"]
        return cls(comparison["difference"], (high - low) / _WIDTH_95)

    @property
    def is_up(self) -> bool:
        """Whether it exceeds a standard error; of policies that are equal one in six does."""
        return self.difference > self.error


@dataclass(frozen=True)
class Evidence:
    """Why a policy counts as collapsed since another.

    ``confidence`` and ``unanimity`` are None where one of the two was not voted on, ``entropy``
    where the verified values do not vary, ``takeover`` where no value has taken over.
    """

    policy: str
    since: str
    anchor_accuracy: Change
    gain: Gain
    confidence: Change | None
    unanimity: Change | None
    entropy: Change | None
    takeover: Lean | None

    @property
    def reason(self) -> str:
        """The evidence in one sentence."""
        right = "anchor accuracy {:.3f} → {:.3f}".format(*self.anchor_accuracy)
        signs = []
        if self.confidence is not None and self.unanimity is not None:
            sure = "confidence {:.2f} → {:.2f}, unanimous {:.0%} → {:.0%}"
            signs.append(sure.format(*self.confidence, *self.unanimity))
        if self.entropy is not None:
            signs.append(
                "entropy of the answers {:.2f} → {:.2f} of the truth's".format(*self.entropy)
            )
        if (lean := self.takeover) is not None:
            signs.append(
                f"'{lean.value}' is {lean.share:.0%} of the answers for {lean.attribute} and "
                f"{lean.truth_share:.0%} of the verified values"
            )
        return (
            f"{self.policy} collapsed: since {self.since} it is no more often right ({right}), yet "
            + "; ".join(signs)
        )

    def to_json(self) -> dict[str, Any]:
        """The fields, and ``reason``."""
        return asdict(self) | {"reason": self.reason}


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
    earlier, later = before.signs, after.signs
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
    return Evidence(
        policy=after.policy,
        since=before.policy,
        anchor_accuracy=(before.anchor_accuracy, after.anchor_accuracy),
        gain=gain,
        confidence=confidence,
        unanimity=unanimity,
        entropy=_change(earlier.entropy, later.entropy),
        takeover=takeover,
    )


def _narrowed(before: Signs, after: Signs, limit: float) -> bool:
    entropy = _change(before.entropy, after.entropy)
    if entropy is None:
        return False
    error = hypot(before.entropy_error or 0.0, after.entropy_error or 0.0)
    return -_rise(entropy) > max(limit, _ERRORS_OF_A_FALL * error)


def _takeover(before: Signs, after: Signs) -> Lean | None:
    """The value that has risen most, of those that rose far enough and not by chance."""
    shares = {(lean.attribute, lean.value): lean.share for lean in before.leans}
    found: list[tuple[float, Lean]] = []
    for lean in after.leans:
        # A value that did not lean had at most its share of the verified values.
        share = shares.get((lean.attribute, lean.value), lean.truth_share)
        if lean.exceeds(max(share, lean.truth_share)) and lean.share - share > _TAKEOVER:
            found.append((lean.share - share, lean))
    return max(found, key=lambda risen: risen[0])[1] if found else None


def _change(before: float | None, after: float | None) -> Change | None:
    return None if before is None or after is None else (before, after)


def _rise(change: Change) -> float:
    return change[1] - change[0]
