"""The shop's tables in every format that a catalog may be in."""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from raypipe.catalog.snapshots import load_iceberg_catalog
from raypipe.store.run_directory import RunDirectory

_POSITION_DELETES = pa.schema(
    [
        pa.field("file_path", pa.string(), False, {"PARQUET:field_id": "2147483546"}),
        pa.field("pos", pa.int64(), False, {"PARQUET:field_id": "2147483545"}),
    ]
)
_STATISTICS = (
    "column_sizes",
    "value_counts",
    "null_value_counts",
    "nan_value_counts",
    "lower_bounds",
    "upper_bounds",
)
FORMATS = ("delta", "iceberg", "lance")


class Lake:
    """Writes rows as tables of one format, and names them as a configuration does.

    Args:
        store: address of an object store where the tables are; empty for the directory, in which
            Iceberg's catalog is in both cases.
    """

    def __init__(self, kind: str, directory: Path, store: str = "") -> None:
        self.kind = kind
        self.directory = directory
        self.store = store
        directory.mkdir(parents=True, exist_ok=True)

    @property
    def properties(self) -> dict[str, str]:
        """Of Iceberg's catalog."""
        if self.kind != "iceberg":
            return {}
        return {
            "type": "sql",
            "uri": f"sqlite:///{self.directory}/catalog.db",
            "warehouse": self.store or f"file://{self.directory}/warehouse",
        }

    def location(self, name: str) -> str:
        return f"{self.kind}:{self._place(name)}"

    def _place(self, name: str) -> str:
        if self.kind == "iceberg":
            return f"shop.{name}"
        return f"{self.store}/{name}" if self.store else str(self.directory / name)

    def append(self, name: str, rows: pa.Table) -> int:
        """Add rows, and make the table if there is none; the snapshot."""
        place = str(self.directory / name)
        if self.kind == "delta":
            from deltalake import DeltaTable, write_deltalake

            # Catalogs are often partitioned by what a listing is.
            parts = ["vertical"] if "vertical" in rows.column_names else None
            write_deltalake(place, rows, mode="append", partition_by=parts)
            return int(DeltaTable(place).version())
        if self.kind == "lance":
            import lance

            return int(lance.write_dataset(rows, place, mode="append").version)
        table = self._iceberg(name, rows.schema)
        table.append(rows)
        return int(table.current_snapshot().snapshot_id)

    def delete(self, name: str, listing_id: str) -> int:
        """Delete a row; the snapshot."""
        place = str(self.directory / name)
        condition = f"listing_id = '{listing_id}'"
        if self.kind == "delta":
            from deltalake import DeltaTable

            table = DeltaTable(place)
            table.delete(condition)
            return int(table.version())
        if self.kind == "lance":
            import lance

            dataset = lance.dataset(place)
            dataset.delete(condition)
            return int(dataset.version)
        found = self._iceberg(name)
        found.delete(condition)
        return int(found.current_snapshot().snapshot_id)

    def delete_on_reading(self, name: str, position: int, content: str) -> None:
        """Delete a row of an Iceberg table of one file as other writers do: by a file of
        POSITION_DELETES, or of EQUALITY_DELETES (of which there is no more than the entry)."""
        from pyiceberg.manifest import DataFile, DataFileContent, FileFormat
        from pyiceberg.table.snapshots import Operation
        from pyiceberg.typedef import Record

        table = self._iceberg(name)
        (task,) = table.scan().plan_files()
        path = self.directory / "warehouse" / "deletes.parquet"
        rows = pa.table(
            {"file_path": [task.file.file_path], "pos": [position]}, schema=_POSITION_DELETES
        )
        pq.write_table(rows, path)
        deletes = DataFile.from_args(
            content=DataFileContent[content],
            file_path=f"file://{path}",
            file_format=FileFormat.PARQUET,
            partition=Record(),
            record_count=1,
            file_size_in_bytes=path.stat().st_size,
            **{key: {} for key in _STATISTICS},
        )
        deletes.spec_id = 0
        with table.transaction() as transaction:
            producer = _deletes()(Operation.APPEND, transaction, table.io)
            producer.append_data_file(deletes)
            producer.commit()

    def read(self, name: str) -> pa.Table:
        """All rows, in any order; of a directory of Parquet files those of its manifest."""
        place = self._place(name)
        if self.kind == "delta":
            from deltalake import DeltaTable

            return DeltaTable(place).to_pyarrow_table()
        if self.kind == "lance":
            import lance

            return lance.dataset(place).to_table()
        if self.kind == "iceberg":
            return self._iceberg(name).scan().to_arrow()
        directory = RunDirectory(place)
        manifest = directory.read_json("_raypipe.json")
        assert manifest is not None
        contents = [directory.read(file["file"]) for file in manifest["files"]]
        return pa.concat_tables([pq.read_table(pa.BufferReader(content)) for content in contents])

    def exists(self, name: str) -> bool:
        """Whether there is a table."""
        with suppress(Exception):  # each library's own
            self.read(name)
            return True
        return False

    def data_files(self, name: str) -> list[Path]:
        """The files that hold the rows."""
        place = self.directory / ("warehouse/shop" if self.kind == "iceberg" else ".") / name
        endings = (".parquet", ".lance")
        return [path for path in place.rglob("*") if path.suffix in endings]

    def _iceberg(self, name: str, schema: pa.Schema | None = None) -> Any:
        catalog = load_iceberg_catalog(name, self.properties)
        if schema is None:
            return catalog.load_table(f"shop.{name}")
        catalog.create_namespace_if_not_exists("shop")
        return catalog.create_table_if_not_exists(f"shop.{name}", schema=schema)


def _deletes() -> Any:
    """What pyiceberg has for data files, for files of deletes: it reads them and writes none."""
    from pyiceberg.manifest import (
        ManifestContent,
        ManifestEntry,
        ManifestEntryStatus,
        ManifestWriterV2,
    )
    from pyiceberg.table.update.snapshot import _FastAppendFiles

    class Writer(ManifestWriterV2):
        def content(self) -> ManifestContent:
            return ManifestContent.DELETES

        @property
        def _meta(self) -> dict[str, str]:
            return super()._meta | {"content": "deletes"}

    class Deletes(_FastAppendFiles):
        def _manifests(self) -> list[Any]:
            spec, output = self._transaction.table_metadata.spec(), self.new_manifest_output()
            with Writer(
                spec, self.schema(), output, self._snapshot_id, self._compression
            ) as writer:
                for file in self._added_data_files:
                    entry = ManifestEntry.from_args(
                        status=ManifestEntryStatus.ADDED,
                        snapshot_id=self._snapshot_id,
                        sequence_number=None,
                        file_sequence_number=None,
                        data_file=file,
                    )
                    writer.add(entry)
            return [writer.to_manifest_file(), *self._existing_manifests()]

    return Deletes


def protocol_asks(delta: Path, protocol: dict[str, Any], **configuration: str) -> None:
    """Rewrite the first log entry of a Delta table: what another writer would have put there."""
    log = delta / "_delta_log" / f"{0:020}.json"
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    for line in lines:
        if "protocol" in line:
            line["protocol"] = protocol
        if "metaData" in line:
            schema = json.loads(line["metaData"]["schemaString"])
            for number, column in enumerate(schema["fields"] if configuration else ()):
                column["metadata"] = {
                    "delta.columnMapping.id": number,
                    "delta.columnMapping.physicalName": f"col-{number}",
                }
            line["metaData"] |= {
                "configuration": configuration,
                "schemaString": json.dumps(schema),
            }
    log.write_text("\n".join(map(json.dumps, lines)))
