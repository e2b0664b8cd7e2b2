"""Randomness by identity: a seed comes from what it is for, never from order, worker or time."""

import hashlib


def derive(*parts: str | int) -> int:
    """A seed in [0, 2^63) that depends on all parts and on nothing else."""
    named = [f"{type(part).__name__}:{part}" for part in parts]
    canonical = "\x1f".join(named)
    if canonical.count("\x1f") >= len(parts):
        # A separator inside a part is doubled, so that no two lists of parts read the same.
        canonical = "\x1f".join(part.replace("\x1f", "\x1f\x1f") for part in named)
    digest = hashlib.blake2b(canonical.encode(), digest_size=8).digest()
    return int.from_bytes(digest) >> 1
