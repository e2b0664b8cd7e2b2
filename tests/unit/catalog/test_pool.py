"""The pool is chosen by hashes of ids, as if all of them were sorted in one place."""

import heapq
from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raypipe.catalog import pool
from raypipe.catalog.pool import choose_pool
from raypipe.catalog.shards import Piece, SourceShard
from raypipe.seeds import derive

_ids = st.lists(st.text(min_size=1), max_size=40, unique=True)


@dataclass(frozen=True)
class NamesReader:
    """A catalog of ids alone; a piece is a range of them."""

    ids: list[str]

    def names(self, piece: Piece) -> Iterator[pa.Table]:
        ids = self.ids[piece.first : piece.first + piece.rows]
        yield pa.table({"listing_id": pa.array(ids, pa.string())})


def chosen(ids: list[str], named: set[str], count: int | None, size: int = 7) -> set[str]:
    """The pool listings that a choice holds."""
    shards = [
        SourceShard(str(at), (Piece("", 0, at, min(size, len(ids) - at)),))
        for at in range(0, len(ids), size)
    ]
    choice = choose_pool(NamesReader(ids), shards, named, count, 5)
    assert all(map(choice.holds, named))
    return {name for name in ids if name not in named and choice.holds(name)}


@given(_ids, st.integers(0, 8), st.integers(0, 45), st.sampled_from([1, 3, 16]))
def test_the_ids_with_the_smallest_hashes_are_chosen(ids, num_named, count, bits):
    named, others = set(ids[:num_named]), ids[num_named:]
    ranked = [(derive(5, "pool", name), name) for name in others]
    expected = {name for _, name in heapq.nsmallest(count, ranked)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pool, "_BITS", bits)
        patch.setattr(pool, "_SHIFT", 63 - bits)
        assert chosen(ids, named, count) == expected


@given(_ids, st.integers(0, 20), st.integers(0, 20))
def test_a_larger_pool_holds_the_smaller(ids, count, more):
    smaller, larger = chosen(ids, set(), count), chosen(ids[::-1], set(), count + more, 3)
    assert smaller <= larger <= set(ids)
    assert len(smaller) == min(count, len(ids))


def test_without_a_cap_all_are_in():
    assert chosen(["a", "b", "c"], {"b"}, None) == {"a", "c"}


def test_of_equal_hashes_the_smaller_id_is_chosen(monkeypatch):
    monkeypatch.setattr(pool, "derive", lambda *parts: 7)
    assert chosen(list("dbca"), set(), 2) == {"a", "b"}
