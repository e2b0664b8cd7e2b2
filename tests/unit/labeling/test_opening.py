"""A table that moves on while its labels are unfinished."""

import json
import shutil
from collections.abc import Callable
from contextlib import nullcontext
from itertools import count
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from raypipe import config as configuration
from raypipe.catalog.snapshots import Snapshot
from raypipe.errors import EngineDiedError, InputError
from raypipe.labeling.driver import LabelingDriver
from raypipe.labeling.label_versions import label_versions
from raypipe.runtime import progress
from raypipe.runtime.console import Console
from raypipe.schemas import LABELS
from raypipe.store.artifacts import Attempt, Run
from raypipe.store.manifest import Commit
from raypipe.store.runs import open_run
from tests.conftest import CommitRows
from tests.fakes.catalog_files import LISTINGS, CatalogFiles
from tests.fakes.label_rows import label
from tests.fakes.table_formats import Lake

NUMBERS = count()
SIZES = ("num_pool=4", "num_eval=3", "num_anchor=2", "seed_per_vertical=1")
BeginLabels = Callable[..., None]


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake("delta", tmp_path / "lake")


def grow(lake: Lake, name: str = "listings") -> None:
    """Commit another listing to a table."""
    shop = CatalogFiles(lake.directory)
    shop.add(f"L{next(NUMBERS)}", 1)
    lake.append(name, pa.Table.from_pylist(shop.listings, schema=LISTINGS))


@pytest.fixture
def labeled_run(tmp_path: Path) -> Run:
    return Run(str(tmp_path / "runs" / "local"))


@pytest.fixture
def begin(tmp_path: Path, lake: Lake, monkeypatch: pytest.MonkeyPatch) -> BeginLabels:
    """Label a table with an engine that dies once the label version is begun.

    Rows are copied and the calibration_run is committed here, without Ray.
    """

    def copy(attempt: Attempt, snapshot: Snapshot, contract: Any) -> Commit:
        from deltalake import DeltaTable

        table = DeltaTable(snapshot.location.place, version=snapshot.version).to_pyarrow_table()
        assert attempt.artifact.table is not None
        attempt.write(table.select(attempt.artifact.table.schema.names))
        return attempt.commit()

    def die(*_: Any, **__: Any) -> Commit:
        raise EngineDiedError("no engine is left")

    monkeypatch.setattr(progress.logger, "handlers", list(progress.logger.handlers))
    monkeypatch.setattr("raypipe.catalog.tables._copy", copy)
    monkeypatch.setattr("raypipe.catalog.tables.ensure_ray", lambda _: nullcontext())
    monkeypatch.setattr("raypipe.labeling.driver.sampling.sampling_plan", lambda *_, **__: None)
    monkeypatch.setattr(
        "raypipe.labeling.driver.stream.run", lambda attempt, *_, **__: attempt.commit()
    )
    monkeypatch.setattr("raypipe.labeling.driver.evaluation.calibrate", die)

    def begin(*overrides: str, pin: str = "") -> None:
        own = [f"run.directory={tmp_path / 'runs'}", "labeling.policy=pretrained",
               "catalog.image_size=28", *(f"catalog.embedded.{size}" for size in SIZES),
               f"labeling.listings={lake.location('listings')}{pin}"]  # fmt: skip
        config = configuration.load(None, [*own, *overrides])
        with pytest.raises(EngineDiedError):
            LabelingDriver(config, open_run(config), Console()).go()

    return begin


def begun_with(run: Run) -> list[str]:
    """The snapshot of each label version, by its number."""
    requests = [
        json.loads(run.read(f"{scope}/request.json") or b"") for scope in label_versions(run)
    ]
    return [request["listings"][0][0].partition(" @ ")[2][0] for request in requests]


def finish(run: Run, scope: str, commit_rows: CommitRows) -> None:
    commit_rows(run, f"{scope}/labels", LABELS, [label("A", "k")])


def test_an_interrupted_generation_is_finished_at_its_snapshot_before_the_next_begins(
    begin: BeginLabels,
    lake: Lake,
    labeled_run: Run,
    commit_rows: CommitRows,
    capsys: pytest.CaptureFixture[str],
) -> None:
    grow(lake)
    begin()
    assert "begun with" not in capsys.readouterr().out
    for overrides in ((), ("labeling.precision=0.5",)):
        grow(lake)
        begin(*overrides)
        assert "labels/000001 was begun with delta" in capsys.readouterr().out
    assert begun_with(labeled_run) == ["0"]
    finish(labeled_run, "labels/000001", commit_rows)
    begin()
    assert begun_with(labeled_run) == ["0", "2"]


@pytest.mark.parametrize(
    ("override", "pin"),
    [("labeling.constrained=true", ""), ("labeling.mode=greedy", ""), (None, "@1")],
)
def test_another_request_takes_the_snapshot_that_it_asks_for(
    begin: BeginLabels, lake: Lake, labeled_run: Run, override: str | None, pin: str
) -> None:
    grow(lake)
    begin()
    grow(lake)
    begin(*([override] if override else []), pin=pin)
    assert begun_with(labeled_run) == ["0", "1"]


def test_another_table_is_another_catalog(begin: BeginLabels, lake: Lake, labeled_run: Run) -> None:
    grow(lake)
    begin()
    grow(lake, "others")
    grow(lake, "others")
    begin(f"labeling.listings={lake.location('others')}")
    assert begun_with(labeled_run) == ["0", "1"]


def test_a_snapshot_that_is_gone_is_said_with_the_way_out(
    begin: BeginLabels, lake: Lake, labeled_run: Run
) -> None:
    grow(lake)
    begin()
    shutil.rmtree(labeled_run.path("tables"))
    shutil.rmtree(lake.directory / "listings")
    for _ in range(2):
        grow(lake)
    with pytest.raises(
        InputError, match=r"labels/000001 was begun with .*labeling\.listings=delta:"
    ):
        begin()
    begin(pin="@1")
    assert begun_with(labeled_run) == ["0", "1"]
