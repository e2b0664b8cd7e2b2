"""JSON and YAML from outside: whatever they hold, they are read or refused with one line."""

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from raypipe import config
from raypipe.annotation.questions import parse_reply
from raypipe.attributes.schema import AttributeSchema, load_attribute_schema
from raypipe.errors import ConfigError, InputError, RaypipeError
from raypipe.ingest.sheets import open_sheet
from raypipe.review.label_studio import read_annotations
from raypipe.runtime.openai_client import Reply
from raypipe.security import textfiles
from raypipe.security.textfiles import MAX_DEPTH, MalformedError, parse_json, parse_yaml

SCHEMA = """\
attributes:
- vertical: shoe
  attribute: color
  description: The "color" of it.
  values: [Red, Blue, '010', 12:30]
  aliases: {Crimson: Red, Navy: Blue}
"""
CONFIGURATION = (config.CONFIGS / "local.yaml").read_text()
REVIEWS = json.dumps(
    [
        {
            "id": 1,
            "data": {"listing_id": "L1", "attribute": "color"},
            "annotations": [
                {
                    "id": 4,
                    "completed_by": {"email": "a@b.c"},
                    "updated_at": "2026-01-02T03:04:05Z",
                    "result": [{"from_name": "answer", "value": {"choices": ["Red"]}}],
                }
            ],
        },
        {"id": 2, "annotation_id": 3, "answer": "Red", "annotator": 5, "updated_at": "2026-01-02"},
    ]
)
ROWS = '{"sku": "A", "color": "Red", "specs": {"heel": 2}}\n{"sku": "B", "images": ["a", "b"]}\n'
TABLE = 'sku,color\nA,"Red"\nB,Blue\n'

# What is put into a valid file, or is one.
HOSTILE = st.sampled_from(
    [
        "[" * 1500,
        "{" * 1500,
        '{"a":' * 1500,
        "- " * 1500,
        "9" * 5000,
        "1e999",
        "-0x" + "f" * 3000,
        "NaN",
        ".inf",
        "\\ud800",
        '"\\ud83d"',
        "\0",
        "\ufeff",
        "\u2028",
        "&a [*a]",
        "*nobody",
        "<<: *a",
        "!!python/object/apply:os.system [ls]",
        "!!binary x",
        "!!timestamp 9",
        "!!bool x",
        "!!int x",
        "!!float x",
        "!!set {a}",
        "? [a]\n: b",
        "2024-13-45",
        "0001-01-01T00:00:00+14:00",
        "9999-12-31T23:59:59-14:00",
        "1:" * 900 + "1",
        "\n---\n",
        '"',
        "'",
        "\t",
        "\r",
        ",",
        "null",
        "[]",
        "{}",
        "%YAML 9.9\n",
    ]
)


def mutated(whole: str) -> st.SearchStrategy[str]:
    """The text with pieces put in and cut out."""
    places = st.tuples(
        st.integers(0, len(whole)), st.integers(0, 20), HOSTILE | st.text(max_size=9)
    )

    def change(edits: list[tuple[int, int, str]]) -> str:
        text = whole
        for start, length, piece in edits:
            text = text[:start] + piece + text[start + length :]
        return text

    return st.lists(places, min_size=1, max_size=3).map(change)


def texts(whole: str) -> st.SearchStrategy[bytes]:
    text = mutated(whole) | HOSTILE | st.text(max_size=60)
    return text.map(lambda one: one.encode("utf-8", "surrogatepass")) | st.binary(max_size=60)


def sheet(path: Path) -> None:
    list(open_sheet(path).rows(lambda reason, lines: None))


READERS: list[tuple[str, str, Callable[[Path], Any]]] = [
    ("schema.yaml", SCHEMA, lambda path: load_attribute_schema(str(path))),
    ("config.yaml", CONFIGURATION, config.load),
    ("reviews.json", REVIEWS, lambda path: read_annotations(str(path))),
    ("rows.jsonl", ROWS, sheet),
    ("array.json", f"[{ROWS.replace(chr(10), ',')[:-1]}]", sheet),
    ("table.csv", TABLE, sheet),
]


@pytest.mark.parametrize(("name", "whole", "reader"), READERS, ids=[name for name, *_ in READERS])
def test_the_files_as_they_are_can_be_read(
    tmp_path: Path, name: str, whole: str, reader: Callable[[Path], Any]
) -> None:
    (tmp_path / name).write_text(whole)
    reader(tmp_path / name)


@pytest.mark.parametrize(("name", "whole", "reader"), READERS, ids=[name for name, *_ in READERS])
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_no_file_raises_anything_but_an_error_of_ours(
    tmp_path: Path, name: str, whole: str, reader: Callable[[Path], Any], data: st.DataObject
) -> None:
    path = tmp_path / name
    path.write_bytes(data.draw(texts(whole)))
    with contextlib.suppress(RaypipeError):
        reader(path)


@settings(max_examples=100, deadline=None)
@given(mutated("training.learning_rate=1e-4") | st.builds("{}={}".format, st.text(), HOSTILE))
def test_no_override_raises_anything_but_a_configuration_error(override: str) -> None:
    with contextlib.suppress(ConfigError):
        config.load(None, [override])


@settings(max_examples=100, deadline=None)
@given(mutated('{"reasoning": "It is red.", "answer": "Red"}'), st.booleans())
def test_no_reply_raises_anything(text: str, fenced: bool) -> None:
    attribute = AttributeSchema.from_json(yaml.safe_load(SCHEMA)).get("shoe", "color")
    reply = Reply(f"```json\n{text}\n```" if fenced else text, "stop", None, 1, 1)
    assert isinstance(parse_reply(reply, attribute, "reasoning", "json").reason, str)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            "- &a0 [x, x]\n" + "".join(f"- &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 60)),
            "its anchors expand to more than 1,000,000 values",
        ),
        (
            "- &a0 {k: v}\n" + "".join(f"- &a{n} {{k: *a{n - 1}}}\n" for n in range(1, 150)),
            "nested more than 100 levels deep",
        ),
        ("- &a [*a]", "an anchor refers to itself"),
        ("[" * 10**5, "nested more than 100 levels deep"),
        ("[" * (MAX_DEPTH + 2) + "]" * (MAX_DEPTH + 2), "nested more than 100 levels deep"),
        ("[" * MAX_DEPTH + "]" * MAX_DEPTH, None),
        ("a: 1\nb: {c: 1, c: 2}", "the key 'c' is there twice, in line 2"),
        ("a: " + "9" * 5000, "a number of 5,000 digits"),
        ("a: 2024-13-45", "none of its type"),
        ("a: !!timestamp 9", "none of its type"),
        ("a: !!bool x", "none of its type"),
        ("a: !!int x", "none of its type"),
        ("a: !!python/name:os.system", "could not determine a constructor"),
        ('a: "\\ud800"', "half a character"),
        ("a: b: c", "mapping values are not allowed"),
        (b"\xff", "not UTF-8"),
        ("? [a]\n: 1", "found unhashable key"),
        ("", None),
        ("base: &base {a: 1}\nmore: {<<: *base, b: 2}", None),
    ],
)
def test_yaml_is_bounded(text: str | bytes, says: str | None) -> None:
    if says is None:
        parse_yaml(text)
        return
    with pytest.raises(MalformedError, match=says) as caught:
        parse_yaml(text)
    assert "\n" not in str(caught.value)


def test_anchors_are_read_as_yaml_says() -> None:
    text = "base: &base {a: [1]}\nmore: {<<: *base, b: *base}\nday: 2024-02-29\n"
    assert parse_yaml(text) == yaml.safe_load(text)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[" * 10**5, "nested more than 100 levels deep"),
        ('{"a":' * 500 + "1" + "}" * 500, "nested more than 100 levels deep"),
        ("9" * 5000, "a number of 5,000 digits"),
        ("[1e999]", "a number that is too large"),
        ('{"a": 1, "a": 2}', "the key 'a' is there twice"),
        ('["\\ud800"]', "half a character"),
        ('{"\\udc00": 1}', "half a character"),
        ("{", "Expecting property name"),
        (b"\xff", "not UTF-8"),
    ],
)
def test_json_is_bounded(text: str | bytes, says: str) -> None:
    with pytest.raises(MalformedError, match=says):
        parse_json(text)


def test_json_with_a_mark_or_with_what_is_no_number_is_read() -> None:
    assert parse_json(b"\xef\xbb\xbf[NaN, -Infinity, 1.5]") == [None, None, 1.5]


def test_a_file_of_absurd_size_is_refused_before_it_is_parsed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(textfiles, "MAX_YAML_BYTES", 1000)
    monkeypatch.setattr("raypipe.review.label_studio.MAX_JSON_BYTES", 1000)
    monkeypatch.setattr(textfiles, "MAX_JSON_BYTES", 1000)
    path = tmp_path / "large"
    path.write_text("# " + "x" * 2000)
    with pytest.raises(InputError, match="large is not YAML: it has more than"):
        load_attribute_schema(str(path))
    with pytest.raises(ConfigError, match="large is not YAML: it has more than"):
        config.load(path)
    with pytest.raises(InputError, match=r"large is not JSON \(it has more than"):
        read_annotations(str(path))


@pytest.mark.parametrize("day", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00", "x", ""])
def test_a_date_out_of_range_is_none(tmp_path: Path, day: str) -> None:
    path = tmp_path / "reviews.json"
    path.write_text(REVIEWS.replace("2026-01-02T03:04:05Z", day))
    first, _ = read_annotations(str(path))
    assert first.annotations[0].reviewed_at is None


@pytest.mark.parametrize(
    "line", ["[" * 5000, '{"a": ' + "9" * 5000 + "}", '{"a": "\\ud800"}', '{"a": 1, "a": 2}']
)
def test_a_line_beyond_the_bounds_costs_itself_alone(tmp_path: Path, line: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(f'{{"sku": "A"}}\n{line}\n{{"sku": "B"}}\n')
    refused: list[str] = []
    rows = list(open_sheet(path).rows(lambda reason, lines: refused.append(reason)))
    assert [row["sku"] for row in rows] == ["A", "B"]
    (reason,) = refused
    assert reason.startswith("row 2 is not a JSON object: ")
    assert line in reason


def test_a_sheet_of_endless_columns_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "wide.csv"
    path.write_text(",".join(f"c{n}" for n in range(100_000)) + "\n")
    with pytest.raises(InputError, match="the header, has more than"):
        open_sheet(path)


@pytest.mark.parametrize("encoding", ["rot13", "base64", "zip", "none-such", "utf\0"])
def test_an_encoding_that_is_not_of_text_is_refused(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "table.csv"
    path.write_text(TABLE)
    with pytest.raises(InputError, match="there is no encoding"):
        open_sheet(path, encoding)
