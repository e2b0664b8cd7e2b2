"""Bring your own catalog: writes catalog.yaml, schema.yaml and, from a sheet, listings.parquet.

    raypipe init listings.csv --images photos      CSV, TSV or JSON lines, and a folder of images
    raypipe init listings.parquet                  in the form of catalog.listings: checks it
    raypipe init --truth verified.csv              values that people verified, to truth/
    raypipe init --seed seed.csv                   annotated values with reasoning, to seed/

Nothing that exists is written over without --force; a catalog.yaml or schema.yaml not even with it,
but kept as .bak. Parsing loads nothing; what reads tables is imported by run.
"""

import argparse
import sys
from pathlib import Path

from raypipe.errors import ConfigError, RaypipeError

SUMMARY = "make a configuration, a schema and listings of your own sheet and images"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``raypipe init``."""
    parser.add_argument(
        "listings", nargs="?", metavar="LISTINGS",
        help="CSV, TSV, JSON lines; or Parquet, a file, a directory or an address",
    )  # fmt: skip
    parser.add_argument("--images", type=Path, metavar="DIR", help="folder of image files")
    parser.add_argument("--target", type=Path, default=Path(), metavar="DIR",
                        help="where files are written; default: the current directory")  # fmt: skip
    parser.add_argument("--force", action="store_true", help="write over existing files; "
                        "catalog.yaml and schema.yaml are kept as .bak")  # fmt: skip
    parser.add_argument("--listings-only", action="store_true",
                        help="leave catalog.yaml and schema.yaml as they are")  # fmt: skip
    parser.add_argument("--truth", type=Path, metavar="CSV", help="listing_id, attribute, value, "
                        "split; or a column for each attribute")  # fmt: skip
    parser.add_argument("--seed", type=Path, metavar="CSV",
                        help="listing_id, attribute, reasoning, answer")  # fmt: skip
    mapped = parser.add_argument_group("what is which column, where the names do not say it")
    mapped.add_argument("--id", metavar="COLUMN", help="the listing's id")
    verticals = mapped.add_mutually_exclusive_group()
    verticals.add_argument("--vertical", metavar="COLUMN", help="its vertical or category")
    verticals.add_argument(
        "--one-vertical", metavar="WORD", help="all listings are of this vertical"
    )
    mapped.add_argument("--group", metavar="COLUMN", help="shared by variants of one product, "
                        "which are never split")  # fmt: skip
    mapped.add_argument("--image-columns", metavar="COLUMN[,COLUMN]",
                        help="columns that name images")  # fmt: skip
    written = parser.add_argument_group("how it is written")
    written.add_argument("--embed", action="store_true",
                         help="put images into listings.parquet, not their paths")  # fmt: skip
    written.add_argument("--encoding", help="of the sheet; default: UTF-8")
    written.add_argument("--delimiter", help="between the sheet's columns; default: found out")
    written.add_argument("--gpus", type=int, metavar="N",
                         help="configure for so many; default: this machine's")  # fmt: skip


def run(parsed: argparse.Namespace) -> int:
    """Do what was parsed; returns 0.

    Raises:
        ConfigError: the call is wrong, or a file is there already.
        InputError: a sheet, a Parquet file or the images cannot be used.
        StorageError: a file cannot be written.
    """
    from raypipe.ingest.columns import ColumnOptions
    from raypipe.ingest.console import InitConsole
    from raypipe.ingest.importer import InitOptions, import_answers, import_listings

    if parsed.listings is None and parsed.truth is None and parsed.seed is None:
        raise ConfigError("nothing to do: name a sheet of LISTINGS, --truth or --seed")
    columns = ColumnOptions(
        identifier=parsed.id,
        vertical=parsed.vertical,
        one_vertical=parsed.one_vertical,
        group=parsed.group,
        images=tuple(name for name in (parsed.image_columns or "").split(",") if name),
    )
    options = InitOptions(
        target=parsed.target,
        force=parsed.force,
        listings_only=parsed.listings_only,
        images=parsed.images,
        columns=columns,
        embed=parsed.embed,
        encoding=parsed.encoding,
        delimiter="\t" if parsed.delimiter == "\\t" else parsed.delimiter,
        gpus=parsed.gpus,
    )
    console = InitConsole()
    if parsed.listings is not None:
        import_listings(parsed.listings, options, console)
    if parsed.seed is not None:
        import_answers(parsed.seed, "seed", options, console)
    if parsed.truth is not None:
        import_answers(parsed.truth, "truth", options, console)
    console.next_steps(parsed.target)
    return 0


def main(arguments: list[str] | None = None) -> int:
    """``python -m raypipe.cli.init``; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="raypipe init",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_arguments(parser)
    try:
        return run(parser.parse_args(arguments))
    except RaypipeError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)  # noqa: T201
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
