"""Splits depend on who is related to whom, never on the order in which listings arrive."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raypipe.catalog.splits import PRIORITY, Member, assign

SHARE = 0.3


def settle(*members, share=SHARE, run_seed=0):
    return assign(members, run_seed=run_seed, anchor_share=share)


def member(name, role="pool", group=None, *images):
    return Member(name, role, group, images or (f"image of {name}",))


_members = st.builds(
    Member,
    listing_id=st.uuids().map(str),
    role=st.sampled_from(["pool", "seed", "eval", "anchor", "truth"]),
    group_id=st.none() | st.sampled_from("abcd"),
    image_hashes=st.lists(st.sampled_from([f"i{n}" for n in range(12)]), max_size=2).map(tuple),
)
_catalogs = st.lists(_members, max_size=20, unique_by=lambda member: member.listing_id)


@given(_catalogs, st.randoms())
def test_order_does_not_matter(members, random):
    shuffled = list(members)
    random.shuffle(shuffled)
    assert settle(*members) == settle(*shuffled)


@given(_catalogs)
def test_every_listing_is_settled_once_and_relatives_share_a_split(members):
    settled = settle(*members)
    assert {*settled.splits, *settled.leaks} == {member.listing_id for member in members}
    assert not settled.splits.keys() & settled.leaks.keys()
    owner: dict[str, str] = {}
    for one in members:
        if one.listing_id in settled.splits:
            split = settled.splits[one.listing_id]
            assert one.role in (split, "truth")
            for tie in (*one.image_hashes, *([f"group {one.group_id}"] if one.group_id else [])):
                assert owner.setdefault(tie, split) == split


@pytest.mark.parametrize("first", range(3))
def test_the_first_split_keeps_its_listings(first):
    low, high = PRIORITY[first + 1], PRIORITY[first]
    settled = settle(member("a", low, "g"), member("b", high, "g"))
    assert settled.splits == {"b": high}
    assert settled.leaks == {"a": f"{low} listing is a relative of {high} b"}


def test_a_shared_image_is_a_leak_and_so_is_a_chain_of_them():
    settled = settle(
        member("a", "eval", None, "x"),
        member("b", "pool", None, "x", "y"),
        member("c", "pool", None, "y"),
        member("d", "pool", None, "z"),
    )
    assert settled.splits == {"a": "eval", "d": "pool"}
    assert set(settled.leaks) == {"b", "c"}


def test_a_group_is_not_an_image_of_the_same_name():
    assert not settle(member("a", "eval", "x"), member("b", "pool", None, "x")).leaks


def test_a_verified_family_is_drawn_as_one():
    members = [member(f"L{n}", "truth", f"g{n // 4}") for n in range(400)]
    settled = settle(*members)
    assert not settled.leaks
    assert all(settled.splits[f"L{n}"] == settled.splits[f"L{n - n % 4}"] for n in range(400))
    anchor = sum(split == "anchor" for split in settled.splits.values())
    assert 0.15 < anchor / 400 < 0.45


def test_another_seed_is_another_draw_and_other_listings_change_nothing():
    members = [member(f"L{n}", "truth") for n in range(50)]
    settled = settle(*members)
    assert settled.splits != settle(*members, run_seed=1).splits
    more = settle(*members, *(member(f"P{n}", "pool") for n in range(50)))
    assert settled.splits.items() <= more.splits.items()


@pytest.mark.parametrize(("share", "split"), [(0.0, "eval"), (0.9999999, "anchor")])
def test_the_ends_of_the_share(share, split):
    members = [member(f"L{n}", "truth") for n in range(50)]
    assert set(settle(*members, share=share).splits.values()) == {split}
