"""Which exact procedure shows most: the comparisons behind docs/decisions/certificates.md.

    PYTHONPATH=. .venv/bin/python benchmarks/trust_power.py

Two questions, on the populations of benchmarks/trust_populations.py and on listings of five
queries: where tests over levels should start, and how the queries of a listing should count. About
two minutes.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from trust_populations import ASSURANCE, CLUSTERS, SIZES, Replays, bonferroni, populations

from raypipe.trust.bounds import p_value
from raypipe.trust.levels import check_levels, lowest_passed, starting_shares

REPLAYS = 2000
STARTS: tuple[tuple[float, ...], ...] = ((1,), (2,), (3,), (5,), (1, 3), (1, 4), (1, 3, 9), (2, 8))
QUERIES, LISTINGS = 5, (60, 120, 300, 800)
TRUTHS = ((0.95, 0.975), (0.95, 0.985), (0.90, 0.94), (0.90, 0.96))
DEPENDENT = (0.0, 0.3, 1.0)
_BETS = np.linspace(0.05, 0.99, 20)


def starting_at(factors: tuple[float, ...]) -> Callable[[Replays], NDArray[np.int64]]:
    def procedure(replays: Replays) -> NDArray[np.int64]:
        answers, right = replays.answers.cumsum(axis=1), replays.right.cumsum(axis=1)
        request = replays.population.request
        shares = starting_shares(answers, request, ASSURANCE, factors)
        return lowest_passed(check_levels(right, answers, request, shares)[0])

    return procedure


def holm(replays: Replays) -> NDArray[np.int64]:
    answers, right = replays.answers.cumsum(axis=1), replays.right.cumsum(axis=1)
    unlikely = p_value(right, answers, replays.population.request)
    passed = np.zeros(unlikely.shape, bool)
    for _ in range(unlikely.shape[1]):
        left = np.maximum((~passed).sum(axis=1, keepdims=True), 1)
        passed |= unlikely <= (1 - ASSURANCE) / left
    return lowest_passed(passed)


def compare_starts(draws: np.random.Generator) -> None:
    procedures = {"bonferroni": bonferroni, "holm": holm}
    procedures |= {f"start at {factors}": starting_at(factors) for factors in STARTS}
    covered: dict[str, list[float]] = {name: [] for name in procedures}
    missed: dict[str, list[float]] = {name: [] for name in procedures}
    for population in populations():
        for cluster in CLUSTERS:
            for size in SIZES:
                drawn = Replays.draw(population, cluster, size, REPLAYS, draws)
                for name, procedure in procedures.items():
                    levels = procedure(drawn)
                    covered[name].append(float(population.covered(levels).mean()))
                    missed[name].append(float(population.violated(levels).mean()))
    base = np.array(covered["bonferroni"])
    for name, values in covered.items():
        means = np.array(values)
        both = (base > 0) & (means > 0)
        print(
            f"{name}: coverage {means[both].sum() / base[both].sum():.3f} of Bonferroni's, "
            f"in the worst cell {(means / np.maximum(base, 1e-9))[base > 0.02].min():.2f}, "
            f"violations of the worst cell {max(missed[name]):.4f}"
        )


def betting(means: NDArray[np.float64], precision: float) -> float:
    """How often the mean of bets on listing means shows the precision (Waudby-Smith, Ramdas)."""
    gains = [np.log1p(bet / precision * (means - precision)).sum(axis=1) for bet in _BETS]
    wealth = np.logaddexp.reduce(gains, axis=0) - np.log(len(_BETS))
    return float((wealth >= -np.log(1 - ASSURANCE)).mean())


def compare_listings(draws: np.random.Generator) -> None:
    for precision, truth in TRUTHS:
        for listings in LISTINGS:
            for dependent in DEPENDENT:
                right = draws.random((REPLAYS // 4, listings, QUERIES)) < truth
                together = draws.random(right.shape[:2]) < dependent
                right = np.where(together[..., None], right[..., :1], right)
                one = p_value(right[..., 0].sum(axis=1), listings, precision) <= 1 - ASSURANCE
                print(
                    f"asked {precision}, true {truth}, {listings} listings of {QUERIES}, "
                    f"{dependent:.0%} alike: one query {one.mean():.2f}, "
                    f"bets on means {betting(right.mean(axis=2), precision):.2f}"
                )


def main() -> None:
    compare_starts(np.random.default_rng(15))
    compare_listings(np.random.default_rng(16))


if __name__ == "__main__":
    main()
