"""What is called drift between two label versions, and what is not."""

from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pytest

from raypipe.trust.drift import ABSTAINED, CONFIDENCE, ShareChange, drift

ATTRIBUTES = {"color": ["Blue", "Green", "Red", None], "fit": ["Loose", "Slim", None]}
LISTINGS = 3000
Labels = dict[str, np.ndarray]


def draw(seed: int, listings: int = LISTINGS) -> Labels:
    """Values of a catalog, by attribute, as indices."""
    draws = np.random.default_rng(seed)
    return {name: draws.integers(0, len(values), listings) for name, values in ATTRIBUTES.items()}


def resampled(labels: Labels, seed: int, share: float = 0.05) -> Labels:
    """Labels of which chance has drawn some anew."""
    draws = np.random.default_rng(seed)
    return {
        name: np.where(
            draws.random(len(index)) < share,
            draws.integers(0, len(ATTRIBUTES[name]), len(index)),
            index,
        )
        for name, index in labels.items()
    }


def table(labels: Labels, confidence: Callable[[int], np.ndarray], first: int = 0) -> pa.Table:
    parts = [
        pa.table(
            {
                "listing_id": [f"listing {first + number}" for number in range(len(index))],
                "vertical": ["Shirt"] * len(index),
                "attribute": [name] * len(index),
                "value": pa.array([ATTRIBUTES[name][place] for place in index], pa.string()),
                "confidence": confidence(len(index)),
            }
        )
        for name, index in labels.items()
    ]
    return pa.concat_tables(parts)


def votes(seed: int, mean: float = 0.7) -> Callable[[int], np.ndarray]:
    draws = np.random.default_rng(seed)
    return lambda count: draws.binomial(7, mean, count) / 7


def found(changes: list[ShareChange]) -> set[tuple[str, str]]:
    return {(change.attribute, change.value) for change in changes if change.found}


def test_equal_labels_have_not_changed() -> None:
    labels = table(draw(0), lambda count: np.full(count, 0.5))
    assert drift(labels, labels.take(np.random.default_rng(0).permutation(len(labels)))) == []
    assert drift(labels.slice(0, 0), labels.slice(0, 0)) == []


@pytest.mark.parametrize("same_listings", [True, False])
def test_random_change_is_called_drift_in_one_comparison_of_a_hundred_at_most(
    same_listings: bool,
) -> None:
    alarms = 0
    for seed in range(100):
        first = draw(seed, 600)
        second = resampled(first, 1000 + seed) if same_listings else draw(2000 + seed, 600)
        start = 0 if same_listings else 600
        changes = drift(table(first, votes(seed)), table(second, votes(seed + 500), start))
        assert {change.same_listings for change in changes} == {same_listings}
        alarms += bool(found(changes))
    assert alarms <= 1


def swapped(labels: Labels, share: float) -> Labels:
    """Labels with so much of the first color turned into the second."""
    color = labels["color"].copy()
    places = np.flatnonzero(color == 0)
    color[places[: round(share * len(places))]] = 1
    return labels | {"color": color}


def test_a_swap_of_a_twentieth_of_a_value_is_found() -> None:
    first = draw(3)
    second = swapped(resampled(first, 4, share=0.01), 0.05)
    changes = drift(table(first, votes(1)), table(second, votes(2)))
    assert found(changes) == {("color", "Blue"), ("color", "Green")}
    blue = next(change for change in changes if change.value == "Blue")
    assert blue.after / blue.before == pytest.approx(0.95, abs=0.02)
    assert blue.listings == (LISTINGS, LISTINGS)


def test_another_share_of_abstentions_is_found() -> None:
    first = draw(5)
    second = {**first, "fit": np.where(np.arange(LISTINGS) % 20 == 0, 2, first["fit"])}
    changes = drift(table(first, votes(1)), table(second, votes(2)))
    assert ("fit", ABSTAINED) in found(changes)
    assert {attribute for attribute, _ in found(changes)} == {"fit"}


@pytest.mark.parametrize("first_listing", [0, LISTINGS])
def test_another_camera_is_found_by_confidence(first_listing: int) -> None:
    first = table(draw(6), votes(1))
    second = table(draw(6), votes(2, mean=0.66), first_listing)
    assert found(drift(first, second)) == {("color", CONFIDENCE), ("fit", CONFIDENCE)}


def test_other_listings_with_other_values_are_found() -> None:
    first, second = draw(7), swapped(draw(8), 0.3)
    changes = drift(table(first, votes(1)), table(second, votes(2), first=LISTINGS))
    assert ("color", "Blue") in found(changes)
    assert not next(change for change in changes if change.value == "Blue").same_listings
