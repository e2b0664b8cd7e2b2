"""The proof that an engine serves the adapter it was given."""

import pytest

from raypipe.errors import AdapterInactiveError
from raypipe.sampling.probe import TEXT, check_attached, check_merged, distance

BASE = [-1.0, -2.0, -3.0]
POLICY = [-1.5, -1.0, -3.5]


def near(logprobs: list[float], noise: float) -> list[float]:
    return [value + noise for value in logprobs]


def test_distance_is_the_mean_absolute_difference() -> None:
    assert distance([0.0, 0.0], [1.0, -3.0]) == 2.0
    assert distance(BASE, BASE) == 0.0


@pytest.mark.parametrize(("first", "second"), [([], []), ([1.0], []), (BASE, BASE[:-1])])
def test_texts_of_other_lengths_cannot_be_compared(first: list[float], second: list[float]) -> None:
    with pytest.raises(ValueError, match="cannot compare"):
        distance(first, second)


def test_an_engine_near_the_merged_policy_is_trusted_and_its_figures_are_kept() -> None:
    figures = check_merged(near(POLICY, 0.01), POLICY, BASE)
    assert figures["probe_to_policy"] == pytest.approx(0.01)
    assert figures["probe_effect"] == pytest.approx(distance(POLICY, BASE))
    assert figures["probe_to_base"] > figures["probe_to_policy"]


@pytest.mark.parametrize("served", [BASE, near(BASE, 0.01)])
def test_an_engine_near_the_base_is_refused_with_the_figures(served: list[float]) -> None:
    with pytest.raises(
        AdapterInactiveError, match=r"does not serve the adapter: probe_effect 6\.67"
    ):
        check_merged(served, POLICY, BASE)


def test_an_engine_half_way_between_is_refused() -> None:
    half_way = [(policy + base) / 2 for policy, base in zip(POLICY, BASE, strict=True)]
    with pytest.raises(AdapterInactiveError):
        check_merged(half_way, POLICY, BASE)


def test_an_adapter_that_changes_nothing_is_refused_even_if_it_is_served() -> None:
    with pytest.raises(AdapterInactiveError, match="all its updates are 0"):
        check_merged(BASE, BASE, BASE)


def test_an_attached_adapter_must_change_more_than_the_engines_own_noise() -> None:
    figures = check_attached(POLICY, BASE, near(BASE, 0.001))
    assert figures["probe_effect"] > figures["probe_noise"] > 0
    with pytest.raises(AdapterInactiveError):
        check_attached(near(BASE, 0.001), BASE, near(BASE, -0.002))
    with pytest.raises(AdapterInactiveError):
        check_attached(BASE, BASE, BASE)


def test_an_engine_that_gives_no_number_is_not_trusted() -> None:
    broken = [float("nan")] * len(BASE)
    with pytest.raises(AdapterInactiveError):
        check_merged(broken, POLICY, BASE)
    with pytest.raises(AdapterInactiveError):
        check_attached(broken, BASE, BASE)


def test_the_probe_text_is_in_the_style_of_the_prompts() -> None:
    assert "<answer>" in TEXT
    assert "what is the most suitable value for" in TEXT
