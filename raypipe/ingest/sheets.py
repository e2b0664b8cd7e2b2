"""A user's sheet: CSV, TSV or JSON lines, read row by row as text.

A fault of the file is an InputError with the remedy; a row that cannot be read is told to the
caller and never lost.
"""

import codecs
import csv
import io
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv as arrow_csv

from raypipe.errors import InputError
from raypipe.security.textfiles import MAX_JSON_BYTES, MalformedError, parse_json

Cell = str | list[str]
SheetRow = dict[str, Cell]
# Told why, with the whole text, and how many lines it takes.
Unreadable = Callable[[str, int], None]

SEPARATED = (".csv", ".tsv", ".txt", ".tab")
JSON = (".jsonl", ".ndjson", ".json")
DELIMITERS = ",;\t|"
_SNIFFED_BYTES = 1 << 16
_SNIFFED_ROWS = 50
_BLOCK_BYTES = 1 << 22
# Every row of a sheet has every column of it.
MAX_COLUMNS = 10_000
# Objects whose keys are attributes; the keys of any other object keep its name in front.
_ATTRIBUTE_OBJECTS = ("attributes", "seller_values", "specifications", "specs", "properties")


@dataclass(frozen=True)
class Sheet:
    """A readable sheet and its columns. ``delimiter`` is None for JSON lines."""

    path: Path
    columns: tuple[str, ...]
    encoding: str
    delimiter: str | None

    def rows(self, unreadable: Unreadable) -> Iterator[SheetRow]:
        """Every row, with every column: stripped text, or a list of texts where JSON holds one.

        Args:
            unreadable: told of each row that cannot be read.

        Raises:
            InputError: text that is not of the encoding.
        """
        if self.delimiter is None:
            for number, value in _json_rows(self.path, self.encoding):
                row = _flat(value)
                if row is None:
                    unreadable(f"row {number} is not a JSON object: {value}", 1)
                else:
                    yield {name: row.get(name, "") for name in self.columns}
            return
        for batch in self._batches(self.delimiter, unreadable):
            for values in batch.to_pylist():
                yield {name: (values[name] or "").strip() for name in self.columns}

    def _batches(self, delimiter: str, unreadable: Unreadable) -> Iterator[pa.RecordBatch]:
        def skip(row: Any) -> str:
            wanted, found = row.expected_columns, row.actual_columns
            lines = row.text.count("\n") + 1
            where = f" over {lines:,} lines (is a quote not closed?)" if lines > 1 else ""
            unreadable(f"it has {found} columns{where}, the header has {wanted}: {row.text}", lines)
            return "skip"

        texts = arrow_csv.ConvertOptions(column_types=dict.fromkeys(self.columns, pa.string()))
        parsing = arrow_csv.ParseOptions(
            delimiter=delimiter, newlines_in_values=True, invalid_row_handler=skip
        )
        reading = arrow_csv.ReadOptions(
            encoding=self.encoding,
            block_size=_BLOCK_BYTES,
            column_names=self.columns,
            skip_rows_after_names=1,  # the header
        )
        try:
            with arrow_csv.open_csv(
                self.path, read_options=reading, parse_options=parsing, convert_options=texts
            ) as reader:
                yield from reader
        except UnicodeError as error:
            raise _not_text(self.path, self.encoding) from error
        except pa.ArrowInvalid as error:
            if "UTF8" in str(error):
                raise _not_text(self.path, self.encoding) from error
            raise InputError(
                f"{self.path} cannot be read as CSV ({error}); look for a quote that is not closed"
            ) from error


def open_sheet(path: Path, encoding: str | None = None, delimiter: str | None = None) -> Sheet:
    """Find out how a sheet is written and which columns it has.

    Args:
        path: a file whose name ends in one of ``SEPARATED`` or ``JSON``.
        encoding: by a name that Python knows; None is UTF-8, or what a byte order mark says.
        delimiter: between columns; None finds out.

    Raises:
        InputError: not there, empty, another kind of file, or a column without a name of its own.
    """
    kind = path.suffix.lower()
    if kind not in (*SEPARATED, *JSON):
        raise InputError(
            f"{path}: a {kind or 'nameless'} file is not read; save it as CSV (UTF-8), JSON lines "
            "or Parquet"
        )
    try:
        with path.open("rb") as stream:
            head = stream.read(_SNIFFED_BYTES)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    encoding = encoding or _marked(head)
    _check_encoding(encoding)
    if kind in JSON:
        return Sheet(path, _json_columns(path, encoding), encoding, None)
    text = _decoded(path, head, encoding)
    if not text.strip():
        raise InputError(f"{path} is empty")
    if len(head) == _SNIFFED_BYTES and len(text.splitlines()) < 2:
        raise InputError(f"{path}: the first line, the header, has more than {len(head):,} bytes")
    if delimiter is None:
        delimiter = "\t" if kind in (".tsv", ".tab") else _delimiter_of(text)
    try:
        header = next(_split(text, delimiter))
    except (csv.Error, TypeError) as error:
        raise InputError(f"{path}: the header cannot be read ({error}); mend it") from error
    return Sheet(path, _checked_header(path, header), encoding, delimiter)


def _split(text: str, delimiter: str) -> Iterator[list[str]]:
    rows = csv.reader(io.StringIO(text, newline=None), delimiter=delimiter)
    return (row for row in rows if row)


def _marked(head: bytes) -> str:
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    return "utf-8-sig" if head.startswith(codecs.BOM_UTF8) else "utf-8"


def _check_encoding(encoding: str) -> None:
    try:
        "".encode(encoding)  # LookupError also for one that is not of text, such as rot13
    except (LookupError, ValueError) as error:
        raise InputError(f"there is no encoding '{encoding}'; try utf-8 or cp1252") from error


def _decoded(path: Path, head: bytes, encoding: str) -> str:
    try:
        # A character may be cut in two where the head ends.
        return codecs.getincrementaldecoder(encoding)().decode(head)
    except UnicodeDecodeError as error:
        raise _not_text(path, encoding) from error


def _not_text(path: Path, encoding: str) -> InputError:
    return InputError(
        f"{path} is not {encoding.removesuffix('-sig').upper()} text; save it as UTF-8, or say "
        "--encoding cp1252 (or whatever wrote it)"
    )


def _delimiter_of(text: str) -> str:
    """The delimiter with which most rows are as wide as the header, and the header is widest."""

    def fitness(delimiter: str) -> tuple[bool, int]:
        rows: list[list[str]] = []
        try:
            rows += islice(_split(text, delimiter), _SNIFFED_ROWS)
        except csv.Error:
            return False, 0
        width = len(rows[0]) if rows else 0
        alike = sum(len(row) == width for row in rows)
        # A row that is cut, or whose quote is not closed, makes no sheet one of a single column.
        return width > 1 and 2 * alike >= len(rows), width

    return max(DELIMITERS, key=fitness)


def _checked_header(path: Path, header: list[str]) -> tuple[str, ...]:
    names = [name.removeprefix("\ufeff") for name in header]
    for number, name in enumerate(names, start=1):
        if not name.strip():
            raise InputError(f"{path}: column {number} has no name; give it one or remove it")
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise InputError(f"{path}: the column '{twice[0]}' is there twice; rename one")
    return tuple(names)


def _json_rows(path: Path, encoding: str) -> Iterator[tuple[int, object]]:
    """Number and value of each line, or of each entry of one array; a line that is no JSON comes
    as its text."""
    try:
        with path.open(encoding=encoding) as stream:
            start = stream.read(1)
            while start.isspace():
                start = stream.read(1)
            stream.seek(0)
            if start == "[":
                yield from enumerate(parse_json(stream.read(MAX_JSON_BYTES + 1)), start=1)
                return
            for number, line in enumerate(stream, start=1):
                if line.strip():
                    yield number, _json_or_text(line)
    except UnicodeDecodeError as error:
        raise _not_text(path, encoding) from error
    except MalformedError as error:
        raise InputError(f"{path} is not JSON: {error}; write one object a line") from error


def _json_or_text(line: str) -> object:
    try:
        return parse_json(line)
    except MalformedError as error:
        return f"{error}: {line}"


def _json_columns(path: Path, encoding: str) -> tuple[str, ...]:
    names: dict[str, None] = {}
    for number, value in _json_rows(path, encoding):
        names |= dict.fromkeys(_flat(value) or ())
        if len(names) > MAX_COLUMNS:
            raise InputError(
                f"{path}: its objects have more than {MAX_COLUMNS:,} different keys, counted to "
                f"row {number}; are some of them values?"
            )
    if not names:
        raise InputError(f"{path} holds no JSON object; write one object a line")
    return tuple(names)


def _flat(value: object) -> SheetRow | None:
    """An object's cells, those of objects in it beside them; None for what is no object."""
    if not isinstance(value, Mapping):
        return None
    row: SheetRow = {}
    for name, inner in value.items():
        if isinstance(inner, Mapping):
            front = "" if name in _ATTRIBUTE_OBJECTS else f"{name}."
            row |= {f"{front}{key}": _cell(cell) for key, cell in inner.items()}
        else:
            row[str(name)] = _cell(inner)
    return row


def _cell(value: object) -> Cell:
    if isinstance(value, list):
        return [text for text in map(_text, value) if text]
    return _text(value)


def _text(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return value.strip() if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
