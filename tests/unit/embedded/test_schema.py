"""The embedded attribute schema: the paper's verticals, and views that can and cannot tell."""

import pytest
import yaml

from raypipe.embedded.schema import SCHEMA_PATH, VIEWS, attributes, verticals

PAPER_VERTICALS = {
    "sandal",
    "ethnic set",
    "kurta",
    "shoe",
    "slipper flip-flop",
    "trouser",
    "t-shirt",
    "top",
    "shirt",
    "suitcase",
    "sari",
    "watch",
}
ENTRIES = [entry for entries in attributes().values() for entry in entries]


def folded(text):
    return text.casefold().replace("-", " ").replace("_", " ")


def test_the_papers_twelve_verticals():
    assert len(verticals()) == 12
    assert set(verticals()) == PAPER_VERTICALS == set(VIEWS)


@pytest.mark.parametrize("vertical", verticals())
def test_two_to_six_attributes_with_names_of_their_own(vertical):
    names = [entry.name for entry in attributes()[vertical]]
    assert 2 <= len(names) <= 6
    assert len(set(names)) == len(names)


def test_every_attribute_offers_two_to_eight_distinct_values():
    for entry in ENTRIES:
        assert 2 <= len(entry.values) <= 8
        assert len({folded(value) for value in entry.values}) == len(entry.values)


def test_none_and_zero_are_literal_values():
    """YAML would read an unquoted 0 as a number: a value is always text."""
    values = {value for entry in ENTRIES for value in entry.values}
    assert {"None", "0"} <= values
    assert all(isinstance(value, str) for value in values)


def test_an_alias_means_one_allowed_value_and_hides_none():
    for row in yaml.safe_load(SCHEMA_PATH.read_text()):
        allowed = {folded(value) for value in row["values"]}
        for alias, value in row["aliases"].items():
            assert value in row["values"]
            assert isinstance(alias, str)
            assert folded(alias) not in allowed


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: f"{entry.vertical}-{entry.name}")
def test_some_view_shows_an_attribute_and_some_view_hides_it(entry):
    views = set(VIEWS[entry.vertical])
    assert set(entry.shown_in) < views
    assert entry.shown_in
    assert "box" in views - set(entry.shown_in)
