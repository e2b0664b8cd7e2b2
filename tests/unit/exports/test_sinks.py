"""Labels beside the run, in every format: what a table holds after calls that end or are cut."""

import json
import sys
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raypipe.config import resolve
from raypipe.errors import ArtifactError, ConfigError, InputError, SinkConflictError
from raypipe.exports import sinks
from raypipe.exports.sinks import SinkPart, SinkResult, upsert, write_sink
from raypipe.schemas import PUBLISHED_LABELS
from tests.conftest import Row
from tests.fakes.label_rows import label
from tests.fakes.sink_parts import Values, label_table, part, parts_of, values_of, watched
from tests.fakes.table_formats import FORMATS, Lake

ALL = (*FORMATS, "parquet")
KEYS = [("listing_id", "ascending"), ("attribute", "ascending")]
SHARDS: list[dict[tuple[str, str], str | None]] = [
    {(f"L{number}", attribute): "Red" for attribute in ("colour", "heel")} for number in range(4)
]


class CutError(Exception):
    """A call ends here."""


@pytest.fixture(params=ALL)
def lake(request: pytest.FixtureRequest, tmp_path: Path) -> Lake:
    return Lake(request.param, tmp_path / request.param)


@pytest.fixture(params=FORMATS)
def table(request: pytest.FixtureRequest, tmp_path: Path) -> Lake:
    """One of the formats that are tables."""
    return Lake(request.param, tmp_path / request.param)


def publish(lake: Lake, parts: list[SinkPart], batch_bytes: int = 1) -> SinkResult:
    return upsert(
        lake.location("labels"),
        parts,
        iceberg=lake.properties,
        version="labels/000001",
        batch_bytes=batch_bytes,
    )


def published(lake: Lake) -> dict[tuple[str, str], str | None]:
    return values_of(lake.read("labels"))


def union(shards: list[Any]) -> dict[tuple[str, str], str | None]:
    return {key: value for shard in shards for key, value in shard.items()}


def changed(place: int, value: str | None = "Blue") -> list[Any]:
    """The shards, with other values in one of them."""
    return [
        dict.fromkeys(shard, value) if number == place else shard
        for number, shard in enumerate(SHARDS)
    ]


def test_a_sink_is_created_and_every_column_comes_back(lake: Lake) -> None:
    abstained: Row = {
        "value": None, "answer": None, "probability": None, "reasoning": None, "votes": [],
        "confidence": 0.0, "num_valid": 0, "reason": "tied",
    }  # fmt: skip
    disputed = {
        "votes": [
            {"value": "Rød – “à”", "count": 4, "probability": 3.5},
            {"value": "Blue", "count": 3, "probability": 2.0},
        ],
        "seller_value": "Blue", "seller_conflict": True, "reasoning": "It's\n\"red\"; 日本",
    }  # fmt: skip
    rows = PUBLISHED_LABELS.from_rows(
        [label("a", "k"), label("b", "k") | abstained, label("c", "k") | disputed]
    )
    result = publish(lake, [SinkPart("labels/0", "d", lambda: rows)])
    assert result == SinkResult(lake.location("labels"), 1, 0, 3)
    found = lake.read("labels").select(rows.column_names)
    assert found.sort_by(KEYS).to_pylist() == rows.to_pylist()


def test_the_same_parts_again_are_not_even_read(lake: Lake) -> None:
    publish(lake, parts_of(SHARDS))
    before = snapshot(lake.directory)
    reads: list[str] = []
    assert publish(lake, watched(parts_of(SHARDS), reads.append)).parts_skipped == len(SHARDS)
    assert reads == []
    assert snapshot(lake.directory) == before


def snapshot(directory: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in directory.rglob("*") if path.is_file()}


def test_a_changed_part_is_the_only_one_that_is_read_and_written(lake: Lake) -> None:
    publish(lake, parts_of(SHARDS))
    reads: list[str] = []
    result = publish(lake, watched(parts_of(changed(2)), reads.append))
    assert reads == ["labels/2"]
    assert (result.parts_written, result.parts_skipped, result.rows_written) == (1, 3, 2)
    assert published(lake) == union(changed(2))


def test_another_decision_publishes_the_same_chains_anew(lake: Lake) -> None:
    publish(lake, parts_of(SHARDS))
    abstaining = [dict.fromkeys(shard) for shard in SHARDS]
    assert publish(lake, parts_of(abstaining, "0.99")).parts_written == len(SHARDS)
    assert published(lake) == union(abstaining)


def test_parts_of_a_batch_are_one_commit(table: Lake) -> None:
    publish(table, parts_of(SHARDS), batch_bytes=1 << 30)
    assert published(table) == union(SHARDS)
    data = [path for path in table.data_files("labels") if path.suffix != ".parts"]
    assert len(data) == 1


def test_back_to_what_was_published_before_is_a_change(lake: Lake) -> None:
    for shards in (SHARDS, changed(1), SHARDS):
        publish(lake, [part(f"labels/{shard}", shard) for shard in shards])
        assert published(lake) == union(shards)


def test_rows_of_listings_that_left_stay_in_a_table_and_leave_a_directory(lake: Lake) -> None:
    publish(lake, parts_of(SHARDS))
    publish(lake, parts_of(changed(0)[:2]))
    expected = changed(0)[:2] if lake.kind == "parquet" else changed(0)
    assert published(lake) == union(expected)


def test_no_parts_make_no_table_and_empty_parts_no_rows(table: Lake) -> None:
    assert publish(table, []).parts_written == 0
    empty = [part("labels/none", {}), *parts_of(SHARDS)]
    assert publish(table, [empty[0]]) == SinkResult(table.location("labels"), 0, 1, 0)
    with pytest.raises(Exception, match=r"(?i)not found|does not exist|no such"):
        table.read("labels")
    assert publish(table, empty).parts_written == len(SHARDS)
    reads: list[str] = []
    publish(table, watched(empty, reads.append))
    assert reads == []


@pytest.mark.parametrize("stop", [0, 3])
def test_a_call_that_is_cut_between_batches_goes_on_there(table: Lake, stop: int) -> None:
    publish(table, parts_of(SHARDS))
    blue = [dict.fromkeys(shard, "Blue") for shard in SHARDS]

    def cut(name: str) -> None:
        if name == f"labels/{stop}":
            raise CutError

    with pytest.raises(CutError):
        publish(table, watched(parts_of(blue), cut))
    assert published(table) == union(blue[:stop] + SHARDS[stop:])
    reads: list[str] = []
    publish(table, watched(parts_of(blue), reads.append))
    assert reads == [f"labels/{place}" for place in range(stop, 4)]
    assert published(table) == union(blue)


# What commits, where a call is cut before it or after it. Lance commits rows and record apart.
COMMITS = {
    "delta": "deltalake.table.TableMerger.execute",
    "iceberg": "pyiceberg.catalog.sql.SqlCatalog.commit_table",
    "lance": "lance.dataset.LanceDataset.update_config",
    "parquet": "raypipe.store.run_directory.RunDirectory.replace",
}


@pytest.mark.parametrize("stop", [1, 3])
@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_call_that_is_cut_inside_a_batch_doubles_no_row_and_goes_on(
    lake: Lake, monkeypatch: pytest.MonkeyPatch, moment: str, stop: int
) -> None:
    publish(lake, parts_of(SHARDS))
    blue = [dict.fromkeys(shard, "Blue") for shard in SHARDS]
    with monkeypatch.context() as patch:
        cut_at(patch, COMMITS[lake.kind], moment, stop)
        with pytest.raises((CutError, InputError)):
            publish(lake, parts_of(blue))
    found = published(lake)
    assert found.keys() == union(SHARDS).keys()
    assert set(found.values()) <= {"Red", "Blue"}
    # What was published before is asked for again first: nothing of it may be taken for held.
    publish(lake, parts_of(SHARDS))
    assert published(lake) == union(SHARDS)
    publish(lake, parts_of(blue))
    assert published(lake) == union(blue)
    assert publish(lake, parts_of(blue)).parts_written == 0


def cut_at(patch: pytest.MonkeyPatch, function: str, moment: str, stop: int) -> None:
    """Have a function raise in its n-th call, before or after its work."""
    module, _, name = function.rpartition(".")
    package, _, kind = module.rpartition(".")
    __import__(package)
    owner = getattr(sys.modules[package], kind)
    original = getattr(owner, name)
    calls = iter(range(1, 1000))

    def counted(*arguments: Any, **options: Any) -> Any:
        number = next(calls)
        if number == stop and moment == "before":
            raise CutError
        result = original(*arguments, **options)
        if number == stop:
            raise CutError
        return result

    patch.setattr(owner, name, counted)


def test_a_record_that_is_lost_or_harmed_costs_a_merge_and_no_more(table: Lake) -> None:
    publish(table, parts_of(SHARDS))
    for harm in (Path.unlink, lambda path: path.write_text("0" * 24)):
        (record,) = table.directory.rglob("*.parts")
        harm(record)
        assert publish(table, parts_of(SHARDS)).parts_written == len(SHARDS)
        assert published(table) == union(SHARDS)
        assert publish(table, parts_of(SHARDS)).parts_written == 0


def test_one_record_stays_whatever_is_published(table: Lake) -> None:
    for place in range(3):
        publish(table, parts_of(changed(place)))
    assert len(list(table.directory.rglob("*.parts"))) == 1


def test_what_tidies_a_table_up_leaves_the_record(tmp_path: Path) -> None:
    for kind in ("delta", "lance"):
        lake = Lake(kind, tmp_path / kind)
        for shards in (SHARDS, changed(1)):
            publish(lake, parts_of(shards))
        tidy_up(lake)
        assert published(lake) == union(changed(1))
        assert publish(lake, parts_of(changed(1))).parts_written == 0


def tidy_up(lake: Lake) -> None:
    place = str(lake.directory / "labels")
    if lake.kind == "delta":
        from deltalake import DeltaTable

        table = DeltaTable(place)
        table.optimize.compact()
        table.create_checkpoint()
        assert table.vacuum(0, dry_run=False, enforce_retention_duration=False)
    else:
        import lance

        lance.dataset(place).optimize.compact_files()
        lance.dataset(place).cleanup_old_versions(timedelta(0), delete_unverified=True)


def test_a_column_of_the_users_own_keeps_its_values(table: Lake) -> None:
    own = label_table(SHARDS[0]).append_column("checked_by", pa.array(["Ann", "Bob"]))
    table.append("labels", own)
    publish(table, parts_of(changed(0)))
    found = table.read("labels").sort_by(KEYS)
    assert found.column("checked_by").to_pylist() == ["Ann", "Bob", *[None] * 6]
    assert published(table) == union(changed(0))


def test_rows_of_others_stay_beside_the_labels(table: Lake) -> None:
    others: Values = {("L0", "size"): "Big", ("zebra", "colour"): "Black"}
    table.append("labels", label_table(others))
    publish(table, parts_of(SHARDS))
    assert published(table) == union(SHARDS) | dict(others)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda rows: rows.drop_columns(["votes"]), "'votes'.* is missing"),
        (
            lambda rows: rows.set_column(
                rows.schema.get_field_index("num_chains"), "num_chains", pa.array([7.0] * len(rows))
            ),
            "'num_chains' is double, expected int32",
        ),
        (
            lambda rows: rows.append_column(
                pa.field("shop", pa.string(), nullable=False), pa.array(["x"] * len(rows))
            ),
            "'shop' is no column of labels",
        ),
        (lambda rows: rows.cast(required(rows.schema, "value")), "'value' must allow nulls"),
    ],
)
def test_a_table_of_other_columns_is_refused_before_it_is_written(
    table: Lake, spoil: Callable[[pa.Table], pa.Table], says: str
) -> None:
    table.append("labels", spoil(label_table(SHARDS[0])))
    before = snapshot(table.directory)
    with pytest.raises(InputError, match=says) as raised:
        publish(table, parts_of(changed(0)))
    assert table.location("labels") in str(raised.value)
    assert snapshot(table.directory) == before


def required(schema: pa.Schema, name: str) -> pa.Schema:
    index = schema.get_field_index(name)
    return schema.set(index, schema.field(index).with_nullable(False))


def test_a_directory_of_other_things_is_refused(tmp_path: Path) -> None:
    lake = Lake("parquet", tmp_path)
    (tmp_path / "labels").mkdir()
    pq.write_table(label_table(SHARDS[0]), tmp_path / "labels" / "mine.parquet")
    with pytest.raises(InputError, match=r"holds files and no _raypipe\.json"):
        publish(lake, parts_of(SHARDS))
    assert [path.name for path in (tmp_path / "labels").iterdir()] == ["mine.parquet"]


def test_a_directory_takes_labels_of_its_own_columns_alone(tmp_path: Path) -> None:
    lake = Lake("parquet", tmp_path)
    publish(lake, parts_of(SHARDS))
    more = label_table(SHARDS[0]).append_column("more", pa.array([1, 2]))
    with pytest.raises(InputError, match="of other columns"):
        publish(lake, [SinkPart("labels/0", "other", lambda: more)])
    assert published(lake) == union(SHARDS)


def test_a_directory_is_read_as_a_whole_once_a_call_has_ended(tmp_path: Path) -> None:
    lake = Lake("parquet", tmp_path)
    publish(lake, parts_of(SHARDS))
    publish(lake, parts_of(changed(1)))
    files = list((tmp_path / "labels").glob("*.parquet"))
    assert values_of(pa.concat_tables(map(pq.read_table, files))) == union(changed(1))
    manifest = json.loads((tmp_path / "labels" / "_raypipe.json").read_text())
    assert manifest["labels"] == "labels/000001"
    assert [file["rows"] for file in manifest["files"]] == [2, 2, 2, 2]
    files[0].unlink()
    assert publish(lake, parts_of(changed(1))).parts_written == 1
    assert published(lake) == union(changed(1))


def test_a_label_that_is_there_twice_is_refused(lake: Lake) -> None:
    rows = pa.concat_tables([label_table(SHARDS[0])] * 2)
    with pytest.raises(ArtifactError, match="labels/0: 2 labels are there twice"):
        publish(lake, [SinkPart("labels/0", "d", lambda: rows)])


def test_parts_of_different_columns_are_refused(table: Lake) -> None:
    odd = label_table(SHARDS[1]).drop_columns(["votes"])
    parts = [*parts_of(SHARDS[:1]), SinkPart("labels/1", "d", lambda: odd)]
    with pytest.raises(ArtifactError, match="different columns"):
        publish(table, parts, batch_bytes=1 << 30)


def test_another_writer_in_between_doubles_no_row(
    table: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sinks, "FIRST_WAIT_S", 0)
    intruders = iter([parts_of(changed(1)), parts_of(changed(2))])

    def intrude(_: str) -> None:
        parts = next(intruders, None)
        if parts is not None:
            publish(table, parts)

    publish(table, watched(parts_of(SHARDS), intrude))
    assert published(table) == union(SHARDS)
    assert publish(table, parts_of(SHARDS)).parts_written == 0


@pytest.mark.parametrize("kind", ["delta", "iceberg"])
def test_writers_who_always_come_first_are_named(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sinks, "FIRST_WAIT_S", 0)
    table = Lake(kind, tmp_path)
    publish(table, parts_of(SHARDS))
    numbers = iter(range(1000))

    def intrude(_: str) -> None:
        publish(table, parts_of([{("L0", "colour"): f"value {next(numbers)}"}]))

    with pytest.raises(SinkConflictError, match="changed by another writer"):
        publish(table, watched(parts_of(changed(0)), intrude))
    assert next(numbers) == sinks.MAX_CONFLICTS
    assert published(table).keys() == union(SHARDS).keys()


@pytest.mark.parametrize(
    ("kind", "module"), [("delta", "deltalake"), ("iceberg", "pyiceberg"), ("lance", "lance")]
)
def test_a_missing_package_is_named_with_its_remedy(
    kind: str, module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == module]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ConfigError, match=r"pip install 'raypipe\[tables\]'"):
        publish(Lake(kind, tmp_path), parts_of(SHARDS))


def test_a_catalog_that_is_not_configured_is_a_fault_of_the_configuration(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PYICEBERG_HOME", str(tmp_path))
    with pytest.raises(ConfigError, match=r"catalog\.iceberg names no catalog"):
        upsert("iceberg:shop.labels", parts_of(SHARDS), iceberg={}, version="1")


def test_what_a_library_refuses_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "_delta_log").write_text("no directory")
    with pytest.raises(InputError, match=r"cannot write delta:") as raised:
        publish(Lake("delta", tmp_path), parts_of(SHARDS))
    assert len(str(raised.value).splitlines()) == 1


def test_the_configuration_says_where(lake: Lake) -> None:
    catalog = {"embedded": {}, "iceberg": lake.properties}
    without = resolve({"catalog": catalog})
    assert write_sink(without, parts_of(SHARDS), "labels/000001") is None
    labeling = {"sink": lake.location("labels")}
    config = resolve({"catalog": catalog, "labeling": labeling})
    result = write_sink(config, parts_of(SHARDS), "labels/000001")
    assert result == SinkResult(lake.location("labels"), 4, 0, 8)
    assert published(lake) == union(SHARDS)


KEY = st.tuples(st.sampled_from("ABCDEF"), st.sampled_from(["colour", "heel"]))
VIEW = st.dictionaries(KEY, st.sampled_from(["Red", "Blue", None]), max_size=8)


@st.composite
def sharded(draw: st.DrawFn) -> list[Any]:
    """A view in three shards."""
    shards: list[Any] = [{}, {}, {}]
    for key, value in draw(VIEW).items():
        shards[draw(st.integers(0, 2))][key] = value
    return shards


@st.composite
def calls(draw: st.DrawFn) -> list[tuple[list[Any], bool, int | None]]:
    """Views, each with how its parts are named and after how many reads it is cut. They are few, so
    that one comes back after another."""
    views = draw(st.lists(sharded(), min_size=2, max_size=3))
    by_content = draw(st.booleans())
    numbers = draw(st.lists(st.integers(0, len(views) - 1), min_size=1, max_size=5))
    return [(views[it], by_content, draw(st.none() | st.integers(0, 2))) for it in numbers]


@pytest.mark.parametrize("kind", ALL)
@settings(max_examples=25)
@given(made=calls())
def test_any_sequence_of_calls_leaves_what_a_dictionary_would_hold(
    kind: str, made: list[tuple[list[Any], bool, int | None]]
) -> None:
    with TemporaryDirectory() as directory:
        lake = Lake(kind, Path(directory))
        seen: dict[tuple[str, str], set[str | None]] = {}
        for shards, by_content, stop in made:
            parts = parts_of(shards)
            if by_content:
                parts = [SinkPart(f"labels/{it.digest}", it.digest, it.read) for it in parts]
            ended = try_to_publish(lake, parts, stop)
            view = union(shards)
            for key, value in view.items():
                seen[key] = {value} if ended else seen.get(key, set()) | {value}
            if ended and (view or kind == "parquet"):
                found = published(lake)
                assert view.items() <= found.items()
                assert all(value in seen[key] for key, value in found.items())
                assert found.keys() == view.keys() or kind != "parquet"
                assert publish(lake, parts).parts_written == 0


def try_to_publish(lake: Lake, parts: list[SinkPart], stop: int | None) -> bool:
    """Whether the call ended; it is cut when so many parts were read."""
    reads: Iterator[int] = iter(range(100))

    def cut(_: str) -> None:
        if next(reads) == stop:
            raise CutError

    try:
        publish(lake, watched(parts, cut))
    except CutError:
        return False
    return True
