"""Parquet files whose columns are of extension types, among them ones that run code when read."""

import base64
import pickle
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

OBJECT = "ray.data.arrow_pickled_object"
TENSOR = "ray.data.arrow_tensor"
TENSOR_V2 = "ray.data.arrow_tensor_v2"
UNKNOWN = "shop.money"


class Touch:
    """Unpickled, it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


class Named(pa.ExtensionType):
    """An extension type by name alone: whoever writes a file needs no Ray for it."""

    def __init__(self, name: str, storage: pa.DataType, metadata: bytes = b"") -> None:
        self._metadata = metadata
        super().__init__(storage, name)

    def __arrow_ext_serialize__(self) -> bytes:
        return self._metadata

    @classmethod
    def __arrow_ext_deserialize__(cls, storage: pa.DataType, metadata: bytes) -> "Named":
        raise AssertionError("built from a file")


def hostile(canary: Path, rows: int, name: str = OBJECT) -> pa.Array:
    """A column of an extension type; a reader that unpickles makes ``canary``."""
    pickled = pickle.dumps(Touch(canary))
    if name == OBJECT:
        values = pa.array([pickled] * rows, pa.large_binary())
        return pa.ExtensionArray.from_storage(Named(name, values.type), values)
    values = pa.array([[0.5, 0.5]] * rows, pa.large_list(pa.float32()))
    return pa.ExtensionArray.from_storage(Named(name, values.type, pickled), values)


def nested(column: pa.Array, how: str) -> pa.Array:
    """A column within others; its path is the outer name, with ``.x`` below a struct."""
    rows = len(column)
    struct = pa.StructArray.from_arrays([pa.array(["a"] * rows), column], ["a", "x"])
    ends = pa.array(range(rows + 1), pa.int32())
    match how:
        case "plain":
            return column
        case "struct":
            return struct
        case "list":
            return pa.ListArray.from_arrays(ends, column)
        case "large list of structs":
            return pa.LargeListArray.from_arrays(ends.cast(pa.int64()), struct)
        case "map":
            return pa.MapArray.from_arrays(ends, pa.array(["k"] * rows), struct)
        case "list of lists":
            return pa.ListArray.from_arrays(ends, pa.ListArray.from_arrays(ends, struct))
    raise ValueError(how)


HOW = ("plain", "struct", "list", "large list of structs", "map", "list of lists")


def add_column(path: Path, name: str, column: pa.Array) -> None:
    """Append a column to the file, whatever it is of."""
    pq.write_table(pq.read_table(path).append_column(name, column), path)


def add_field(path: Path, name: str, field: str, column: pa.Array) -> None:
    """Append a field to the structs of a list; ``column`` has a value for every struct."""
    table = pq.read_table(path)
    lists = table.column(name).combine_chunks()
    structs = lists.flatten()
    names = [inner.name for inner in structs.type]
    wider = pa.StructArray.from_arrays([*structs.flatten(), column], [*names, field])
    lists = pa.ListArray.from_arrays(lists.offsets, wider)
    index = table.schema.get_field_index(name)
    pq.write_table(table.set_column(index, name, lists), path)


def renoted(path: Path, schema: pa.Schema | bytes) -> None:
    """Write the file again with another note of Arrow's types, which its columns need not fit."""
    note = schema if isinstance(schema, bytes) else base64.b64encode(schema.serialize())
    table = pq.read_table(path)
    with pq.ParquetWriter(path, table.schema, store_schema=False) as writer:
        writer.write_table(table)
        writer.add_key_value_metadata({"ARROW:schema": note})
