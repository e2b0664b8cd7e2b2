"""Rows that cannot be used, kept in a CSV beside the result with the reason."""

import csv
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self, TextIO

REFUSAL_COLUMNS = ("refused_because", "refused_detail")


class Refusals:
    """Writes refused rows with their own columns, so that they can be mended and given again.

    The file is begun with the first row: none is left when nothing was refused.
    """

    def __init__(self, path: Path, columns: Sequence[str]) -> None:
        self.path = path
        self.counts: Counter[str] = Counter()
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
        """Keep a row; None for one that could not be read and whose text is in the detail."""
        if self._file is None:
            self._file = self.path.open("w", newline="", encoding="utf-8")
            csv.writer(self._file).writerow((*REFUSAL_COLUMNS, *self._columns))
        cells = ("" if row is None else _joined(row[name]) for name in self._columns)
        csv.writer(self._file).writerow((reason, detail, *cells))
        self.counts[reason] += 1
        self.examples.setdefault(reason, detail)

    def described(self) -> list[str]:
        """A line for each reason, most frequent first."""
        return [
            f"{count:,} {reason} (such as: {self.examples[reason]})"
            for reason, count in self.counts.most_common()
        ]


def _joined(cell: str | list[str]) -> str:
    return cell if isinstance(cell, str) else "|".join(cell)
