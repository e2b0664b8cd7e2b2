"""Rows that cannot be used, kept in a CSV beside the result with the reason."""

import csv
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self, TextIO

REFUSAL_COLUMNS = ("refused_because", "refused_detail")
_LONGEST_EXAMPLE = 300


class Refusals:
    """Writes refused rows with their own columns, so that they can be mended and given again.

    The file is begun with the first row: none is left when nothing was refused.
    """

    def __init__(self, path: Path, columns: Sequence[str]) -> None:
        self.path = path
        self.counts: Counter[str] = Counter()
        self.lines: Counter[str] = Counter()
        self.examples: dict[str, str] = {}
        self._columns = tuple(name for name in columns if name not in REFUSAL_COLUMNS)
        self._file: TextIO | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._file is not None:
            self._file.close()

    @property
    def total(self) -> int:
        return self.counts.total()

    def add(
        self, reason: str, detail: str, row: Mapping[str, str | list[str]] | None = None
    ) -> None:
        """Keep a row."""
        self._keep(reason, detail, row, 1)

    def unreadable(self, detail: str, lines: int) -> None:
        """Keep the text of so many lines that were to be one row and could not be read as one."""
        self._keep("unreadable_row", detail, None, lines)

    def described(self) -> list[str]:
        """A line for each reason, most frequent first."""
        return [
            f"{count:,} {reason}{self._over(reason)} (such as: {self.examples[reason]})"
            for reason, count in self.counts.most_common()
        ]

    def _over(self, reason: str) -> str:
        """How many lines of the sheet, where those are more than the rows."""
        lines = self.lines[reason]
        return f" over {lines:,} lines" if lines > self.counts[reason] else ""

    def _keep(
        self, reason: str, detail: str, row: Mapping[str, str | list[str]] | None, lines: int
    ) -> None:
        if self._file is None:
            self._file = self.path.open("w", newline="", encoding="utf-8")
            csv.writer(self._file).writerow((*REFUSAL_COLUMNS, *self._columns))
        cells = ("" if row is None else _joined(row[name]) for name in self._columns)
        csv.writer(self._file).writerow((reason, detail, *cells))
        self.counts[reason] += 1
        self.lines[reason] += lines
        self.examples.setdefault(reason, " ".join(detail[:_LONGEST_EXAMPLE].split()))


def _joined(cell: str | list[str]) -> str:
    return cell if isinstance(cell, str) else "|".join(cell)
