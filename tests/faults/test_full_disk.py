"""A disk that is full, for everything that is written beside committed rows.

Each is written on a disk of a few megabytes, or under a limit on the size of files, is refused with
the place and the bytes, leaves nothing half-written, and is made by the same call once there is
room.
"""

import io
import os
import resource
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest
from PIL import Image

from raypipe.catalog import stage as catalog
from raypipe.cli.jobs import report_error
from raypipe.config import load
from raypipe.errors import EXIT_RETRY, StorageError
from raypipe.exports.adapters import export_adapter
from raypipe.exports.chains import export_chains
from raypipe.exports.merged_checkpoint import merge
from raypipe.exports.preferences import export_preferences
from raypipe.models.policies import model_path, policy
from raypipe.review.tasks import export_review
from raypipe.sampling.weights import merged_checkpoint
from raypipe.schemas import CHAINS, LABELS, LISTINGS, PAIRS
from raypipe.store.artifacts import Run
from raypipe.training.checkpoint_files import copy_whole, list_files
from tests.conftest import CommitRows, MakeListing
from tests.fakes.adapters import NANO, adapted_run, nano_config
from tests.fakes.catalog_files import CatalogFiles
from tests.fakes.label_rows import found_in, label, rule

ROOM = 40_000
SHORTAGES = ["disk", "limit"]


class Shortage:
    """A place with little room, until it is eased."""

    def __init__(self, place: Path, kind: str) -> None:
        self.place = place
        self._kind = kind
        self._before = resource.getrlimit(resource.RLIMIT_FSIZE)
        self._ballast = place / "ballast"
        if kind == "limit":
            resource.setrlimit(resource.RLIMIT_FSIZE, (ROOM, self._before[1]))
        else:
            self._ballast.write_bytes(b"\1" * (shutil.disk_usage(place).free - ROOM))

    def ease(self) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, self._before)
        self._ballast.unlink(missing_ok=True)

    def left(self) -> list[str]:
        return sorted(
            str(path.relative_to(self.place))
            for path in self.place.rglob("*")
            if path.is_file() and path != self._ballast
        )


@pytest.fixture(params=SHORTAGES)
def short(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[], Shortage]]:
    place = tmp_path / "small"
    place.mkdir()
    made: list[Shortage] = []
    if request.param == "disk":
        mount = ["mount", "-t", "tmpfs", "-o", "size=24m", "small", str(place)]
        if os.geteuid() or subprocess.run(mount, check=False, capture_output=True).returncode:
            pytest.skip("only root may mount a small disk")

    def make() -> Shortage:
        made.append(Shortage(place, request.param))
        return made[-1]

    try:
        yield make
    finally:
        for shortage in made:
            shortage.ease()
        if request.param == "disk":
            subprocess.run(["umount", "--lazy", str(place)], check=True)


@pytest.fixture(scope="module")
def adapted(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return adapted_run(tmp_path_factory.mktemp("runs") / "shoes")


def assert_refused_then_made(
    short: Shortage, write: Callable[[], object], path: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line with exit code 4, the path and the bytes; nothing is left; then it is written."""
    before = short.left()
    for _ in range(2):
        with pytest.raises(StorageError, match=r"No space left on device|File too large") as raised:
            write()
        capsys.readouterr()  # progress bars of libraries
        assert report_error(raised.value) == EXIT_RETRY
        said = capsys.readouterr().err
        assert len(said.splitlines()) == 1
        assert path in said
        assert "bytes" in said
        assert short.left() == before
    short.ease()
    write()
    assert any(path.rpartition("/")[2] in name for name in short.left())


@pytest.fixture
def exportable(run: Run, make_listing: MakeListing, commit_rows: CommitRows) -> Run:
    """A run with pairs, chains and labels of incompressible images."""
    listings = [
        make_listing(f"{name}", "pool", ["colour"]) | {"images": [os.urandom(20_000)]}
        for name in range(20)
    ]
    commit_rows(
        run,
        "catalog/listings",
        LISTINGS,
        listings,
        files={
            "attribute_schema.json": b'[{"vertical": "Shoe", "attribute": "colour",'
            b' "description": "Its colour.", "values": ["Red", "Blue"]}]'
        },
    )
    chain = {"text": "Red", "token_ids": [1], "logprob": -1.0, "finish_reason": "stop"}
    pair = {"chosen": "a", "rejected": "b", "chosen_index": 0, "rejected_index": 1}
    of = [{"listing_id": row["listing_id"]} for row in listings]
    asked = {"vertical": "Shoe", "split": "pool", "policy_id": "p"}
    queries = [{"attribute": "colour", "greedy": None, "chains": [chain]}]
    commit_rows(run, "sft/chains", CHAINS, [row | asked | {"queries": queries} for row in of])
    about = {"attribute": "colour", "prompt": "colour?", "margin": 0.5, "pairs": [pair]}
    commit_rows(run, "sft/pairs", PAIRS, [row | about for row in of])
    labels = [label(row["listing_id"], "k") for row in listings]
    commit_rows(run, "labels/000001/labels", LABELS, labels)
    return run


def test_pairs(
    exportable: Run, short: Callable[[], Shortage], capsys: pytest.CaptureFixture[str]
) -> None:
    small = short()
    target = small.place / "exports"

    def write() -> object:
        return export_preferences(load(None), exportable, "sft", target)

    assert_refused_then_made(small, write, f"{target}/preferences.parquet", capsys)
    assert pq.read_metadata(target / "preferences.parquet").num_rows == 20


def test_chains(
    exportable: Run, short: Callable[[], Shortage], capsys: pytest.CaptureFixture[str]
) -> None:
    small = short()
    target = small.place / "exports"

    def write() -> object:
        return export_chains(load(None), exportable, "sft", target)

    assert_refused_then_made(small, write, f"{target}/chains.parquet", capsys)
    assert pq.read_metadata(target / "chains.parquet").num_rows == 20


def test_review(
    exportable: Run, short: Callable[[], Shortage], capsys: pytest.CaptureFixture[str]
) -> None:
    small = short()
    target = small.place / "exports"
    labels = exportable.artifact("labels/000001/labels", LABELS)
    listings = exportable.artifact("catalog/listings", LISTINGS)

    def write() -> object:
        return export_review(labels, rule(), found_in(listings), target, 20)

    assert_refused_then_made(small, write, f"{target}/tasks.json", capsys)


def test_an_adapter(
    adapted: Run, short: Callable[[], Shortage], capsys: pytest.CaptureFixture[str]
) -> None:
    small = short()
    target = small.place / "round-1"

    def write() -> object:
        return export_adapter(nano_config(), adapted, "round-1", target)

    assert_refused_then_made(small, write, str(target), capsys)


def test_an_export_that_fails_leaves_the_one_before(
    adapted: Run, short: Callable[[], Shortage]
) -> None:
    (target := Path(short().place / "round-1")).mkdir()
    (target / "adapter_config.json").write_text("of yesterday")
    with pytest.raises(StorageError):
        export_adapter(nano_config(), adapted, "round-1", target)
    assert (target / "adapter_config.json").read_text() == "of yesterday"


def test_merged_weights(
    adapted: Run, short: Callable[[], Shortage], capsys: pytest.CaptureFixture[str]
) -> None:
    small = short()
    target = small.place / "served"

    def write() -> object:
        shutil.rmtree(target, ignore_errors=True)
        return merge(nano_config(), adapted, "round-1", target)

    assert_refused_then_made(small, write, str(target), capsys)


def test_the_weights_of_an_engine(
    adapted: Run,
    short: Callable[[], Shortage],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    small = short()
    monkeypatch.setenv("HOME", str(small.place))
    chosen = policy(adapted, NANO, "round-1")
    directory = chosen.adapter_directory()
    assert directory is not None

    def write() -> object:
        base, policy_id = model_path(NANO), chosen.policy_id
        return merged_checkpoint(base, None, "float32", directory, policy_id)

    assert_refused_then_made(small, write, f"merged/{chosen.policy_id}", capsys)


def test_an_adapter_that_is_handed_over(
    short: Callable[[], Shortage], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = tmp_path / "checkpoint"
    checkpoint.mkdir()
    (checkpoint / "adapter_model.safetensors").write_bytes(bytes(10 * ROOM))
    list_files(checkpoint, rank=0, workers=1, zero_stage=0)
    small = short()
    run = Run(str(small.place / "run"))
    attempt = run.artifact("sft/adapter").attempt({})
    with pytest.raises(StorageError, match=r"No space left|File too large") as raised:
        copy_whole(pafs.LocalFileSystem(), str(checkpoint), attempt.local_files())
    assert report_error(raised.value) == EXIT_RETRY
    said = capsys.readouterr().err
    assert len(said.splitlines()) == 1
    assert "sft/adapter/files" in said
    assert run.artifact("sft/adapter").commit() is None
    small.ease()
    again = run.artifact("sft/adapter").attempt({})
    copy_whole(pafs.LocalFileSystem(), str(checkpoint), again.local_files())
    (file,) = again.commit().files
    assert file.size == 10 * ROOM


def test_prepared_listings(
    short: Callable[[], Shortage], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    shop = CatalogFiles(tmp_path / "shop")
    for index in range(20):
        noise = io.BytesIO()
        Image.frombytes("RGB", (112, 112), os.urandom(3 * 112 * 112)).save(noise, "PNG")
        shop.add(f"L{index:02}", 0, images=[noise.getvalue()])
    shop.seed["L00"] = shop.truth["L01"] = []
    shop.write()
    small = short()
    run = Run(str(small.place / "run"))
    for _ in range(2):
        with pytest.raises(StorageError, match=r"No space left|File too large") as raised:
            catalog.run(shop.config(image_size=112), run)
        assert report_error(raised.value) == EXIT_RETRY
        said = capsys.readouterr().err
        assert len(said.splitlines()) == 1
        assert "catalog/listings/data" in said
    assert run.artifact("catalog/listings").commit() is None
    small.ease()
    assert catalog.run(shop.config(image_size=112), run).rows == 20


def test_evaluation_report_and_manifest(
    short: Callable[[], Shortage], capsys: pytest.CaptureFixture[str]
) -> None:
    small = short()
    run = Run(str(small.place / "run"))
    large = os.urandom(3 * ROOM)
    for path in ("report/index.html", "summary.json"):
        assert_refused_once(lambda path=path: run.replace(path, large), path, capsys)
    attempt = run.artifact("sft/evaluation").attempt({})
    assert_refused_once(lambda: attempt.write_file("metrics.json", large), "metrics.json", capsys)
    small.ease()
    run.replace("report/index.html", large)
    assert run.read("report/index.html") == large


def assert_refused_once(
    write: Callable[[], object], path: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(StorageError) as raised:
        write()
    assert report_error(raised.value) == EXIT_RETRY
    said = capsys.readouterr().err
    assert len(said.splitlines()) == 1
    assert path in said
    assert "bytes" in said
