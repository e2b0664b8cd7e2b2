"""From a listing's chains to its labels."""

import hashlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc

from raypipe.attributes import parser
from raypipe.attributes.prompts import TEMPLATE_VERSION
from raypipe.attributes.schema import Attribute, AttributeSchema
from raypipe.attributes.vote import (
    BELOW_PRECISION,
    PUBLISHED,
    UNANSWERED,
    LabelReason,
    Vote,
    count_votes,
    gate_query,
)
from raypipe.catalog.keys import prepared_key
from raypipe.config.models import AnswerFormat
from raypipe.evaluation.confidence import Calibration
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


@dataclass(frozen=True)
class Labeler:
    """Makes LABELS rows of listings and their chains.

    Args:
        schema: the attribute schema that answers are resolved by.
        mode: "vote" counts the sampled chains; "greedy" takes the one chain.
        num_chains: chains requested per query; 1 when greedy.
        outcome_fingerprint: digest of what the chains depend on beside the listing.
        versions: of the packages that make them.
        calibration: turns confidence into a probability; None leaves it open.
        threshold: probability from which an answer is published; None publishes none.
    """

    schema: AttributeSchema
    mode: Mode
    num_chains: int
    answer_format: AnswerFormat
    policy_id: str
    outcome_fingerprint: str
    versions: str = ""
    calibration: Calibration | None = None
    threshold: float | None = None

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
        table = LABELS.from_rows(rows)
        if self.calibration is None:
            return table
        return calibrated(table, self.calibration, self.threshold)

    def _label(
        self, attribute: Attribute, answered: AnsweredQuery, seller_value: str | None
    ) -> dict[str, object]:
        chains = answered.all
        parsed = [
            parser.parse(chain.text, chain.finish_reason, attribute, self.answer_format).value
            for chain in chains
        ]
        vote = count_votes(parsed, self.num_chains)
        answer = vote.consensus
        best = _clearest(
            [
                chain
                for chain, value in zip(chains, parsed, strict=True)
                if value is not None and value == answer
            ]
        )
        sold = attribute.resolve(seller_value) if seller_value else None
        return {
            "value": answer,
            "reason": _reason(vote),
            "answer": answer,
            "confidence": self._confidence(vote, best),
            "probability": None,
            "votes": [{"value": value, "count": count} for value, count in vote.votes],
            "num_chains": self.num_chains,
            "num_valid": vote.num_valid,
            "reasoning": parser.reasoning_of(best.text) if best is not None else None,
            "seller_value": seller_value,
            "seller_conflict": None if sold is None or answer is None else sold != answer,
        }

    def _confidence(self, vote: Vote, best: Chain | None) -> float:
        if self.mode == "vote" or best is None:
            return vote.confidence
        return math.exp(_per_token(best))


def calibrated(labels: pa.Table, calibration: Calibration, threshold: float | None) -> pa.Table:
    """Labels with the probability of their confidence, published from ``threshold`` upwards."""
    answered = pc.is_valid(labels.column("answer"))
    found = pa.array(calibration.probabilities(labels.column("confidence").to_numpy()))
    probability = pc.if_else(answered, found, pa.scalar(None, pa.float64()))
    enough = pc.fill_null(
        pc.greater_equal(probability, math.inf if threshold is None else threshold), False
    )
    below = pc.if_else(enough, PUBLISHED, BELOW_PRECISION)
    columns = {
        "probability": probability,
        "reason": pc.if_else(answered, below, labels.column("reason")),
        "value": pc.if_else(enough, labels.column("answer"), pa.scalar(None, pa.string())),
    }
    for name, column in columns.items():
        labels = labels.set_column(labels.column_names.index(name), name, column)
    return LABELS.conform(labels)


def _reason(vote: Vote) -> LabelReason:
    return PUBLISHED if vote.consensus is not None else UNANSWERED[gate_query(vote, 1)]


def _clearest(chains: Sequence[Chain]) -> Chain | None:
    return max(chains, key=_per_token, default=None)


def _per_token(chain: Chain) -> float:
    """Mean log-probability of its tokens, in nats."""
    return chain.logprob / max(1, len(chain.token_ids))
