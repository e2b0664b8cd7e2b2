"""A whole catalog, for labeling: Ray Data plans over the user's files, whatever their size.

First a survey of what is there, without fetching an image; then the listings that have changed are
prepared. There are no splits and no leaks to look for.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from raypipe.attributes.prompts import TEMPLATE_VERSION
from raypipe.attributes.schema import AttributeSchema
from raypipe.catalog.keys import image_identities, prepared_key, source_key
from raypipe.catalog.listings import (
    MAX_LOOKED_AT,
    RefusedListing,
    image_names,
    prepare_listing,
    quarantine_rows,
    seller_values,
)
from raypipe.catalog.queries import queries_of
from raypipe.catalog.sources import Source
from raypipe.config import CatalogConfig, Config
from raypipe.errors import InputError
from raypipe.runtime import stream
from raypipe.schemas import LISTINGS
from raypipe.security.identifiers import bounded
from raypipe.store.artifacts import Attempt, Run, get_or_commit
from raypipe.store.digest import digest_rows
from raypipe.store.manifest import Commit
from raypipe.store.paths import Paths

SURVEY = pa.schema(
    [
        ("listing_id", pa.string()),
        ("vertical", pa.string()),
        ("source_key", pa.string()),
        ("queries", pa.int32()),
    ]
)
ROWS_PER_BLOCK = 1024
_SURVEYED = ("listing_id", "vertical", "images", "seller_values")
_PREPARED = (*_SURVEYED, "group_id")


def survey(source: Source, schema: AttributeSchema) -> pa.Table:
    """What a catalog holds: ``SURVEY`` rows, one per listing.

    Raises:
        InputError: a doubled id, or a corrupt file.
    """
    import ray.data

    dataset = ray.data.from_items(_row_groups(source)).map_batches(
        partial(_survey, source, schema), batch_format="pyarrow", batch_size=1
    )
    return checked(_collect(dataset))


def survey_prepared(run: Run, name: str) -> pa.Table:
    """The same of an artifact of listings."""
    columns = ["listing_id", "vertical", "image_hashes", "queries"]
    dataset = stream.rows(run.artifact(name, LISTINGS), columns).map_batches(
        _survey_prepared, batch_format="pyarrow", batch_size=None
    )
    return checked(_collect(dataset))


def checked(found: pa.Table) -> pa.Table:
    """A survey whose ids are all there and all different. Raises InputError."""
    ids = found.column("listing_id")
    if ids.null_count:
        raise InputError("a listing_id is null; every row needs one")
    counted = pc.value_counts(ids.combine_chunks())
    doubled = counted.field("values").filter(pc.greater(counted.field("counts"), 1))
    if len(doubled):
        first = bounded(pc.min(doubled).as_py())
        raise InputError(f"the listing_id '{first}' is there twice")
    return found


def run_changed(
    config: Config, run: Run, *, scope: str, source: Source, schema: AttributeSchema, todo: pa.Table
) -> Commit:
    """Commit ``<scope>/listings``: the listings of ``todo`` (``SURVEY`` rows), prepared.

    Raises:
        QuarantineLimitError: more listings were refused than ``catalog.max_quarantined``.
    """
    fingerprint = {
        **config.fingerprint_keys("images"),
        "template": TEMPLATE_VERSION,
        "todo": f"{digest_rows(todo):032x}",
    }
    wanted = todo.column("listing_id").combine_chunks()

    def raw(done: pa.Array) -> Any:
        import ray.data

        dataset = ray.data.from_items(_row_groups(source)).map_batches(
            partial(_read, source, config.catalog.rows_per_file),
            batch_format="pyarrow",
            batch_size=1,
        )
        return stream.only(stream.without(dataset, done), wanted)

    def prepared(dataset: Any, write: stream.BlockWriter) -> Any:
        prepare = partial(_prepare, config.catalog, schema, source, write)
        return dataset.map_batches(prepare, batch_format="pyarrow", batch_size=None)

    def make(attempt: Attempt) -> Commit:
        return stream.run(
            attempt,
            [stream.StreamPlan(raw, prepared, wanted)],
            resources=stream.ActorResources(1, 0, config.cluster.capacity_wait_s),
            max_refused=config.catalog.max_quarantined,
            try_refused_again=True,  # a host may have been away
        )

    return get_or_commit(run.artifact(Paths(scope).listings, LISTINGS), fingerprint, make)


def _row_groups(source: Source) -> list[dict[str, Any]]:
    return [{"path": path, "group": group} for path, group in source.row_groups()]


def _collect(dataset: Any) -> pa.Table:
    try:
        found = list(dataset.iter_batches(batch_size=None, batch_format="pyarrow"))
    except Exception as error:
        raise stream.unwrap_ray_error(error) from error
    return pa.concat_tables([SURVEY.empty_table(), *found])


def _read(source: Source, rows: int, batch: pa.Table) -> Iterator[pa.Table]:
    for piece in batch.to_pylist():
        yield from source.read_row_group(piece["path"], piece["group"], _PREPARED, rows)


def _survey(source: Source, schema: AttributeSchema, batch: pa.Table) -> Iterator[pa.Table]:
    for piece in batch.to_pylist():
        groups = source.read_row_group(piece["path"], piece["group"], _SURVEYED, ROWS_PER_BLOCK)
        for table in groups:
            yield _surveyed(
                (row["listing_id"], row["vertical"], *_key(source, schema, row))
                for row in table.to_pylist()
            )


def _survey_prepared(block: pa.Table) -> pa.Table:
    return _surveyed(
        (row["listing_id"], row["vertical"], prepared_key(row), len(row["queries"]))
        for row in block.to_pylist()
    )


def _surveyed(rows: Iterator[tuple[str | None, str | None, str, int]]) -> pa.Table:
    columns = list(zip(*rows, strict=True)) or [()] * len(SURVEY)
    return pa.Table.from_arrays(
        [pa.array(column, kind) for column, kind in zip(columns, SURVEY.types, strict=True)],
        schema=SURVEY,
    )


def _key(source: Source, schema: AttributeSchema, row: dict[str, Any]) -> tuple[str, int]:
    known = row["vertical"] in schema.verticals
    attributes = schema.attributes(row["vertical"]) if known else ()
    queries = queries_of(attributes, seller_values(row["seller_values"]))
    images = image_identities(
        (row["images"] or ())[:MAX_LOOKED_AT],
        source.filesystem,
        source.directory,
        source.image_roots,
    )
    return source_key(images, queries), len(queries)


def _prepare(
    config: CatalogConfig,
    schema: AttributeSchema,
    source: Source,
    write: stream.BlockWriter,
    block: pa.Table,
) -> pa.Table:
    from raypipe.catalog.fetch import open_reader

    rows, refused = [], []
    counts = {"images": 0, "images_skipped": 0}
    asked: Sequence[dict[str, Any]] = block.to_pylist()
    with open_reader(config, source) as reader:
        reader.prefetch(image_names(asked, config.max_images))
        for row in asked:
            listing = prepare_listing(row, schema, config, reader.read)
            counts["images_skipped"] += sum(listing.skipped.values())
            if isinstance(listing, RefusedListing):
                refused.append(listing)
                continue
            counts["images"] += len(listing.pictures)
            key, _ = _key(source, schema, row)
            rows.append(listing.to_row() | {"split": "pool", "source_key": key})
    return write(stream.BlockResult(LISTINGS.from_rows(rows), quarantine_rows(refused), counts))
