"""Randomness by identity: a seed comes from what it is for, never from order, worker or time."""

import hashlib


def derive(*parts: str | int) -> int:
    """A seed in [0, 2^63) that depends on all parts and on nothing else."""
    canonical = "\x1f".join(f"{type(part).__name__}:{part}" for part in parts)
    digest = hashlib.blake2b(canonical.encode(), digest_size=8).digest()
    return int.from_bytes(digest) >> 1
