"""The proof that an engine serves the adapter it was given."""

import math

import numpy as np
import numpy.typing as npt
import pytest

from raypipe.errors import AdapterInactiveError
from raypipe.sampling.probe import (
    WANTED_ERROR,
    Reference,
    check,
    difference,
    not_shown,
    tokens_needed,
)

Rows = npt.NDArray[np.float64]
TOKENS_A_TEXT = 80
NOISE, EFFECT = 0.026, 0.006


def change_of(seed: int, num_texts: int, effect: float = EFFECT) -> Rows:
    """What an adapter changes: heavy tails, as real ones have."""
    drawn = np.random.default_rng(seed).standard_t(4, (num_texts, TOKENS_A_TEXT))
    return drawn * (effect / np.sqrt((drawn**2).mean()))


def reference_of(change: Rows, noise: float = NOISE) -> Reference:
    rows = tuple(tuple(row) for row in change.tolist())
    zeros = tuple(tuple(0.0 for _ in row) for row in rows)
    return Reference(tuple((0,) for _ in rows), 1, rows, zeros, noise)


def noise_of(seed: int, shape: tuple[int, ...], noise: float) -> Rows:
    """Half of its variance lasts from token to token, as an engine's does."""
    random = np.random.default_rng(seed)
    fresh = random.standard_normal(shape)
    lasting = np.zeros(shape)
    state = random.standard_normal(shape[0])
    for token in range(shape[1]):
        lasting[:, token] = state
        state = 0.6 * state + 0.8 * random.standard_normal(shape[0])
    return noise * (fresh + lasting) / math.sqrt(2)


def verdict(served: Rows, reference: Reference) -> float | None:
    """Whether it is shown; None where the engine is refused."""
    try:
        return check(served.tolist(), reference)["probe_shown"]
    except AdapterInactiveError:
        return None


def enough_texts() -> int:
    """As planned from the noise of fifty texts."""
    change = change_of(0, 50)
    noise = noise_of(12345, change.shape, NOISE)
    return math.ceil(tokens_needed(noise.tolist(), change.tolist()) / TOKENS_A_TEXT)


@pytest.fixture(scope="module")
def reference() -> Reference:
    return reference_of(change_of(0, enough_texts()))


def test_no_good_engine_of_a_thousand_is_refused(reference: Reference) -> None:
    change = np.array(reference.change)
    found = [verdict(change + noise_of(s, change.shape, NOISE), reference) for s in range(1000)]
    assert None not in found
    assert np.mean([shown == 1 for shown in found]) > 0.99


def test_no_good_engine_of_a_thousand_is_refused_where_tokens_are_too_few() -> None:
    reference = reference_of(change_of(0, 10))
    change = np.array(reference.change)
    found = [verdict(change + noise_of(s, change.shape, NOISE), reference) for s in range(1000)]
    assert set(found) == {0.0}


@pytest.mark.parametrize("served", ["inactive", "halved", "other", "reversed", "doubled"])
def test_no_wrong_engine_of_two_hundred_is_missed(reference: Reference, served: str) -> None:
    change = np.array(reference.change)
    makes = {
        "inactive": 0 * change,
        "halved": change / 2,
        "other": change_of(1, len(change)),
        "reversed": -change,
        "doubled": 2 * change,
    }[served]
    found = [verdict(makes + noise_of(s, change.shape, NOISE), reference) for s in range(200)]
    assert found == [None] * 200


def test_the_tokens_that_are_asked_for_give_the_wanted_error(reference: Reference) -> None:
    change = np.array(reference.change)
    figures = check((change + noise_of(3, change.shape, NOISE)).tolist(), reference)
    assert 0.7 * WANTED_ERROR < figures["probe_error"] < 1.2 * WANTED_ERROR
    assert figures["probe_slope"] == pytest.approx(1, abs=4 * WANTED_ERROR)
    assert figures["probe_effect"] == pytest.approx(EFFECT)
    assert figures["probe_residual"] == pytest.approx(NOISE, rel=0.05)


def test_noise_that_a_whole_text_shares_counts_once(reference: Reference) -> None:
    change = np.array(reference.change)
    change += np.random.default_rng(1).standard_normal((len(change), 1)) * EFFECT
    offsets = np.random.default_rng(0).standard_normal((len(change), 1)) * NOISE
    figures = check((change + offsets).tolist(), reference_of(change))
    independent = NOISE / (change.std() * math.sqrt(change.size))
    assert figures["probe_error"] > 3 * independent


def test_noise_that_pushes_all_one_way_moves_no_slope(reference: Reference) -> None:
    change = np.array(reference.change) + EFFECT
    figures = check((change + 0.5 * NOISE).tolist(), reference_of(change))
    assert figures["probe_slope"] == pytest.approx(1)


def test_a_few_texts_say_less_of_their_own_error() -> None:
    reference = reference_of(change_of(0, 12), noise=0.008)
    change = np.array(reference.change)
    found = [verdict(change + noise_of(s, change.shape, 0.008), reference) for s in range(300)]
    assert set(found) == {0.0}


def test_without_noise_an_adapter_with_the_same_slope_is_told_from_another() -> None:
    change = change_of(0, 10)
    reference = reference_of(change, noise=1e-4)
    assert verdict(change + noise_of(1, change.shape, 4e-4), reference) == 1
    other = change_of(1, 10)
    other -= change * (other * change).sum() / (change**2).sum()
    assert verdict(change + other, reference) is None


def test_an_inactive_adapter_is_refused_with_the_figures() -> None:
    reference = reference_of(change_of(0, 4), noise=1e-4)
    with pytest.raises(AdapterInactiveError, match=r"probe_slope 0, probe_error 0, probe_effect 0"):
        check([[0.0] * TOKENS_A_TEXT] * 4, reference)


def test_an_engine_that_gives_no_number_is_not_trusted() -> None:
    reference = reference_of(change_of(0, 4))
    assert verdict(np.full((4, TOKENS_A_TEXT), np.nan), reference) is None


def test_texts_of_other_lengths_cannot_be_compared() -> None:
    with pytest.raises(ValueError, match="shorter"):
        difference([[0.0, 1.0]], [[0.0]])
    with pytest.raises(ValueError, match="shorter"):
        difference([[0.0]], [])


def test_what_stays_open_is_said_with_the_figures() -> None:
    reference = reference_of(change_of(0, 10))
    said = not_shown(check(reference.change, reference))
    assert "6.0e-03 nats a token" in said
    assert "800 tokens are too few against a noise of 2.6e-02" in said


def test_a_reference_survives_its_json_form() -> None:
    import dataclasses
    import json

    reference = reference_of(change_of(0, 3))
    assert Reference.of(json.loads(json.dumps(dataclasses.asdict(reference)))) == reference
