"""Images that a listing names by path or URI instead of bringing their bytes."""

import posixpath
from functools import cache
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.fs as pafs

from raypipe.catalog.images import MAX_BYTES, Refusal

SCHEMES = ("file", "s3", "gs")


def read_image(reference: str, filesystem: pafs.FileSystem, directory: str) -> bytes | Refusal:
    """The bytes of an image file.

    Args:
        reference: a path, relative to ``directory`` or absolute on ``filesystem``, or a URI.
        filesystem: where the catalog's Parquet file is.
        directory: the directory of the catalog's Parquet file.

    Returns:
        At most one byte more than ``MAX_BYTES``, or a refusal: ``unsupported_scheme``,
        ``missing_file`` or ``unreadable_file``.
    """
    path = posixpath.join(directory, reference)
    if "://" in reference:
        scheme = reference.split("://")[0].lower()
        if scheme not in SCHEMES:
            return Refusal("unsupported_scheme", f"'{scheme}' is not one of {', '.join(SCHEMES)}")
        try:
            filesystem, path = _remote(reference)
        except (pa.ArrowException, OSError, ValueError) as error:
            return Refusal("unreadable_file", str(error))
    try:
        with filesystem.open_input_stream(path, compression=None) as stream:
            return bytes(stream.read(MAX_BYTES + 1))
    except FileNotFoundError:
        return Refusal("missing_file", f"there is no {reference[:200]}")
    except (pa.ArrowException, OSError, ValueError) as error:
        return Refusal("unreadable_file", f"{reference[:200]}: {type(error).__name__}")


def _remote(uri: str) -> tuple[pafs.FileSystem, str]:
    parts = urlsplit(uri)
    if parts.scheme.lower() == "file":
        return pafs.LocalFileSystem(), pafs.FileSystem.from_uri(uri)[1]
    return _bucket(parts.scheme.lower(), parts.netloc), f"{parts.netloc}{parts.path}"


@cache
def _bucket(scheme: str, name: str) -> pafs.FileSystem:
    """One client per bucket: resolving its region asks the network."""
    return pafs.FileSystem.from_uri(f"{scheme}://{name}")[0]
