"""``raypipe gc``: delete what a run no longer needs, and nothing that it may still need.

Goes: files of committed artifacts that no manifest names, files that a kill cut short, checkpoints
of finished trainings, and this machine's merged weights of the run's policies. Stays: everything
that a manifest names, what an interrupted stage would resume from, and whatever is young. Without
--yes it only says what it would delete.
"""

import argparse
import re
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from raypipe.cli.arguments import add_run
from raypipe.cli.status import age_text

if TYPE_CHECKING:
    from rich.table import Table

    from raypipe.maintenance.caches import Cache
    from raypipe.maintenance.garbage import Garbage

SUMMARY = "delete what a run no longer needs"
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_CACHED = "this machine's cache"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_run(parser)
    parser.add_argument("--yes", action="store_true", help="delete it")
    parser.add_argument(
        "--older-than",
        type=seconds_of,
        default="24h",
        metavar="AGE",
        help="touch nothing younger, such as 90m, 24h (the default) or 7d",
    )
    parser.add_argument(
        "--all-unfinished",
        action="store_true",
        help="also what interrupted stages and trainings would resume from",
    )


def seconds_of(text: str) -> int:
    """An age such as ``24h`` in seconds; a bare number counts seconds."""
    found = re.fullmatch(r"(\d+)([smhd]?)", text.strip())
    if found is None:
        raise argparse.ArgumentTypeError(f"'{text}' is no age such as 90m, 24h or 7d")
    return int(found[1]) * _UNITS[found[2] or "s"]


def run(parsed: argparse.Namespace) -> int:
    """Print what may go, and with --yes delete it; returns the exit code.

    Raises:
        InputError: there is no such run, or it was written to lately.
    """
    from rich.markup import escape

    from raypipe.errors import EXIT_INPUT, InputError
    from raypipe.maintenance import caches, garbage
    from raypipe.maintenance.inventory import take_inventory
    from raypipe.runtime.console import plain_console
    from raypipe.store.runs import find_run

    console = plain_console()
    target = find_run(parsed.run, parsed.directory)
    now = time.time()
    before = (garbage.time_of(target, now) if parsed.yes else now) - parsed.older_than
    inventory = take_inventory(target)
    pieces = garbage.find_garbage(
        inventory,
        before=before,
        all_unfinished=parsed.all_unfinished,
        is_torn=garbage.torn_in(target),
    )
    cached = caches.find_caches(inventory, before=before, home=Path.home() / ".cache" / "raypipe")
    faults = [holding.fault for holding in inventory.holdings.values() if holding.fault]
    for fault in faults:
        console.print(f"[red]left alone[/red]  {escape(fault)}")
    busy = garbage.in_use(inventory, since=before)
    if busy is not None and parsed.yes:
        raise InputError(
            f"{target.location} may be in use: {busy} is not committed, and was written to less "
            f"than {age_text(parsed.older_than)} ago. Wait, or name a smaller --older-than when "
            "nothing runs"
        )
    if not pieces and not cached:
        console.print(f"nothing to delete in {escape(target.location)}")
    elif parsed.yes:
        gone = garbage.delete(target, pieces)
        emptied = caches.delete_caches(cached, before=before)
        console.print(_table("Deleted", target.location, gone, emptied))
    else:
        console.print(_table("Would delete", target.location, pieces, cached))
        if busy is not None:
            console.print(f"[yellow]![/yellow] {escape(busy)} may be under way: --yes would refuse")
        else:
            console.print("[dim]nothing was deleted; --yes deletes it[/dim]")
    return EXIT_INPUT if faults else 0


def _table(
    verb: str, location: str, pieces: "Sequence[Garbage]", cached: "Sequence[Cache]"
) -> "Table":
    """What goes, by where it lies and why; the last line is the sum."""
    from raypipe.runtime.console import table

    files: Counter[tuple[str, str]] = Counter()
    sizes: Counter[tuple[str, str]] = Counter()
    for piece in pieces:
        files[piece.subject, piece.reason] += 1
        sizes[piece.subject, piece.reason] += piece.size
    for cache in cached:
        place = str(cache.path).replace(str(Path.home()), "~", 1)
        files[place, _CACHED] += cache.files
        sizes[place, _CACHED] += cache.size
    return table(
        f"{verb} in {location}",
        ("where", "why", "files", "bytes"),
        ((*key, f"{files[key]:,}", f"{sizes[key]:,}") for key in sorted(files)),
        left=["why"],
        totals=[("in all", "", f"{files.total():,}", f"{sizes.total():,}")],
    )
