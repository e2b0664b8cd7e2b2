"""Parquet files, whoever wrote them: what they hold is data, and no type of theirs is built."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from raypipe.errors import ConfigError, InputError
from raypipe.store import parquet
from tests.fakes.pickle_payloads import (
    HOW,
    OBJECT,
    TENSOR,
    TENSOR_V2,
    UNKNOWN,
    Named,
    hostile,
    nested,
    renoted,
)

LOCAL = pafs.LocalFileSystem()
BUILT: list[bytes] = []


class Registered(pa.ExtensionType):
    """A type that Arrow would build from a file; it keeps what it was given."""

    def __init__(self, storage: pa.DataType) -> None:
        super().__init__(storage, "shop.registered")

    def __arrow_ext_serialize__(self) -> bytes:
        return b"of the file"

    @classmethod
    def __arrow_ext_deserialize__(cls, storage: pa.DataType, metadata: bytes) -> "Registered":
        BUILT.append(metadata)
        return cls(storage)


@pytest.fixture
def _registered() -> Iterator[None]:
    BUILT.clear()
    pa.register_extension_type(Registered(pa.string()))
    yield
    pa.unregister_extension_type("shop.registered")


def written(directory: Path, columns: dict[str, Any], **how: Any) -> str:
    path = directory / "file.parquet"
    pq.write_table(pa.table(columns), path, **how)
    return str(path)


def refusal(path: str) -> str:
    with pytest.raises(InputError) as caught, parquet.opened(path, LOCAL):
        pass
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("kind", [OBJECT, TENSOR, TENSOR_V2, UNKNOWN])
@pytest.mark.parametrize("with_ray", [False, True], ids=["alone", "with Ray"])
def test_an_extension_type_is_named_wherever_it_is_nested(tmp_path, how, kind, with_ray):
    if with_ray:
        pytest.importorskip("ray.data")
    path = written(tmp_path, {"a": ["x"] * 3, "b": nested(hostile(tmp_path / "ran", 3, kind), how)})
    message = refusal(path)
    assert message.startswith(f"{path}: the column 'b")
    inner = {"plain": "b", "list": "b", "map": "b.value.x"}.get(how, "b.x")
    assert f"the column '{inner}'" in message
    assert f"extension type '{kind}'" in message
    assert not (tmp_path / "ran").exists()


@pytest.mark.usefixtures("_registered")
@pytest.mark.parametrize("how", HOW)
def test_a_registered_type_is_refused_and_never_built(tmp_path, how):
    column = pa.ExtensionArray.from_storage(Registered(pa.string()), pa.array(["u", "v"]))
    path = written(tmp_path, {"b": nested(column, how)})
    pq.ParquetFile(path).close()
    assert BUILT, "Arrow alone builds it"
    BUILT.clear()
    assert "the extension type 'shop.registered'" in refusal(path)
    assert BUILT == []


WRAPPED = {
    "dictionary": lambda kind: pa.dictionary(pa.int32(), kind),
    "dictionary of structs": lambda kind: pa.dictionary(pa.int32(), pa.struct({"x": kind})),
    "run-end encoded": lambda kind: pa.run_end_encoded(pa.int32(), kind),
    "list view": pa.list_view,
    "fixed-size list": lambda kind: pa.list_(kind, 2),
    "map": lambda kind: pa.map_(pa.string(), pa.list_(kind)),
    "union": lambda kind: pa.dense_union([pa.field("x", kind)]),
    "storage": lambda kind: Named("arrow.json", pa.struct({"x": kind})),
}


@pytest.mark.parametrize("how", WRAPPED)
def test_a_note_that_names_one_is_enough_whatever_the_columns_are(tmp_path, how):
    path = written(tmp_path, {"a": ["x"], "b": ["y"]})
    kind = Named(UNKNOWN, pa.string())
    wrapped = WRAPPED[how](kind)
    renoted(Path(path), pa.schema({"a": pa.string(), "b": wrapped}))
    is_lost = how == "run-end encoded"
    named = "is of an extension type" if is_lost else f"the extension type '{UNKNOWN}'"
    assert named in refusal(path)


@pytest.mark.parametrize("note", [b"", b"?", b"AAAA", b"QUJDREVGR0g=", b"\xff" * 40])
def test_a_note_that_is_none_is_refused_in_a_line(tmp_path, note):
    path = written(tmp_path, {"a": ["x"]})
    renoted(Path(path), note)
    assert "note of Arrow's types (ARROW:schema) is unreadable" in refusal(path)


def test_types_of_arrows_own_are_read_as_what_they_are_stored_as(tmp_path):
    columns = {
        "json": pa.array(['{"a": 1}'], pa.json_()),
        "uuid": pa.array([b"0123456789abcdef"], pa.uuid()),
        "bool8": pa.ExtensionArray.from_storage(pa.bool8(), pa.array([1], pa.int8())),
        "tensor": pa.ExtensionArray.from_storage(
            pa.fixed_shape_tensor(pa.float32(), (2,)),
            pa.array([[0.5, 1.0]], pa.list_(pa.float32(), 2)),
        ),
    }
    assert parquet.read(written(tmp_path, columns), LOCAL).to_pylist() == [
        {"json": '{"a": 1}', "uuid": b"0123456789abcdef", "bool8": 1, "tensor": [0.5, 1.0]}
    ]


@pytest.mark.parametrize(
    "kind",
    [
        pa.string(),
        pa.large_string(),
        pa.string_view(),
        pa.dictionary(pa.int32(), pa.string()),
        pa.dictionary(pa.int8(), pa.large_string()),
    ],
    ids=str,
)
def test_every_kind_of_text_and_list_reads_alike(tmp_path, kind):
    text = pa.array(["u", None, "v"], kind)
    plain = pa.array(["u", None, "v"])
    lists = {
        "large_list": pa.array([["u"], None, []], pa.large_list(pa.string())),
        "fixed": pa.array([["u"], None, ["v"]], pa.list_(pa.string(), 1)),
        "map": pa.array([[("u", "v")], None, []], pa.map_(pa.string(), pa.string())),
    }
    path = written(tmp_path, {"text": text, **lists}, write_page_checksum=True)
    read = parquet.read(path, LOCAL)
    assert read.column("text").combine_chunks().equals(plain)
    assert read.select(list(lists)).to_pylist() == pa.table(lists).to_pylist()
    with parquet.opened(path, LOCAL) as file:
        streamed = pa.Table.from_batches(file.iter_batches(2))
    assert streamed.equals(read)


def test_no_more_than_the_named_leaves_are_chosen(tmp_path):
    pair = pa.struct({"attribute": pa.string(), "value": pa.string(), "deep": pa.list_(pa.int8())})
    path = written(
        tmp_path,
        {
            "id": ["a"],
            "pairs": pa.array([[{"attribute": "k", "value": "v", "deep": [1]}]], pa.list_(pair)),
            "value": ["spare"],
            "texts": pa.array([[("k", "v")]], pa.map_(pa.string(), pa.string())),
        },
    )
    with parquet.opened(path, LOCAL) as file:
        chosen = parquet.leaves(file, {"id": (), "pairs": ("value", "attribute"), "texts": ()})
        rows = file.read(chosen).to_pylist()
    assert rows == [{"id": "a", "pairs": [{"attribute": "k", "value": "v"}], "texts": [("k", "v")]}]


@pytest.mark.parametrize(
    ("table", "path"),
    [
        (pa.table([["x"], ["y"]], ["id", "id"]), "id"),
        (pa.table([[{"v": 1}], ["y"]], ["s", "s"]), "s"),
        (
            pa.table(
                {
                    "s": pa.ListArray.from_arrays(
                        pa.array([0, 1], pa.int32()),
                        pa.StructArray.from_arrays([pa.array(["x"])] * 2, ["v", "v"]),
                    )
                }
            ),
            "s.v",
        ),
        (pa.table({"s": [{"v": 1}], "s.v": [2]}), "s.v"),
        (pa.table({"l": [["x"]], "l.list.element": ["y"]}), "l.list.element"),
    ],
)
def test_two_columns_of_one_name_or_path_are_refused_by_it(tmp_path, table, path):
    pq.write_table(table, tmp_path / "file.parquet")
    assert f"there are two columns '{path}'" in refusal(str(tmp_path / "file.parquet"))


def test_a_footer_larger_than_what_is_read_at_once(tmp_path):
    columns = {f"a column of a long name {index:06}": ["x"] for index in range(4000)}
    path = written(tmp_path, columns)
    assert int.from_bytes(Path(path).read_bytes()[-8:-4], "little") > 1 << 17
    assert parquet.read(path, LOCAL, ["a column of a long name 003999"]).to_pylist() == [
        {"a column of a long name 003999": "x"}
    ]


@pytest.mark.parametrize(
    "end",
    [
        b"",
        b"PAR1",
        b"PAR1PAR1",
        b"PAR1" + b"\0" * 4 + b"PAR1",
        b"PAR1" + b"\xff" * 4 + b"PAR1",
        b"PAR1" + (1 << 31).to_bytes(4, "little") + b"PAR1",
        b"PAR1" + b"\x15" * 20 + (21).to_bytes(4, "little") + b"PAR1",
        b"PAR1" + b"\x15" * 20 + (20).to_bytes(4, "little") + b"PARE",
    ],
)
def test_a_footer_that_cannot_be_is_no_parquet(tmp_path, end):
    path = tmp_path / "file.parquet"
    path.write_bytes(end)
    with pytest.raises((pa.ArrowException, OSError)), parquet.opened(str(path), LOCAL):
        pass


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_whatever_is_changed_in_a_footer_is_read_or_refused(tmp_path, data):
    path = tmp_path / "file.parquet"
    if not path.exists():
        pair = pa.array([[{"attribute": "k", "value": "v"}]] * 3)
        pq.write_table(pa.table({"id": ["a", "b", "c"], "pairs": pair}), path)
        (tmp_path / "whole").write_bytes(path.read_bytes())
    content = bytearray((tmp_path / "whole").read_bytes())
    start = len(content) - int.from_bytes(content[-8:-4], "little") - 8
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(start, len(content) - 1))
        content[place] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    try:
        with parquet.opened(str(path), LOCAL) as file:
            list(file.iter_batches(2, columns=parquet.leaves(file, {"pairs": ("value",)})))
    except (InputError, pa.ArrowException, OSError):
        pass


@pytest.mark.parametrize(
    "name",
    [
        "RAY_DATA_AUTOLOAD_PICKLE_OBJECT_SCALAR",
        "RAY_DATA_AUTOLOAD_CLOUDPICKLE_TENSOR_METADATA",
        "RAY_DATA_AUTOLOAD_PYEXTENSIONTYPE",
        "RAY_DATA_AUTOLOAD_WHATEVER_COMES_NEXT",
    ],
)
def test_nothing_is_opened_while_ray_is_told_to_unpickle(tmp_path, monkeypatch, name):
    path = written(tmp_path, {"a": ["x"]})
    monkeypatch.setenv(name, "0")
    assert len(parquet.read(path, LOCAL)) == 1
    monkeypatch.setenv(name, "1")
    with ExitStack() as opening, pytest.raises(ConfigError, match=name):
        opening.enter_context(parquet.opened(path, LOCAL))


def test_fields_of_structs_in_lists_are_read_alone(tmp_path: Path) -> None:
    chain = pa.struct({"text": pa.string(), "ids": pa.list_(pa.int32())})
    query = pa.struct({"name": pa.string(), "spare": pa.string(), "chains": pa.list_(chain)})
    queries = [[{"name": "k", "spare": "s", "chains": [{"text": "t", "ids": [1]}]}], []]
    path = written(tmp_path, {"id": ["a", "b"], "queries": pa.array(queries, pa.list_(query))})
    rows = parquet.read(path, LOCAL, ["queries.chains.text", "id", "queries.name"])
    assert rows.to_pylist() == [
        {"queries": [{"name": "k", "chains": [{"text": "t"}]}], "id": "a"},
        {"queries": [], "id": "b"},
    ]
    with pytest.raises(pa.ArrowInvalid, match=r"no column 'chains\.text'"):
        parquet.read(path, LOCAL, ["id", "chains.text"])
