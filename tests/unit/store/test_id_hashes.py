"""Hashes of ids: sorted, searched and compared."""

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from raypipe.store.id_hashes import (
    HASH,
    Hashes,
    among,
    hash_ids,
    joined,
    order,
    repeated,
    shared,
    within,
)

names = st.lists(st.text(max_size=12).filter(lambda name: name.isprintable()), max_size=60)


def hashed(texts: list[str] | set[str]) -> Hashes:
    found = hash_ids(pa.array(sorted(texts), pa.string()))
    return found[order(found)]


@given(names, names)
def test_what_two_sorted_arrays_share(one: list[str], other: list[str]) -> None:
    mine, theirs = hashed(set(one)), hashed(set(other))
    assert mine.tolist() == sorted(mine.tolist())
    assert shared(mine, theirs).tobytes() == hashed(set(one) & set(other)).tobytes()
    asked = hash_ids(pa.array(one, pa.string()))
    assert among(asked, theirs).tolist() == [name in set(other) for name in one]


@given(names)
def test_repeated_ids_are_found(texts: list[str]) -> None:
    places = repeated(hash_ids(pa.array(texts, pa.string())))
    assert len(places) == len(texts) - len(set(texts))
    assert all(texts[place] in texts[:place] or texts.count(texts[place]) > 1 for place in places)


@given(names, st.integers(1, 7))
def test_ranges_hold_every_hash_once(texts: list[str], parts: int) -> None:
    whole = hashed(set(texts))
    ranges = [within(whole, part, parts) for part in range(parts)]
    assert joined(ranges).tobytes() == whole.tobytes()


def test_hashes_of_which_the_first_half_agrees_are_told_apart() -> None:
    known = np.array([(7, 1), (7, 2), (7, 9), (2**64 - 1, 0)], HASH)
    asked = np.array([(7, 2), (7, 3), (7, 9), (2**64 - 1, 0), (2**64 - 1, 1)], HASH)
    assert among(asked, known).tolist() == [True, False, True, True, False]
    assert len(joined([within(known, part, 2) for part in range(2)])) == 4


def test_a_hash_survives_a_file() -> None:
    whole = hashed([f"L{number}" for number in range(300)])
    assert np.frombuffer(joined([whole[:100], whole[100:]]).tobytes(), HASH).tolist() == (
        whole.tolist()
    )
