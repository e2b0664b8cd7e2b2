"""The anchor gate: keep a round's policy, or roll back to the best so far.

Judged on the small trusted anchor split and never on eval, so that eval stays a clean measure.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from raypipe.summaries import ACCEPTED, REFUSED, ROLLED_BACK, Decision


@dataclass(frozen=True)
class GateDecision:
    """A policy with its anchor accuracy (0-1) and the decision on it."""

    policy: str
    anchor_accuracy: float
    decision: Decision


def best(judged: Sequence[GateDecision]) -> GateDecision:
    """The policy of highest anchor accuracy that was not refused; of equals the latest.

    Raises:
        ValueError: nothing was judged.
    """
    kept = [policy for policy in judged if policy.decision not in REFUSED]
    if not kept:
        raise ValueError("no policy has been judged yet")
    highest = max(policy.anchor_accuracy for policy in kept)
    return [policy for policy in kept if policy.anchor_accuracy == highest][-1]


def decide(
    judged: Sequence[GateDecision], policy: str, anchor_accuracy: float, drop: float
) -> GateDecision:
    """Accept a round's policy unless its anchor accuracy is below the best by more than ``drop``.

    Args:
        judged: the policies before it, the start of round 1 among them.
        drop: tolerance, 0-1.
    """
    fallen = best(judged).anchor_accuracy - anchor_accuracy
    return GateDecision(policy, anchor_accuracy, ACCEPTED if fallen <= drop else ROLLED_BACK)


def next_start(judged: Sequence[GateDecision]) -> str:
    """The policy that the next round starts from: the last one, or the best after a rollback."""
    last = judged[-1]
    return best(judged).policy if last.decision in REFUSED else last.policy
