"""``raypipe init``: from a user's sheet and images to the files that every other command reads.

Parsing loads nothing; what reads tables is imported when it runs.
"""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from raypipe.errors import ConfigError, RaypipeError

if TYPE_CHECKING:
    from raypipe.intake.console import IntakeConsole

DESCRIPTION = """\
Bring your own catalog: writes catalog.yaml, schema.yaml and, from a sheet, listings.parquet.

  raypipe init listings.csv --images photos      CSV, TSV or JSON lines, and a folder of images
  raypipe init listings.parquet                  in the form of catalog.listings: checks it
  raypipe init --truth verified.csv              values that people verified, to truth/
  raypipe init --seed seed.csv                   annotated values with reasoning, to seed/
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``raypipe init``."""
    parser.description = DESCRIPTION
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        "listings", nargs="?", metavar="LISTINGS",
        help="CSV, TSV, JSON lines; or Parquet, a file, a directory or an address",
    )  # fmt: skip
    parser.add_argument("--images", type=Path, metavar="DIR", help="folder of image files")
    parser.add_argument("--target", type=Path, default=Path(), metavar="DIR",
                        help="where files are written; default: the current directory")  # fmt: skip
    parser.add_argument("--force", action="store_true", help="write over existing files")
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
    """Do what was parsed; returns the exit code (0, 2 the call, 3 the input, 4 the disk)."""
    from raypipe.intake.console import IntakeConsole

    try:
        _run(parsed, IntakeConsole())
    except RaypipeError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)  # noqa: T201
        return error.exit_code
    return 0


def _run(parsed: argparse.Namespace, console: "IntakeConsole") -> None:
    from raypipe.intake.columns import Wishes
    from raypipe.intake.take import Wanted, take_answers, take_listings

    if parsed.listings is None and parsed.truth is None and parsed.seed is None:
        raise ConfigError("nothing to do: name a sheet of LISTINGS, --truth or --seed")
    columns = Wishes(
        identifier=parsed.id,
        vertical=parsed.vertical,
        one_vertical=parsed.one_vertical,
        group=parsed.group,
        images=tuple(name for name in (parsed.image_columns or "").split(",") if name),
    )
    wanted = Wanted(
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
    if parsed.listings is not None:
        take_listings(parsed.listings, wanted, console)
    if parsed.seed is not None:
        take_answers(parsed.seed, "seed", wanted, console)
    if parsed.truth is not None:
        take_answers(parsed.truth, "truth", wanted, console)
    console.next_steps(parsed.target)


def main(arguments: list[str] | None = None) -> int:
    """``python -m raypipe.cli.init``."""
    parser = argparse.ArgumentParser(prog="raypipe init")
    add_arguments(parser)
    return run(parser.parse_args(arguments))


if __name__ == "__main__":
    sys.exit(main())
