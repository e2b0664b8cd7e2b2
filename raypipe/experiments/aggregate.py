"""The results of a sweep: every arm's figures and every comparison, from commits alone."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from raypipe import seeds
from raypipe.config import Config
from raypipe.evaluation.accuracy import Estimate, QueryId, estimate, paired_difference
from raypipe.evaluation.stage import answered
from raypipe.experiments.arms import Arm, scope_of, votes_of
from raypipe.experiments.claims import Claim, claim_verdict, claims, trends
from raypipe.experiments.results import (
    ArmComparison,
    ArmFunnel,
    ArmResult,
    Results,
    SeedDifference,
    SeedFigures,
    VoteFigures,
)
from raypipe.models.policies import PRETRAINED, SFT
from raypipe.store.artifacts import Run
from raypipe.store.paths import CATALOG, Paths
from raypipe.summaries import Metrics

AnswersByQuery = dict[QueryId, bool]


@dataclass(frozen=True)
class RefusedArm:
    """An arm that has no policy, and why."""

    seed: int
    arm: str
    reason: str


class Figures:
    """Reads what the arms committed, once."""

    def __init__(self, config: Config, run: Run, arms: Mapping[int, Sequence[Arm]]) -> None:
        self.config, self.run = config, run
        self.arms = arms
        self._answers: dict[tuple[int, str], AnswersByQuery] = {}

    def answers(self, seed: int, arm: str) -> AnswersByQuery:
        """Whether each eval query was answered right by an arm with a seed."""
        key = seed, arm
        if key not in self._answers:
            self._answers[key] = answered(self.run, scope_of(seed, arm))
        return self._answers[key]

    def seeds_of(self, arm: str) -> list[int]:
        """The seeds with which an arm was evaluated."""
        return [
            seed
            for seed, arms in self.arms.items()
            if any(other.name == arm for other in arms) and self._evaluated(seed, arm)
        ]

    def shared_seeds(self, arms: Iterable[str]) -> list[int]:
        """The seeds with which all of these arms were evaluated."""
        found = [set(self.seeds_of(arm)) for arm in arms]
        return [seed for seed in self.arms if all(seed in seeds for seeds in found)]

    def _evaluated(self, seed: int, arm: str) -> bool:
        return self.run.artifact(Paths(scope_of(seed, arm)).evaluation).commit() is not None

    def metrics(self, seed: int, arm: str) -> Metrics:
        return Metrics.of(self.run.artifact(Paths(scope_of(seed, arm)).evaluation))

    def estimate(self, weighted: Mapping[QueryId, float], *name: str) -> Estimate:
        """The mean over queries, with an interval over listings."""
        queries = sorted(weighted)
        seed = seeds.derive("bootstrap", self.config.run.seed, *name)
        return estimate(
            [weighted[query] for query in queries],
            [listing for listing, _ in queries],
            self.config.evaluation.num_resamples,
            seed,
        )

    def mean_answers(self, arm: str, over: Sequence[int]) -> dict[QueryId, float]:
        """How often each query was answered right, over seeds that all answered it."""
        per_seed = [self.answers(seed, arm) for seed in over]
        shared = set.intersection(*(set(answers) for answers in per_seed))
        return {query: float(np.mean([answers[query] for answers in per_seed])) for query in shared}

    @cached_property
    def listings(self) -> dict[str, int]:
        """Listings per split."""
        table = self.run.artifact(CATALOG.listings).read(["split"])
        counted = table.column("split").value_counts().to_pylist()
        return {row["values"]: row["counts"] for row in counted}


def gather(
    config: Config,
    run: Run,
    arms: Mapping[int, Sequence[Arm]],
    refused: Sequence[RefusedArm],
    *,
    command: str,
) -> Results:
    """Everything that the page and the document say, from what is committed.

    Raises:
        ArtifactError: a committed artifact is corrupt.
    """
    figures = Figures(config, run, arms)
    seed, first = next(iter(arms.items()))
    known = [arm for arm in first if figures.seeds_of(arm.name)]
    found = [_arm(figures, arm) for arm in known]
    compared = [
        _compared(figures, claim)
        for claim in claims(known)
        if figures.shared_seeds((claim.before, claim.after))
    ]
    compared += [
        _trend(figures, claim, steps)
        for claim, steps in trends(known)
        if len(steps) > 2 and figures.shared_seeds(steps)
    ]
    seconds, versions = _made(run, arms)
    return Results(
        run=config.run.name,
        command=command,
        model=config.model.path,
        seeds=tuple(arms),
        num_chains=config.sampling.num_chains,
        eval_queries=len(figures.answers(seed, PRETRAINED)),
        eval_listings=figures.listings.get("eval", 0),
        pool_listings=figures.listings.get("pool", 0),
        seed_listings=figures.listings.get("seed", 0),
        arms=tuple(found),
        comparisons=tuple(compared),
        votes=tuple(
            vote
            for name in (PRETRAINED, SFT)
            if seed in figures.seeds_of(name) and (vote := _vote(figures, name)) is not None
        ),
        seconds=seconds,
        queries_by_attribute={
            name: group.queries
            for name, group in figures.metrics(seed, PRETRAINED).eval.by_attribute.items()
        },
        refused={f"{refusal.arm}, seed {refusal.seed}": refusal.reason for refusal in refused},
        versions=versions,
    )


def _arm(figures: Figures, arm: Arm) -> ArmResult:
    config, over = figures.config, figures.seeds_of(arm.name)
    accuracy = figures.estimate(figures.mean_answers(arm.name, over), "arm", arm.name)
    learned = arm.kind == "learned"
    return ArmResult(
        name=arm.name,
        title=arm.title,
        groups=arm.groups,
        method=arm.method,
        model=str(arm.settings.get("model", {}).get("path", config.model.path)),
        start=arm.start,
        threshold=arm.thresholds[0] if arm.thresholds else None,
        thresholds=arm.thresholds,
        min_votes=votes_of(arm, config) if learned else None,
        pool_share=arm.selection.pool.high - arm.selection.pool.low if learned else None,
        accuracy=accuracy.value,
        ci95=(accuracy.low, accuracy.high),
        seeds=tuple(_seed(figures, arm, seed) for seed in over),
        funnel=_funnel(figures, arm, over[0]) if learned else None,
        seconds=_seconds(figures, arm, over[0]),
        by_attribute=_by_attribute(figures, arm, over),
    )


def _seed(figures: Figures, arm: Arm, seed: int) -> SeedFigures:
    metrics = figures.metrics(seed, arm.name)
    measured, scope = metrics.eval, scope_of(seed, arm.name)
    selected = figures.run.artifact(Paths(scope).consensus).commit()
    adapter = figures.run.artifact(Paths(scope).adapter).commit()
    counts = selected.counts if selected is not None else {}
    return SeedFigures(
        seed=seed,
        accuracy=measured.accuracy,
        ci95=measured.ci95,
        invalid=measured.invalid,
        anchor_accuracy=metrics.anchor.accuracy,
        pairs=adapter.counts.get("num_examples") if adapter is not None else None,
        queries=counts.get("paired" if arm.method == "dpo" else "kept"),
        listings=counts.get("listings"),
        steps=adapter.counts.get("num_steps") if adapter is not None else None,
    )


def _funnel(figures: Figures, arm: Arm, seed: int) -> ArmFunnel:
    counts = figures.run.artifact(Paths(scope_of(seed, arm.name)).consensus).require_commit().counts
    return ArmFunnel(**{name: counts[name] for name in ArmFunnel.model_fields})


def _seconds(figures: Figures, arm: Arm, seed: int) -> dict[str, float]:
    parts = {"sampling": "chains", "training": "adapter", "evaluation": "evaluation"}
    found = {}
    for part, name in parts.items():
        commit = figures.run.artifact(f"{scope_of(seed, arm.name)}/{name}").commit()
        if commit is not None:
            found[part] = commit.seconds
    return found


def _by_attribute(figures: Figures, arm: Arm, over: Sequence[int]) -> dict[str, float]:
    per_seed = [figures.metrics(seed, arm.name).eval.by_attribute for seed in over]
    return {
        name: float(np.mean([groups[name].accuracy for groups in per_seed])) for name in per_seed[0]
    }


def _compared(figures: Figures, claim: Claim) -> ArmComparison:
    before, after = claim.before, claim.after
    over = figures.shared_seeds((before, after))
    each = []
    for seed in over:
        first, second = _shared(figures.answers(seed, before), figures.answers(seed, after))
        gain = paired_difference(
            first,
            second,
            figures.config.evaluation.num_resamples,
            seeds.derive("bootstrap", figures.config.run.seed, claim.name, seed),
        )
        each.append(SeedDifference(seed=seed, difference=gain.value, ci95=(gain.low, gain.high)))
    weights = {before: -1.0, after: 1.0}
    return _comparison(claim, figures.estimate(_weighted(figures, weights, over), claim.name), each)


def _trend(figures: Figures, claim: Claim, steps: Mapping[str, float]) -> ArmComparison:
    """The slope of accuracy over the doublings of the pool: a weighted sum of the arms."""
    weights = _slope(steps)
    over = figures.shared_seeds(steps)
    each = []
    for seed in over:
        slope = figures.estimate(_weighted(figures, weights, [seed]), claim.name, str(seed))
        each.append(SeedDifference(seed=seed, difference=slope.value, ci95=(slope.low, slope.high)))
    return _comparison(claim, figures.estimate(_weighted(figures, weights, over), claim.name), each)


def _slope(steps: Mapping[str, float]) -> dict[str, float]:
    """Weights whose sum over accuracies is the least-squares slope per doubling of the pool."""
    doublings = np.log2(np.array(list(steps.values())))
    centered = doublings - doublings.mean()
    return dict(zip(steps, (centered / (centered**2).sum()).tolist(), strict=True))


def _weighted(
    figures: Figures, weights: Mapping[str, float], over: Sequence[int]
) -> dict[QueryId, float]:
    """Per query the weighted sum of several arms' mean answers."""
    answers = {arm: figures.mean_answers(arm, over) for arm in weights}
    shared = set.intersection(*(set(found) for found in answers.values()))
    return {
        query: sum(weight * answers[arm][query] for arm, weight in weights.items())
        for query in shared
    }


def _shared(first: AnswersByQuery, second: AnswersByQuery) -> tuple[AnswersByQuery, AnswersByQuery]:
    queries = first.keys() & second.keys()
    return ({q: first[q] for q in queries}, {q: second[q] for q in queries})


def _comparison(claim: Claim, gain: Estimate, each: Sequence[SeedDifference]) -> ArmComparison:
    return ArmComparison(
        name=claim.name,
        statement=claim.statement,
        before=claim.before,
        after=claim.after,
        expected=claim.expected,
        difference=gain.value,
        ci95=(gain.low, gain.high),
        seeds=tuple(each),
        verdict=claim_verdict(claim.expected, (gain.low, gain.high)),
    )


def _vote(figures: Figures, name: str) -> VoteFigures | None:
    metrics = figures.metrics(next(iter(figures.arms)), name)
    if metrics.vote is None or metrics.anchor.accuracy is None:
        return None
    return VoteFigures(
        **dict(metrics.vote),
        policy=name,
        num_chains=figures.config.sampling.num_chains,
        greedy_accuracy=metrics.anchor.accuracy,
    )


def _made(run: Run, arms: Mapping[int, Sequence[Arm]]) -> tuple[float, dict[str, str]]:
    """Seconds of all stages, and the versions that made them."""
    seconds, versions = 0.0, dict[str, str]()
    scopes = [scope_of(seed, arm.name) for seed, planned in arms.items() for arm in planned]
    names = [f"{scope}/{part}" for scope in scopes for part in ("chains", "adapter", "evaluation")]
    for name in (CATALOG.listings, *names):
        commit = run.artifact(name).commit()
        if commit is None:
            continue
        seconds += commit.seconds
        for key, value in commit.fingerprint.items():
            if key.startswith("versions."):
                versions[key.removeprefix("versions.")] = str(value)
    return round(seconds, 1), dict(sorted(versions.items()))
