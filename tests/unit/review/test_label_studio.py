"""Reading Label Studio's exports, and what is kept of a person."""

import contextlib
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raypipe.errors import InputError
from raypipe.review.label_studio import Annotation, read_annotations
from tests.fakes.label_studio_export import annotation, exported, minimal

DATA = {"listing_id": "L1", "attribute": "color"}
PERSON = {"id": 12, "email": "Ada@shop.example", "first_name": "Ada", "last_name": "L."}


@pytest.fixture
def read(tmp_path: Path) -> Any:
    def go(content: Any) -> list[Annotation]:
        path = tmp_path / "export.json"
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return [given for task in read_annotations(str(path)) for given in task.annotations]

    return go


def test_an_annotation_is_read_whole(read: Any) -> None:
    (found,) = read(exported([{"data": DATA}], [[annotation(5, "Red", " Why. ", reviewer=12)]]))
    moment = datetime(2026, 3, 1, 10, tzinfo=UTC)
    assert found == Annotation("5", "12", moment, False, ("Red",), "Why.")


def test_json_min_says_the_same(read: Any) -> None:
    records = exported([{"data": DATA}] * 2, [[annotation(5, "Red", "Why.", reviewer=12)], []])
    assert read(minimal(records)) == read(records)


def test_one_task_need_not_be_in_a_list(read: Any) -> None:
    (record,) = exported([{"data": DATA}], [[annotation(5, "Red")]])
    assert read(record) == read([record])


def test_tasks_keep_what_they_were_exported_with(tmp_path: Path) -> None:
    records = exported([{"data": DATA}], [[annotation(5, "Red")]])
    for number, content in enumerate((records, minimal(records))):
        path = tmp_path / f"{number}.json"
        path.write_text(json.dumps(content))
        (task,) = read_annotations(str(path))
        assert task.task_id == "100"
        assert {name: task.data[name] for name in DATA} == DATA


@pytest.mark.parametrize("reviewer", [PERSON, {"email": PERSON["email"]}, PERSON["email"]])
def test_of_a_person_a_number_or_a_hash_is_kept(read: Any, reviewer: Any) -> None:
    (found,) = read(exported([{"data": DATA}], [[annotation(5, "Red", reviewer=reviewer)]]))
    if reviewer == PERSON:
        assert found.reviewer == "12"
    else:
        assert found.reviewer is not None
        assert len(found.reviewer) == 12
        assert "ada" not in found.reviewer
    assert "shop.example" not in repr(found)


def test_one_address_is_one_reviewer_however_it_is_written(read: Any) -> None:
    given = [annotation(n, "Red", reviewer=name) for n, name in enumerate(("A@b.c", " a@b.C "))]
    first, second = read(exported([{"data": DATA}], [given]))
    assert first.reviewer == second.reviewer


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("{", "is not JSON"),
        ("3", "holds no list of tasks"),
        ("[3]", "holds no list of tasks"),
        ('[{"image": "a"}]', "record 1 is neither a task nor an annotation"),
        ('[{"data": {}, "annotations": [4]}]', "record 1: its annotations are not there in full"),
    ],
)
def test_another_file_is_refused_with_a_remedy(read: Any, content: str, says: str) -> None:
    with pytest.raises(InputError, match=says) as caught:
        read(content)
    assert "export the project from Label Studio as JSON" in str(caught.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot read .*absent.json"):
        read_annotations(str(tmp_path / "absent.json"))


_PLAIN = st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.just("2024-01-01")
_KEYS = ("data", "annotations", "result", "value", "choices", "text", "from_name", "completed_by")
_ANY = st.recursive(
    _PLAIN,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from([*_KEYS, "annotation_id", "id", "updated_at"]), inner)
    ),
    max_leaves=12,
)


@given(
    _ANY
    | st.fixed_dictionaries(
        {
            "data": st.just({}),
            "annotations": _ANY
            | st.lists(
                st.fixed_dictionaries({"result": _ANY, "completed_by": _ANY, "updated_at": _ANY})
            ),
        }
    )
)
def test_whatever_json_holds_is_read_or_refused(tmp_path_factory: Any, content: Any) -> None:
    path = tmp_path_factory.getbasetemp() / "any.json"
    path.write_text(json.dumps(content))
    with contextlib.suppress(InputError):
        assert isinstance(read_annotations(str(path)), list)
