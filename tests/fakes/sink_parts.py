"""Published labels in parts, as a labeling hands them to a sink."""

from collections.abc import Callable, Mapping, Sequence

import pyarrow as pa

from raypipe.exports.sinks import SinkPart
from raypipe.schemas import PUBLISHED_LABELS
from raypipe.store.digest import digest_rows
from tests.fakes.label_rows import label

Key = tuple[str, str]
Values = Mapping[Key, str | None]


def label_table(values: Values) -> pa.Table:
    """A label for every key, which publishes its value or abstains."""
    return PUBLISHED_LABELS.from_rows(
        [
            label(listing_id, "key", attribute)
            | {"value": value, "reason": "published" if value else "below_precision"}
            for (listing_id, attribute), value in values.items()
        ]
    )


def part(name: str, values: Values, decision: str = "0.95") -> SinkPart:
    rows = label_table(values)
    return SinkPart(name, f"{digest_rows(rows):032x} {decision}", lambda: rows)


def parts_of(shards: Sequence[Values], decision: str = "0.95") -> list[SinkPart]:
    """A part for each shard, named by its place."""
    return [part(f"labels/{place}", values, decision) for place, values in enumerate(shards)]


def watched(parts: Sequence[SinkPart], on_read: Callable[[str], None]) -> list[SinkPart]:
    """The same parts; ``on_read`` is told the name of each that is read, before it is."""

    def reader(made: SinkPart) -> Callable[[], pa.Table]:
        def read() -> pa.Table:
            on_read(made.name)
            return made.read()

        return read

    return [SinkPart(made.name, made.digest, reader(made)) for made in parts]


def values_of(rows: pa.Table) -> dict[Key, str | None]:
    """The published values; refuses a key that is there twice."""
    columns = (rows.column(name).to_pylist() for name in ("listing_id", "attribute", "value"))
    found = {
        (listing, attribute): value for listing, attribute, value in zip(*columns, strict=True)
    }
    assert len(found) == len(rows), "a label is there twice"
    return found
