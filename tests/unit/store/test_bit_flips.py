"""One flipped bit, anywhere in a file of any kind of artifact, is noticed by whoever reads it."""

import json
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raypipe import schemas
from raypipe.config import ModelConfig
from raypipe.errors import ArtifactError
from raypipe.maintenance.status import inspect
from raypipe.models.policies import policy
from raypipe.schemas import LISTINGS, Table
from raypipe.store.artifacts import Artifact, Run
from raypipe.store.manifest import COMMIT
from tests.fakes.documents import metrics

TABLES = [table for table in vars(schemas).values() if isinstance(table, Table)]
PLAIN = {
    "sft/adapter": {
        "adapter_model.safetensors": bytes(range(256)) * 40,
        "adapter_config.json": b'{"r": 8, "base_model_name_or_path": "base"}',
        "training.jsonl": b'{"step": 1, "loss": 0.5}\n',
    },
    "sft/evaluation": {"metrics.json": json.dumps(metrics(0.75).to_json()).encode()},
    "labels/000001/decisions/0123456789ab/calibration": {
        "calibration.json": b'{"steps": [[0, 1]], "threshold": 0.5}'
    },
    "labels/000001/decisions/0123456789ab/quality": {
        "quality.json": b'{"precision": {"value": 0.96}}'
    },
    "sft/consensus": {"funnel.json": b'{"total": {"kept": 12}}'},
    "catalog/listings": {"attribute_schema.json": b'[{"vertical": "Shoe"}]'},
}
PLACES = 97


def value_of(kind: pa.DataType, seed: int) -> Any:
    """Some value of a type."""
    if pa.types.is_struct(kind):
        return {field.name: value_of(field.type, seed) for field in kind}
    if pa.types.is_list(kind):
        return [value_of(kind.value_type, seed + place) for place in range(2)]
    if pa.types.is_boolean(kind):
        return seed % 2 == 0
    if pa.types.is_floating(kind):
        return seed / 7
    if pa.types.is_integer(kind):
        return seed
    text = f"value {seed} of many"
    return text.encode() if pa.types.is_binary(kind) else text


def rows_of(table: Table, number: int = 50) -> pa.Table:
    rows: list[dict[str, object]] = [
        {field.name: value_of(field.type, seed) for field in table.schema} for seed in range(number)
    ]
    return table.from_rows(rows)


def flips(path: Path, places: int = PLACES) -> Iterator[str]:
    """Flip one bit after the other, all over a file, and put each right again."""
    content = path.read_bytes()
    step = max(1, len(content) // places)
    for number, place in enumerate(range(0, len(content), step)):
        harmed = bytearray(content)
        harmed[place] ^= 1 << number % 8
        path.write_bytes(bytes(harmed))
        yield f"bit {number % 8} of byte {place} of {path.name}"
    path.write_bytes(content)


def assert_noticed(path: Path, read: Callable[[], object], places: int = PLACES) -> None:
    for flip in flips(path, places):
        error = error_of(read)
        assert error is not None, f"nobody noticed {flip}"
        assert "\n" not in str(error)
    assert error_of(read) is None


def error_of(read: Callable[[], object]) -> ArtifactError | None:
    try:
        read()
    except ArtifactError as error:
        return error
    return None


def commit(run: Run, name: str, table: Table) -> Artifact:
    artifact = run.artifact(name, None if table is schemas.QUARANTINE else table)
    attempt = artifact.attempt({"of": table.name})
    attempt.write(rows_of(table), "quarantine" if table is schemas.QUARANTINE else "data")
    attempt.commit()
    return artifact


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
def test_a_flip_in_the_rows_of_any_table_is_noticed(run: Run, table: Table) -> None:
    artifact = commit(run, f"any/{table.name}", table)
    kind: Any = "quarantine" if table is schemas.QUARANTINE else "data"
    (path,) = map(Path, artifact.paths(kind))
    column = table.schema.names[-1]
    assert_noticed(path, lambda: artifact.read(kind=kind))
    assert_noticed(path, lambda: list(artifact.read_files([column], kind)), places=20)


@pytest.mark.parametrize(
    ("artifact", "name"), [(place, name) for place, files in PLAIN.items() for name in files]
)
def test_a_flip_in_a_plain_file_is_noticed_by_its_reader(
    run: Run, artifact: str, name: str, tiny_model: ModelConfig
) -> None:
    attempt = run.artifact(artifact).attempt({})
    for file, content in PLAIN[artifact].items():
        attempt.write_file(file, content)
    attempt.commit()
    path = Path(run.path(artifact, "files", attempt.name, name))
    if artifact == "sft/adapter":
        assert_noticed(path, lambda: policy(run, tiny_model, "sft").adapter_directory())
    else:
        assert_noticed(path, lambda: run.artifact(artifact).read_json(name))


def test_a_flip_anywhere_in_a_manifest_is_noticed(run: Run) -> None:
    artifact = commit(run, "sft/chains", schemas.CHAINS)
    path = Path(run.path("sft/chains", COMMIT))
    assert_noticed(path, artifact.require_commit, places=path.stat().st_size)


@settings(max_examples=200)
@given(st.data())
def test_a_manifest_is_read_as_it_was_written_or_not_at_all(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Whatever happens to it: cuts, doubled parts, other bytes."""
    run = Run(str(tmp_path_factory.mktemp("run")))
    fingerprint = data.draw(
        st.dictionaries(st.text(), st.floats(allow_nan=False) | st.text() | st.none())
    )
    made = run.artifact("a/b").attempt(fingerprint).commit(counts={"10": 1, "9": 0.1})
    assert run.artifact("a/b").require_commit() == made
    content = run.read(f"a/b/{COMMIT}") or b""
    shares = sorted(data.draw(st.tuples(st.floats(0, 1), st.floats(0, 1))))
    first, last = (round(share * len(content)) for share in shares)
    changed = content[:first] + data.draw(st.binary(max_size=9)) + content[last:]
    run.replace(f"a/b/{COMMIT}", changed)
    if changed == content:
        assert run.artifact("a/b").require_commit() == made
    else:
        with pytest.raises(ArtifactError, match="is unreadable"):
            run.artifact("a/b").require_commit()


def test_of_a_large_file_the_asked_columns_are_right_or_it_is_corrupt(run: Run) -> None:
    """Such a file is not read whole for the sake of its ids."""
    table = rows_of(LISTINGS, 1500)
    noise = random.Random(0)
    images = pa.array([[noise.randbytes(1000)] for _ in range(1500)])
    place = table.schema.get_field_index("images")
    kind = LISTINGS.schema.field("images").type
    artifact = run.artifact("any/listings", LISTINGS)
    attempt = artifact.attempt({})
    attempt.write(table.set_column(place, "images", images.cast(kind)))
    attempt.commit()
    (path,) = map(Path, artifact.paths())
    assert path.stat().st_size > 1 << 20
    true = artifact.read(["listing_id", "split"])
    for flip in flips(path, 150):
        try:
            assert artifact.read(["listing_id", "split"]).equals(true), flip
        except ArtifactError:
            continue
    assert_noticed(path, artifact.read, places=30)


def test_verify_tells_every_flip_and_status_alone_every_lack(run: Run) -> None:
    paths = []
    for table in TABLES:
        artifact = commit(run, f"any/{table.name}", table)
        paths += [
            Path(run.path(artifact.name, file.path)) for file in artifact.require_commit().files
        ]
    for name, files in PLAIN.items():
        attempt = run.artifact(name).attempt({})
        for file, content in files.items():
            attempt.write_file(file, content)
        attempt.commit()
        paths += [Path(run.path(name, "files", attempt.name, file)) for file in files]
    run.create("run.json", b"{}")
    assert inspect(run, time.time(), verify=True).faults == ()
    for path in paths:
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 4
        path.write_bytes(bytes(content))
    told = [f for f in inspect(run, time.time(), verify=True).faults if "sha256" in f]
    assert len(told) >= len(paths)
    assert all(any(path.name in fault for fault in told) for path in paths)
    paths[0].unlink()
    paths[-1].write_bytes(b"")
    lacking = inspect(run, time.time()).faults
    assert any(paths[0].name in fault and "is missing" in fault for fault in lacking)
    assert any(paths[-1].name in fault and "0 bytes instead of" in fault for fault in lacking)


def test_a_flip_in_what_a_kill_left_keeps_it_from_being_salvaged(run: Run) -> None:
    artifact = run.artifact("any/labels", schemas.LABELS)
    artifact.attempt({}).write(rows_of(schemas.LABELS))
    (path,) = Path(run.path("any/labels/data")).rglob("*.parquet")
    for flip in flips(path):
        assert artifact.attempt({}).salvage() == [], flip
    (file,) = artifact.attempt({}).salvage()
    assert pc.count_distinct(file.ids).as_py() == 50
