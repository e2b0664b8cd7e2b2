"""Proof that an engine serves the adapter it was given.

An adapter that is silently inactive (a name that matches no module, a stale path, a cache keyed by
name) gives plausible chains of the wrong policy. A fixed text is scored by the engine and compared
with what the policy and the base model should give.
"""

from collections.abc import Sequence

from raypipe.errors import AdapterInactiveError

TEXT = (
    "Respond in the following format:<reasoning> ... </reasoning><answer> ... </answer> "
    "what is the most suitable value for color for this shirt."
)


def distance(first: Sequence[float], second: Sequence[float]) -> float:
    """Mean absolute difference of per-token log-probabilities, in nats."""
    if len(first) != len(second) or not first:
        raise ValueError(f"cannot compare {len(first)} with {len(second)} log-probabilities")
    return sum(abs(a - b) for a, b in zip(first, second, strict=True)) / len(first)


def check_merged(
    served: Sequence[float], policy: Sequence[float], base: Sequence[float]
) -> dict[str, float]:
    """Require that the engine is nearer to the merged policy than to the base model.

    Args:
        served: per-token log-probabilities of the probe as the engine gives them.
        policy: the same by transformers, adapter merged; ``base`` without it.

    Raises:
        AdapterInactiveError: the adapter changes nothing, or the engine serves the base.
    """
    figures = {
        "probe_effect": distance(policy, base),
        "probe_to_policy": distance(served, policy),
        "probe_to_base": distance(served, base),
    }
    if figures["probe_effect"] == 0:
        raise AdapterInactiveError("the adapter does not change the model: all its updates are 0")
    if not figures["probe_to_policy"] < figures["probe_to_base"]:  # also when one is NaN
        raise AdapterInactiveError(_refusal(figures))
    return figures


def check_attached(
    with_adapter: Sequence[float], without: Sequence[float], without_again: Sequence[float]
) -> dict[str, float]:
    """Require that the engine's log-probabilities change when the adapter is asked for.

    ``without_again`` repeats the base's pass and measures the engine's own noise.

    Raises:
        AdapterInactiveError: the change is not above that noise.
    """
    figures = {
        "probe_effect": distance(with_adapter, without),
        "probe_noise": distance(without, without_again),
    }
    if not figures["probe_effect"] > figures["probe_noise"]:  # also when one is NaN
        raise AdapterInactiveError(_refusal(figures))
    return figures


def _refusal(figures: dict[str, float]) -> str:
    listed = ", ".join(f"{name} {value:.2e}" for name, value in figures.items())
    return f"the engine does not serve the adapter: {listed} (mean nats per token)"
