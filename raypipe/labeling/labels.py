"""From a listing's chains to its labels."""

import hashlib
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pyarrow as pa

from raypipe.attributes import parser
from raypipe.attributes.parser import MISSING, Answer, chain_losses
from raypipe.attributes.prompts import TEMPLATE_VERSION
from raypipe.attributes.schema import Attribute, AttributeSchema
from raypipe.attributes.vote import (
    ANSWERED,
    UNANSWERED,
    LabelReason,
    Vote,
    count_votes,
    gate_query,
)
from raypipe.catalog.keys import prepared_key
from raypipe.config.models import AnswerFormat
from raypipe.sampling.chains import AnsweredQuery, Chain
from raypipe.schemas import LABELS

Mode = Literal["vote", "greedy"]


def label_key(source: str, outcome_fingerprint: str, attributes: Iterable[Attribute]) -> str:
    """Digest of what a listing's labels are made from.

    Args:
        source: the listing's own part, its source key.
        outcome_fingerprint: digest of what its chains are drawn by.
        attributes: all attributes of its vertical.
    """
    parts = [source, outcome_fingerprint, *(attribute.version for attribute in attributes)]
    return hashlib.blake2b("\0".join(parts).encode(), digest_size=16).hexdigest()


@dataclass(frozen=True, slots=True)
class _ParsedChain:
    chain: Chain
    answer: Answer

    @property
    def logprob_per_token(self) -> float:
        """Mean log-probability of its tokens, in nats."""
        return self.chain.logprob / max(1, len(self.chain.token_ids))

    @property
    def probability(self) -> float:
        """The geometric mean of the probabilities of its tokens, 0-1."""
        return math.exp(self.logprob_per_token)


@dataclass(frozen=True)
class Labeler:
    """Makes LABELS rows of listings and their chains.

    Args:
        schema: the attribute schema that answers are resolved by.
        mode: "vote" counts the sampled chains; "greedy" takes the one chain.
        num_chains: chains requested per query; 1 when greedy.
        outcome_fingerprint: digest of what the chains depend on beside the listing.
        versions: of the packages that make them.
    """

    schema: AttributeSchema
    mode: Mode
    num_chains: int
    answer_format: AnswerFormat
    policy_id: str
    outcome_fingerprint: str
    versions: str = ""

    def __call__(
        self, listings: Sequence[dict[str, Any]], answered: Sequence[Sequence[AnsweredQuery]]
    ) -> pa.Table:
        """LABELS rows: one per query of every listing."""
        rows = []
        for listing, chains in zip(listings, answered, strict=True):
            attributes = self.schema.attributes(listing["vertical"])
            key = label_key(prepared_key(listing), self.outcome_fingerprint, attributes)
            for query, answer in zip(listing["queries"], chains, strict=True):
                attribute = self.schema.get(listing["vertical"], query["attribute"])
                rows.append(
                    {name: listing[name] for name in ("listing_id", "vertical", "split")}
                    | self._label(attribute, answer, query["seller_value"])
                    | {
                        "attribute": attribute.name,
                        "policy_id": self.policy_id,
                        "template": TEMPLATE_VERSION,
                        "schema_version": attribute.version,
                        "label_key": key,
                        "versions": self.versions,
                    }
                )
        return LABELS.from_rows(rows)

    def _label(
        self, attribute: Attribute, answered: AnsweredQuery, seller_value: str | None
    ) -> dict[str, object]:
        greedy = None if answered.greedy is None else self._parse(answered.greedy, attribute)
        parsed = [self._parse(chain, attribute) for chain in answered.chains]
        if self.mode == "greedy" and greedy is not None:
            parsed.insert(0, greedy)
        vote = count_votes((each.answer.value for each in parsed), self.num_chains)
        answer = vote.consensus
        agreeing = [each for each in parsed if each.answer.value == answer]
        best = None if answer is None else max(agreeing, key=lambda each: each.logprob_per_token)
        sold = attribute.resolve(seller_value) if seller_value else None
        return {
            "reason": _reason(vote),
            "answer": answer,
            "confidence": self._confidence(vote, best),
            "votes": _votes(vote, parsed),
            "num_chains": self.num_chains,
            "num_valid": vote.num_valid,
            "invalid": _invalid(parsed, self.num_chains),
            "greedy": None if greedy is None else _greedy(greedy),
            "reasoning": parser.reasoning_of(best.chain.text) if best is not None else None,
            "seller_value": seller_value,
            "seller_conflict": None if sold is None or answer is None else sold != answer,
        }

    def _parse(self, chain: Chain, attribute: Attribute) -> _ParsedChain:
        answer = parser.parse(chain.text, chain.finish_reason, attribute, self.answer_format)
        return _ParsedChain(chain, answer)

    def _confidence(self, vote: Vote, best: _ParsedChain | None) -> float:
        return vote.confidence if self.mode == "vote" or best is None else best.probability


def _reason(vote: Vote) -> LabelReason:
    return ANSWERED if vote.consensus is not None else UNANSWERED[gate_query(vote, 1)]


def _votes(vote: Vote, parsed: Sequence[_ParsedChain]) -> list[dict[str, object]]:
    probabilities = dict.fromkeys((value for value, _ in vote.votes), 0.0)
    for each in parsed:
        if each.answer.value is not None:
            probabilities[each.answer.value] += each.probability
    return [
        {"value": value, "count": count, "probability": probabilities[value]}
        for value, count in vote.votes
    ]


def _invalid(parsed: Sequence[_ParsedChain], num_chains: int) -> list[dict[str, object]]:
    """Chains without an answer, by reason; those that were never returned are among them."""
    counts = Counter(each.answer.reason for each in parsed)
    counts[MISSING] += num_chains - len(parsed)
    return [
        {"reason": reason, "count": counts[reason]} for reason in chain_losses() if counts[reason]
    ]


def _greedy(parsed: _ParsedChain) -> dict[str, object]:
    return {
        "answer": parsed.answer.value,
        "reason": parsed.answer.reason,
        "probability": parsed.probability,
    }
