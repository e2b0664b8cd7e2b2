"""Chains as a data set for others: a row per query with its images, its chains and their vote."""

from collections.abc import Iterator
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Features, Image, List, Value

from raypipe.attributes import parser
from raypipe.attributes.prompts import conversation
from raypipe.attributes.schema import Attribute, AttributeSchema
from raypipe.config import Config
from raypipe.config.models import AnswerFormat
from raypipe.schemas import CHAINS, CONSENSUS, LISTINGS
from raypipe.storage import whole
from raypipe.store.artifacts import Artifact, Run
from raypipe.store.manifest import File
from raypipe.store.paths import ATTRIBUTE_SCHEMA, CATALOG, Paths

FILE = "chains.parquet"
_QUERIES_PER_ROW_GROUP = 128
_FILES_AT_HAND = 16

_CHAIN = {
    "text": Value("string"),
    "answer": Value("string"),
    "reason": Value("string"),
    "logprob": Value("float64"),
    "num_tokens": Value("int32"),
    "finish_reason": Value("string"),
}
FEATURES = Features(
    {
        "listing_id": Value("string"),
        "vertical": Value("string"),
        "split": Value("string"),
        "attribute": Value("string"),
        "policy_id": Value("string"),
        "options": List(Value("string")),
        "prompt": List({"role": Value("string"), "content": Value("string")}),
        "images": List(Image()),
        "greedy": _CHAIN,
        "chains": List(_CHAIN),
        "consensus": Value("string"),
        "confidence": Value("float64"),
        "gate": Value("string"),
        "votes": List({"value": Value("string"), "count": Value("int32")}),
    }
)
Row = dict[str, Any]
Votes = dict[tuple[str, str], Row]


def export_chains(config: Config, run: Run, scope: str, directory: str | Path) -> Path:
    """Write ``<scope>/chains`` as one Parquet file, a row per query.

    ``datasets.load_dataset("parquet", data_files=…)`` decodes its images. ``answer`` is the
    allowed value that a chain resolves to, or null with the ``reason``; ``logprob`` is the sum over
    its tokens in nats, NaN for a round's chains, whose vote does not use it. ``greedy`` is null but
    for eval and anchor; ``consensus``, ``confidence``, ``gate`` and ``votes`` are null where
    nothing was voted on. Votes are held in memory; images and chains are streamed, a file of
    listings at a time. A listing's images are in each of its rows.

    Args:
        directory: local directory, made when it is not there.

    Returns:
        The file.

    Raises:
        ArtifactError: the chains or the listings are not committed, or corrupt.
    """
    target = Path(directory) / FILE
    schema = FEATURES.arrow_schema
    listings = run.artifact(CATALOG.listings, LISTINGS)
    reader = _Reader(
        AttributeSchema.from_json(listings.read_json(ATTRIBUTE_SCHEMA)),
        config.model.answer_format,
        _votes(run.artifact(Paths(scope).consensus, CONSENSUS)),
    )
    rows = _rows(run.artifact(Paths(scope).chains, CHAINS), listings, reader)
    with (
        whole(target) as partial,
        pq.ParquetWriter(partial, schema, compression="zstd") as writer,
    ):
        while batch := list(islice(rows, _QUERIES_PER_ROW_GROUP)):
            writer.write_table(pa.Table.from_pylist(batch, schema=schema))
    return target


def _votes(consensus: Artifact) -> Votes:
    if consensus.commit() is None:
        return {}
    columns = ["listing_id", "attribute", "answer", "confidence", "gate", "votes"]
    return {
        (row["listing_id"], row["attribute"]): row
        for table in consensus.read_files(columns)
        for row in table.to_pylist()
    }


def _rows(chains: Artifact, listings: Artifact, reader: "_Reader") -> Iterator[Row]:
    """In the order of the listings. Chains were written in about that order, so that the files at
    hand are those that the next listings need."""
    places: dict[str, tuple[File, int]] = {}
    for file in chains.files():
        ids = chains.rows_of(file, ["listing_id"]).column("listing_id").to_pylist()
        places |= {listing_id: (file, row) for row, listing_id in enumerate(ids)}
    at_hand = lru_cache(_FILES_AT_HAND)(chains.rows_of)
    for table in listings.read_files(["listing_id", "images", "queries"]):
        for row, listing_id in enumerate(table.column("listing_id").to_pylist()):
            if listing_id in places:
                file, place = places[listing_id]
                (answered,) = at_hand(file).slice(place, 1).to_pylist()
                (listing,) = table.slice(row, 1).to_pylist()
                yield from reader.queries(listing, answered)


class _Reader:
    """Makes rows of what was asked and what the chains say."""

    def __init__(self, schema: AttributeSchema, answer_format: AnswerFormat, votes: Votes) -> None:
        self._schema, self._format, self._votes = schema, answer_format, votes

    def queries(self, listing: Row, answered: Row) -> Iterator[Row]:
        asked = {query["attribute"]: query for query in listing["queries"]}
        for query in answered["queries"]:
            name = query["attribute"]
            attribute = self._schema.get(answered["vertical"], name)
            vote = self._votes.get((listing["listing_id"], name), {})
            greedy = query["greedy"]
            yield {
                **{key: answered[key] for key in ("listing_id", "vertical", "split", "policy_id")},
                "attribute": name,
                "options": asked[name]["options"],
                "prompt": conversation(asked[name]["prompt"], self._format),
                "images": [{"bytes": content, "path": None} for content in listing["images"]],
                "greedy": None if greedy is None else self._chain(greedy, attribute),
                "chains": [self._chain(chain, attribute) for chain in query["chains"]],
                "consensus": vote.get("answer"),
                **{key: vote.get(key) for key in ("confidence", "gate", "votes")},
            }

    def _chain(self, chain: Row, attribute: Attribute) -> Row:
        said = parser.parse(chain["text"], chain["finish_reason"], attribute, self._format)
        return {
            "text": chain["text"],
            "answer": said.value,
            "reason": said.reason,
            "logprob": chain["logprob"],
            "num_tokens": len(chain["token_ids"]),
            "finish_reason": chain["finish_reason"],
        }
