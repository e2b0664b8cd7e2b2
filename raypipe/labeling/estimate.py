"""What labeling a catalog takes: expected before, counted after, in one table."""

from dataclasses import dataclass

from raypipe.config import Config


@dataclass(frozen=True)
class Work:
    """Listings, queries and chains to make; tokens of the chains, None when nothing is known."""

    listings: int
    queries: int
    chains: int
    tokens: float | None
    seconds: float | None
    """Of one engine; None when no rate is known."""

    def engine_hours(self) -> float | None:
        return None if self.seconds is None else self.seconds / 3600

    def cost(self, config: Config) -> float | None:
        """In ``rates.currency``; None without a price or a rate."""
        hours, price = self.engine_hours(), config.rates.engine_hour
        return None if hours is None or not price else hours * price


@dataclass(frozen=True)
class Pace:
    """What was measured: tokens per chain, and chains per second of an engine."""

    tokens_per_chain: float
    chains_per_second: float


def expected(
    config: Config, *, listings: int, queries: int, chains_per_query: int, pace: Pace | None
) -> Work:
    """The work before it is done.

    Args:
        pace: of an earlier sampling of the run; None when there was none.
    """
    chains = queries * chains_per_query
    rate = config.rates.chains_per_second or (pace.chains_per_second if pace else None)
    return Work(
        listings=listings,
        queries=queries,
        chains=chains,
        tokens=chains * pace.tokens_per_chain if pace else None,
        seconds=chains / rate if rate else None,
    )


def lines(plan: Work, done: Work | None, config: Config) -> list[tuple[str, str, str]]:
    """Rows of a table: what, expected, and what it took (empty before)."""
    expected, took = (_figures(work, config) for work in (plan, done))
    return [(name, figure, took.get(name, "")) for name, figure in expected.items()]


def _figures(work: Work | None, config: Config) -> dict[str, str]:
    if work is None:
        return {}
    currency, cost = config.rates.currency, work.cost(config)
    per_1000 = 1000 * cost / work.queries if cost is not None and work.queries else None
    return {
        "listings": f"{work.listings:,}",
        "queries": f"{work.queries:,}",
        "chains": f"{work.chains:,}",
        "tokens of chains": _shown(work.tokens, ",.0f"),
        "engine hours": _shown(work.engine_hours(), ",.3f"),
        f"cost ({currency})": _shown(cost, ",.2f"),
        f"cost of 1,000 labels ({currency})": _shown(per_1000, ",.4f"),
    }


def _shown(value: float | None, form: str) -> str:
    return "unknown" if value is None else format(value, form)
