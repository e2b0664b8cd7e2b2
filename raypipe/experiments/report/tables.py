"""The tables of a sweep, as rows that its page and its document both show."""

from collections.abc import Sequence
from dataclasses import dataclass

from raypipe.experiments.results import ArmComparison, ArmFunnel, ArmResult, Results
from raypipe.report.formatting import count, points, points_interval, score
from raypipe.summaries import Interval

VERDICTS = {"holds": "holds", "fails": "fails", "inside_noise": "inside the noise"}


@dataclass(frozen=True)
class Contrast:
    """An arm less another one, on the same queries."""

    other: str
    """Title of the other arm."""
    difference: float
    ci95: Interval
    seeds: tuple[float, ...]
    verdict: str


@dataclass(frozen=True)
class ClaimRow:
    """What was expected of two arms, and what came of it."""

    statement: str
    expected: str
    difference: float
    ci95: Interval
    seeds: tuple[float, ...]
    verdict: str
    word: str


@dataclass(frozen=True)
class VariantRow:
    """A round, control or option with its difference to the arm that it varies."""

    arm: ArmResult
    contrast: Contrast | None


@dataclass(frozen=True)
class ArmFunnelRow:
    arm: ArmResult
    funnel: ArmFunnel


@dataclass(frozen=True)
class CostRow:
    arm: ArmResult
    sampling: float
    training: float
    evaluation: float
    rest: float
    total: float


@dataclass(frozen=True)
class AccuracyChange:
    """Accuracy of an attribute, or the mean over a vertical's attributes, before and after."""

    name: str
    queries: int | None
    before: float
    after: float

    @property
    def difference(self) -> float:
        return self.after - self.before


@dataclass(frozen=True)
class Changes:
    before: ArmResult
    after: ArmResult
    verticals: tuple[AccuracyChange, ...]
    attributes: tuple[AccuracyChange, ...]


def main_arm(results: Results) -> ArmResult | None:
    """DPO from the SFT policy, or the first arm of DPO where that was not asked for."""
    trained = [arm for arm in results.arms if arm.method == "dpo"]
    table4 = [arm for arm in trained if "table4" in arm.groups]
    from_sft = [arm for arm in table4 if method_of_start(results, arm) == "sft"]
    return next(iter([*from_sft, *table4, *trained]), None)


def start_of(results: Results, arm: ArmResult | None) -> ArmResult | None:
    """The arm whose policy an arm starts from."""
    return results.arm(arm.start) if arm is not None and arm.start is not None else None


def method_of_start(results: Results, arm: ArmResult) -> str | None:
    """How the policy that an arm starts from was made."""
    start = start_of(results, arm)
    return start.method if start is not None else None


def sibling(results: Results, method: str) -> ArmResult | None:
    """The arm of another method that starts where the main arm starts, one of Table 4 if any."""
    main = main_arm(results)
    if main is None:
        return None
    others = [
        arm
        for arm in results.arms
        if arm.method == method and (arm.start == main.start or arm.name == f"vote-{main.start}")
    ]
    return next((arm for arm in others if "table4" in arm.groups), next(iter(others), None))


def contrast(results: Results, after: str, before: str) -> Contrast | None:
    """One arm less another, if the sweep compared them in either order."""
    for comparison in results.comparisons:
        if (comparison.after, comparison.before) == (after, before):
            return _contrast(results, comparison, flipped=False)
    for comparison in results.comparisons:
        if (comparison.after, comparison.before) == (before, after):
            return _contrast(results, comparison, flipped=True)
    return None


def natural_contrast(results: Results, arm: ArmResult) -> Contrast | None:
    """An arm less the one that the sweep first compared it with."""
    for comparison in results.comparisons:
        if comparison.after == arm.name:
            return _contrast(results, comparison, flipped=False)
    for comparison in results.comparisons:
        if comparison.before == arm.name:
            return _contrast(results, comparison, flipped=True)
    return None


def _contrast(results: Results, comparison: ArmComparison, *, flipped: bool) -> Contrast:
    sign = -1 if flipped else 1
    low, high = comparison.ci95
    other = comparison.after if flipped else comparison.before
    return Contrast(
        title(results, other),
        sign * comparison.difference,
        (-high, -low) if flipped else (low, high),
        tuple(sign * seed.difference for seed in comparison.seeds),
        "inside the noise" if low <= 0 <= high else "differs",
    )


def title(results: Results, name: str) -> str:
    """An arm's title; its name where it has no figures."""
    arm = results.arm(name)
    return arm.title if arm is not None else name


def claim_rows(results: Results) -> list[ClaimRow]:
    """The comparisons with an expectation."""
    return [_claim(each) for each in results.comparisons if each.expected != "any"]


def open_questions(results: Results) -> list[ClaimRow]:
    """The comparisons of which nothing was expected."""
    return [_claim(each) for each in results.comparisons if each.expected == "any"]


def _claim(comparison: ArmComparison) -> ClaimRow:
    word = VERDICTS[comparison.verdict]
    if comparison.expected == "any" and comparison.verdict != "inside_noise":
        word = "differs"
    return ClaimRow(
        comparison.statement,
        comparison.expected,
        comparison.difference,
        comparison.ci95,
        tuple(seed.difference for seed in comparison.seeds),
        comparison.verdict,
        word,
    )


def headline(results: Results) -> str:
    """What came out, in a few plain sentences."""
    said = [_headline(results), _rivals(results), _tally(results)]
    return " ".join(sentence for sentence in said if sentence)


def _headline(results: Results) -> str:
    arm = main_arm(results)
    if arm is None:
        return "No arm of DPO has figures."
    queries = f"{count(results.eval_queries)} held-out queries"
    start = start_of(results, arm)
    gain = contrast(results, arm.name, start.name) if start is not None else None
    if start is None or gain is None:
        return f"{arm.title} has an accuracy of {score(arm.accuracy)} on {queries}."
    return (
        f"{arm.title} has an accuracy of {score(arm.accuracy)} on {queries}, {start.title} "
        f"has {score(start.accuracy)}: {_in_points(gain)}."
    )


def _rivals(results: Results) -> str:
    main, rival = main_arm(results), sibling(results, "self_learning")
    vote = sibling(results, "vote")
    said = []
    if rival is not None:
        gain = contrast(results, rival.name, rival.start or "")
        by = f" ({_in_points(gain)})" if gain is not None else ""
        said.append(f"self-learning from the same start reaches {score(rival.accuracy)}{by}")
    if vote is not None and main is not None:
        said.append(f"the vote of {results.num_chains} chains {score(vote.accuracy)}")
    sentence = ", ".join(said)
    return f"{sentence[0].upper()}{sentence[1:]}." if said else ""


def _in_points(gain: Contrast) -> str:
    noise = ", which may be noise" if gain.verdict == "inside the noise" else ""
    interval = points_interval(gain.ci95)
    return f"{points(gain.difference)} points, 95 % {interval}{noise}"


def _tally(results: Results) -> str:
    stated = claim_rows(results)
    if not stated:
        return ""
    counts = {name: sum(claim.verdict == name for claim in stated) for name in VERDICTS}
    noun = "expectation" if len(stated) == 1 else "expectations"
    return (
        f"Of {len(stated)} {noun}, {counts['holds']} "
        f"{_verb(counts['holds'], 'holds', 'hold')}, {counts['fails']} "
        f"{_verb(counts['fails'], 'fails', 'fail')} and {counts['inside_noise']} "
        f"{_verb(counts['inside_noise'], 'is', 'are')} inside the noise."
    )


def _verb(count: int, one: str, many: str) -> str:
    return one if count == 1 else many


def pairs(arm: ArmResult | None) -> int | None:
    """Training examples of an arm's first seed."""
    return arm.seeds[0].pairs if arm is not None and arm.seeds else None


def variants(results: Results) -> dict[str, list[VariantRow]]:
    """Rounds, controls and options; a control that Table 5 shows is not shown twice."""
    shown = {
        f"dpo-sft-c{threshold:g}-equal"
        for arm in results.group("table5")
        for threshold in (*arm.thresholds, arm.threshold or 0.0)
    }
    groups = {
        "Rounds": results.group("rounds"),
        "Controls": tuple(arm for arm in results.group("control") if arm.name not in shown),
        "Options": results.group("option"),
    }
    return {
        name: [VariantRow(arm, natural_contrast(results, arm)) for arm in arms]
        for name, arms in groups.items()
        if arms
    }


def funnels(results: Results) -> list[ArmFunnelRow]:
    return [ArmFunnelRow(arm, arm.funnel) for arm in results.arms if arm.funnel is not None]


def costs(results: Results) -> list[CostRow]:
    """What each arm took beyond those that it builds on."""
    return [_cost(arm) for arm in results.arms if sum(arm.seconds.values()) > 0]


def _cost(arm: ArmResult) -> CostRow:
    sampling, training, evaluation = (
        arm.seconds.get(part, 0.0) for part in ("sampling", "training", "evaluation")
    )
    total = sum(arm.seconds.values())
    rest = total - sampling - training - evaluation
    return CostRow(arm, sampling, training, evaluation, rest, total)


def changes(results: Results) -> Changes | None:
    """Gains and losses of the main arm over its start, the greatest gain first."""
    after = main_arm(results)
    before = start_of(results, after)
    if after is None or before is None:
        return None
    names = sorted(set(before.by_attribute) & set(after.by_attribute))
    queries = results.queries_by_attribute
    attributes = [
        AccuracyChange(name, queries.get(name), before.by_attribute[name], after.by_attribute[name])
        for name in names
    ]
    by_vertical: dict[str, list[AccuracyChange]] = {}
    for change in attributes:
        by_vertical.setdefault(change.name.partition("/")[0], []).append(change)
    verticals = [_mean_change(name, inner) for name, inner in by_vertical.items()]
    if not attributes:
        return None
    return Changes(before, after, _by_gain(verticals), _by_gain(attributes))


def _mean_change(vertical: str, inner: Sequence[AccuracyChange]) -> AccuracyChange:
    counts = [change.queries for change in inner]
    known = [count for count in counts if count is not None]
    return AccuracyChange(
        vertical,
        sum(known) if len(known) == len(counts) else None,
        sum(change.before for change in inner) / len(inner),
        sum(change.after for change in inner) / len(inner),
    )


def _by_gain(rows: Sequence[AccuracyChange]) -> tuple[AccuracyChange, ...]:
    return tuple(sorted(rows, key=lambda change: (-change.difference, change.name)))


def note_on_intervals(results: Results) -> str:
    """How the intervals are to be read."""
    seeds = len(results.seeds)
    fewest = min((len(arm.seeds) for arm in results.arms), default=seeds)
    number = f"{seeds} seeds" if fewest == seeds else f"an arm's {fewest} to {seeds} seeds"
    over = (
        "There is one seed: what another training run would have given is not in the interval. "
        if seeds == 1
        else f"A figure is the mean over {number} (of sampling, pairing and training), a "
        "difference the mean over those that both arms have; an interval says what another draw "
        "of listings could have given, and the figures of each seed say how much the seed matters. "
    )
    compared = len(results.comparisons)
    return (
        f"Intervals are at 95 %, by bootstrap over {count(results.eval_listings)} eval "
        f"listings; differences are paired, query by query. {over}"
        f"They are not corrected for the {compared} comparisons: one interval in twenty is "
        "expected to exclude zero by chance alone."
    )
