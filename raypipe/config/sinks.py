"""Where labels are published beside the run: a table, or a directory of Parquet files."""

import re
from dataclasses import dataclass
from typing import Literal, get_args

from raypipe import storage
from raypipe.errors import ConfigError

SinkFormat = Literal["delta", "iceberg", "lance", "parquet"]
_SINK = re.compile(rf"({'|'.join(get_args(SinkFormat))}):(.+)", re.DOTALL)
_TABLE_NAME = re.compile(r"[^./\s]+(\.[^./\s]+)+")
_SNAPSHOT = re.compile(r"@[^@/]*$")
_SCHEMES = ("s3", "gs", "abfs", "abfss", "file")


@dataclass(frozen=True)
class SinkLocation:
    """A sink as a configuration names it; ``place`` is a path, a URI or the name of a table."""

    kind: SinkFormat
    place: str

    def __str__(self) -> str:
        return f"{self.kind}:{self.place}"


def parse_sink(location: str) -> SinkLocation:
    """``delta:<path or uri>``, ``lance:<path or uri>``, ``iceberg:<namespace>.<table>`` or
    ``parquet:<directory or uri>``.

    Raises:
        ConfigError: anything else, a snapshot after '@', or an address that holds credentials.
    """
    storage.refuse_credentials(location)
    found = _SINK.fullmatch(location)
    if found is None:
        raise ConfigError(
            f"'{location}' is no sink: it reads delta:<path or uri>, lance:<path or uri>, "
            "iceberg:<namespace>.<table> or parquet:<directory or uri>"
        )
    kind: SinkFormat = found[1]  # type: ignore[assignment]
    place = found[2]
    if kind != "parquet" and _SNAPSHOT.search(place):
        raise ConfigError(f"'{location}': a sink is written as it is now, and takes no @<snapshot>")
    if kind == "iceberg":
        if not _TABLE_NAME.fullmatch(place):
            raise ConfigError(f"'{location}': it reads iceberg:<namespace>.<table>")
        return SinkLocation(kind, place)
    scheme, separator, rest = place.partition("://")
    if separator and (scheme not in _SCHEMES or "?" in rest):
        raise ConfigError(
            f"'{location}': a sink's address is a path, or begins with one of "
            f"{', '.join(f'{name}://' for name in _SCHEMES)}, and has no parameters"
        )
    return SinkLocation(kind, place)
