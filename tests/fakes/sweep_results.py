"""What a whole sweep might have come to: plausible figures, drawn by a seeded generator."""

import random
from pathlib import Path
from typing import Any

import yaml

import raypipe.embedded
from raypipe.experiments.results import (
    ArmComparison,
    ArmFunnel,
    ArmResult,
    ClaimStatus,
    Group,
    Results,
    SeedDifference,
    SeedFigures,
    VoteFigures,
)
from raypipe.summaries import ConfidenceLevel

SCHEMA = Path(raypipe.embedded.__file__).parent / "schema.yaml"
SEEDS = (0, 1, 2)
POOL = 1200
MODEL = "embedded:nano"


class Sweep:
    """Collects arms and comparisons; ``results`` is what the sweep leaves."""

    def __init__(self) -> None:
        self.rng = random.Random(11)
        self.arms: dict[str, ArmResult] = {}
        self.comparisons: list[ArmComparison] = []
        self.attributes = [
            f"{entry['vertical']}/{entry['attribute']}"
            for entry in yaml.safe_load(SCHEMA.read_text())
        ]

    def arm(self, name: str, title: str, groups: tuple[Group, ...], true: float, **more: Any):
        """An arm about as accurate as ``true``; ``more`` are fields of ArmResult."""
        method = more.setdefault("method", "dpo")
        trained = method in ("dpo", "self_learning")
        share = more.get("pool_share") or 1.0
        per_query = {"dpo": 1.9, "self_learning": 3.6}.get(method, 1.0)
        seeds = []
        for seed in SEEDS:
            accuracy = true + self.rng.gauss(0, 0.006)
            queries = round(2900 * share * (1 + self.rng.gauss(0, 0.01)))
            seeds.append(
                SeedFigures(
                    seed=seed,
                    accuracy=accuracy,
                    ci95=(accuracy - 0.021, accuracy + 0.020),
                    invalid=abs(self.rng.gauss(0.02, 0.01)),
                    anchor_accuracy=accuracy + self.rng.gauss(0, 0.01),
                    pairs=round(queries * per_query) if trained else None,
                    queries=queries if trained else None,
                    listings=round(POOL * share) if trained else None,
                    steps=round(queries * per_query / 128) + 1 if trained else None,
                )
            )
        accuracy = sum(figures.accuracy for figures in seeds) / len(seeds)
        if trained and "funnel" not in more:
            asked = round(POOL * share * 4.42)
            kept, unanimous = round(asked * 0.71), round(asked * 0.17)
            more["funnel"] = ArmFunnel(
                queries=asked,
                kept=kept,
                unanimous=unanimous,
                paired=kept - unanimous,
                pairs=seeds[0].pairs or 0,
            )
        spent = {"sampling": 74.0 * share, "training": 41.0 * share, "evaluation": 6.2}
        if method == "none":
            spent = {"evaluation": 6.0}
        more.setdefault("seconds", {} if method == "vote" else spent)
        self.arms[name] = ArmResult(
            name=name,
            title=title,
            groups=groups,
            model=MODEL,
            accuracy=accuracy,
            ci95=(accuracy - 0.019, accuracy + 0.018),
            seeds=tuple(seeds),
            by_attribute={
                key: min(0.99, max(0.05, accuracy + random.Random(key).gauss(0, 0.12)
                                   + self.rng.gauss(0, 0.03)))
                for key in self.attributes
            },
            **more,
        )  # fmt: skip

    def compare(self, after: str, before: str, expected: Any, statement: str) -> None:
        """The comparison of two arms, with the verdict that its interval gives."""
        earlier, later = self.arms[before], self.arms[after]
        difference = later.accuracy - earlier.accuracy
        low, high = difference - 0.013, difference + 0.012
        verdict: ClaimStatus = "inside_noise" if low <= 0 <= high else "holds"
        if verdict == "holds" and (
            (expected == "above" and high < 0) or (expected == "below" and low > 0)
        ):
            verdict = "fails"
        each = [
            (new.seed, new.accuracy - old.accuracy)
            for old, new in zip(earlier.seeds, later.seeds, strict=True)
        ]
        self.comparisons.append(
            ArmComparison(
                name=f"{after} − {before}",
                statement=statement,
                before=before,
                after=after,
                expected=expected,
                difference=difference,
                ci95=(low, high),
                seeds=tuple(
                    SeedDifference(seed=seed, difference=gap, ci95=(gap - 0.019, gap + 0.018))
                    for seed, gap in each
                ),
                verdict=verdict,
            )
        )

    def vote(self, policy: str, greedy: float) -> VoteFigures:
        levels = [
            ConfidenceLevel(votes=k, queries=14 + 11 * k, accuracy=min(0.99, 0.12 + greedy * k / 6))
            for k in range(1, 8)
        ]
        return VoteFigures(
            policy=policy,
            num_chains=7,
            queries=sum(level.queries for level in levels),
            one_chain_accuracy=greedy - 0.06,
            vote_accuracy=greedy + 0.045,
            greedy_accuracy=greedy,
            kept=0.71,
            consensus_accuracy_kept=greedy + 0.13,
            greedy_accuracy_kept=greedy + 0.082,
            headroom=0.048,
            headroom_ci95=(0.021, 0.077),
            by_confidence=(ConfidenceLevel(votes=0, queries=31, accuracy=0.0), *levels),
        )

    def results(self) -> Results:
        counts = random.Random(5)
        return Results(
            run="sweep",
            command="python jobs/sweep.py --config jobs/configs/sweep.yaml run.name=sweep",
            model=MODEL,
            seeds=SEEDS,
            num_chains=7,
            eval_queries=2652,
            eval_listings=600,
            pool_listings=POOL,
            seed_listings=120,
            arms=tuple(self.arms.values()),
            comparisons=tuple(self.comparisons),
            votes=(self.vote("pretrained", 0.47), self.vote("sft", 0.61)),
            seconds=6 * 3600 + 1860.4,
            refused={
                "dpo-pretrained-c0.8": "no query of the pool is paired above C = 0.8",
                "self-learning-sft-3": "collapsed: 97.1 % of its chains are one answer",
            },
            versions={"raypipe": "0.1.0", "torch": "2.13.0", "trl": "1.16.1", "vllm": "0.32.0"},
            queries_by_attribute={key: counts.randint(24, 71) for key in self.attributes},
        )


def make_sweep() -> Sweep:
    """Every group of arms, each with the comparison that is natural to it."""
    sweep = Sweep()
    sweep.arm("pretrained", "Pretrained", ("baseline", "table4"), 0.462, method="none")
    sweep.arm("sft", "SFT", ("baseline", "table4"), 0.607, method="sft", start="pretrained")
    sweep.arm(
        "sft-answer-only",
        "SFT, answers without reasoning",
        ("table4",),
        0.624,
        method="sft",
        start="pretrained",
    )
    _table4(sweep)
    _table5(sweep)
    _table6(sweep)
    _rest(sweep)
    _claims(sweep)
    return sweep


def make_results() -> Results:
    return make_sweep().results()


def _table4(sweep: Sweep) -> None:
    gate = {"threshold": 0.5, "min_votes": 4, "pool_share": 1.0}
    for start, title, dpo, sl in (
        ("pretrained", "pretrained", 0.541, 0.449),
        ("sft", "SFT", 0.668, 0.611),
    ):
        tables: tuple[Group, ...] = ("table4", "table6") if start == "sft" else ("table4",)
        name = f"self-learning-{start}"
        sweep.arm(
            name,
            f"Self-learning from {title}",
            tables,
            sl,
            method="self_learning",
            start=start,
            **gate,
        )
        tables = ("table4", "table5", "table6", "rounds") if start == "sft" else ("table4",)
        sweep.arm(f"dpo-{start}", f"DPO from {title}", tables, dpo, start=start, **gate)
    sweep.arm("vote-sft", "Vote of SFT's 7 chains", ("control",), 0.654, method="vote", start="sft")


def _table5(sweep: Sweep) -> None:
    for threshold, votes, true, equal in ((0.3, 3, 0.659, 0.652), (0.7, 5, 0.661, 0.663)):
        name, gate = f"dpo-sft-c{threshold:g}", {"threshold": threshold, "min_votes": votes}
        sweep.arm(name, f"DPO, C > {threshold:g}", ("table5",), true, start="sft", **gate)
        title = f"DPO, C > {threshold:g}, equal pairs"
        sweep.arm(f"{name}-equal", title, ("control",), equal, start="sft", **gate)
    gate = {"threshold": 0.8, "min_votes": 6}
    sweep.arm("dpo-sft-c0.8", "DPO, C > 0.8", ("table5",), 0.648, start="sft", **gate)


def _table6(sweep: Sweep) -> None:
    dpo = {0.2: 0.631, 0.4: 0.643, 0.6: 0.652, 0.8: 0.66}
    sl = {0.2: 0.621, 0.4: 0.619, 0.6: 0.622, 0.8: 0.616}
    for share, true in dpo.items():
        name, title = f"dpo-sft-pool{share:g}", f"DPO, {share:.0%} of the pool"
        sweep.arm(name, title, ("table6",), true, start="sft", pool_share=share)
    for share, true in sl.items():
        name, title = f"self-learning-sft-pool{share:g}", f"Self-learning, {share:.0%} of the pool"
        sweep.arm(
            name,
            title,
            ("table6",),
            true,
            method="self_learning",
            start="sft",
            pool_share=share,
        )


def _rest(sweep: Sweep) -> None:
    start = "dpo-sft"
    for index, true in ((2, 0.687), (3, 0.691)):
        title = f"DPO, round {index}"
        sweep.arm(f"dpo-sft-round-{index}", title, ("rounds",), true, start=start)
        start = f"dpo-sft-round-{index}"
    sweep.arm(
        "self-learning-sft-2",
        "Self-learning, round 2",
        ("rounds",),
        0.592,
        method="self_learning",
        start="self-learning-sft",
    )
    sweep.arm("dpo-sft-null", "DPO on random pairs", ("control",), 0.604, start="sft")
    sweep.arm(
        "self-learning-sft-paired",
        "Self-learning on DPO's queries",
        ("control",),
        0.62,
        method="self_learning",
        start="sft",
    )
    for name, title, true in (
        ("margin", "Margin weights", 0.671),
        ("smoothing", "Label smoothing 0.1", 0.664),
        ("slices", "Fresh slice of the pool each round", 0.69),
        ("reference", "Reference of the round's start", 0.683),
    ):
        sweep.arm(f"dpo-sft-{name}", title, ("option",), true, start="sft")


def _claims(sweep: Sweep) -> None:
    expectations = (
        ("sft", "pretrained", "above", "A few annotated listings lift the pretrained model."),
        ("dpo-sft", "sft", "above", "DPO on unlabeled listings lifts the SFT model."),
        ("dpo-pretrained", "pretrained", "above", "DPO lifts the pretrained model without labels."),
        ("self-learning-sft", "sft", "below", "Self-learning from SFT degrades it."),
        ("self-learning-pretrained", "pretrained", "below", "So it does from the pretrained."),
        ("dpo-sft", "self-learning-sft", "above", "DPO beats self-learning on the same chains."),
        ("dpo-sft", "dpo-sft-c0.3", "above", "C > 0.5 beats C > 0.3: doubtful labels do harm."),
        ("dpo-sft", "dpo-sft-c0.8", "above", "C > 0.5 beats C > 0.8: few pairs teach little."),
        ("dpo-sft", "dpo-sft-pool0.2", "above", "More unlabeled listings help DPO."),
        (
            "self-learning-sft",
            "self-learning-sft-pool0.2",
            "below",
            "More unlabeled listings harm self-learning.",
        ),
        ("sft-answer-only", "sft", "below", "Answers without reasoning are less accurate."),
        ("dpo-sft-null", "sft", "any", "Random pairs should teach nothing."),
        ("dpo-sft", "vote-sft", "any", "DPO against the vote that taught it."),
        ("dpo-sft-round-2", "dpo-sft", "above", "A second round adds to the first."),
        ("dpo-sft-round-3", "dpo-sft-round-2", "any", "A third round."),
        ("self-learning-sft-2", "self-learning-sft", "below", "A second round collapses further."),
        ("dpo-sft", "self-learning-sft-paired", "above", "Even on DPO's queries DPO is better."),
        ("dpo-sft-margin", "dpo-sft", "any", "Pairs weighted by the margin of their vote."),
        ("dpo-sft-smoothing", "dpo-sft", "any", "Labels smoothed by 0.1."),
        ("dpo-sft-slices", "dpo-sft-round-3", "any", "A fresh slice of the pool in each round."),
        ("dpo-sft-reference", "dpo-sft-round-3", "any", "The round's start as reference."),
    )
    for after, before, expected, statement in expectations:
        sweep.compare(after, before, expected, statement)
