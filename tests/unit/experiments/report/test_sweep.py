"""The page of a sweep: whole, repeatable, inert, and without what was not tried."""

import base64
import hashlib
import re
from itertools import pairwise

import pytest

from raypipe.experiments.report.sweep import SECTIONS, FlipGallery, render_sweep
from raypipe.experiments.report.sweep_figures import (
    PoolLevel,
    PoolLine,
    PoolPoint,
    pool_figure,
    spread_labels,
)
from raypipe.experiments.results import Results
from raypipe.report.gallery import build_gallery
from tests.fakes.experiment_run import write_run
from tests.fakes.html_reader import ACTIVE, ADDRESSES, HOSTILE, Reader
from tests.fakes.sweep_results import make_results, make_sweep


@pytest.fixture(scope="module")
def results() -> Results:
    return make_results()


@pytest.fixture(scope="module")
def page(results: Results, tmp_path_factory: pytest.TempPathFactory) -> str:
    finished_run = write_run(tmp_path_factory.mktemp("finished"), 48)
    gallery = build_gallery(finished_run, "sft", "round-2")
    return render_sweep(results, FlipGallery("SFT", "DPO from SFT", gallery)).decode()


def sections(page: str) -> list[str]:
    return [shown["id"] for tag, shown in Reader(page).elements if tag == "section"]


def without(results: Results, *groups: str) -> Results:
    arms = tuple(arm for arm in results.arms if not set(groups) & set(arm.groups))
    names = {arm.name for arm in arms}
    comparisons = tuple(each for each in results.comparisons if {each.before, each.after} <= names)
    return results.model_copy(update={"arms": arms, "comparisons": comparisons})


def hostile() -> Results:
    """Every text is an attack."""
    results = make_results()
    arms = tuple(
        arm.model_copy(
            update={
                "title": HOSTILE,
                "model": HOSTILE,
                "by_attribute": {f"{k}{HOSTILE}": v for k, v in arm.by_attribute.items()},
            }
        )
        for arm in results.arms
    )
    comparisons = tuple(
        each.model_copy(update={"statement": HOSTILE}) for each in results.comparisons
    )
    texts = dict.fromkeys(("run", "command", "model"), HOSTILE)
    more = {"refused": {HOSTILE: HOSTILE}, "versions": {HOSTILE: HOSTILE}}
    return results.model_copy(update={"arms": arms, "comparisons": comparisons, **texts, **more})


def test_every_section_is_there_and_can_be_reached(page):
    ids = [id_ for id_, _, _ in SECTIONS]
    assert sections(page) == ids
    links = [shown["href"] for tag, shown in Reader(page).elements if tag == "a"]
    assert links == [f"#{id_}" for id_ in ids]


def test_the_outcome_is_said_in_plain_words(page):
    sentence = re.search(r'<p class="outcome">(.*?)</p>', page)
    assert sentence is not None
    assert re.match(
        r"DPO from SFT has an accuracy of 0\.\d{3} on 2,652 held-out queries, SFT has 0\.\d{3}: "
        r"\+\d\.\d points, 95 % \[",
        sentence[1],
    )
    assert "Of 14 expectations, 10 hold, 1 fails and 3 are inside the noise." in sentence[1]


def test_each_claim_has_its_verdict_and_its_place_in_the_forest(page, results):
    stated = re.search(r'<section id="claims">(.*?)</section>', page, re.DOTALL)
    assert stated is not None
    rows = [row for row in Reader(stated[1]).rows if row]
    assert [row[0] for row in rows] == [
        each.statement
        for claimed in (True, False)
        for each in results.comparisons
        if (each.expected != "any") is claimed
    ]
    assert {row[4] for row in rows} == {"holds", "fails", "inside the noise"}
    assert stated[1].count('class="expected"') == 14
    assert stated[1].count('class="seed"') == 3 * len(results.comparisons)


def test_the_paper_is_marked_as_another_model_on_other_data(page):
    heads = re.findall(r"<th[^>]*paper[^>]*>(the paper: [^<]*)</th>", page)
    assert heads == ["the paper: another model, other data"] * 3


def test_nothing_is_loaded_and_one_sheet_is_admitted(page):
    for tag, attributes in Reader(page).elements:
        assert tag not in ACTIVE
        assert "style" not in attributes
        for name in ADDRESSES & attributes.keys():
            assert attributes[name].startswith(("#", "data:")), (tag, attributes)
    sheet = re.search(r"<style>(.*?)</style>", page, re.DOTALL)
    assert sheet is not None
    digest = base64.b64encode(hashlib.sha256(sheet[1].encode()).digest()).decode()
    assert f"default-src 'none'; style-src 'sha256-{digest}'" in page
    assert not re.search(r"https?://|url\(|@import", page)


def test_hostile_texts_are_shown_and_never_obeyed(page):
    harmless = {tag for tag, _ in Reader(page).elements}
    attacked = render_sweep(hostile(), None).decode()
    reader = Reader(attacked)
    assert {tag for tag, _ in reader.elements} <= harmless
    assert not any(name.startswith("on") for _, shown in reader.elements for name in shown)
    assert "<script>alert" in "".join(reader.words)
    assert attacked.count("</style>") == 1


def test_the_same_results_give_the_same_bytes(results):
    assert render_sweep(results, None) == render_sweep(make_results(), None)


@pytest.mark.parametrize(
    ("groups", "gone"),
    [
        (("table4", "baseline"), {"table4", "groups"}),
        (("table5",), {"table5"}),
        (("table6",), {"table6"}),
        (("rounds", "control", "option"), {"variants"}),
    ],
)
def test_what_was_not_tried_is_left_out(results, groups, gone):
    shown = sections(render_sweep(without(results, *groups), None).decode())
    assert gone.isdisjoint(shown)
    assert {"claims", "provenance"} <= set(shown)


def test_a_sweep_without_figures_has_a_page():
    nothing = make_results().model_copy(
        update={"arms": (), "comparisons": (), "votes": (), "refused": {"dpo-sft": "diverged"}}
    )
    page = render_sweep(nothing, None).decode()
    assert sections(page) == ["refused", "provenance"]
    assert "No arm of DPO has figures." in page


def test_one_pool_size_of_one_method_is_drawn():
    point = PoolPoint(100, 0.5)
    drawn = pool_figure(
        [PoolLine("DPO", "first", (point,))], [PoolLevel("SFT", 0.5, "start")], "pool"
    )
    assert drawn.count("<circle") == 1
    assert "nan" not in drawn


def test_names_keep_apart_and_inside_their_room():
    heights = spread_labels([10, 11, 12, 255, 257], 16, (10, 258))
    assert all(after - before >= 16 for before, after in pairwise(heights))
    assert heights[0] >= 10
    assert heights[-1] <= 258


def test_flips_of_a_small_run_are_shown(tmp_path):
    run = write_run(tmp_path, 16, ("sft", "round-1"))
    flips = FlipGallery("SFT", "DPO", build_gallery(run, "sft", "round-1"))
    assert 'class="exhibit"' in render_sweep(make_sweep().results(), flips).decode()
