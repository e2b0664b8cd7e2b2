"""There and back: exported labels, what people say of them, and the run that learns from it."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest
from label_studio_sdk.label_interface import LabelInterface
from label_studio_sdk.label_interface.objects import AnnotationValue, PredictionValue
from moto.server import ThreadedMotoServer

from raypipe.catalog import stage
from raypipe.config import Config, resolve
from raypipe.errors import ConfigDriftError, ConfigError, InputError
from raypipe.review.console import print_imported
from raypipe.review.importing import ImportedReviews, import_reviews
from raypipe.review.tasks import CANNOT_TELL, export_review
from raypipe.runtime import progress
from raypipe.runtime.console import Console
from raypipe.schemas import LABELS, LISTINGS, SEED, TRUTH
from raypipe.store.artifacts import Run
from raypipe.training.examples import seed_targets
from tests.conftest import CommitRows, Row
from tests.fakes.catalog_files import CatalogFiles
from tests.fakes.label_rows import found_in, label, rule, unanswered
from tests.fakes.label_studio_export import Record, annotation, exported, minimal
from tests.fakes.pickle_payloads import add_column, hostile

EMAIL = "ada@shop.example"


@pytest.fixture
def shop(tmp_path: Path) -> CatalogFiles:
    """Ten listings: one annotated, two verified (one without a split), seven unlabeled."""
    shop = CatalogFiles(tmp_path / "shop")
    for index in range(10):
        shop.add(f"L{index}", index)
    shop.seed["L0"] = [{"attribute": "color", "reasoning": "So it is.", "answer": "Blue"}]
    shop.truth = {name: [{"attribute": "color", "value": "Blue"}] for name in ("L1", "L2")}
    shop.stated_splits["L1"] = "anchor"
    shop.write()
    for name in ("seed", "truth"):
        (shop.directory / name).mkdir()
        (shop.directory / f"{name}.parquet").rename(shop.directory / name / "own.parquet")
    return shop


@pytest.fixture
def config(shop: CatalogFiles, tmp_path: Path) -> Config:
    places = {name: str(shop.directory / name) for name in ("seed", "truth")}
    catalog = shop.config(**places, max_quarantined=1).model_dump(mode="json")["catalog"]
    run = {"directory": str(tmp_path / "runs"), "name": "first"}
    return resolve({"catalog": catalog, "run": run})


def run_of(config: Config) -> Run:
    return Run(f"{config.run.directory}/{config.run.name}")


def renamed(config: Config, name: str) -> Config:
    return config.model_copy(update={"run": config.run.model_copy(update={"name": name})})


@pytest.fixture
def tasks(config: Config, commit_rows: CommitRows, tmp_path: Path) -> list[Record]:
    """The review of a label for the color of every listing, L9 first, which has no answer."""
    run = run_of(config)
    stage.run(config, run)
    rows: list[Row] = []
    for index in range(10):
        row = label(f"L{index}", "key", "color")
        row |= {"confidence": index / 10, "reasoning": f"Photo {index} is red."}
        if index == 9:
            row = unanswered("L9", "key", "color")
        rows.append(row | {"vertical": "shoe"})
    commit_rows(run, "labels/000001/labels", LABELS, rows)
    path = export_review(
        run.artifact("labels/000001/labels", LABELS),
        rule(),
        found_in(run.artifact("catalog/listings", LISTINGS)),
        tmp_path / "review",
        10,
    )
    return list(json.loads(path.read_text()))


@pytest.fixture
def interface(tasks: list[Record], tmp_path: Path) -> LabelInterface:
    found = LabelInterface((tmp_path / "review" / "interface.xml").read_text())
    found.validate()
    return found


@pytest.fixture
def imported(config: Config, tasks: list[Record], interface: Any, tmp_path: Path) -> Any:
    """Import annotations, by listing, in a form that Label Studio's own checks accept."""

    def go(
        said: dict[str, list[Record]], role: Any, config: Config = config, short: bool = False
    ) -> ImportedReviews:
        given = [said.get(task["data"]["listing_id"], []) for task in tasks]
        for annotations in given:
            for one in annotations:
                assert interface.validate_annotation(one)
        records = exported(tasks, given)
        path = tmp_path / "export.json"
        path.write_text(json.dumps(minimal(records) if short else records))
        return import_reviews(config, str(path), role)

    return go


def written(imported: ImportedReviews) -> dict[str, list[Row]]:
    assert imported.file is not None
    rows = pq.read_table(imported.file).to_pylist()
    return {row["listing_id"]: row["answers"] for row in rows}


def files(shop: CatalogFiles, name: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (shop.directory / name).iterdir()}


def test_label_studio_accepts_the_interface_the_tasks_and_the_predictions(
    tasks: list[Record], interface: LabelInterface
) -> None:
    assert len(tasks) == 10
    for task in tasks:
        assert interface.validate_task({"data": task["data"]})
        for prediction in task["predictions"]:
            assert interface.validate_prediction(prediction, return_errors=True) == []
            assert PredictionValue(**prediction).score == prediction["score"]
            chosen = prediction["result"][0]["value"]["choices"]
            assert {"value": chosen[0]} in task["data"]["options"]
    assert sum(len(task["predictions"]) for task in tasks) == 9
    broken = json.loads(json.dumps(tasks[1]["predictions"][0]))
    broken["result"][1]["value"] = {"text": 3}
    assert not interface.validate_prediction(broken)


def test_label_studio_accepts_the_annotations_that_these_tests_import(
    interface: LabelInterface,
) -> None:
    assert interface.validate_annotation(annotation(1, "Red", "Why."))
    assert AnnotationValue(**annotation(1, CANNOT_TELL)).completed_by == 7
    assert not interface.validate_annotation({"result": [{"from_name": "answer"}]})


def test_every_answer_comes_back(imported: Any) -> None:
    said = {
        "L3": [annotation(1, "Red")],
        "L4": [annotation(2, "Blue", "The sole is blue.", reviewer={"id": 4, "email": EMAIL})],
        "L5": [annotation(3, "Red", reviewer=1), annotation(4, "Red", "Yes.", reviewer=2)],
        "L6": [annotation(5, CANNOT_TELL)],
        "L7": [annotation(6, "Red", reviewer=1), annotation(7, "Blue", "No.", reviewer=2)],
        "L8": [annotation(8, None, skipped=True)],
        "L9": [annotation(9, "Blue", "It is blue.")],
    }
    found = imported(said, "seed")
    assert written(found).keys() == {"L3", "L4", "L5", "L9"}
    answers = {name: (one["answer"], one["reasoning"]) for name, (one,) in written(found).items()}
    assert answers == {
        "L3": ("Red", "Photo 3 is red."),
        "L4": ("Blue", "The sole is blue."),
        "L5": ("Red", "Yes."),
        "L9": ("Blue", "It is blue."),
    }
    assert found.agreed == {True: 2, False: 1, None: 1}
    assert found.refused == {"abstained": 1, "reviewers_disagree": 2, "skipped": 1}
    assert found.decisions.not_reviewed == 3
    reviews = [one for given in written(found).values() for one in given[0]["reviews"]]
    refused = json.loads(Path(str(found.refused_file)).read_text())["refused"]
    numbers = [one["annotation_id"] for one in (*reviews, *refused)]
    assert sorted(numbers) == [str(number) for number in range(1, 10)]


def test_an_answer_says_where_it_comes_from_and_names_nobody(
    imported: Any, shop: CatalogFiles
) -> None:
    person = {"id": 4, "email": EMAIL, "first_name": "Ada"}
    said = {
        "L4": [annotation(2, "Blue", "It is blue.", reviewer=person)],
        "L5": [annotation(3, CANNOT_TELL, reviewer=EMAIL)],
    }
    found = imported(said, "eval")
    ((answer,),) = written(found).values()
    (review,) = answer.pop("reviews")
    assert answer.pop("reviewed_at").isoformat() == "2026-03-01T10:00:00+00:00"
    assert answer == {
        "attribute": "color",
        "value": "Blue",
        "source": "review",
        "policy_id": "p",
        "scope": "labels/000001",
        "review_order": "worst",
        "model_answer": "Red",
    }
    assert (review["task_id"], review["annotation_id"], review["reviewer"]) == ("105", "2", "4")
    assert review["words"] == "It is blue."
    assert pq.read_table(found.file).column("split").to_pylist() == ["eval"]
    for content in files(shop, "truth").values():
        assert b"shop.example" not in content
        assert b"Ada" not in content


def test_json_min_brings_the_same_file(imported: Any, shop: CatalogFiles) -> None:
    said = {"L4": [annotation(2, "Blue", "It is blue.")], "L5": [annotation(3, "Red")]}
    first = imported(said, "seed")
    again = imported(said, "seed", short=True)
    assert (again.file, again.is_new) == (first.file, False)


def test_the_same_import_twice_doubles_nothing(imported: Any, shop: CatalogFiles) -> None:
    said = {"L4": [annotation(2, "Blue", "It is blue.")], "L5": [annotation(3, CANNOT_TELL)]}
    first = imported(said, "anchor")
    before = files(shop, "truth")
    again = imported(said, "anchor")
    assert (first.is_new, again.is_new) == (True, False)
    assert files(shop, "truth") == before
    assert len(before) == 3


def test_the_next_run_learns_from_a_review_and_a_run_that_was_begun_does_not(
    imported: Any, config: Config
) -> None:
    before = run_of(config).artifact("catalog/seed", SEED).require_commit()
    imported({"L4": [annotation(2, "Blue", "The sole is blue.")]}, "seed")
    with pytest.raises(ConfigDriftError, match=r"inputs\.seed\.sha256"):
        stage.run(config, run_of(config))
    second = run_of(renamed(config, "second"))
    commit = stage.run(renamed(config, "second"), second)
    assert commit.counts["listings"]["seed"] == 2
    rows = second.artifact("catalog/seed", SEED).read().to_pylist()
    answer = {"attribute": "color", "reasoning": "The sole is blue.", "answer": "Blue"}
    assert {"listing_id": "L4", "answers": [answer]} in rows
    after = second.artifact("catalog/seed", SEED).require_commit()
    assert before.fingerprint["inputs.seed.sha256"] != after.fingerprint["inputs.seed.sha256"]
    texts = [row["completion"][0]["content"] for row in seed_targets(second, "reasoning").rows]
    assert "<reasoning>The sole is blue.</reasoning><answer>Blue</answer>" in texts


@pytest.mark.parametrize("role", ["anchor", "eval"])
def test_the_next_run_is_measured_by_a_review(imported: Any, config: Config, role: str) -> None:
    imported({"L4": [annotation(2, "Red")]}, role)
    second = run_of(renamed(config, "second"))
    stage.run(renamed(config, "second"), second)
    listings = second.artifact("catalog/listings", LISTINGS).read(["listing_id", "split"])
    assert {"listing_id": "L4", "split": role} in listings.to_pylist()
    truth = second.artifact("catalog/truth", TRUTH).read().to_pylist()
    answer = {"attribute": "color", "value": "Red"}
    assert {"listing_id": "L4", "answers": [answer]} in truth


def test_a_review_corrects_what_was_annotated_and_a_later_one_corrects_it(
    imported: Any, config: Config
) -> None:
    later = "2026-04-01T10:00:00Z"
    for value, at, told in (("Red", "2026-03-01T10:00:00Z", 1), ("Blue", later, 1)):
        imported({"L0": [annotation(2, value, f"{value} it is.", at=at)]}, "seed")
        run = run_of(renamed(config, value.lower()))
        stage.run(renamed(config, value.lower()), run)
        ((row),) = run.artifact("catalog/seed", SEED).read().to_pylist()
        assert row["answers"][0]["answer"] == value
        refused = run.artifact("catalog/seed").read(kind="quarantine").to_pylist()
        assert [one["reason"] for one in refused] == ["overruled"] * told


def test_other_splits_are_refused_also_where_the_run_drew_them(
    imported: Any, config: Config
) -> None:
    splits = run_of(config).artifact("catalog/listings", LISTINGS).read(["listing_id", "split"])
    drawn = {row["listing_id"]: row["split"] for row in splits.to_pylist()}["L2"]
    other = "eval" if drawn == "anchor" else "anchor"
    said = {name: [annotation(2, "Blue", "It is.")] for name in ("L0", "L1", "L2")}
    assert imported(said, "seed").refused == {"other_role": 2}
    found = imported({"L2": said["L2"]}, other)
    assert (found.file, found.refused) == (None, {"other_role": 1})
    unprepared = imported({"L2": said["L2"]}, drawn, renamed(config, "unprepared"))
    assert unprepared.refused == {"undecided_split": 1}
    assert written(imported({"L2": said["L2"]}, drawn)).keys() == {"L2"}


def test_what_was_shown_because_the_model_was_unsure_is_counted(imported: Any) -> None:
    assert imported({"L4": [annotation(2, "Red")]}, "anchor").chosen_worst == 1


def test_a_person_is_told_what_came_of_it_and_what_to_do(
    imported: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress.logger, "handlers", list(progress.logger.handlers))
    console = Console()
    said = {"L4": [annotation(2, "Blue")], "L5": [annotation(3, CANNOT_TELL)]}
    found = imported(said, "anchor")
    print_imported(console, found)
    shown = capsys.readouterr().out
    for line in (
        r"answers taken +│ +1 │",
        r"the model was corrected +│ +1 │",
        r"tasks not reviewed yet +│ +8 │",
        r"refused: abstained +│ +1 │",
        rf"answers  {re.escape(str(found.file))}",
        r"labeling\.review_order=random",
        r"a new run uses them: python jobs/round\.py",
    ):
        assert re.search(line, shown), line
    print_imported(console, imported({}, "seed"))
    assert "nothing was added to the catalog" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("role", "words", "told"),
    [("seed", "", True), ("seed", "One sees it.", False), ("anchor", "", False)],
)
def test_corrections_without_a_reason_are_told_with_the_remedy(
    imported: Any,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    role: str,
    words: str,
    told: bool,
) -> None:
    monkeypatch.setattr(progress.logger, "handlers", list(progress.logger.handlers))
    said = {"L3": [annotation(1, "Red")]}
    said |= {name: [annotation(2, "Blue", words)] for name in ("L4", "L5")}
    print_imported(Console(), imported(said, role))
    shown = capsys.readouterr().out
    assert ("2 answers were refused because neither the reviewer" in shown) == told
    assert ("--as anchor or --as eval" in shown) == told


@pytest.mark.parametrize(("role", "key"), [("seed", "seed"), ("anchor", "truth")])
def test_a_single_file_is_no_place_to_add_to(
    imported: Any, config: Config, shop: CatalogFiles, role: str, key: str
) -> None:
    place = str(shop.directory / key / "own.parquet")
    catalog = config.catalog.model_copy(update={key: place})
    with pytest.raises(ConfigError, match=rf"catalog\.{key}=.*own.parquet is no directory.*move"):
        imported({}, role, config.model_copy(update={"catalog": catalog}))


def test_splits_beside_a_single_truth_are_to_move_with_it(
    imported: Any, config: Config, shop: CatalogFiles
) -> None:
    place = shop.directory / "truth" / "own.parquet"
    stated = pa.table({"listing_id": ["L2"], "split": ["eval"]})
    pq.write_table(stated, shop.directory / "truth" / "splits.parquet")
    catalog = config.catalog.model_copy(update={"truth": str(place)})
    with pytest.raises(ConfigError, match=r"move it, splits\.parquet with it, into a directory"):
        imported({}, "eval", config.model_copy(update={"catalog": catalog}))
    found = imported({"L2": [annotation(2, "Red")]}, "eval")  # the directory, splits and all
    assert found.refused == {}
    assert len(found.decisions.answers) == 1


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An empty bucket of an S3-compatible server of this process."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "moto")
    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    options = f"?scheme=http&endpoint_override={host}:{port}&allow_bucket_creation=true"
    pafs.FileSystem.from_uri(f"s3://shop{options}")[0].create_dir("shop")
    yield f"s3://shop/{{}}{options}"
    server.stop()


def test_an_object_store_is_added_to_like_a_disk(
    imported: Any, config: Config, shop: CatalogFiles, bucket: str
) -> None:
    place = bucket.format("truth")
    store, path = pafs.FileSystem.from_uri(place)
    pafs.copy_files(str(shop.directory / "truth"), path, destination_filesystem=store)
    catalog = config.catalog.model_copy(update={"truth": place})
    remote = renamed(config.model_copy(update={"catalog": catalog}), "remote")
    said = {"L4": [annotation(2, "Red")], "L5": [annotation(3, CANNOT_TELL)]}
    first, again = imported(said, "eval", remote), imported(said, "eval", remote)
    assert (first.is_new, again.is_new, again.file) == (True, False, first.file)
    names = {info.base_name for info in store.get_file_info(pafs.FileSelector(path))}
    written_there = {Path(str(name)).name for name in (first.file, first.refused_file)}
    assert names == {"own.parquet", *written_there}
    stage.run(remote, run_of(remote))
    truth = run_of(remote).artifact("catalog/truth", TRUTH).read(["listing_id"])
    assert truth.column("listing_id").to_pylist() == ["L1", "L2", "L4"]


def test_the_embedded_catalog_has_no_files_to_add_to(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"catalog\.embedded has no files to add answers to"):
        import_reviews(Config(), str(tmp_path / "export.json"), "seed")


@pytest.mark.parametrize("name", ["seed", "truth"])
def test_an_import_opens_no_file_that_would_run_code(
    shop: CatalogFiles, config: Config, tmp_path: Path, name: str
) -> None:
    canary = tmp_path / "ran"
    path = shop.directory / name / "own.parquet"
    add_column(path, "note", hostile(canary, pq.read_metadata(path).num_rows))
    answers = tmp_path / "answers.json"
    answers.write_text("[]")
    with pytest.raises(InputError, match=r"own.parquet: the column 'note' is of the extension"):
        import_reviews(config, str(answers), "seed")
    assert not canary.exists()
