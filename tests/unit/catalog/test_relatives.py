"""Leaks found from the named listings alone are those found among all listings."""

import tempfile

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raypipe.catalog import relatives
from raypipe.catalog.identities import Identities
from raypipe.catalog.prepared import RefusalCounts
from raypipe.catalog.prepared_slices import ListingFile, NamedListing, PreparedSlice
from raypipe.catalog.relatives import find_relatives
from raypipe.catalog.splits import Member, assign, tie_hashes
from raypipe.errors import ArtifactError
from raypipe.schemas import LISTINGS
from raypipe.store.artifacts import Attempt, Run

_members = st.builds(
    Member,
    listing_id=st.uuids().map(str),
    role=st.sampled_from(["pool", "pool", "pool", "seed", "eval", "anchor", "truth"]),
    group_id=st.none() | st.sampled_from("abcdefgh"),
    image_hashes=st.lists(
        st.sampled_from([f"i{n}" for n in range(24)]), min_size=1, max_size=3, unique=True
    ).map(tuple),
)
_catalogs = st.lists(_members, max_size=30, unique_by=lambda member: member.listing_id)


def file_of(attempt: Attempt, members: list[Member]) -> ListingFile:
    rows = [
        {
            "listing_id": one.listing_id,
            "vertical": "shoe",
            "split": "pool",
            "group_id": one.group_id,
            "images": [b"photo"] * len(one.image_hashes),
            "image_hashes": list(one.image_hashes),
            "queries": [],
        }
        for one in members
    ]
    table = pa.Table.from_pylist(rows, schema=LISTINGS.schema)
    return ListingFile.of(attempt.store(table), table)


def slice_of(attempt: Attempt, key: str, members: list[Member], rows: int = 2) -> PreparedSlice:
    """A prepared slice of these listings, with its hashes."""
    pool = [one for one in members if one.role == "pool"]
    named = [one for one in members if one.role != "pool"]
    files = [file_of(attempt, pool[at : at + rows]) for at in range(0, len(pool), rows)]
    listed = [(one, place // rows) for place, one in enumerate(pool)]
    listed += [(one, -1) for one in named]
    content = Identities.of(
        (
            (one.listing_id, place, tie_hashes(one.group_id, one.image_hashes))
            for one, place in listed
        ),
        (),
        (),
    )
    prepared = PreparedSlice(
        key=key,
        shard="shard",
        identities=content.file_name(key),
        pool=tuple(files),
        named_files=(file_of(attempt, named),) if named else (),
        named=tuple(
            NamedListing(one.listing_id, "shoe", one.group_id, one.image_hashes) for one in named
        ),
        beyond=0,
        refusals=RefusalCounts(),
        skipped={},
    )
    attempt.artifact.run.replace(attempt.progress(prepared.identities), content.to_bytes())
    return prepared


@settings(max_examples=60, deadline=None)
@given(_catalogs, st.integers(0, 3))
def test_splits_and_leaks_are_those_of_all_listings(members, run_seed):
    with tempfile.TemporaryDirectory() as directory, pytest.MonkeyPatch.context() as patch:
        patch.setattr(relatives, "_SLICES_PER_TASK", 2)
        attempt = Run(directory).artifact("catalog/listings", LISTINGS).attempt({})
        slices = [
            slice_of(attempt, str(at), members[at : at + 5]) for at in range(0, len(members), 5)
        ]
        named = [one for one in members if one.role != "pool"]
        found = find_relatives(attempt, slices, named)
    everybody = assign(members, run_seed=run_seed, anchor_share=0.3)
    few = assign([*named, *found.members.values()], run_seed=run_seed, anchor_share=0.3)
    assert few.leaks == everybody.leaks
    assert few.splits.items() <= everybody.splits.items()
    others = everybody.splits.keys() - few.splits.keys()
    assert {everybody.splits[name] for name in others} <= {"pool"}
    assert found.members.keys() == everybody.leaks.keys() - {one.listing_id for one in named}


def test_hashes_that_have_changed_are_noticed(run):
    attempt = run.artifact("catalog/listings", LISTINGS).attempt({})
    one = Member("a", "pool", "g", ("i",))
    prepared = slice_of(attempt, "0", [one])
    run.replace(attempt.progress(prepared.identities), b"other")
    with pytest.raises(ArtifactError, match="missing or corrupt"):
        find_relatives(attempt, [prepared], [Member("b", "seed", "g", ())])
