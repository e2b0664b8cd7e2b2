"""Which column of a sheet is what."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from raypipe.errors import ConfigError, InputError
from raypipe.ingest.refused import REFUSAL_COLUMNS

IDS = ("listing_id", "id", "sku", "product_id", "item_id", "article", "article_number", "asin",
       "gtin", "ean", "handle")  # fmt: skip
VERTICALS = ("vertical", "category", "product_category", "product_type", "category_name",
             "taxonomy", "department")  # fmt: skip
GROUPS = ("group_id", "group", "parent_id", "parent_sku", "item_group_id")
_IMAGES = re.compile(
    r"((additional|main|primary|product|front|back|side)_?)*(images?|photos?|pictures?|imgs?|pics?)"
    r"(_?(urls?|links?|paths?|files?|names?|filenames?|src))?_?\d*(_?(urls?|links?|paths?|files?))?"
)


@dataclass(frozen=True)
class Columns:
    """What was mapped to what.

    Without a ``vertical`` column every listing is of ``one_vertical``; without ``images`` columns
    they are found by file name.
    """

    identifier: str
    vertical: str | None
    one_vertical: str | None
    group: str | None
    images: tuple[str, ...]
    sellers: tuple[str, ...]

    def described(self) -> list[tuple[str, str]]:
        """What a listing's parts come from, for printing."""
        quoted = [f"'{name}'" for name in self.images]
        sellers = ", ".join(f"'{name}'" for name in self.sellers)
        lines = [
            ("listing_id", f"column '{self.identifier}'"),
            ("vertical", f"column '{self.vertical}'" if self.vertical else
             f"'{self.one_vertical}' for all"),
            ("images", f"columns {', '.join(quoted)}" if quoted else "files named after the id"),
            ("seller_values", f"columns {sellers}" if sellers else "none"),
        ]  # fmt: skip
        if self.group is not None:
            lines.insert(2, ("group_id", f"column '{self.group}'"))
        return lines


@dataclass(frozen=True)
class ColumnOptions:
    """What the user says of the columns; None and empty find out."""

    identifier: str | None = None
    vertical: str | None = None
    one_vertical: str | None = None
    group: str | None = None
    images: tuple[str, ...] = ()


def map_columns(
    columns: Sequence[str], options: ColumnOptions, source: str, *, has_files: bool
) -> Columns:
    """Find the columns of a catalog by their names.

    Args:
        columns: of the sheet.
        options: what is not to be found out.
        source: the sheet's name, for messages.
        has_files: images may be found by file name.

    Raises:
        ConfigError: a column that was asked for is not there.
        InputError: no column tells the id, the vertical or the images.
    """
    given = [options.identifier, options.vertical, options.group, *options.images]
    for name in filter(None, given):
        if name not in columns:
            near = get_close_matches(name, columns, n=1, cutoff=0.0)
            raise ConfigError(f"{source} has no column '{name}'; the nearest is '{near[0]}'")
    identifier = options.identifier or id_column(columns, source)
    vertical = options.vertical
    if vertical is None and options.one_vertical is None:
        vertical = first_named(columns, VERTICALS)
        if vertical is None:
            raise InputError(
                f"{source}: no column tells the vertical (it has {', '.join(columns)}); name it "
                "with --vertical COLUMN, or with --one-vertical WORD if all listings are of one"
            )
    images = options.images or tuple(name for name in columns if _IMAGES.fullmatch(plain(name)))
    if not images and not has_files:
        raise InputError(
            f"{source}: no column names images (it has {', '.join(columns)}); name them with "
            "--image-columns COLUMN …, or the folder of <id>.jpg files with --images DIR"
        )
    group = options.group or first_named(columns, GROUPS)
    taken = {identifier, vertical, group, *images, *REFUSAL_COLUMNS}
    return Columns(
        identifier=identifier,
        vertical=vertical,
        one_vertical=None if vertical else options.one_vertical,
        group=group,
        images=images,
        sellers=tuple(name for name in columns if name not in taken),
    )


def id_column(columns: Sequence[str], source: str) -> str:
    """The column with the listing ids. Raises InputError when none is named like one."""
    found = first_named(columns, IDS)
    if found is None:
        raise InputError(
            f"{source}: no column tells the listing id (it has {', '.join(columns)}); name it with "
            "--id COLUMN"
        )
    return found


def first_named(columns: Iterable[str], names: Iterable[str]) -> str | None:
    """The column with the first of the names, whatever its case, spaces and hyphens."""
    known = {plain(column).replace("_", ""): column for column in columns}
    plainer = (name.replace("_", "") for name in names)
    return next((known[name] for name in plainer if name in known), None)


def plain(column: str) -> str:
    """A column's name in lower case, with one underscore for everything that is no letter or
    digit."""
    return re.sub(r"[\W_]+", "_", column.strip().lower()).strip("_")
