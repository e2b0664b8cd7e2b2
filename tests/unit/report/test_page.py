"""The page is whole, self-contained, repeatable, and inert whatever texts it shows."""

import base64
import hashlib
import json
import re
from pathlib import Path

import pytest

from raypipe.config import Config, resolve
from raypipe.errors import ArtifactError
from raypipe.report import stage
from raypipe.store.artifacts import Run
from tests.fakes.documents import record, summary_json
from tests.fakes.documents import stage as stage_of
from tests.fakes.experiment_run import Experiment, write_run
from tests.fakes.html_reader import ACTIVE, ADDRESSES, HOSTILE, Reader

SECTIONS = (
    "accuracy",
    "consensus",
    "funnel",
    "training",
    "groups",
    "gallery",
    "time",
    "quarantine",
    "provenance",
)


def render(run: Run, config: Config | None = None) -> str:
    path = stage.run(config or Config(), run)
    return Path(path).read_text()


@pytest.fixture(scope="module")
def page(finished_run: Run) -> str:
    return render(finished_run)


def hostile_run(location: Path) -> Run:
    """Every text that a catalog or a model can bring is an attack."""
    experiment = Experiment(location, 16, ("pretrained", "sft", "round-1"))
    for entries in experiment.attributes.values():
        for entry in entries:
            entry["values"] = [f"{value} {HOSTILE}" for value in entry["values"]]
    experiment.attributes = {
        f"{name} {HOSTILE}": [
            {**entry, "attribute": f"{entry['attribute']} {HOSTILE}"} for entry in entries
        ]
        for name, entries in experiment.attributes.items()
    }
    experiment.listings = [experiment.listing(index) for index in range(48)]
    for listing in experiment.listings:
        for query in listing["row"]["queries"]:
            query["seller_value"] = HOSTILE
    return experiment.write()


def test_every_section_is_there(page):
    ids = [attributes["id"] for _, attributes in Reader(page).elements if "id" in attributes]
    assert tuple(ids) == SECTIONS
    assert page.startswith("<!doctype html>")
    assert len(page.encode()) < 3_000_000


def test_the_outcome_is_said_in_one_sentence(page, finished_run):
    summary = json.loads(finished_run.read("summary.json"))
    gain = 100 * summary["comparison"]["difference"]
    sentence = re.search(r'<p class="outcome">(.*?)</p>', page)
    assert sentence is not None
    assert sentence[1].startswith("SFT 0.")
    assert "→ Round 2 0." in sentence[1]
    assert f"{gain:+.1f} points, 95 % [" in sentence[1]


def test_the_gate_shows_what_it_decided(page):
    assert page.count('<span class="badge accepted">') == 2
    assert page.count('<span class="badge rolled_back">rolled back</span>') == 1


def test_nothing_is_loaded_from_anywhere(page):
    for tag, attributes in Reader(page).elements:
        assert tag not in ACTIVE
        for name in ADDRESSES & attributes.keys():
            assert attributes[name].startswith(("#", "data:")), (tag, attributes)
    assert "http://" not in page
    assert "https://" not in page
    assert "url(" not in page
    assert "@import" not in page


def test_the_policy_admits_one_style_sheet_and_data_images_only(page):
    sheet = re.search(r"<style>(.*?)</style>", page, re.DOTALL)
    assert sheet is not None
    digest = base64.b64encode(hashlib.sha256(sheet[1].encode()).digest()).decode()
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)
    assert policy is not None
    assert policy[1] == (
        f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:; base-uri 'none'; "
        "form-action 'none'"
    )
    assert not any("style" in attributes for _, attributes in Reader(page).elements)


def test_hostile_texts_are_shown_and_never_obeyed(tmp_path, page):
    harmless = {tag for tag, _ in Reader(page).elements}
    page = render(hostile_run(tmp_path))
    reader = Reader(page)
    assert {tag for tag, _ in reader.elements} <= harmless
    for tag, attributes in reader.elements:
        assert not any(name.startswith("on") for name in attributes)
        if tag == "img":
            assert attributes["src"].startswith("data:image/jpeg;base64,")
    assert "<script>alert" in "".join(reader.words)
    assert page.count("</style>") == 1
    assert "{{ 7*7 }}" in page


def test_the_same_run_gives_the_same_bytes(finished_run, page):
    assert render(finished_run) == page


@pytest.mark.parametrize(
    "scopes", [("pretrained",), ("sft",), ("pretrained", "sft"), ("pretrained", "sft", "round-1")]
)
def test_an_unfinished_run_has_a_page(tmp_path, scopes):
    page = render(write_run(tmp_path, 16, scopes))
    assert 'id="provenance"' in page


def test_a_run_without_a_summary_says_so(tmp_path):
    page = render(Run(str(tmp_path)))
    assert "Nothing has been evaluated yet." in page
    assert page.count('<p class="absent">') == len(SECTIONS) - 1


def test_a_summary_whose_artifacts_are_gone_still_has_its_table(tmp_path, finished_run):
    run = Run(str(tmp_path))
    run.replace("summary.json", finished_run.read("summary.json"))
    page = render(run)
    assert '<span class="badge rolled_back">' in page
    assert "No adapter has been trained." in page


def test_absent_figures_are_dashes(tmp_path):
    run = Run(str(tmp_path))
    stages = [stage_of("sft", accuracy=float("nan"), anchor_accuracy=None, queries=0)]
    summary = summary_json(stages=stages, pairs=[record(1, pairs=0, outcome="no_pairs")])
    run.replace("summary.json", json.dumps(summary).encode())
    page = render(run)
    assert "no round has been trained" in page
    assert '<span class="badge no_pairs">no pairs</span>' in page


def test_a_round_that_changed_nothing_is_told(tmp_path):
    run = Run(str(tmp_path))
    pairs = [record(1, pairs=1, outcome="unchanged")]
    summary = summary_json(stages=[stage_of("sft", queries=1)], pairs=pairs)
    run.replace("summary.json", json.dumps(summary).encode())
    page = render(run)
    assert "not trained: training changed nothing" in page
    assert '<span class="badge unchanged">unchanged</span>' in page


def test_a_round_that_diverged_says_why_and_a_training_tells_its_time_apart(tmp_path):
    run = write_run(tmp_path, 24, ("pretrained", "sft", "round-3"))
    summary = json.loads(run.read("summary.json"))
    reason = "loss is nan at step 3, in p0/colour"
    summary["pairs"].append(record(4, outcome="diverged", reason=reason))
    summary["within"] = {"sft/adapter": {"reference": 3.0, "steps": 61.0}}
    run.replace("summary.json", json.dumps(summary).encode())
    page = render(run)
    assert f"not trained: {reason}" in page
    assert '<span class="badge diverged">diverged</span>' in page
    assert "reference 3.0 s, steps 1 min 01 s" in page


def test_a_collapse_shows_its_evidence_under_the_headline_and_in_the_metrics(tmp_path):
    run = write_run(tmp_path, 24, ("pretrained", "sft", "round-3"))
    summary = json.loads(run.read("summary.json"))
    summary["stages"][-1]["decision"] = "collapsed"
    summary["alarm"] = {
        "policy": "round-3",
        "since": "sft",
        "anchor_accuracy": [0.5, 0.5],
        "gain": {"difference": 0.0, "error": 0.02},
        **dict.fromkeys(("confidence", "unanimity", "entropy", "takeover")),
        "reason": f"round-3 collapsed: '{HOSTILE}' is 95% of the answers",
    }
    run.replace("summary.json", json.dumps(summary | {"best": "sft", "comparison": None}).encode())
    page = render(run)
    assert '<p class="alarm">The alarm stopped the run. round-3 collapsed: ' in page
    assert "<script>alert" not in page
    assert '<span class="badge collapsed">collapsed</span>' in page
    assert "<details open><summary>Signs of collapse on the anchor split</summary>" in page
    assert page.count("of the answers, ") == 3
    assert '<p class="alarm">' not in render(write_run(tmp_path / "well", 16, ("sft",)))


def test_rounds_that_are_all_rolled_back_are_compared_with_their_start(tmp_path):
    run = write_run(tmp_path, 24, ("pretrained", "sft", "round-3"))
    summary = json.loads(run.read("summary.json"))
    run.replace("summary.json", json.dumps(summary | {"best": "sft", "comparison": None}).encode())
    page = render(run)
    assert "no round did better on the anchor split." in page
    assert "SFT against Round 3" in page


def test_a_summary_of_another_shape_is_refused(tmp_path):
    run = Run(str(tmp_path))
    written = summary_json(stages=[stage_of("sft", accuracy="high")])
    run.replace("summary.json", json.dumps(written).encode())
    with pytest.raises(ArtifactError, match=r"summary\.json is unreadable: stages\.0\.accuracy: "):
        render(run)


def test_of_an_engine_s_variables_the_page_shows_names_alone(finished_run):
    config = resolve({"sampling": {"environment": {"HF_TOKEN": None, "SHOP": "hush"}}})
    page = render(finished_run, config)
    assert "HF_TOKEN" in page
    assert "SHOP" in page
    assert "hush" not in page
