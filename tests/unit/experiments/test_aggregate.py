"""The figures of a sweep against scipy's on the same answers."""

import numpy as np
import pytest
from scipy.stats import bootstrap, linregress

from raypipe.experiments.claims import claim_verdict
from raypipe.experiments.results import ArmComparison, Results
from tests.fakes.scripted_stages import RunSweep, ScriptedStages

STEPS = {
    "dpo-sft-pool-0.2": 0.55,
    "dpo-sft-pool-0.4": 0.62,
    "dpo-sft-pool-0.6": 0.7,
    "dpo-sft-pool-0.8": 0.71,
    "dpo-sft": 0.78,
}


def compared(results: Results, name: str) -> ArmComparison:
    return next(comparison for comparison in results.comparisons if comparison.name == name)


def test_the_slope_is_the_least_squares_line_over_doublings(
    sweep: RunSweep, stages: ScriptedStages
) -> None:
    stages.right |= STEPS
    results = sweep(groups=["table6"])
    accuracies = [arm.accuracy for name in STEPS if (arm := results.arm(name)) is not None]
    doublings = np.log2([0.2, 0.4, 0.6, 0.8, 1.0])
    slope = compared(results, "slope from dpo-sft-pool-0.2 to dpo-sft")
    assert slope.difference == pytest.approx(linregress(doublings, accuracies).slope)
    assert slope.expected == "above"
    assert slope.verdict == "holds"


def test_a_difference_over_seeds_is_scipys_bootstrap_of_listing_means(
    sweep: RunSweep, stages: ScriptedStages
) -> None:
    stages.right |= {"sft": 0.55, "dpo-sft": 0.7}
    results = sweep(groups=["table4", "claims"], seeds=[0, 1])
    gain = compared(results, "dpo-sft − sft")
    by_listing: dict[str, list[float]] = {}
    for before, after in zip(
        stages.judged("seed-0/sft"), stages.judged("seed-0/dpo-sft"), strict=True
    ):
        by_listing.setdefault(before["listing_id"], []).append(after["correct"] - before["correct"])
    means = [float(np.mean(gains)) for gains in by_listing.values()]  # as many queries in each
    found = bootstrap([means], np.mean, method="percentile", n_resamples=20_000, rng=1)
    assert gain.difference == pytest.approx(np.mean(means))
    assert gain.ci95 == pytest.approx(tuple(found.confidence_interval), abs=0.02)


def test_seeds_that_differ_are_averaged_query_by_query(
    sweep: RunSweep, stages: ScriptedStages
) -> None:
    stages.right |= {"sft": 0.5}
    stages.right_with |= {("seed-0", "dpo-sft"): 0.6, ("seed-1", "dpo-sft"): 0.8}
    results = sweep(groups=["table4", "claims"], seeds=[0, 1])
    arm = results.arm("dpo-sft")
    assert arm is not None
    assert arm.accuracy == pytest.approx(np.mean([figures.accuracy for figures in arm.seeds]))
    gain = compared(results, "dpo-sft − sft")
    assert gain.difference == pytest.approx(np.mean([each.difference for each in gain.seeds]))
    assert gain.seeds[0].difference < gain.seeds[1].difference


@pytest.mark.parametrize(
    ("expected", "interval", "said"),
    [
        ("above", (0.01, 0.02), "holds"),
        ("above", (-0.02, -0.01), "fails"),
        ("below", (-0.02, -0.01), "holds"),
        ("below", (0.01, 0.02), "fails"),
        ("above", (-0.01, 0.02), "inside_noise"),
        ("above", (0.0, 0.02), "inside_noise"),
        ("any", (-0.02, -0.01), "holds"),
    ],
)
def test_a_verdict_says_on_which_side_the_interval_lies(
    expected: str, interval: tuple[float, float], said: str
) -> None:
    assert claim_verdict(expected, interval) == said
