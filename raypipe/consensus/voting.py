"""Votes on the chains of listings: their consensus and their pairs."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa

from raypipe.attributes.parser import TRUNCATED
from raypipe.attributes.prompts import without_control_tokens
from raypipe.attributes.schema import Attribute
from raypipe.consensus.query_outcome import ConsensusRules, QueryOutcome, decide_query
from raypipe.errors import ArtifactError


@dataclass(frozen=True)
class Questions:
    """What a listing is asked; listings of one vertical and split share one of these.

    ``prompts`` are attributes with the texts that ask for them.
    """

    vertical: str
    split: str
    prompts: tuple[tuple[str, str], ...]

    @property
    def signature(self) -> tuple[str, str, tuple[str, ...]]:
        """What chains must be of to answer exactly these: vertical, split, sorted attributes."""
        return self.vertical, self.split, tuple(sorted(attribute for attribute, _ in self.prompts))


def listing_key(listing_id: str, number: int) -> int:
    """64 bits that stand for a listing and the number of its questions."""
    digest = hashlib.blake2b(f"{number}\0{listing_id}".encode(), digest_size=8).digest()
    return int.from_bytes(digest)


def sorted_keys(keys: Sequence[int]) -> np.ndarray:
    """Keys as a voter takes them: (listings,) uint64, 8 bytes a listing on every node."""
    return np.sort(np.array(keys, np.uint64))


@dataclass(frozen=True, slots=True)
class QueryVote:
    """One query with the texts of its chains and what they come to."""

    listing_id: str
    vertical: str
    split: str
    attribute: str
    prompt: str
    texts: list[str]
    outcome: QueryOutcome

    @property
    def paired(self) -> bool:
        """Whether it makes rows of the pairs table: the anchor guards and never teaches."""
        return self.split == "pool" and bool(self.outcome.pairs)

    def consensus_row(self) -> dict[str, object]:
        outcome, vote = self.outcome, self.outcome.vote
        return {
            "listing_id": self.listing_id,
            "vertical": self.vertical,
            "split": self.split,
            "attribute": self.attribute,
            "answer": vote.consensus,
            "confidence": vote.confidence,
            "votes": [{"value": value, "count": count} for value, count in vote.votes],
            "num_chains": vote.num_chains,
            "num_valid": vote.num_valid,
            "num_truncated": outcome.reasons.count(TRUNCATED),
            "num_pairs": len(outcome.pairs) if self.paired else 0,
            "gate": outcome.gate,
            "preferred": list(outcome.preferred),
        }

    def pairs_row(self) -> dict[str, object]:
        return {
            "listing_id": self.listing_id,
            "attribute": self.attribute,
            "prompt": self.prompt,
            "margin": self.outcome.vote.margin,
            "pairs": [
                {
                    "chosen": without_control_tokens(self.texts[pair.chosen_index]),
                    "rejected": without_control_tokens(self.texts[pair.rejected_index]),
                    "chosen_index": pair.chosen_index,
                    "rejected_index": pair.rejected_index,
                }
                for pair in self.outcome.pairs
            ],
        }


@dataclass(frozen=True)
class Voter:
    """Votes on tables of chains.

    Args:
        attributes: by vertical and name.
        questions: the different ones that there are.
        asked: :func:`sorted_keys` of all listings that may have chains, each with the index of its
            questions.
        rules: of vote, gate and draw.
        name: of the artifact of chains, for messages.
    """

    attributes: Mapping[tuple[str, str], Attribute]
    questions: Sequence[Questions]
    asked: np.ndarray
    rules: ConsensusRules
    name: str

    def vote(self, table: pa.Table) -> Iterator[QueryVote]:
        """Every query of the listings of a chains table.

        Raises:
            ArtifactError: a listing was not asked this, or has more chains than were requested.
        """
        for listing_id, vertical, split, queries in _chain_rows(table):
            prompts = self._prompts(listing_id, vertical, split, [name for name, _, _ in queries])
            for name, texts, finish_reasons in queries:
                attribute = self.attributes[vertical, name]
                try:
                    outcome = decide_query(texts, finish_reasons, attribute, listing_id, self.rules)
                except ValueError as error:
                    raise ArtifactError(
                        f"{self.name}: listing '{listing_id}', {name}: {error}"
                    ) from error
                yield QueryVote(listing_id, vertical, split, name, prompts[name], texts, outcome)

    @cached_property
    def _by_signature(self) -> dict[tuple[str, str, tuple[str, ...]], list[int]]:
        found: dict[tuple[str, str, tuple[str, ...]], list[int]] = {}
        for number, questions in enumerate(self.questions):
            found.setdefault(questions.signature, []).append(number)
        return found

    def _prompts(
        self, listing_id: str, vertical: str, split: str, names: list[str]
    ) -> dict[str, str]:
        signature = (vertical, split, tuple(sorted(names)))
        for number in self._by_signature.get(signature, ()):
            if self._is_asked(listing_id, number):
                return dict(self.questions[number].prompts)
        raise ArtifactError(
            f"{self.name}: the chains of listing '{listing_id}' are not those of its queries in "
            "the catalog"
        )

    def _is_asked(self, listing_id: str, number: int) -> bool:
        key = np.uint64(listing_key(listing_id, number))
        place = int(np.searchsorted(self.asked, key))
        return place < len(self.asked) and bool(self.asked[place] == key)


def _chain_rows(
    table: pa.Table,
) -> Iterator[tuple[str, str, str, list[tuple[str, list[str], list[str]]]]]:
    """Listings of a chains table with, per query, the chains' texts and finish reasons.

    The nested column is taken apart in Arrow: turning whole chains into Python, token ids
    included, would take longer than everything else here.
    """
    queries = table.column("queries").combine_chunks()
    flat = queries.flatten()
    lists = flat.field("chains")
    chain = lists.flatten()
    texts = iter(chain.field("text").to_pylist())
    finish_reasons = iter(chain.field("finish_reason").to_pylist())
    per_query = zip(
        flat.field("attribute").to_pylist(), lists.value_lengths().to_pylist(), strict=True
    )
    columns: list[list[Any]] = [
        table.column(name).to_pylist() for name in ("listing_id", "vertical", "split")
    ]
    num_queries = queries.value_lengths().to_pylist()
    for listing_id, vertical, split, count in zip(*columns, num_queries, strict=True):
        yield (
            listing_id,
            vertical,
            split,
            [
                (attribute, list(islice(texts, num)), list(islice(finish_reasons, num)))
                for attribute, num in islice(per_query, count)
            ],
        )
