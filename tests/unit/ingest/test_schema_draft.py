"""The attribute schema that ``raypipe init`` drafts from what sellers say."""

from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from raypipe.attributes.schema import AttributeSchema, load_attribute_schema
from raypipe.ingest.schema_draft import draft_schema
from raypipe.ingest.survey import Survey
from tests.fakes.user_sheets import Init, drafted


def test_the_schema_has_frequent_values_with_their_counts(init: Init, shop: Path) -> None:
    assert init("listings.csv") == 0
    schema = load_attribute_schema("schema.yaml")
    assert schema.get("shoe", "colour").values == ("Red", "Blue")
    text = (shop / "schema.yaml").read_text()
    assert '- "Red"  # 8' in text
    assert "Not asked: price: no value is there twice" in text


def test_rare_values_are_left_out_and_named() -> None:
    text, schema = drafted(*[{"heel": "Flat"}] * 3, *[{"heel": "Block"}] * 2, {"heel": "Wedge"})
    assert schema.get("shoe", "heel").values == ("Flat", "Block")
    assert "# left out: 'Wedge' (1)" in text


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (["Red"] * 9, "always 'Red'"),
        ([f"word {n}" for n in range(9)], "no value is there twice"),
        ([f"text {n}" for n in range(60)] + ["a", "a"], "61 different values"),
        ([f"{n},5" for n in range(20)] * 3, "20 different numbers"),
        ([f"{n}" for n in range(2500)], "more than 2,000 different values"),
        (["N/A", "-"] * 5, "no value says anything"),
        (["Blue", "Blue", "Green"], "of 2 different values only 'Blue' is there twice"),
        (["Blue", "blue", "x" * 61, "x" * 61], "of 2 different values only 'Blue' is there twice"),
    ],
)
def test_what_is_no_choice_is_not_asked_and_says_why(values: list[str], reason: str) -> None:
    text, schema = drafted(*({"what": value, "colour": "Red"} for value in values),
                           *[{"colour": "Blue"}] * 2, {"colour": "Red"})  # fmt: skip
    assert [entry.name for entry in schema.attributes("shoe")] == ["colour"]
    assert f"# Not asked: what: {reason}" in text


def test_a_vertical_without_anything_to_ask_gets_an_example_that_says_so() -> None:
    text, schema = drafted({}, {}, vertical="hat")
    assert schema.get("hat", "color").values
    assert "AN EXAMPLE" in text


@given(
    st.lists(
        st.tuples(st.sampled_from(["a", "A ", "b: #"]), st.text(max_size=4), st.text(max_size=8)),
        min_size=1,
    )
)
def test_whatever_sellers_say_the_schema_loads(rows: list[tuple[str, str, str]]) -> None:
    survey = Survey()
    for vertical, name, value in rows * 2:
        survey.add(vertical, {name: value}, [])
    draft = draft_schema(survey)
    schema = AttributeSchema.from_json(yaml.safe_load(draft.text))
    assert set(schema.verticals) == {vertical.strip() for vertical, _, _ in rows}
