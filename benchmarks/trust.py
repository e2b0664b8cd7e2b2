"""Whether certificates keep their promise, and what the chains of a query are worth.

    make bench-trust

No engine. Replays on populations of known truth (benchmarks/trust_populations.py): how often what
is published misses the request, by raypipe's certificates and by today's point estimate, and how
much is published beside Bonferroni's correction. Simulated audits. Recorded chains of two seeds
(benchmarks/trust_chains.py): what signals cover, and what stopping early saves. The last line is
JSON; its figures of recorded chains are null while the file is missing.
"""

import argparse
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import binomtest
from trust_chains import RecordedQuery, read
from trust_populations import (
    ASSURANCE,
    CLUSTERS,
    SIZES,
    VERTICAL_SHIFTS,
    Replays,
    audits,
    bonferroni,
    certificate,
    check_certify,
    point_estimate,
    populations,
)

from raypipe.attributes.vote import count_votes
from raypipe.trust.audit import AuditPlan
from raypipe.trust.certificate import PrecisionRequest
from raypipe.trust.signal_choice import (
    LabelSignal,
    Ranking,
    choose,
    compare,
    fit_on,
    label_signals,
    rank,
)
from raypipe.trust.signals import coverage_at
from raypipe.trust.stopping import StoppingRule, beta, chains_asked, exact

CHAINS = Path(__file__).with_name("data") / "trust_chains.parquet"
PRECISION = 0.92
BUDGET = 7
BETA_ERROR = 0.1
AUDITS = 200
AUDIT_RATES = {0.95: 0.98, 0.90: 0.96}
RATE_CHANGES = (-0.03, 0.0, 0.03)
RESAMPLES = 1000
Cells = dict[str, tuple[int, int]]
"""By the name of a cell: violations among replays."""


def worst(cells: Cells) -> tuple[float, float]:
    """The largest share of violations, and its exact lower 99 % bound."""
    name = max(cells, key=lambda each: cells[each][0] / cells[each][1])
    violations, replays = cells[name]
    test = binomtest(violations, replays, alternative="greater")
    low = float(test.proportion_ci(0.99, method="exact").low)
    print(f"  worst of {len(cells)} cells: {name}: {violations} of {replays}, at least {low:.4f}")
    return violations / replays, low


def overall(replays: int, draws: np.random.Generator) -> dict[str, Any]:
    """The whole catalog as one scope: raypipe's certificate, Bonferroni's, the point estimate."""
    cells: Cells = {}
    naive: Cells = {}
    covered = []
    for population in populations():
        for cluster in CLUSTERS:
            for size in SIZES:
                drawn = Replays.draw(population, cluster, size, replays, draws)
                levels = [each(drawn) for each in (certificate, bonferroni, point_estimate)]
                ours, theirs, todays = levels
                check_certify(drawn, ours, count=2)
                name = f"{population.name}, {population.request}, {cluster} a listing, {size}"
                cells[name] = int(population.violated(ours).sum()), replays
                naive[name] = int(population.violated(todays).sum()), replays
                means = [float(population.covered(each).mean()) for each in (ours, theirs)]
                covered.append(means)
                print(
                    f"{name}: violations {cells[name][0] / replays:.4f}, "
                    f"naive {naive[name][0] / replays:.3f}, "
                    f"coverage {means[0]:.3f}, Bonferroni's {means[1]:.3f}",
                    flush=True,
                )
    both = np.array([each for each in covered if min(each) > 0])
    ratio = float(both[:, 0].sum() / both[:, 1].sum())
    print(f"coverage in {len(both)} cells where both certify: {ratio:.3f} of Bonferroni's")
    print("overall")
    violations, low = worst(cells)
    print("today's point estimate")
    return {
        "violations": violations,
        "low": low,
        "naive": worst(naive)[0],
        "ratio": ratio,
    }


def per_vertical(replays: int, draws: np.random.Generator) -> tuple[float, float]:
    """Three verticals of other quality, each certified and counted by itself."""
    cells: Cells = {}
    for population in populations():
        for shift in VERTICAL_SHIFTS:
            part = population.shifted(shift)
            for cluster in CLUSTERS:
                for size in SIZES:
                    queries = size // len(VERTICAL_SHIFTS)
                    drawn = Replays.draw(part, cluster, queries, replays, draws)
                    name = f"{part.name}, {part.request}, {cluster} a listing, {size}"
                    cells[name] = int(part.violated(certificate(drawn)).sum()), replays
    print("per vertical")
    return worst(cells)


def anytime(replays: int, draws: np.random.Generator) -> tuple[float, float]:
    """Audits of each level that truly misses the request by five points at most."""
    cells: Cells = {}
    for population in populations():
        gaps = population.request - population.precisions
        close = np.flatnonzero((gaps > 1e-9) & (gaps < 0.05))
        for level in close[:2]:
            for cluster in CLUSTERS:
                for size in SIZES:
                    name = (
                        f"{population.name}, {population.request}, from {population.votes[level]} "
                        f"votes, {cluster} a listing, {size}"
                    )
                    found = audits(population, int(level), cluster, size, replays, draws)
                    cells[name] = found, replays
    print("anytime")
    return worst(cells)


def audit_answers(draws: np.random.Generator) -> dict[str, float]:
    """The mean number of answers of audits, where reviewers are right at the announced rate."""
    found = {}
    for precision, rate in AUDIT_RATES.items():
        plan = AuditPlan.to_decide(PrecisionRequest(precision, ASSURANCE), rate)
        for change in RATE_CHANGES:
            true_rate = min(1.0, rate + change)
            ends = [plan.end(draws.random(plan.limit) < true_rate) for _ in range(AUDITS)]
            mean = float(np.mean([answers for _, answers in ends]))
            outcomes = Counter(str(outcome) for outcome, _ in ends)
            print(
                f"audit of {precision} announced at {rate}: {plan.expected_answers():.0f} answers; "
                f"right at {true_rate:.2f}: mean {mean:.1f}, "
                f"expected {plan.expected_answers(true_rate):.1f}, {dict(outcomes)}"
            )
            if change == 0.0:
                found[f"{precision:.2f}"] = round(mean, 1)
    return found


def chosen_ranking(anchor: Sequence[RecordedQuery], others: Sequence[RecordedQuery]) -> Ranking:
    """Queries ranked by the signal that the anchor chooses and fits."""
    queries, truths = [each.chains for each in anchor], [each.truth for each in anchor]
    compared = compare(label_signals(7, BUDGET), queries, truths, PRECISION, seed=0)
    chosen = choose(compared).signal
    for each in compared:
        mark = "*" if each.signal == chosen else " "
        print(f" {mark} {each.coverage:.3f} on the anchor: {each.signal.name}")
    return rank(chosen, [each.chains for each in others], fit_on(chosen, queries, truths))


def coverage(recorded: Sequence[RecordedQuery], draws: np.random.Generator) -> dict[str, float]:
    """Of eval queries, as a mean over the seeds; with an interval of auto over vote."""
    found: dict[str, list[float]] = {"vote": [], "greedy": [], "auto": []}
    resampled: dict[str, list[list[float]]] = {name: [] for name in found}
    for seed in sorted({each.seed for each in recorded}):
        mine = [each for each in recorded if each.seed == seed]
        anchor, others = ([q for q in mine if q.split == split] for split in ("anchor", "eval"))
        print(f"seed {seed}: {len(anchor)} anchor queries, {len(others)} eval queries")
        queries, truths = [each.chains for each in others], [each.truth for each in others]
        rankings = {
            "vote": rank(LabelSignal("vote", 7), queries),
            "greedy": rank(LabelSignal("greedy", 0), queries),
            "auto": chosen_ranking(anchor, others),
        }
        listings = np.unique([each.listing_id for each in queries], return_inverse=True)[1]
        places = [np.flatnonzero(listings == each) for each in range(listings.max() + 1)]
        samples = [
            np.concatenate([places[each] for each in draws.integers(0, len(places), len(places))])
            for _ in range(RESAMPLES)
        ]
        for name, ranking in rankings.items():
            right = ranking.right(truths)
            found[name].append(coverage_at(PRECISION, ranking.scores, right))
            resampled[name].append(
                [coverage_at(PRECISION, ranking.scores[each], right[each]) for each in samples]
            )
    means = {name: round(float(np.mean(values)), 4) for name, values in found.items()}
    sums = {name: np.mean(values, axis=0) for name, values in resampled.items()}
    ratios = sums["auto"] / np.maximum(sums["vote"], 0.01)
    low, high = np.quantile(ratios, [0.025, 0.975])
    print(f"coverage {found}; auto over vote {low:.2f} to {high:.2f} (95 %, listings resampled)")
    return means


def stopping(recorded: Sequence[RecordedQuery]) -> dict[str, Any]:
    """Chains that stopping rules save, and how often the answer stays that of all chains."""
    answers = [tuple(chain.value for chain in each.chains.sampled) for each in recorded]
    rules: dict[str, StoppingRule] = {
        "exact": exact(),
        "exact, at least 6 votes": exact((6,)),
        **{f"beta {error}": beta(error) for error in (0.05, 0.1, 0.2)},
    }
    saved, equal = {}, {}
    for name, rule in rules.items():
        asked = [chains_asked(each, rule) for each in answers]
        saved[name] = 1 - sum(asked) / sum(map(len, answers))
        same = [
            count_votes(each[:count], len(each)).consensus == count_votes(each, len(each)).consensus
            for each, count in zip(answers, asked, strict=True)
        ]
        equal[name] = float(np.mean(same))
        print(f"{name}: {saved[name]:.3f} of the chains saved, {equal[name]:.4f} equal answers")
    chosen = f"beta {BETA_ERROR}"
    return {
        "chains_saved": {"exact": round(saved["exact"], 4), "beta": round(saved[chosen], 4)},
        "answers_equal": round(equal[chosen], 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--replays", type=int, default=2000, help="of each cell")
    parser.add_argument("--chains", type=Path, default=CHAINS)
    options = parser.parse_args()
    parts = np.random.default_rng(15).spawn(5)
    whole = overall(options.replays, parts[0])
    vertical = per_vertical(options.replays, parts[1])
    always = anytime(options.replays, parts[2])
    violations = {
        "overall": (whole["violations"], whole["low"]),
        "per_vertical": vertical,
        "anytime": always,
    }
    result = {
        "benchmark": "trust",
        "violations": {name: round(each[0], 4) for name, each in violations.items()},
        "violations_lower99": {name: round(each[1], 4) for name, each in violations.items()},
        "naive_violations": round(whole["naive"], 4),
        "coverage": {"vote": None, "greedy": None, "auto": None},
        "coverage_vs_bonferroni": round(whole["ratio"], 4),
        "audit_answers": audit_answers(parts[3]),
        "chains_saved": {"exact": None, "beta": None},
        "answers_equal": None,
    }
    if options.chains.exists():
        recorded = read(options.chains)
        result |= {"coverage": coverage(recorded, parts[4])} | stopping(recorded)
    else:
        print(f"{options.chains} is missing: benchmarks/trust_chains.py makes it")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
