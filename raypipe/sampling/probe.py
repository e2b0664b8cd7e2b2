"""Proof that an engine serves the adapter it was given, as far as its noise allows one.

An adapter that is silently inactive (a name that matches no module, a stale path, a cache keyed by
name) gives plausible chains of the wrong policy. Texts are scored by the engine; the change of
their log-probabilities is regressed on the change that the adapter makes by transformers in
float32. The slope is 1 for the adapter, 0 for the base, 0.5 for a halved one, and the noise of the
engine's arithmetic only makes it less certain.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from raypipe.errors import AdapterInactiveError

TOLERANCE = 0.25
"""How far the slope may be from 1."""
WANTED_ERROR = 0.05
"""Standard error of the slope at which the tolerance is five of them."""
_ERRORS = 5
_ERRORS_OF_FEW = 8
"""Of fewer than ``_MANY_TEXTS``, whose standard error is itself uncertain."""
_MANY_TEXTS = 32
_QUIET = 8
_UNEXPLAINED = 0.5

LogProbs = Sequence[Sequence[float]]
"""Nats, text by text."""


@dataclass(frozen=True)
class Reference:
    """The probe's texts and what they should score.

    ``policy`` and ``base`` are log-probabilities (nats) of each text's tokens from ``shared`` on,
    the number of tokens that all texts begin with; ``noise`` is the root mean square difference of
    the engine's arithmetic from float32.
    """

    token_ids: tuple[tuple[int, ...], ...]
    shared: int
    policy: tuple[tuple[float, ...], ...]
    base: tuple[tuple[float, ...], ...]
    noise: float

    @classmethod
    def of(cls, values: dict[str, Any]) -> "Reference":
        """From its JSON form. Raises KeyError or TypeError where it is none."""
        rows = {name: tuple(map(tuple, values[name])) for name in ("token_ids", "policy", "base")}
        return cls(**rows, shared=int(values["shared"]), noise=float(values["noise"]))

    @property
    def change(self) -> list[list[float]]:
        """What the adapter changes, in nats."""
        return difference(self.policy, self.base)

    @property
    def effect(self) -> float:
        """Root mean square of :attr:`change`."""
        return rms(self.change)


def difference(first: LogProbs, second: LogProbs) -> list[list[float]]:
    """Token by token. Raises ValueError for texts of other lengths."""
    return [
        [a - b for a, b in zip(row, other, strict=True)]
        for row, other in zip(first, second, strict=True)
    ]


def tokens_needed(noise: LogProbs, change: LogProbs) -> int:
    """Tokens at which the slope's standard error is ``WANTED_ERROR``.

    Args:
        noise: what the engine's arithmetic differs by on some texts, in nats.
        change: what the adapter changes there.
    """
    _, error = _slope(difference(noise, _negative(change)), change)
    return math.ceil(sum(map(len, change)) * (error / WANTED_ERROR) ** 2)


def _negative(rows: LogProbs) -> list[list[float]]:
    return [[-value for value in row] for row in rows]


def check(served: LogProbs, reference: Reference) -> dict[str, float]:
    """Require that the engine makes the adapter's change.

    Args:
        served: what the engine's log-probabilities differ from the base's by, in the shape of
            ``reference.change``.

    Returns:
        Slope, its standard error, effect, noise and residual in nats a token, tokens, and whether
        the adapter is shown to be served (1) or the noise leaves it open (0).

    Raises:
        AdapterInactiveError: the slope is further from 1 than chance explains, or, where noise is
            small, most of what the engine changes is not the adapter's.
    """
    change = reference.change
    slope, error = _slope(served, change)
    figures = {
        "probe_slope": slope,
        "probe_error": error,
        "probe_effect": reference.effect,
        "probe_noise": reference.noise,
        "probe_residual": rms(difference(served, change)),
        "probe_tokens": float(sum(map(len, change))),
    }
    errors = _ERRORS if len(change) >= _MANY_TEXTS else _ERRORS_OF_FEW
    allowed = max(TOLERANCE, errors * error)
    if not abs(slope - 1) <= allowed or _is_another(figures):  # also when one is NaN
        raise AdapterInactiveError(_refusal(figures))
    return figures | {"probe_shown": float(allowed == TOLERANCE)}


def not_shown(figures: dict[str, float]) -> str:
    """What to log where the noise leaves it open."""
    return (
        f"not shown that the engine serves the adapter: it changes {figures['probe_effect']:.1e} "
        f"nats a token, and {figures['probe_tokens']:.0f} tokens are too few against a noise of "
        f"{figures['probe_noise']:.1e}; going on"
    )


def _is_another(figures: dict[str, float]) -> bool:
    """Whether the residual is no noise; engines differ by up to a few times ``noise``."""
    effect = figures["probe_effect"]
    is_quiet = _QUIET * figures["probe_noise"] <= effect
    return is_quiet and not figures["probe_residual"] <= _UNEXPLAINED * effect


def _slope(served: LogProbs, change: LogProbs) -> tuple[float, float]:
    """Least squares with an intercept: rounding may push all log-probabilities one way. The
    standard error allows for noise that the tokens of a text share (clustered by text), and is
    never below that of independent tokens."""
    import numpy as np

    x, d = np.concatenate([*served]), np.concatenate([*change])
    x, d = x - x.mean(), d - d.mean()
    power = float(d @ d)
    slope = float(x @ d) / power
    scores = d * (x - slope * d)
    starts = np.cumsum([0, *map(len, change)])[:-1]
    sums = np.add.reduceat(scores, starts)
    clustered = float(sums @ sums) * len(sums) / max(1, len(sums) - 1)
    return slope, math.sqrt(max(clustered, float(scores @ scores))) / power


def rms(rows: LogProbs) -> float:
    """Root mean square over all tokens."""
    import numpy as np

    values = np.concatenate([*rows])
    return math.sqrt(float(values @ values) / len(values))


def _refusal(figures: dict[str, float]) -> str:
    listed = ", ".join(f"{name} {value:.3g}" for name, value in figures.items())
    return (
        f"the engine does not serve the adapter as it was trained: the slope should be 1, and the "
        f"residual like the noise ({listed}; in nats a token)"
    )
