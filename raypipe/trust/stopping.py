"""When a query needs no further chain, by the votes that are counted so far.

``votes`` are the counts of the values, in any order; the ``remaining`` chains may answer any value
or none. What matters is the consensus (the one value with most votes, none where they tie) and the
level that its votes reach; a consensus below the lowest level counts as none.
"""

from collections.abc import Callable, Sequence

from scipy import stats

EVERY_CONSENSUS = (1,)
"""The levels where any consensus is published, however few its votes."""
StoppingRule = Callable[[Sequence[int], int], bool]


def is_decided(
    votes: Sequence[int], remaining: int, levels: Sequence[int] = EVERY_CONSENSUS
) -> bool:
    """Whether no answers of the remaining chains change the consensus or its level.

    Exact: where it is False, there are answers that change it.

    Args:
        levels: numbers of votes, the lowest of which publishes. ``(1,)`` asks for the consensus
            alone, ``(k,)`` whether it has k votes, ``range(1, n + 1)`` for its number of votes.
    """
    if not remaining:
        return True
    first, second = _first_two(votes)
    if first + remaining < min(levels):
        return True
    return (
        first > second + remaining
        and first >= min(levels)
        and not any(first < level <= first + remaining for level in levels)
    )


def cannot_be_kept(votes: Sequence[int], remaining: int, fewest: int) -> bool:
    """Whether the query is dropped whatever the remaining chains answer: no consensus can reach so
    many votes. The one stop that never costs a preference pair."""
    return _first_two(votes)[0] + remaining < fewest


def probability_stays(votes: Sequence[int], remaining: int) -> float:
    """How likely the leading value stays the consensus after the remaining chains; 0 where it ties.

    Beta rule (Aggarwal et al. 2023): all remaining chains are taken to answer the first or the
    second value, whose ratio has a uniform prior. It is 1 where the consensus is decided.
    """
    first, second = _first_two(votes)
    if first == second:
        return 0.0
    # The first needs more than half of what lies between: first + x > second + remaining - x.
    fewest = (second + remaining - first) // 2
    return float(stats.betabinom.sf(fewest, remaining, first + 1, second + 1))


def exact(levels: Sequence[int] = EVERY_CONSENSUS) -> StoppingRule:
    """Stop where consensus and level are decided: the same result as all chains."""
    return lambda votes, remaining: is_decided(votes, remaining, levels)


def beta(error: float) -> StoppingRule:
    """Stop where another consensus is less likely than ``error``; a tie never stops early."""
    return lambda votes, remaining: (
        is_decided(votes, remaining) or probability_stays(votes, remaining) >= 1 - error
    )


def chains_asked(answers: Sequence[str | None], rule: StoppingRule) -> int:
    """How many chains a rule asks of a query, in the order of their answers.

    Args:
        answers: of all chains that may be asked; None for one without an answer.
    """
    counts: dict[str, int] = {}
    for asked, answer in enumerate([None, *answers]):
        if answer is not None:
            counts[answer] = counts.get(answer, 0) + 1
        if rule(list(counts.values()), len(answers) - asked):
            return asked
    return len(answers)


def _first_two(votes: Sequence[int]) -> tuple[int, int]:
    first, second = sorted([*votes, 0, 0], reverse=True)[:2]
    return first, second
