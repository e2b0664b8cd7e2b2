"""The paper's Tables 4, 5 and 6 with ours beside them.

The paper's figures stand here and nowhere else. They are of another model on other data: what can
be compared is the direction and the order of things, not a number.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fractions import Fraction

from raypipe.experiments.report.tables import Contrast, contrast, method_of_start
from raypipe.experiments.results import ArmResult, Results

PAPER = "Efficient Learning for Product Attributes with Compact Multimodal Models (Kulkarni, 2025)"
PAPER_SETTING = "Qwen2.5-VL-3B, 7,145 queries of 3,175 marketplace listings, 7 chains"
PAPER_POOL = 5000
PAPER_TABLE5 = {0.3: 0.83, 0.5: 0.857, 0.7: 0.831, 0.8: 0.825}
PAPER_TABLE6 = {
    0.2: {"self_learning": 0.785, "dpo": 0.816},
    0.4: {"self_learning": 0.755, "dpo": 0.836},
    0.6: {"self_learning": 0.73, "dpo": 0.84},
    0.8: {"self_learning": 0.731, "dpo": 0.852},
    1.0: {"self_learning": 0.66, "dpo": 0.857},
}
"""By share of the paper's pool."""
PAPER_SFT = 0.751


@dataclass(frozen=True)
class Table4Row:
    """A technique from a start policy, here and in the paper."""

    technique: str
    arm: ArmResult | None
    contrast: Contrast | None
    paper: float | None
    paper_difference: float | None


@dataclass(frozen=True)
class Table5Row:
    """A threshold of the gate; ``shares`` is the earlier threshold that has the same arm."""

    threshold: float
    min_votes: int
    arm: ArmResult | None
    shares: float | None
    equal: ArmResult | None
    paper: float | None


@dataclass(frozen=True)
class Table6Row:
    """A share of the pool."""

    share: float
    listings: int
    dpo: ArmResult | None
    self_learning: ArmResult | None
    paper_listings: int | None
    paper_dpo: float | None
    paper_self_learning: float | None


Belongs = Callable[[ArmResult, str | None], bool]


@dataclass(frozen=True)
class _Published:
    """A figure of the paper's Table 4, or of §3.1.1, and which of our arms it is beside."""

    technique: str
    belongs: Belongs
    """Takes an arm of the sweep's own model and the method of its start."""
    accuracy: float
    over: float | None = None
    """The paper's accuracy of what it starts from."""
    against: str | None = None
    """Method of the arm to compare with, where that is not the start."""


def _answers_only(arm: ArmResult) -> bool:
    return "answer" in arm.name


_TABLE4 = (
    _Published(
        "Pretrained",
        lambda arm, start: arm.method == "none" and not _answers_only(arm),
        0.717,
    ),
    _Published(
        "SFT",
        lambda arm, start: arm.method == "sft" and not _answers_only(arm),
        0.751,
        over=0.717,
    ),
    _Published(
        "SFT on answers without reasoning",
        lambda arm, start: arm.method == "sft" and _answers_only(arm),
        0.607,
        over=0.751,
        against="sft",
    ),
    _Published(
        "Self-learning from pretrained",
        lambda arm, start: arm.method == "self_learning" and start == "none",
        0.642,
        over=0.717,
    ),
    _Published(
        "Self-learning from SFT",
        lambda arm, start: arm.method == "self_learning" and start == "sft",
        0.665,
        over=0.751,
    ),
    _Published(
        "DPO from pretrained",
        lambda arm, start: arm.method == "dpo" and start == "none",
        0.826,
        over=0.717,
    ),
    _Published(
        "DPO from SFT",
        lambda arm, start: arm.method == "dpo" and start == "sft",
        0.857,
        over=0.751,
    ),
)
# The paper's second, older model: Qwen2-VL-2B.
_SMALLER = (
    _Published("Pretrained, second model", lambda arm, start: arm.method == "none", 0.317),
    _Published("SFT, second model", lambda arm, start: arm.method == "sft", 0.44, over=0.317),
)


def table4(results: Results) -> list[Table4Row]:
    """Every figure of the paper's Table 4 with our arm beside it, then our other arms of it."""
    if not results.group("table4"):
        return []
    rows, placed = [], set[str]()
    arms = _unique([*results.group("table4"), *results.group("baseline")])
    own = results.arms[0].model
    for published in (*_TABLE4, *_SMALLER):
        model_is_own = published in _TABLE4
        candidates = (
            arm
            for arm in arms
            if (arm.model == own) == model_is_own
            and arm.name not in placed
            and published.belongs(arm, method_of_start(results, arm))
        )
        arm = next(candidates, None)
        placed |= {arm.name} if arm is not None else set()
        rows.append(_row_of_table4(results, published, arm))
    return rows + [
        Table4Row(arm.title, arm, _over_start(results, arm), None, None)
        for arm in results.group("table4")
        if arm.name not in placed
    ]


def _row_of_table4(results: Results, published: _Published, arm: ArmResult | None) -> Table4Row:
    shown = None
    if arm is not None:
        other = published.against
        shown = contrast(results, arm.name, other) if other else _over_start(results, arm)
    gain = None if published.over is None else published.accuracy - published.over
    return Table4Row(published.technique, arm, shown, published.accuracy, gain)


def _over_start(results: Results, arm: ArmResult) -> Contrast | None:
    return contrast(results, arm.name, arm.start) if arm.start is not None else None


def _unique(arms: Iterable[ArmResult]) -> list[ArmResult]:
    return list({arm.name: arm for arm in arms}.values())


def table5(results: Results) -> list[Table5Row]:
    """The paper's thresholds and ours, rising; thresholds with the same k of n are one arm."""
    arms = results.group("table5")
    if not arms:
        return []
    known = {arm.threshold for arm in arms if arm.threshold is not None}
    rows: list[Table5Row] = []
    for threshold in sorted(known | set(PAPER_TABLE5)):
        fewest = _min_votes(threshold, results.num_chains)
        arm = next((arm for arm in arms if arm.threshold == threshold), None) or next(
            (arm for arm in arms if arm.min_votes == fewest), None
        )
        earlier = (row.threshold for row in rows if arm is not None and row.arm == arm)
        equal = results.arm(f"dpo-sft-c{threshold:g}-equal")
        rows.append(
            Table5Row(
                threshold,
                arm.min_votes or fewest if arm is not None else fewest,
                arm,
                next(earlier, None),
                equal,
                PAPER_TABLE5.get(threshold),
            )
        )
    return rows


def _min_votes(threshold: float, num_chains: int) -> int:
    """The fewest votes that exceed a threshold, as the gate counts them."""
    return math.floor(Fraction(repr(threshold)) * num_chains) + 1


def table6(results: Results) -> list[Table6Row]:
    """The paper's shares of the pool and ours, rising."""
    arms = [arm for arm in results.group("table6") if arm.pool_share is not None]
    if not arms:
        return []
    by_place = {(arm.method, round(arm.pool_share or 0, 6)): arm for arm in reversed(arms)}
    rows = []
    for share in sorted({share for _, share in by_place} | set(PAPER_TABLE6)):
        dpo, sl = by_place.get(("dpo", share)), by_place.get(("self_learning", share))
        paper = PAPER_TABLE6.get(share, {})
        rows.append(
            Table6Row(
                share,
                _listings(dpo or sl) or round(share * results.pool_listings),
                dpo,
                sl,
                round(share * PAPER_POOL) if paper else None,
                paper.get("dpo"),
                paper.get("self_learning"),
            )
        )
    return rows


def _listings(arm: ArmResult | None) -> int | None:
    return arm.seeds[0].listings if arm is not None and arm.seeds else None
