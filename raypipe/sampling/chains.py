"""Chains, and the table of them, built column by column.

A listing has dozens of chains of dozens of tokens; as Python rows they would cost more than all
else between the engine and the disk.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from raypipe.schemas import CHAINS


@dataclass(frozen=True)
class Chain:
    """One completion: ``logprob`` is the sum over its tokens in nats, NaN where none was asked."""

    text: str
    token_ids: tuple[int, ...]
    logprob: float
    finish_reason: str


@dataclass(frozen=True)
class AnsweredQuery:
    """The chains of one query: the greedy one if it was asked for, and the sampled ones."""

    greedy: Chain | None
    chains: Sequence[Chain]

    @property
    def all(self) -> list[Chain]:
        return [*([self.greedy] if self.greedy else []), *self.chains]


_NOTHING = Chain("", (), 0.0, "")


def chains_table(
    listings: Sequence[dict[str, Any]], answered: Sequence[Sequence[AnsweredQuery]], policy_id: str
) -> pa.Table:
    """CHAINS rows of listings.

    Args:
        listings: LISTINGS rows as Python values.
        answered: per listing, one entry per query in the listing's order.
    """
    flat = [query for queries in answered for query in queries]
    kind = CHAINS.schema.field("queries").type
    greedy_type, chains_type = (kind.value_type.field(name).type for name in ("greedy", "chains"))
    sampled = _structs([chain for query in flat for chain in query.chains], chains_type.value_type)
    queries = pa.StructArray.from_arrays(
        [
            pa.array(
                (query["attribute"] for listing in listings for query in listing["queries"]),
                pa.string(),
            ),
            _structs([query.greedy for query in flat], greedy_type),
            pa.ListArray.from_arrays(
                _offsets([len(query.chains) for query in flat]), sampled, type=chains_type
            ),
        ],
        fields=list(kind.value_type),
    )
    columns = {
        name: pa.array([listing[name] for listing in listings], pa.string())
        for name in ("listing_id", "vertical", "split")
    }
    columns["policy_id"] = pa.array([policy_id] * len(listings), pa.string())
    columns["queries"] = pa.ListArray.from_arrays(
        _offsets([len(queries) for queries in answered]), queries, type=kind
    )
    return pa.table(columns, schema=CHAINS.schema)


def _structs(chains: Sequence[Chain | None], kind: pa.StructType) -> pa.StructArray:
    present = [_NOTHING if chain is None else chain for chain in chains]
    tokens: list[int] = []
    for chain in present:
        tokens += chain.token_ids
    children = {
        "text": pa.array([chain.text for chain in present], pa.string()),
        "token_ids": pa.ListArray.from_arrays(
            _offsets([len(chain.token_ids) for chain in present]),
            pa.array(np.array(tokens, dtype=np.int32)),
            type=kind.field("token_ids").type,
        ),
        "logprob": pa.array([chain.logprob for chain in present], pa.float64()),
        "finish_reason": pa.array([chain.finish_reason for chain in present], pa.string()),
    }
    return pa.StructArray.from_arrays(
        [children[field.name] for field in kind],
        fields=list(kind),
        mask=pa.array([chain is None for chain in chains], pa.bool_()),
    )


def _offsets(lengths: Sequence[int]) -> pa.Array:
    return pa.array(np.concatenate(([0], np.cumsum(lengths, dtype=np.int64))).astype(np.int32))
