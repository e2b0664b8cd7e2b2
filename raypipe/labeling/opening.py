"""Opens the catalog that is to be labeled.

A table is opened at the snapshot that unfinished labels were begun with: otherwise those of a table
that is written to every hour would be asked from the beginning after every interruption.
"""

from collections.abc import Callable

from raypipe.catalog.snapshots import Location, parse_location
from raypipe.catalog.sources import LISTINGS_COLUMNS, Source
from raypipe.catalog.tables import Tables
from raypipe.config import Config
from raypipe.errors import ConfigDriftError, InputError
from raypipe.labeling.label_versions import request_of, unfinished
from raypipe.store.artifacts import Run
from raypipe.store.manifest import Fingerprint


def open_catalog(
    config: Config, run: Run, request: Fingerprint, note: Callable[[str], None]
) -> Source | None:
    """``labeling.listings``; None for the run's own listings.

    Args:
        request: of the label version that is asked for, but for its ``listings``.
        note: is told when the newest label version is unfinished and its table is read as it
            was then.

    Raises:
        ConfigError: a package or a catalog is missing.
        InputError: nothing readable there, or no longer what unfinished labels were begun with.
    """
    location = config.labeling.listings
    if location is None:
        return None
    table = parse_location(location)
    begun = None if table is None else _begun(run, request, table)
    if table is None or begun is None:
        with Tables(config, run) as tables:
            return tables.open(location, LISTINGS_COLUMNS)
    scope, snapshot = begun
    if table.pin is None:
        note(
            f"{scope} was begun with {snapshot} and is finished first; the next call takes the "
            "newest snapshot"
        )
    try:
        with Tables(config, run, {"listings.snapshot": snapshot}) as tables:
            return tables.open(location, LISTINGS_COLUMNS, "listings")
    except (InputError, ConfigDriftError) as error:
        raise InputError(
            f"{scope} was begun with {snapshot}, which cannot be read ({error}). If it is gone for "
            f"good, pin another one to begin the next label version: labeling.listings={location}@…"
        ) from error


def _begun(run: Run, request: Fingerprint, table: Location) -> tuple[str, str] | None:
    """The unfinished label version of this table, and the snapshot that it was begun with."""
    match unfinished(run, request):
        case (scope, [[str(snapshot), *_]]) if table.pinned_by(snapshot) is not None:
            return scope, snapshot
    return None


def reopen_catalog(config: Config, run: Run, scope: str) -> Source | None:
    """``labeling.listings`` as the labels of a label version were made from it; None for the run's
    own listings.

    Raises:
        RaypipeError: it cannot be opened.
    """
    location = config.labeling.listings
    if location is None:
        return None
    table, held = parse_location(location), {}
    match request_of(run, scope).get("listings"):
        case [[str(snapshot), *_]] if table is not None and table.pinned_by(snapshot) is not None:
            held = {"listings.snapshot": snapshot}
    with Tables(config, run, held) as tables:
        return tables.open(location, LISTINGS_COLUMNS, "listings")
