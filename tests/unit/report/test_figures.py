"""Figures draw what they are given, at any extreme."""

import math
import re

import pytest

from raypipe.report import figures, formatting
from raypipe.report.drawing import Drawing, Scale, ticks
from raypipe.report.figures import FunnelBar
from raypipe.report.run_data import Confidence, scope_title
from raypipe.summaries import ConfidenceLevel, StageSummary, wilson
from tests.fakes.documents import stage


@pytest.mark.parametrize(
    ("low", "high", "about"),
    [(0, 1, 5), (0.43, 0.79, 5), (-47.2, -37.9, 4), (0, 3e-5, 3), (2, 2, 3)],
)
def test_ticks_are_round_inside_and_few(low, high, about):
    found = ticks(low, high, about)
    assert 1 <= len(found) <= about + 2
    assert all(low - 1e-9 <= tick <= high + 1e-9 for tick in found)


def test_a_scale_without_extent_does_not_divide_by_zero():
    assert Scale(3, 3, 10, 20)(3) == 10


def test_words_in_a_drawing_are_escaped():
    drawing = Drawing(10, 10, '"><b>')
    drawing.text((1, 1), "<i>")
    drawing.dot((1, 1), 2, "point", "<u>")
    markup = drawing.markup()
    assert not re.search(r"<[biu]>", markup)
    assert "&lt;i&gt;" in markup


@pytest.mark.parametrize(("share", "trials"), [(0.0, 1), (1.0, 1), (0.5, 10), (1.0, 400)])
def test_wilson_holds_the_share_and_stays_inside(share, trials):
    low, high = wilson(share, trials)
    assert 0 <= low <= share <= high <= 1
    assert high > low


def test_wilson_at_a_textbook_value():
    assert wilson(0.5, 100) == pytest.approx((0.4038, 0.5962), abs=1e-4)


def test_training_curves_skip_absent_and_unfinished_figures():
    steps = [{"step": 1, "loss": 0.7}, {"step": 2, "loss": math.nan}, {"step": 3, "margin": 0.1}]
    drawn = figures.training_figures(steps)
    assert [re.search('aria-label="([^"]*)"', figure)[1] for figure in drawn] == [
        "Loss per optimizer step",
        "Reward margin per optimizer step",
    ]
    assert "nan" not in "".join(drawn)


def test_no_stage_no_accuracy_figure():
    assert (
        figures.accuracy_figure(
            [StageSummary.model_validate(stage("sft", accuracy=None, ci95=None))], None
        )
        == ""
    )


def test_a_funnel_of_nothing_is_drawn():
    drawn = figures.funnel_figure([FunnelBar("Asked", 0), FunnelBar("Kept", 0)], "queries")
    assert "Asked" in drawn


def test_confidence_bars_stand_for_kept_and_dropped():
    confidence = Confidence(3, (0, 0, 5, 3), (1, 1, 0, 0), {"kept": 8, "tie": 2})
    drawn = figures.confidence_figure(confidence, 0.5)
    assert "2 of 3 votes: 5 kept" in drawn
    assert "no consensus: 1" in drawn
    assert confidence.kept_share == pytest.approx(0.8)


def test_reliability_leaves_out_what_has_no_queries():
    levels = [
        ConfidenceLevel(votes=0, queries=4, accuracy=0.0),
        ConfidenceLevel(votes=2, queries=10, accuracy=0.4),
        ConfidenceLevel(votes=3, queries=0, accuracy=0.0),
    ]
    drawn = figures.reliability_figure(levels, 3)
    assert drawn.count("<circle") == 1
    assert "2 of 3 votes: 0.400 right" in drawn


def test_numbers_as_words():
    assert formatting.points(-0.0213) == "−2.1"
    assert formatting.points(-0.00001) == "0.0"
    assert formatting.whole_percent(0.004) == "<1 %"
    assert formatting.duration(59.94) == "59.9 s"
    assert formatting.duration(3725) == "1 h 02 min"
    assert (
        formatting.score(None)
        == formatting.percent(None)
        == formatting.points(None)
        == formatting.count(None)
        == "–"
    )


def test_scopes_as_words():
    assert [scope_title(name) for name in ("pretrained", "sft", "round-2", "round-3-draw")] == [
        "Pretrained",
        "SFT",
        "Round 2",
        "Round 3, new draw",
    ]
