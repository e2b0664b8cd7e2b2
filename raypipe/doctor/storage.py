"""Whether a run's place keeps the promise that commits rest on: a file is created once."""

import contextlib
import os
import uuid
from collections.abc import Callable
from pathlib import Path

from raypipe.artifacts import Run
from raypipe.doctor.finding import Finding, fail, ok
from raypipe.errors import EXIT_RETRY, StorageError


def check_storage(directory: str, open_run: Callable[[str], Run] = Run) -> Finding:
    """Create a probe twice, and remove it and whatever folder was made for it.

    Args:
        directory: where runs live (``run.directory``).
        open_run: opens such a place.
    """
    what = "run.directory"
    made = _absent_folders(directory)
    probe = f".raypipe-doctor-{uuid.uuid4().hex[:12]}"
    try:
        place = open_run(directory)
        first, second = place.create(probe, b"1"), place.create(probe, b"2")
        place.filesystem.delete_file(place.path(probe))
    except StorageError as error:
        return fail(what, str(error), "credentials, region, rights, network", EXIT_RETRY)
    except (PermissionError, NotADirectoryError, FileExistsError) as error:
        return fail(what, f"{directory}: {error.strerror}", "run.directory= a place of your own")
    except (OSError, ValueError) as error:  # what Arrow raises of a place that it cannot reach
        said = str(error).splitlines()[0]
        return fail(what, f"{directory}: {said}", "credentials, region, network", EXIT_RETRY)
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


def _absent_folders(directory: str) -> list[Path]:
    """The local folders that opening would make, the innermost first."""
    if "://" in directory:
        return []
    path = Path(directory).resolve()
    return [folder for folder in (path, *path.parents) if not folder.exists()]
