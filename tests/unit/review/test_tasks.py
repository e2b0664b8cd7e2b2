"""Review tasks for Label Studio: which labels, in which order, in which form."""

import base64
import json
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.fs as pafs
import pytest
from moto.server import ThreadedMotoServer

from raypipe.config import load
from raypipe.labeling.to_review import export_labels
from raypipe.review.tasks import CANNOT_TELL, ReviewOrder, export_review
from raypipe.schemas import LABELS, LISTINGS
from raypipe.store.artifacts import Run
from tests.conftest import CommitRows, MakeListing, Row
from tests.fakes.label_rows import decide, found_in, label, rule, unanswered

Tasks = list[dict[str, Any]]


def labeled(listing_id: str, confidence: float, **columns: Any) -> Row:
    return label(listing_id, "key") | {"confidence": confidence} | columns


@pytest.fixture
def rows() -> list[Row]:
    return [
        labeled("sure", 0.99),
        labeled("unsure", 0.4),
        labeled("contradicted", 0.9, seller_value="Blue", seller_conflict=True),
        labeled("agreed", 0.8, seller_value="Red", seller_conflict=False),
        unanswered("mute", "key"),
    ]


@pytest.fixture
def tasks_of(run: Run, commit_rows: CommitRows, make_listing: MakeListing, tmp_path: Path) -> Any:
    def export(
        rows: list[Row], limit: int = 10, without: str = "", order: ReviewOrder = "worst"
    ) -> Tasks:
        commit_rows(run, "labels/000001/labels", LABELS, rows, per_file=2)
        listings = [make_listing(row["listing_id"], "pool", ["colour"]) for row in rows]
        kept = [listing for listing in listings if listing["listing_id"] != without]
        commit_rows(run, "catalog/listings", LISTINGS, kept, per_file=2)
        path = export_review(
            run.artifact("labels/000001/labels", LABELS),
            rule(),
            found_in(run.artifact("catalog/listings", LISTINGS)),
            tmp_path / "review",
            limit,
            order,
        )
        return list(json.loads(path.read_text()))

    return export


def test_contradicted_sellers_come_first_then_the_least_probable(
    tasks_of: Any, rows: list[Row]
) -> None:
    names = [task["data"]["listing_id"] for task in tasks_of(rows)]
    assert names == ["contradicted", "mute", "unsure", "agreed", "sure"]


@pytest.fixture
def remote(monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """A run in a bucket, on a server that runs here."""
    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ALLOW_HTTP": "true",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "NO_PROXY": host,
    }.items():
        monkeypatch.setenv(name, value)
    pafs.FileSystem.from_uri("s3://shop?allow_bucket_creation=true")[0].create_dir("shop")
    yield Run("s3://shop/runs/mine")
    server.stop()


def test_tasks_of_a_run_in_an_object_store_lie_beside_its_other_exports(
    remote: Run,
    rows: list[Row],
    commit_rows: CommitRows,
    make_listing: MakeListing,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    commit_rows(remote, "labels/000001/labels", LABELS, rows)
    decide(remote, commit_rows, "labels/000001", rule())
    commit_rows(remote, "catalog/listings", LISTINGS, [make_listing("sure", "pool", ["colour"])])
    path = export_labels(load(None, ["run.name=mine", "run.directory=s3://shop/runs"]), remote)
    assert path == Path("exports/mine/labels/000001/tasks.json")
    assert [name.name for name in tmp_path.iterdir()] == ["exports"]
    assert len(json.loads(path.read_text())) == len(rows)


def test_no_more_tasks_than_asked_for(tasks_of: Any, rows: list[Row]) -> None:
    names = [task["data"]["listing_id"] for task in tasks_of(rows, limit=2)]
    assert names == ["contradicted", "mute"]


def test_a_random_order_is_another_choice_and_always_the_same(tasks_of: Any) -> None:
    rows = [labeled(f"L{index:03}", index / 100) for index in range(100)]
    chosen = [task["data"]["listing_id"] for task in tasks_of(rows, limit=20, order="random")]
    assert len(set(chosen)) == 20
    probable = sum(name >= "L050" for name in chosen)
    assert 4 <= probable <= 16  # the worst would be none of them


def test_the_draw_does_not_depend_on_the_order_of_rows(
    run: Run, commit_rows: CommitRows, tmp_path: Path
) -> None:
    rows = [labeled(f"L{index:02}", 0.5) for index in range(30)]
    commit_rows(run, "catalog/listings", LISTINGS, [])
    seen = []
    for number, given in enumerate((rows, rows[::-1])):
        commit_rows(run, f"labels/{number}/labels", LABELS, given, per_file=7)
        path = export_review(
            run.artifact(f"labels/{number}/labels", LABELS),
            rule(),
            found_in(run.artifact("catalog/listings", LISTINGS)),
            tmp_path / str(number),
            10,
            "random",
            seed=3,
        )
        seen.append([task["data"]["listing_id"] for task in json.loads(path.read_text())])
    assert seen[0] == seen[1]


def test_a_task_shows_the_question_the_images_and_what_was_said(
    tasks_of: Any, rows: list[Row]
) -> None:
    task = tasks_of(rows)[0]
    data = task["data"]
    assert data["question"] == "colour of contradicted?"
    assert data["options"] == [{"value": "Red"}, {"value": "Blue"}, {"value": CANNOT_TELL}]
    head, _, content = data["images"][0].partition(",")
    assert head == "data:image/jpeg;base64"
    assert base64.b64decode(content) == b"image of contradicted"
    assert data["seller"] == "The seller says: Blue"
    assert (data["votes"], data["model_reasoning"]) == ({"Red": 7}, "It is red.")
    assert data["belief"] == (
        "The model says: Red (confidence 0.90, right with probability 0.90). Votes: Red 7."
    )
    (prediction,) = task["predictions"]
    assert (prediction["model_version"], prediction["score"]) == ("p", 0.9)
    assert [region["value"] for region in prediction["result"]] == [
        {"choices": ["Red"]},
        {"text": ["It is red."]},
    ]


def test_a_task_says_where_it_comes_from(tasks_of: Any, rows: list[Row]) -> None:
    data = tasks_of(rows)[0]["data"]
    keys = ("query", "listing_id", "attribute", "policy_id", "scope", "review_order")
    assert [data[key] for key in keys] == [
        "contradicted/colour",
        "contradicted",
        "colour",
        "p",
        "labels/000001",
        "worst",
    ]


def test_json_min_lays_answers_and_data_beside_each_other(
    tasks_of: Any, rows: list[Row], tmp_path: Path
) -> None:
    task = tasks_of(rows)[0]
    interface = ET.parse(tmp_path / "review" / "interface.xml").getroot()
    controls = {str(tag.get("name")) for tag in interface.iter() if tag.get("toName")}
    assert controls == {"answer", "reasoning"}
    assert controls.isdisjoint(task["data"])


def test_a_task_has_the_probability_and_the_reason_of_the_rule(
    run: Run, commit_rows: CommitRows, tmp_path: Path
) -> None:
    commit_rows(run, "labels/1/labels", LABELS, [labeled("sure", 0.9), labeled("unsure", 0.5)])
    commit_rows(run, "catalog/listings", LISTINGS, [])
    labels, listings = (
        run.artifact("labels/1/labels", LABELS),
        run.artifact("catalog/listings", LISTINGS),
    )
    halved = rule(0.4, knots=((0.0, 0.0), (1.0, 0.5)))
    tasks = json.loads(export_review(labels, halved, found_in(listings), tmp_path, 10).read_text())
    shown = [(task["data"]["probability"], task["data"]["reason"]) for task in tasks]
    assert shown == [(0.25, "below_precision"), (0.45, "published")]
    assert [task["predictions"][0]["score"] for task in tasks] == [0.25, 0.45]


def test_predictions_fit_the_interface(tasks_of: Any, rows: list[Row], tmp_path: Path) -> None:
    task = tasks_of(rows)[0]
    interface = ET.parse(tmp_path / "review" / "interface.xml").getroot()
    named = {tag.get("name"): tag for tag in interface.iter() if tag.get("name")}
    for found in task["predictions"][0]["result"]:
        assert named[found["from_name"]].tag.lower() == found["type"]
        assert named[found["from_name"]].get("toName") == found["to_name"]
    variables = {
        value[1:]
        for tag in interface.iter()
        for name in ("value", "valueList")
        if (value := tag.get(name, "")).startswith("$") and ":" not in value
    }
    assert variables <= task["data"].keys()


def test_an_abstention_has_no_prediction_and_a_lost_listing_no_images(
    tasks_of: Any, rows: list[Row]
) -> None:
    tasks = tasks_of(rows, without="mute")
    mute = next(task for task in tasks if task["data"]["listing_id"] == "mute")
    assert (mute["predictions"], mute["data"]["images"]) == ([], [])
    assert mute["data"]["belief"] == "The model has no answer (tie). Votes: none."
    assert mute["data"]["options"] == [{"value": CANNOT_TELL}]
