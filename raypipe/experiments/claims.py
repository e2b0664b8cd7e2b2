"""What the paper and common sense expect of the arms, as comparisons on the same queries (pure)."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from raypipe.experiments.arms import VOTE, Arm
from raypipe.experiments.results import ClaimStatus
from raypipe.models.policies import PRETRAINED, SFT
from raypipe.summaries import Interval

Expected = Literal["above", "below", "any"]


@dataclass(frozen=True)
class Claim:
    """``after`` against ``before``, and on which side it is expected."""

    before: str
    after: str
    expected: Expected
    statement: str

    @property
    def name(self) -> str:
        return f"{self.after} − {self.before}"


def claims(arms: Sequence[Arm]) -> Iterator[Claim]:
    """Comparisons of arms that may all be there or not."""
    yield Claim(PRETRAINED, SFT, "above", "SFT on the annotated seed beats the pretrained model")
    yield Claim(SFT, "dpo-sft", "above", "DPO from SFT beats SFT")
    yield Claim(
        PRETRAINED, "dpo-pretrained", "above", "DPO from the pretrained model beats that model"
    )
    yield Claim(SFT, "sl-sft", "below", "Self-learning from SFT loses against SFT")
    yield Claim(
        PRETRAINED,
        "sl-pretrained",
        "below",
        "Self-learning from the pretrained model loses against it",
    )
    yield Claim("sl-sft", "dpo-sft", "above", "DPO from SFT beats self-learning from SFT")
    yield Claim(
        "sft-answer-only", SFT, "above", "Reasoning before the answer beats the answer alone"
    )
    yield Claim(
        "dpo-sft-null", "dpo-sft", "above", "The vote teaches: its pairs beat pairs in random order"
    )
    yield Claim(SFT, "dpo-sft-null", "any", "Pairs in random order teach nothing")
    yield Claim(SFT, VOTE, "above", "The vote knows more than one greedy chain of the same policy")
    yield Claim(VOTE, "dpo-sft", "any", "DPO against the vote that it learned from")
    yield Claim("sl-sft", "sl-sft-paired", "any", "Self-learning without unanimous queries")
    yield from _against_main(arms)
    yield Claim(
        "dpo-sft-half-round-2",
        "dpo-sft-fresh-round-2",
        "any",
        "Round 2 on fresh listings against round 2 on the same",
    )
    yield Claim(
        "dpo-sft-round-2",
        "dpo-sft-moving-round-2",
        "any",
        "Round 2 with the reference at its start against the fixed reference",
    )
    yield from _rounds(arms)


def trends(arms: Sequence[Arm]) -> Iterator[tuple[Claim, dict[str, float]]]:
    """Whether accuracy grows with the pool, per doubling: the claim, and each step's share."""
    for method, word, expected in (
        ("dpo", "DPO", "above"),
        ("self_learning", "Self-learning", "any"),
    ):
        steps = {
            arm.name: arm.selection.pool.high
            for arm in sorted(arms, key=lambda arm: arm.selection.pool.high)
            if "table6" in arm.groups and arm.method == method
        }
        if not steps:
            continue
        names = list(steps)
        side: Expected = "above" if expected == "above" else "any"
        statement = f"{word} grows more accurate with every doubling of the pool"
        yield _Trend(names[0], names[-1], side, statement), steps


@dataclass(frozen=True)
class _Trend(Claim):
    @property
    def name(self) -> str:
        return f"slope from {self.before} to {self.after}"


def _against_main(arms: Sequence[Arm]) -> Iterator[Claim]:
    """Every threshold, every step of the pool and every option against the main arm."""
    for arm in arms:
        if arm.name == "dpo-sft" or arm.method != "dpo" or arm.round_index > 1:
            continue
        if "table5" in arm.groups:
            yield Claim(arm.name, "dpo-sft", "any", f"The main threshold against {arm.title}")
        elif arm.fewest:
            yield from _equal_pairs(arm, arms)
        elif "option" in arm.groups:
            yield Claim("dpo-sft", arm.name, "any", f"{arm.title} against plain DPO")
    smallest = min(
        (arm for arm in arms if "table6" in arm.groups and arm.method == "dpo"),
        key=lambda arm: arm.selection.pool.high,
        default=None,
    )
    if smallest is not None and smallest.name != "dpo-sft":
        yield Claim(smallest.name, "dpo-sft", "above", "All of the pool beats its smallest step")


def _equal_pairs(arm: Arm, arms: Sequence[Arm]) -> Iterator[Claim]:
    """A threshold against the main one, with as many pairs of each: what their quality is worth."""
    main = next((other for other in arms if other.name == "dpo-sft"), None)
    if main is None or arm.thresholds == main.thresholds:
        return
    same = (other for other in arms if other.fewest and other.thresholds == main.thresholds)
    for other in same:
        yield Claim(arm.name, other.name, "any", f"The main threshold against {arm.title}")


def _rounds(arms: Sequence[Arm]) -> Iterator[Claim]:
    for arm in arms:
        if arm.round_index > 1 and arm.start is not None:
            yield Claim(arm.start, arm.name, "any", f"{arm.title} against the round before it")


def claim_verdict(expected: Expected, interval: Interval) -> ClaimStatus:
    """What an interval of a difference says of what was expected."""
    low, high = interval
    if low <= 0 <= high:
        return "inside_noise"
    if expected == "any":
        return "holds"
    return "holds" if (low > 0) == (expected == "above") else "fails"
