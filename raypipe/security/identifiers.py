"""Texts by which rows are told apart: how long they may be, and what stands for longer ones."""

import hashlib
import re

import pyarrow as pa
import pyarrow.compute as pc

# Ids become parts of file names and of "<listing_id>/<attribute>".
LISTING_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}")
# Of an id, a vertical, a group, an attribute's name or a value, as UTF-8. Four times what an id may
# have, so that a refused one is shown whole where that costs nothing; less than the 1,024 bytes of
# a name in an object store.
MAX_BYTES = 512
# Of what is told of a refused row, in characters.
MAX_DETAIL = 500
_SHOWN = 64
_STAND_IN = re.compile(r".*(… \([\d,]+ bytes, [0-9a-f]{32}\)|\(.*, row \d+\))", re.DOTALL)


def bounded(text: str) -> str:
    """A text of at most ``MAX_BYTES`` without NUL; a longer one, or one with NUL, as its beginning
    and a hash, which stay equal for equal texts and are no id that is taken."""
    content = text.encode(errors="surrogatepass")
    if len(content) <= MAX_BYTES and "\0" not in text:
        return text
    digest = hashlib.blake2b(content, digest_size=16).hexdigest()
    shown = text[:_SHOWN].replace("\0", "\\0")
    return f"{shown}… ({len(content):,} bytes, {digest})"


def is_stand_in(text: str) -> bool:
    """Whether this stands for an id that was refused when it was read."""
    return _STAND_IN.fullmatch(text) is not None


def identified(ids: pa.Array, place: str, first_row: int) -> pa.Array:
    """Ids of rows, of which one without an id gets its place in the file, counted from 1."""
    lacks = pc.or_kleene(pc.is_null(ids), pc.equal(ids, ""))
    if not pc.any(lacks, min_count=0).as_py():
        return ids
    found = [
        text or bounded(f"({place}, row {first_row + index})")
        for index, text in enumerate(ids.to_pylist(), start=1)
    ]
    return pa.array(found, ids.type)


def all_bounded(texts: pa.Array) -> pa.Array:
    """:func:`bounded` of every text of an array."""
    is_long = pc.greater(pc.binary_length(texts), MAX_BYTES)
    with_nul = pc.match_substring(texts, "\0")
    if not pc.any(pc.or_(is_long, with_nul), min_count=0).as_py():
        return texts
    found = [text if text is None else bounded(text) for text in texts.to_pylist()]
    return pa.array(found, texts.type)
