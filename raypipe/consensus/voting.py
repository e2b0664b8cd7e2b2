"""Votes on the chains of listings: their consensus and their pairs."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import compress, islice

import numpy as np
import pyarrow as pa

from raypipe.attributes.parser import TRUNCATED
from raypipe.attributes.prompts import without_control_tokens
from raypipe.attributes.schema import Attribute
from raypipe.consensus.pairs import Pair
from raypipe.consensus.query_outcome import ConsensusRules, QueryOutcome, decide_query
from raypipe.errors import ArtifactError
from raypipe.schemas import CONSENSUS, PAIRS

CHAIN_COLUMNS = [
    *("listing_id", "vertical", "split", "queries.attribute"),
    *("queries.chains.text", "queries.chains.finish_reason"),
]
"""What a voter reads of a chains table: no token ids."""
# Of a chains table: id, vertical, split, and per query the attribute, texts and finish reasons.
_Listing = tuple[str, str, str, list[tuple[str, list[str], list[str]]]]


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


def consensus_table(queries: Sequence[QueryVote]) -> pa.Table:
    """The rows of the consensus table."""
    outcomes = [query.outcome for query in queries]
    votes = [outcome.vote for outcome in outcomes]
    return CONSENSUS.from_columns(
        {
            "listing_id": [query.listing_id for query in queries],
            "vertical": [query.vertical for query in queries],
            "split": [query.split for query in queries],
            "attribute": [query.attribute for query in queries],
            "answer": [vote.consensus for vote in votes],
            "confidence": [vote.confidence for vote in votes],
            "votes": [vote.votes for vote in votes],
            "num_chains": [vote.num_chains for vote in votes],
            "num_valid": [vote.num_valid for vote in votes],
            "num_truncated": [outcome.reasons.count(TRUNCATED) for outcome in outcomes],
            "num_pairs": [len(query.outcome.pairs) if query.paired else 0 for query in queries],
            "gate": [outcome.gate for outcome in outcomes],
            "preferred": [outcome.preferred for outcome in outcomes],
        }
    )


def pairs_table(queries: Sequence[QueryVote]) -> pa.Table:
    """The rows of the pairs table, one for each query that has pairs and is paired."""
    paired = [query for query in queries if query.paired]
    return PAIRS.from_columns(
        {
            "listing_id": [query.listing_id for query in paired],
            "attribute": [query.attribute for query in paired],
            "prompt": [query.prompt for query in paired],
            "margin": [query.outcome.vote.margin for query in paired],
            "pairs": [_pairs(query.texts, query.outcome.pairs) for query in paired],
        }
    )


def _pairs(texts: Sequence[str], pairs: Sequence[Pair]) -> list[tuple[str, str, int, int]]:
    """As the pairs table has them: chosen, rejected, and the indices of both."""
    clean = {
        index: without_control_tokens(texts[index])
        for pair in pairs
        for index in (pair.chosen_index, pair.rejected_index)
    }
    return [
        (
            clean[pair.chosen_index],
            clean[pair.rejected_index],
            pair.chosen_index,
            pair.rejected_index,
        )
        for pair in pairs
    ]


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
        listings = list(_chain_rows(table))
        for (listing_id, vertical, split, queries), prompts in zip(
            listings, self._prompts(listings), strict=True
        ):
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

    @cached_property
    def _by_number(self) -> list[dict[str, str]]:
        """The prompts of each of the questions."""
        return [dict(questions.prompts) for questions in self.questions]

    def _prompts(self, listings: Sequence[_Listing]) -> Iterator[dict[str, str]]:
        """What each listing is asked."""
        places, numbers, keys = [], [], []
        for place, (listing_id, vertical, split, queries) in enumerate(listings):
            signature = (vertical, split, tuple(sorted([name for name, _, _ in queries])))
            for number in self._by_signature.get(signature, ()):
                places.append(place)
                numbers.append(number)
                keys.append(listing_key(listing_id, number))
        known = _among(np.array(keys, np.uint64), self.asked).tolist()
        found = dict(compress(zip(places, numbers, strict=True), known))
        for place, listing in enumerate(listings):
            if place not in found:
                raise ArtifactError(
                    f"{self.name}: the chains of listing '{listing[0]}' are not those of its "
                    "queries in the catalog"
                )
            yield self._by_number[found[place]]


def _among(keys: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Whether each of the keys is among sorted ones."""
    if not len(known):
        return np.zeros(len(keys), bool)
    places = np.minimum(np.searchsorted(known, keys), len(known) - 1)
    found: np.ndarray = known[places] == keys
    return found


def _chain_rows(table: pa.Table) -> Iterator[_Listing]:
    """Listings of a chains table with, per query, the chains' texts and finish reasons.

    The nested column is taken apart in Arrow: turning whole chains into Python, token ids
    included, would take longer than everything else here.
    """
    queries = table.column("queries").combine_chunks()
    flat = queries.flatten()
    lists = flat.field("chains")
    chain = lists.flatten()
    texts, finish_reasons = (chain.field(name).to_pylist() for name in ("text", "finish_reason"))
    ends = np.cumsum(lists.value_lengths()).tolist()
    answered = iter(
        [
            (attribute, texts[start:end], finish_reasons[start:end])
            for attribute, start, end in zip(
                flat.field("attribute").to_pylist(), [0, *ends], ends, strict=False
            )
        ]
    )
    columns = [table.column(name).to_pylist() for name in ("listing_id", "vertical", "split")]
    for listing_id, vertical, split, count in zip(
        *columns, queries.value_lengths().to_pylist(), strict=True
    ):
        yield listing_id, vertical, split, list(islice(answered, count))
