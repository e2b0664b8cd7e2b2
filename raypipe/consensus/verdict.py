"""One query from its chains to its pairs: parse, vote, gate, draw (paper §3.2)."""

from collections.abc import Sequence
from dataclasses import dataclass

from raypipe import answers
from raypipe.answers import Reason
from raypipe.attributes import Attribute
from raypipe.config import Config
from raypipe.consensus.gates import Gate, judge, min_votes
from raypipe.consensus.pairs import Pair, draw_pairs
from raypipe.prompts import AnswerFormat
from raypipe.vote import Vote, count_votes


@dataclass(frozen=True)
class Rules:
    """The settings that a verdict depends on."""

    num_chains: int
    min_votes: int
    answer_format: AnswerFormat
    seed: int
    round_index: int

    @classmethod
    def of(cls, config: Config, round_index: int) -> "Rules":
        num_chains = config.sampling.num_chains
        return cls(
            num_chains=num_chains,
            min_votes=min_votes(config.consensus.threshold, num_chains),
            answer_format=config.model.answer_format,
            seed=config.run.seed,
            round_index=round_index,
        )


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the chains of one query come to.

    ``reasons`` has one entry per chain; ``preferred`` are the indices of the chains that answer
    the consensus of a kept query, and empty when the query is dropped.
    """

    vote: Vote
    gate: Gate
    reasons: tuple[Reason, ...]
    preferred: tuple[int, ...]
    pairs: tuple[Pair, ...]

    @property
    def unanimous(self) -> bool:
        """Kept, with every chain preferred: labels and self-learning use it, DPO cannot."""
        return bool(self.preferred) and len(self.preferred) == len(self.reasons)


def reach(
    texts: Sequence[str],
    finish_reasons: Sequence[str],
    attribute: Attribute,
    listing_id: str,
    rules: Rules,
) -> Verdict:
    """Judge the chains of one query.

    Args:
        texts: the chains' completions in their order; at most ``rules.num_chains``.
        finish_reasons: one per chain.
        attribute: what was asked.
        listing_id: the listing it was asked of; the draw of pairs depends on it.

    Raises:
        ValueError: more chains than were requested.
    """
    parsed = [
        answers.parse(text, finish_reason, attribute, rules.answer_format)
        for text, finish_reason in zip(texts, finish_reasons, strict=True)
    ]
    vote = count_votes((answer.value for answer in parsed), rules.num_chains)
    gate = judge(vote, rules.min_votes)
    preferred: tuple[int, ...] = ()
    if gate == "kept":
        consensus = vote.consensus
        preferred = tuple(i for i, answer in enumerate(parsed) if answer.value == consensus)
    identity = (rules.seed, rules.round_index, listing_id, attribute.name)
    return Verdict(
        vote=vote,
        gate=gate,
        reasons=tuple(answer.reason for answer in parsed),
        preferred=preferred,
        pairs=tuple(draw_pairs(texts, preferred, identity)) if preferred else (),
    )
