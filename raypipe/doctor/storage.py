"""Whether a run's place keeps the promise that commits rest on: a file is created once."""

import contextlib
import os
import uuid
from collections.abc import Callable
from pathlib import Path

from raypipe.doctor.finding import Finding, fail, ok
from raypipe.errors import EXIT_RETRY, ConfigError, StorageDeniedError, StorageError
from raypipe.storage import storage_errors
from raypipe.store.artifacts import Run


def check_storage(directory: str, open_run: Callable[[str], Run] = Run) -> Finding:
    """Create a probe twice, and remove it and whatever folder was made for it.

    Args:
        directory: where runs live (``run.directory``).
        open_run: opens such a place.
    """
    what = "run.directory"
    made: list[Path] = []
    probe = f".raypipe-doctor-{uuid.uuid4().hex[:12]}"
    try:
        place = open_run(directory)
        made = _absent_folders(place)
        first, second = place.create(probe, b"1"), place.create(probe, b"2")
        with storage_errors(f"cannot delete {place.path(probe)}"):
            place.filesystem.delete_file(place.path(probe))
    except StorageDeniedError as error:
        return fail(what, str(error), "rights, credentials, or run.directory= another place")
    except StorageError as error:
        return fail(what, str(error), "network, endpoint, room; then try again", EXIT_RETRY)
    except ConfigError as error:
        return fail(what, str(error), "run.directory= a directory, or a URI such as s3://…")
    finally:
        for folder in made:
            with contextlib.suppress(OSError):
                os.rmdir(folder)
    if not first or second:
        return fail(
            what,
            f"{directory} creates a file that is there: two writers would both commit",
            "a local disk, or an object store with conditional writes (S3, GCS, Azure)",
        )
    return ok(what, f"{directory}: a file is created once")


def _absent_folders(place: Run) -> list[Path]:
    """The local folders that writing would make, the innermost first."""
    if not place.is_local:
        return []
    path = Path(place.root)
    return [folder for folder in (path, *path.parents) if not folder.exists()]
