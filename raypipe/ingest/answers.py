"""A CSV of annotated or verified values as the Parquet that ``catalog.seed`` and ``catalog.truth``
name.

Long: a row is a value (``listing_id, attribute, value``). Wide: a row is a listing and every
column an attribute; an empty cell says nothing.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from raypipe.attributes.schema import AttributeSchema
from raypipe.catalog.answers import ValueField, check_answers
from raypipe.errors import InputError
from raypipe.ingest.columns import first_named, id_column
from raypipe.ingest.refused import Refusals
from raypipe.ingest.sheets import Sheet, SheetRow

AnswerKind = Literal["seed", "truth"]
VALUE_FIELDS: dict[AnswerKind, ValueField] = {"seed": "answer", "truth": "value"}
_STATED_SPLITS = ("", "eval", "anchor")
_SCHEMAS: dict[AnswerKind, pa.Schema] = {
    "seed": pa.schema(
        {
            "listing_id": pa.string(),
            "answers": pa.list_(
                pa.struct(
                    {"attribute": pa.string(), "reasoning": pa.string(), "answer": pa.string()}
                )
            ),
        }
    ),
    "truth": pa.schema(
        {
            "listing_id": pa.string(),
            "answers": pa.list_(pa.struct({"attribute": pa.string(), "value": pa.string()})),
            "split": pa.string(),
        }
    ),
}


@dataclass(frozen=True)
class Catalog:
    """What answers are held against: the schema, the vertical of every listing (None where the
    listings are a table, which is not read here), and the ids that the other file of answers
    has."""

    schema: AttributeSchema
    verticals: Mapping[str, str] | None
    elsewhere: Collection[str]


@dataclass
class Written:
    """What was written, and the answers in it that the schema does not allow now."""

    listings: int = 0
    answers: int = 0
    doubtful: list[str] = field(default_factory=list)
    without_reasoning: int = 0


@dataclass(frozen=True)
class _Layout:
    """Which columns of a sheet of answers are what."""

    identifier: str
    split: str | None
    attribute: str | None
    value: str | None
    reasoning: str | None
    wide: tuple[str, ...]

    def pairs(self, row: SheetRow) -> Iterator[tuple[str, str, str]]:
        """Attribute, value and reasoning of each answer in a row."""
        if self.attribute is None or self.value is None:
            for name in self.wide:
                if _text(row, name):
                    yield name.strip(), _text(row, name), ""
        elif _text(row, self.value) and _text(row, self.attribute):
            yield _text(row, self.attribute), _text(row, self.value), _text(row, self.reasoning)


def write_answers(
    sheet: Sheet,
    kind: AnswerKind,
    path: Path,
    refusals: Refusals,
    *,
    catalog: Catalog | None,
    identifier: str | None = None,
) -> Written:
    """Write the answers of a sheet, a row for each listing.

    Reasons of a refused row: ``unreadable_row``, ``no_id``, ``unknown_listing``,
    ``in_the_seed`` or ``in_the_truth``, ``no_value``, ``repeated_attribute``, ``bad_split``,
    ``two_splits``.

    Args:
        sheet: long or wide.
        kind: of the answers; a truth may have a column ``split``.
        path: of the Parquet file.
        refusals: rows that cannot be used.
        catalog: None when there is none yet. Without the verticals of its listings neither ids nor
            values are checked.
        identifier: the column with the listing ids; None finds out.

    Raises:
        InputError: no row can be used, or no column tells the id.
    """
    layout = _layout(sheet, kind, identifier)
    collected: dict[str, dict[str, Any]] = {}
    for row in sheet.rows(refusals.unreadable):
        fault = _take(row, layout, kind, catalog, collected)
        if fault is not None:
            refusals.add(*fault, row)
    if not collected:
        reasons = "; ".join(refusals.described()) or "it has none"
        raise InputError(f"no row of {sheet.path} can be used: {reasons}")
    rows = [
        {
            "listing_id": name,
            "answers": list(kept["answers"].values()),
            "split": kept["split"] or None,
        }
        for name, kept in collected.items()
    ]
    pq.write_table(pa.Table.from_pylist(rows, schema=_SCHEMAS[kind]), path)
    return _written(rows, kind, catalog)


def _layout(sheet: Sheet, kind: AnswerKind, identifier: str | None) -> _Layout:
    columns = sheet.columns
    if identifier is not None and identifier not in columns:
        identifier = None  # it was said of the listings' sheet
    identifier = identifier or id_column(columns, str(sheet.path))
    attribute = first_named(columns, ("attribute", "attribute_name"))
    value = first_named(columns, (VALUE_FIELDS[kind], "answer", "value"))
    split = first_named(columns, ("split",)) if kind == "truth" else None
    if attribute is None or value is None:
        attribute = value = None
    return _Layout(
        identifier=identifier,
        split=split,
        attribute=attribute,
        value=value,
        reasoning=first_named(columns, ("reasoning", "reason", "rationale")),
        wide=tuple(name for name in columns if name not in (identifier, split)),
    )


def _take(
    row: SheetRow,
    layout: _Layout,
    kind: AnswerKind,
    catalog: Catalog | None,
    collected: dict[str, dict[str, Any]],
) -> tuple[str, str] | None:
    """Add a row's answers to what was collected, or say why not."""
    name, split = _text(row, layout.identifier), _text(row, layout.split).lower()
    if not name:
        return "no_id", f"the column '{layout.identifier}' is empty"
    if catalog is not None and catalog.verticals is not None and name not in catalog.verticals:
        return "unknown_listing", f"'{name}' is not among the listings"
    if catalog is not None and name in catalog.elsewhere:
        other = "truth" if kind == "seed" else "seed"
        return f"in_the_{other}", f"'{name}' has values there; a listing is annotated or verified"
    if split not in _STATED_SPLITS:
        return "bad_split", f"{name}: a split is eval, anchor or empty, not '{split}'"
    pairs = list(layout.pairs(row))
    if not pairs:
        return "no_value", f"{name}: no attribute has a value"
    kept = collected.get(name, {"answers": {}, "split": split})
    if split and kept["split"] and split != kept["split"]:
        return "two_splits", f"{name} was in {kept['split']} before"
    repeated = [attribute for attribute, _, _ in pairs if attribute in kept["answers"]]
    if repeated:
        return "repeated_attribute", f"{name}/{repeated[0]} has a value already; it was kept"
    for attribute, value, reasoning in pairs:
        answer = {"attribute": attribute, VALUE_FIELDS[kind]: value}
        if kind == "seed":
            answer["reasoning"] = reasoning
        kept["answers"][attribute] = answer
    kept["split"] = kept["split"] or split
    collected[name] = kept
    return None


def _written(rows: list[dict[str, Any]], kind: AnswerKind, catalog: Catalog | None) -> Written:
    written = Written(len(rows), sum(len(row["answers"]) for row in rows))
    for row in rows:
        if kind == "seed":
            written.without_reasoning += sum(not answer["reasoning"] for answer in row["answers"])
        if catalog is None or catalog.verticals is None:
            continue
        name = row["listing_id"]
        vertical = catalog.verticals[name]
        if vertical not in catalog.schema.verticals:
            lost = [f"{name}: its vertical '{vertical}' is not there"] * len(row["answers"])
            written.doubtful += lost
            continue
        known = catalog.schema.attributes(vertical)
        checked = check_answers(name, row["answers"], known, VALUE_FIELDS[kind])
        written.doubtful += [f"{lost['id']}: {lost['detail']}" for lost in checked.dropped]
    return written


def _text(row: SheetRow, column: str | None) -> str:
    cell = row[column] if column is not None else ""
    return cell if isinstance(cell, str) else ", ".join(cell)
