"""Which split a listing belongs to, from identities alone: no order of rows or files matters.

Listings that share a group id or an image are relatives, and so are their relatives. Relatives in
different splits would leak answers, so all but those of the first split are refused.
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from raypipe.schemas import Split
from raypipe.seeds import derive

PRIORITY: tuple[Split, ...] = ("eval", "anchor", "seed", "pool")
# "truth": verified, and the family decides between eval and anchor.
Role = Split | Literal["truth"]


@dataclass(frozen=True)
class Member:
    """What splitting needs to know of a listing."""

    listing_id: str
    role: Role
    group_id: str | None
    image_hashes: tuple[str, ...]


@dataclass(frozen=True)
class Assignment:
    """Listing id to split, and refused listing id to the relative that it would leak to."""

    splits: Mapping[str, Split]
    leaks: Mapping[str, str]


def assign(members: Iterable[Member], *, run_seed: int, anchor_share: float) -> Assignment:
    """Give every listing its split and find the leaks.

    Args:
        members: listings, each once. Families without an annotated or verified listing are pool
            and may be left out.
        run_seed: root seed of the draw between eval and anchor.
        anchor_share: share (0-1) of the families with a "truth" role that becomes anchor.
    """
    splits: dict[str, Split] = {}
    leaks: dict[str, str] = {}
    for family in _families(members):
        chosen = [(_split(member, family, run_seed, anchor_share), member) for member in family]
        first = min((split for split, _ in chosen), key=PRIORITY.index)
        witness = min(member.listing_id for split, member in chosen if split == first)
        for split, member in chosen:
            if split == first:
                splits[member.listing_id] = split
            else:
                leaks[member.listing_id] = f"{split} listing is a relative of {first} {witness}"
    return Assignment(splits, leaks)


def tie_hashes(group_id: str | None, image_hashes: Iterable[str]) -> list[bytes]:
    """Hashes, 16 bytes each, of what makes a listing a relative of others: its group and images."""
    ties = [_node("image", name) for name in image_hashes]
    return ties if group_id is None else [*ties, _node("group", group_id)]


def _split(member: Member, family: list[Member], run_seed: int, anchor_share: float) -> Split:
    if member.role != "truth":
        return member.role
    drawn = [relative for relative in family if relative.role == "truth"]
    name = min(relative.group_id or relative.listing_id for relative in drawn)
    return "anchor" if derive(run_seed, "anchor", name) < anchor_share * (1 << 63) else "eval"


def _families(members: Iterable[Member]) -> list[list[Member]]:
    """Members joined by group id or image, transitively (union-find over hashed names)."""
    parents: dict[bytes, bytes] = {}

    def root(node: bytes) -> bytes:
        parents.setdefault(node, node)
        while parents[node] != node:
            parents[node] = node = parents[parents[node]]
        return node

    members = list(members)
    for member in members:
        own = _node("listing", member.listing_id)
        for tie in tie_hashes(member.group_id, member.image_hashes):
            parents[root(tie)] = root(own)
    families: dict[bytes, list[Member]] = {}
    for member in members:
        families.setdefault(root(_node("listing", member.listing_id)), []).append(member)
    return list(families.values())


def _node(kind: str, name: str) -> bytes:
    return hashlib.blake2b(f"{kind}:{name}".encode(), digest_size=16).digest()
