"""One query from its chains to its pairs: parse, vote, gate, draw (paper §4)."""

from collections.abc import Sequence
from dataclasses import dataclass

from raypipe.attributes import parser
from raypipe.attributes.parser import ChainReason
from raypipe.attributes.schema import Attribute
from raypipe.attributes.vote import KEPT, Gate, Vote, count_votes, gate_query, min_votes
from raypipe.config import Config
from raypipe.config.models import AnswerFormat
from raypipe.consensus.pairs import Pair, make_pairs


@dataclass(frozen=True)
class ConsensusRules:
    """The settings that a query outcome depends on."""

    num_chains: int
    min_votes: int
    answer_format: AnswerFormat
    seed: int
    round_index: int

    @classmethod
    def of(cls, config: Config, round_index: int) -> "ConsensusRules":
        num_chains = config.sampling.num_chains
        return cls(
            num_chains=num_chains,
            min_votes=min_votes(config.consensus.threshold, num_chains),
            answer_format=config.model.answer_format,
            seed=config.run.seed,
            round_index=round_index,
        )


@dataclass(frozen=True, slots=True)
class QueryOutcome:
    """What the chains of one query come to.

    ``reasons`` has one entry per chain; ``preferred`` are the indices of the chains that answer
    the consensus of a kept query, and empty when the query is dropped.
    """

    vote: Vote
    gate: Gate
    reasons: tuple[ChainReason, ...]
    preferred: tuple[int, ...]
    pairs: tuple[Pair, ...]

    @property
    def unanimous(self) -> bool:
        """Kept, with every chain preferred: labels and self-learning use it, DPO cannot."""
        return bool(self.preferred) and len(self.preferred) == len(self.reasons)


def decide_query(
    texts: Sequence[str],
    finish_reasons: Sequence[str],
    attribute: Attribute,
    listing_id: str,
    rules: ConsensusRules,
) -> QueryOutcome:
    """Parse, vote on, gate and pair the chains of one query.

    Args:
        texts: the chains' completions in their order; at most ``rules.num_chains``.
        finish_reasons: one per chain.
        attribute: what was asked.
        listing_id: the listing it was asked of; the draw of pairs depends on it.

    Raises:
        ValueError: more chains than were requested.
    """
    parsed = [
        parser.parse(text, finish_reason, attribute, rules.answer_format)
        for text, finish_reason in zip(texts, finish_reasons, strict=True)
    ]
    values = [answer.value for answer in parsed]
    vote = count_votes(values, rules.num_chains)
    gate = gate_query(vote, rules.min_votes)
    preferred: tuple[int, ...] = ()
    if gate == KEPT:
        consensus = vote.consensus
        preferred = tuple([i for i, value in enumerate(values) if value == consensus])
    identity = (rules.seed, rules.round_index, listing_id, attribute.name)
    return QueryOutcome(
        vote=vote,
        gate=gate,
        reasons=tuple([answer.reason for answer in parsed]),
        preferred=preferred,
        pairs=tuple(make_pairs(texts, preferred, identity)) if preferred else (),
    )
