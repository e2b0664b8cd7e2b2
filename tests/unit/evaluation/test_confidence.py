"""What a confidence is worth, against scikit-learn."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.isotonic import IsotonicRegression
from sklearn.metrics import brier_score_loss

from raypipe.attributes.publishing import Calibration
from raypipe.evaluation.confidence import (
    brier_score,
    calibration_error,
    coverage_curve,
    fit,
    reliability,
    threshold_for,
)

levels = st.sampled_from([votes / 7 for votes in range(1, 8)]) | st.floats(0, 1, width=32)
answers = st.lists(st.tuples(levels, st.booleans()), min_size=1, max_size=40)
Answers = list[tuple[float, bool]]


def columns(given_answers: Answers) -> tuple[np.ndarray, np.ndarray]:
    confidences, right = zip(*given_answers, strict=True)
    return np.array(confidences, float), np.array(right, float)


@settings(deadline=None)
@given(answers, st.lists(st.floats(-0.5, 1.5), min_size=1, max_size=9))
def test_the_calibration_is_scikit_learns_isotonic_regression(
    given_answers: Answers, asked: list[float]
) -> None:
    confidences, right = columns(given_answers)
    theirs = IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip").fit(confidences, right)
    places = np.concatenate([asked, confidences])
    ours = fit(confidences, right).probabilities(places)
    # scikit-learn merges confidences that differ by less than the precision of a float.
    assert ours == pytest.approx(theirs.predict(places), abs=1e-5) or _nearly_tied(confidences)


def _nearly_tied(confidences: np.ndarray) -> bool:
    gaps = np.diff(np.unique(confidences))
    return bool(len(gaps) and gaps.min() < 1e-6)


@given(answers)
def test_a_more_confident_answer_is_never_less_probable(given_answers: Answers) -> None:
    calibration = fit(*columns(given_answers))
    found = calibration.probabilities(np.linspace(0, 1, 21))
    assert (np.diff(found) >= -1e-12).all()
    assert found.min() >= 0
    assert found.max() <= 1


def test_a_calibration_reads_back_from_json() -> None:
    calibration = fit([0.2, 0.4, 0.9, 0.9], [0, 1, 1, 0])
    assert Calibration.through(calibration.points) == calibration


def test_without_answers_nothing_is_probable() -> None:
    calibration = fit([], [])
    assert calibration.probabilities([0.1, 0.9]).tolist() == [0, 0]
    assert Calibration.through(calibration.points) == calibration
    assert threshold_for(0.5, [], []) is None


@pytest.mark.parametrize(
    ("precision", "expected"), [(1.0, 0.9), (0.8, 0.7), (0.6, 0.7), (0.5, 0.2)]
)
def test_the_threshold_is_the_lowest_that_reaches_the_precision(
    precision: float, expected: float
) -> None:
    probabilities = [0.9, 0.9, 0.7, 0.7, 0.7, 0.2, 0.2]
    right = [1, 1, 1, 1, 0, 0, 0]
    assert threshold_for(precision, probabilities, right) == expected


def test_a_precision_that_is_reached_nowhere_has_no_threshold() -> None:
    assert threshold_for(0.95, [0.9, 0.9, 0.1], [1, 0, 1]) is None


@given(answers, st.floats(0.05, 1))
def test_what_a_threshold_publishes_is_as_often_right_as_asked(
    given_answers: Answers, precision: float
) -> None:
    confidences, right = columns(given_answers)
    threshold = threshold_for(precision, confidences, right)
    shares = {level: right[confidences >= level].mean() for level in confidences}
    enough = [level for level, share in shares.items() if share >= precision - 1e-9]
    assert threshold == (min(enough) if enough else None)


@given(answers, st.integers(0, 10))
def test_the_curve_falls_from_the_most_confident_to_all_answers(
    given_answers: Answers, unanswered: int
) -> None:
    confidences, right = columns(given_answers)
    queries = len(right) + unanswered
    curve = coverage_curve(confidences, right, queries)
    assert [point.threshold for point in curve] == sorted(set(confidences), reverse=True)
    for point in curve:
        covered = confidences >= point.threshold
        assert point.queries == covered.sum()
        assert point.coverage == pytest.approx(covered.sum() / queries)
        assert point.accuracy == pytest.approx(right[covered].mean())


@given(answers)
def test_the_brier_score_is_scikit_learns(given_answers: Answers) -> None:
    probabilities, right = columns(given_answers)
    theirs = brier_score_loss(right, probabilities, pos_label=1)
    assert brier_score(probabilities, right) == pytest.approx(theirs)


def test_reliability_compares_what_is_said_with_what_is_so() -> None:
    bins = reliability([0.1, 0.15, 1.0, 0.95], [0, 1, 1, 1])
    assert [found.queries for found in bins] == [2, 2]
    assert [found.accuracy for found in bins] == [0.5, 1.0]
    assert bins[0].probability == pytest.approx(0.125)
    assert calibration_error(bins) == pytest.approx((2 * 0.375 + 2 * 0.025) / 4)
