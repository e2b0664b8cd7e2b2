"""The user's attribute schema: every fault is one clear line, every answer one allowed value."""

import json
import pickle

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raypipe.attributes.prompts import neutralise
from raypipe.attributes.schema import Attribute, AttributeSchema, fold, load_attribute_schema
from raypipe.embedded.schema import SCHEMA_PATH
from raypipe.errors import InputError

HEEL = {
    "vertical": "shoe",
    "attribute": "heel",
    "description": "Shape of the heel.",
    "values": ["Flat", "Kitten Heel", "None"],
    "aliases": {"Ballerina": "Flat"},
}


def schema_of(**changes):
    return AttributeSchema.from_json([HEEL | changes], "schema.yaml")


@pytest.mark.parametrize(
    ("text", "folded"),
    [
        ("Check-in", "check in"),
        ("  check_IN. ", "check in"),
        ("Check – in", "check in"),
        ("**Red**", "red"),
        ("'V-Neck'", "v neck"),
        ("Ｆｕｌｌ", "full"),
        ("Straße", "strasse"),
        ("<\u2060/answer>", "</answer>"),
        ("C++", "c++"),
        ("-", ""),
    ],
)
def test_fold(text, folded):
    assert fold(text) == folded


@given(st.text())
def test_folding_twice_changes_nothing(text):
    assert fold(fold(text)) == fold(text)


@given(st.text(st.characters(codec="utf-8")))
def test_neutralised_text_folds_like_the_text(text):
    assert fold(neutralise(text)) == fold(text.replace("\0", ""))


@pytest.mark.parametrize("text", ["Kitten Heel", "kitten-heel", "KITTEN_HEEL.", '"kitten  heel"'])
def test_resolve_takes_other_spellings(text):
    assert schema_of().get("shoe", "heel").resolve(text) == "Kitten Heel"


def test_resolve_takes_aliases_and_the_literal_none():
    heel = schema_of().get("shoe", "heel")
    assert heel.resolve("ballerina") == "Flat"
    assert heel.resolve("none") == "None"


@pytest.mark.parametrize("text", ["", "Kitten", "Flat or None", "Flats", "a Flat", "Wedge"])
def test_resolve_never_takes_a_part(text):
    assert schema_of().get("shoe", "heel").resolve(text) is None


_values = st.lists(st.text(min_size=1).filter(fold), min_size=1, max_size=6, unique_by=fold)


@given(_values, st.sampled_from([str.upper, str.title, " {} ".format, "'{}'".format, neutralise]))
def test_every_value_resolves_to_itself_in_any_dress(values, dress):
    attribute = Attribute("v", "a", "d", tuple(values))
    for value in values:
        assert attribute.resolve(value) == value
        if fold(dress(value)) == fold(value):
            assert attribute.resolve(dress(value)) == value


def test_the_embedded_schema_loads_and_survives_json_and_pickle():
    schema = load_attribute_schema(str(SCHEMA_PATH))
    assert len(schema.verticals) == 12
    assert schema.get("sari", "border").values == ("None", "Narrow", "Broad")
    assert schema.get("suitcase", "number_of_wheels").resolve("none") == "0"
    assert AttributeSchema.from_json(json.loads(json.dumps(schema.to_json()))) == schema
    assert pickle.loads(pickle.dumps(schema)) == schema


def test_unknown_names_are_answered_with_the_nearest():
    with pytest.raises(InputError, match="nearest known one is 'shoe'"):
        schema_of().attributes("shoes")
    with pytest.raises(InputError, match=r"no attribute 'heels'.*nearest known one is 'heel'"):
        schema_of().get("shoe", "heels")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"values": []}, r"\(shoe/heel\): no values"),
        ({"values": None}, r"\(shoe/heel\): no values"),
        ({"values": "Flat"}, "values must be a list"),
        ({"values": ["Flat", "flat"]}, "value 'flat' and value 'Flat' are the same text"),
        ({"values": ["V-Neck", "V Neck"], "aliases": {}}, "are the same text after folding"),
        ({"aliases": {"FLAT": "Flat"}}, "alias 'FLAT' and value 'Flat' are the same text"),
        ({"aliases": {"Ball": "Flat", "ball": "None"}}, "alias 'ball' and alias 'Ball'"),
        ({"aliases": {"Pump": "Flt"}}, "'Flt', which is not among the values.*nearest.*'Flat'"),
        ({"aliases": ["Pump"]}, "aliases must map each alias to a value"),
        ({"values": ["-", "Flat"]}, "value '-' is nothing but punctuation"),
        ({"values": [True, "Flat"]}, "True is a boolean; put the word in quotes"),
        ({"values": [None, "Flat"]}, "value: is empty"),
        ({"values": [["Flat"]]}, "expected text"),
        ({"vertical": " "}, "vertical: is empty"),
        ({"value": ["Flat"]}, "unknown key 'value'; the nearest known one is 'values'"),
    ],
)
def test_each_fault_of_an_entry_is_one_line(changes, message):
    with pytest.raises(InputError, match=f"^schema.yaml: entry 1.*{message}") as caught:
        schema_of(**changes)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("key", ["vertical", "attribute", "description", "values"])
def test_a_missing_key_is_named(key):
    entry = {name: value for name, value in HEEL.items() if name != key}
    with pytest.raises(InputError, match=f"schema.yaml: entry 2: the key '{key}' is missing"):
        AttributeSchema.from_json([HEEL, entry], "schema.yaml")


def test_a_doubled_attribute_is_refused():
    with pytest.raises(InputError, match=r"entry 2 \(shoe/heel\): the attribute is there twice"):
        AttributeSchema.from_json([HEEL, HEEL])


@pytest.mark.parametrize("entries", [[], None, "text", {"attributes": []}, ["text"]])
def test_anything_but_entries_is_refused(entries):
    with pytest.raises(InputError, match="expected"):
        AttributeSchema.from_json(entries)


def write_yaml(tmp_path, text):
    path = tmp_path / "schema.yaml"
    path.write_text(text)
    return str(path)


def test_yaml_numbers_stay_the_text_they_are(tmp_path):
    path = write_yaml(
        tmp_path,
        "attributes:\n- {vertical: bag, attribute: wheels, description: Count., "
        "values: [0, 2, 010, 1.50, 12:30, None], aliases: {2.0: 2}}\n",
    )
    attribute = load_attribute_schema(path).get("bag", "wheels")
    assert attribute.values == ("0", "2", "010", "1.50", "12:30", "None")
    assert attribute.resolve("2.0") == "2"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- {vertical: a, attribute: b, description: c, values: [yes, no]}", "in quotes"),
        ("- {vertical: a, attribute: b, description: c, values: [~]}", "value: is empty"),
        (
            "- {vertical: a, attribute: b, description: c, values: [x], aliases: {y: x, y: x}}",
            "'y'",
        ),
        ("- {vertical: a", "is not YAML"),
        ("", "expected a list of entries"),
    ],
)
def test_faults_of_yaml_name_the_file(tmp_path, text, message):
    path = write_yaml(tmp_path, text)
    with pytest.raises(InputError, match=message) as caught:
        load_attribute_schema(path)
    assert path in str(caught.value)


def test_a_missing_file_is_named():
    with pytest.raises(InputError, match=r"schema nowhere\.yaml"):
        load_attribute_schema("nowhere.yaml")


@pytest.mark.parametrize(
    ("aliases", "kind"),
    [
        ([("Ballerina", "Flat")], pa.map_(pa.string(), pa.string())),
        (
            [{"alias": "Ballerina", "value": "Flat"}],
            pa.list_(pa.struct({"alias": pa.string(), "value": pa.string()})),
        ),
        ({"Ballerina": "Flat", "Pump": None}, pa.struct({"Ballerina": "string", "Pump": "string"})),
        (None, pa.map_(pa.string(), pa.string())),
    ],
)
def test_parquet_reads_like_yaml(tmp_path, aliases, kind):
    table = pa.table(
        {name: [value] for name, value in HEEL.items() if name != "aliases"}
        | {"aliases": pa.array([aliases], kind)}
    )
    pq.write_table(table, tmp_path / "schema.parquet")
    loaded = load_attribute_schema(str(tmp_path / "schema.parquet"))
    assert loaded == schema_of(aliases={} if aliases is None else HEEL["aliases"])


def test_faults_of_parquet_name_the_file_and_the_column(tmp_path):
    path = tmp_path / "schema.parquet"
    pq.write_table(pa.table({"vertical": ["a"], "attribute": ["b"], "values": [["c"]]}), path)
    with pytest.raises(InputError, match=r"schema.parquet: the column 'description' is missing"):
        load_attribute_schema(str(path))
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(InputError, match=r"schema.parquet is not a readable Parquet file"):
        load_attribute_schema(str(path))
