"""Labeling with a scripted engine: label versions, decisions, what is carried over or asked."""

import ast
import shutil
from importlib import metadata
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable

from raypipe import config as configuration
from raypipe.api import read_labels
from raypipe.attributes.prompts import completion
from raypipe.config import Config
from raypipe.embedded.catalog import write_catalog
from raypipe.errors import ArtifactError
from raypipe.labeling.driver import LabelingDriver
from raypipe.labeling.label_versions import label_versions
from raypipe.labeling.to_review import export_labels
from raypipe.models.policies import Policy
from raypipe.runtime.console import Console
from raypipe.sampling.chains import Chain
from raypipe.sampling.engine import Prompt, Request
from raypipe.schemas import LABELS, PUBLISHED_LABELS
from raypipe.seeds import derive
from raypipe.store.artifacts import Run
from raypipe.store.runs import open_run
from tests.fakes.small_run import SMALL

pytestmark = [pytest.mark.engine, pytest.mark.usefixtures("local_ray")]
FIRST = "labels/000001"


class ScriptedEngine:
    """Answers by the question and the chain's seed, and notes which images it was asked about."""

    max_prompt_tokens = 10_000

    def __init__(self, notes: Path) -> None:
        self._notes = notes

    def generate(self, requests: list[Request]) -> list[list[Chain]]:
        with self._notes.open("a") as notes:
            notes.writelines(f"{request.prompt.image_hashes}\n" for request in requests)
        return [
            [self._chain(request, index) for index in range(max(1, request.num_chains))]
            for request in requests
        ]

    def num_prompt_tokens(self, prompt: Prompt) -> int:
        return len(prompt.text)

    def _chain(self, request: Request, index: int) -> Chain:
        options = ast.literal_eval(request.prompt.text.rsplit("Options: ", 1)[1])
        draw = derive("scripted", request.seed + index) % (len(options) + 6)
        value = options[max(0, draw - 6)]
        return Chain(completion(value, f"chain {draw}", "reasoning"), (draw,), -0.1 * draw, "stop")


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A rendered catalog in files, as a user has it."""
    directory = tmp_path_factory.mktemp("files") / "shop"
    write_catalog(str(directory), seed=5, num_pool=20, num_eval=12, num_anchor=12,
                  seed_per_vertical=1)  # fmt: skip
    return directory


class Labeling:
    """Labels one shop, again and again, and counts what the engine was asked."""

    def __init__(self, base: Path, *overrides: str) -> None:
        base.mkdir(exist_ok=True)
        self.notes = base / "asked.txt"
        self._base = base
        self._overrides = (*SMALL, f"run.directory={base / 'runs'}", *overrides)
        self.run: Run = open_run(self.config())

    def config(self, *overrides: str) -> Config:
        return configuration.load(
            None, [*self._overrides, "labeling.policy=pretrained", *overrides]
        )

    def label(self, *overrides: str) -> tuple[str, int]:
        """Label; the newest label version and the number of queries asked for it."""
        notes = self.notes

        def start(config: Config, policy: Policy) -> ScriptedEngine:
            return ScriptedEngine(notes)

        self.notes.write_text("")
        LabelingDriver(self.config(*overrides), self.run, Console(), start).go()
        return label_versions(self.run)[-1], len(self.notes.read_text().splitlines())

    def labels(self, scope: str) -> pa.Table:
        table = self.run.artifact(f"{scope}/labels", LABELS).read()
        return table.sort_by([("listing_id", "ascending"), ("attribute", "ascending")])

    def published(self) -> pa.Table:
        table = read_labels(self.run.location)
        return table.sort_by([("listing_id", "ascending"), ("attribute", "ascending")])


def outside(shop: Path) -> tuple[str, ...]:
    """The shop's files as the run's catalog, and its listings as what is labeled."""
    return (
        "catalog.embedded=null",
        *(f"catalog.{name}={shop / name}.parquet" for name in ("listings", "seed", "truth")),
        f"catalog.attribute_schema={shop / 'schema.yaml'}",
        f"labeling.listings={shop / 'listings.parquet'}",
    )


@pytest.fixture(scope="module")
def labeled_shop(shop: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with the shop's first label version."""
    labeling = Labeling(tmp_path_factory.mktemp("labeled"), *outside(shop))
    assert labeling.label()[0] == FIRST
    return Path(labeling.run.location)


def labeled_copy(labeled_shop: Path, shop: Path, base: Path, *overrides: str) -> Labeling:
    """The labeled shop in a run of a test's own."""
    but = shutil.ignore_patterns("run.json")  # it names its directory
    shutil.copytree(labeled_shop, base / "runs" / labeled_shop.name, ignore=but)
    return Labeling(base, *outside(shop), *overrides)


def copied(shop: Path, directory: Path) -> str:
    """The shop's listings in another file, as what is labeled."""
    directory.mkdir()
    return f"labeling.listings={shutil.copy(shop / 'listings.parquet', directory)}"


def test_another_precision_is_a_decision_and_writes_no_label(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labeling = Labeling(tmp_path)
    first, asked = labeling.label("labeling.precision=0.2")
    table, files = labeling.published(), label_files(labeling.run, first)
    assert asked > len(table), "the calibration_run is asked beside the labels"
    assert labeling.label("labeling.precision=0.2") == (first, 0)
    assert "only the decision" not in capsys.readouterr().out
    assert labeling.label("labeling.precision=0.9") == (first, 0)
    assert f"{first} is complete: only the decision" in " ".join(capsys.readouterr().out.split())
    assert label_files(labeling.run, first) == files
    again = labeling.published()
    same = [name for name in LABELS.schema.names if name != "reason"]
    assert again.select(same).equals(table.select(same))
    published = [t.column("reason").to_pylist().count("published") for t in (table, again)]
    assert published[0] > published[1]
    assert b"target 0.900" in (labeling.run.read(f"{first}/report/index.html") or b"")
    assert labeling.label("labeling.precision=0.2") == (first, 0)
    assert labeling.published().equals(table)
    for labels in (table, again):
        for value, outcome in zip(*(labels.column(n).to_pylist() for n in ("value", "reason")),
                                  strict=True):  # fmt: skip
            assert (value is not None) == (outcome == "published")
    page = labeling.run.read(f"{first}/report/index.html") or b""
    assert b"on eval" in page
    assert b"target 0.200" in page
    tasks = export_labels(labeling.config("labeling.num_reviews=7"), labeling.run)
    assert tasks is not None
    assert tasks.exists()


def label_files(run: Run, scope: str) -> dict[str, int]:
    """The files of a label version's labels, and when each was written."""
    places = (Path(run.path(place)) for place in (f"{scope}/labels", "labels/shards"))
    paths = [path for place in places for path in place.rglob("*") if path.is_file()]
    return {str(path): path.stat().st_mtime_ns for path in paths}


def test_only_what_changed_in_a_catalog_from_outside_is_asked_again(
    tmp_path: Path, shop: Path, labeled_shop: Path
) -> None:
    labeling = labeled_copy(labeled_shop, shop, tmp_path)
    before = labeling.labels(FIRST)
    path = shop / "listings.parquet"
    rows = pq.read_table(path).to_pylist()
    pool = [row for row in rows if row["listing_id"] not in verified(shop)]
    changed, gone, new = pool[0], pool[1], pool[2]
    changed["images"] = changed["images"][:1]
    rows.remove(gone)
    rows.append(new | {"listing_id": "brand-new"})
    other = tmp_path / "tomorrow"
    other.mkdir()
    pq.write_table(pa.Table.from_pylist(rows, schema=pq.read_schema(path)), other / "l.parquet")

    second, asked = labeling.label(f"labeling.listings={other / 'l.parquet'}")
    after = labeling.labels(second)
    commit = labeling.run.artifact(f"{second}/labels").require_commit()
    assert commit.counts["carried"] == len(rows) - 2
    per_listing = before.column("listing_id").to_pylist().count
    assert asked == per_listing(changed["listing_id"]) + per_listing(new["listing_id"])
    ids = set(after.column("listing_id").to_pylist())
    assert ids == {row["listing_id"] for row in rows}
    kept = ids - {changed["listing_id"], "brand-new"}
    mask = pa.array([name in kept for name in after.column("listing_id").to_pylist()])
    still = pa.array([name in kept for name in before.column("listing_id").to_pylist()])
    assert after.filter(mask).equals(before.filter(still))


@pytest.mark.parametrize("kind", ["delta", "parquet"])
def test_labels_are_published_in_a_table_and_only_what_has_changed_is_written(
    tmp_path: Path, shop: Path, labeled_shop: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    place = tmp_path / "table"
    labeling = labeled_copy(labeled_shop, shop, tmp_path, f"labeling.sink={kind}:{place}")

    def told(*overrides: str) -> str:
        labeling.label(*overrides)
        return " ".join(capsys.readouterr().out.split())

    def rows() -> pa.Table:
        found = DeltaTable(place).to_pyarrow_table() if kind == "delta" else pq.read_table(place)
        return found.sort_by([("listing_id", "ascending"), ("attribute", "ascending")])

    assert "of 1 parts written" in told("labeling.precision=0.2")
    assert rows().select(PUBLISHED_LABELS.schema.names).to_pylist() == (
        labeling.published().to_pylist()
    )
    assert "0 rows of 0 parts written, 1 parts had not changed" in told("labeling.precision=0.2")
    assert "of 1 parts written" in told("labeling.precision=0.9")
    assert rows().column("value").to_pylist() == labeling.published().column("value").to_pylist()


def verified(shop: Path) -> set[str]:
    names = ("seed", "truth")
    tables = [pq.read_table(shop / f"{name}.parquet", columns=["listing_id"]) for name in names]
    return {name for table in tables for name in table.column(0).to_pylist()}


def test_another_policy_or_mode_is_asked_anew(
    tmp_path: Path, shop: Path, labeled_shop: Path
) -> None:
    labeling = labeled_copy(labeled_shop, shop, tmp_path)
    second, asked = labeling.label("labeling.mode=greedy")
    assert second != FIRST
    greedy = labeling.labels(second)
    assert asked > len(greedy)
    assert set(greedy.column("num_chains").to_pylist()) == {1}
    assert len(set(greedy.column("confidence").to_pylist())) > 2
    keys = [set(labeling.labels(s).column("label_key").to_pylist()) for s in (FIRST, second)]
    assert keys[0].isdisjoint(keys[1])


def test_a_plan_counts_what_is_left_and_begins_nothing(
    tmp_path: Path, shop: Path, labeled_shop: Path
) -> None:
    labeling = Labeling(tmp_path / "new")
    config = labeling.config()
    work = LabelingDriver(config, labeling.run, Console()).plan()
    assert (work.listings, work.chains) == (60, work.queries * 7)
    assert label_versions(labeling.run) == []
    labeling = labeled_copy(labeled_shop, shop, tmp_path)
    assert LabelingDriver(labeling.config(), labeling.run, Console()).plan().queries == 0


def upgraded(monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    """Install another version of torch and of Pillow, as far as anybody can tell."""
    installed = metadata.version
    ours = {"torch": version, "pillow": version}
    monkeypatch.setattr(metadata, "version", lambda name: ours.get(name) or installed(name))


def test_a_patch_release_costs_nothing_until_it_is_asked_for(
    tmp_path: Path, shop: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    labeling = Labeling(tmp_path, *outside(shop))
    upgraded(monkeypatch, "9.0.0")
    first, _ = labeling.label()
    labels = labeling.labels(first)
    assert all("torch 9.0.0" in made for made in labels.column("versions").to_pylist())
    capsys.readouterr()
    upgraded(monkeypatch, "9.0.1")
    assert labeling.label() == (first, 0)
    assert "other versions" not in capsys.readouterr().out

    tomorrow = copied(shop, tmp_path / "tomorrow")
    second, asked = labeling.label(tomorrow)
    assert (second, asked) == ("labels/000002", 0)
    kept = f"{len(labels):,} labels are kept that were made with other versions"
    told = " ".join(capsys.readouterr().out.split())
    assert kept in told
    assert "torch 9.0.1" in told
    assert "labeling.relabel_versions=true" in told
    again = labeling.labels(second)
    assert again.column("versions").equals(labels.column("versions"))

    config = labeling.config(tomorrow)
    assert LabelingDriver(config, labeling.run, Console()).plan().queries == 0
    assert kept in " ".join(capsys.readouterr().out.split())
    relabel = "labeling.relabel_versions=true"
    config = labeling.config(tomorrow, relabel)
    assert LabelingDriver(config, labeling.run, Console()).plan().queries == len(labels)

    third, asked = labeling.label(tomorrow, relabel)
    assert third == "labels/000003"
    assert asked > len(labels), "the calibration_run is asked again beside the labels"
    made = labeling.labels(third)
    assert all("torch 9.0.1" in versions for versions in made.column("versions").to_pylist())
    capsys.readouterr()
    for override in ((), (relabel,)):
        assert labeling.label(tomorrow, *override) == (third, 0)
    later = copied(shop, tmp_path / "later")
    for override in ((), (relabel,)):
        assert labeling.label(later, *override) == ("labels/000004", 0)
    assert "other versions" not in capsys.readouterr().out


def test_a_flipped_bit_in_labels_that_are_carried_over_ends_the_call(
    tmp_path: Path, shop: Path, labeled_shop: Path
) -> None:
    labeling = labeled_copy(labeled_shop, shop, tmp_path)
    tomorrow = copied(shop, tmp_path / "tomorrow")
    path = Path(labeling.run.artifact(f"{FIRST}/labels").paths()[0])
    content = path.read_bytes()
    for place in (len(content) // 3, len(content) - 300):
        harmed = bytearray(content)
        harmed[place] ^= 2
        path.write_bytes(bytes(harmed))
        with pytest.raises(ArtifactError, match="missing or corrupt"):
            labeling.label(tomorrow)
        assert labeling.run.artifact("labels/000002/labels").commit() is None
    path.write_bytes(content)
    assert labeling.label(tomorrow) == ("labels/000002", 0)
