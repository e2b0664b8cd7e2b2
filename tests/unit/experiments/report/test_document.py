"""The tables of a sweep and their Markdown: each figure is in the results, page and text agree."""

import re
from typing import Any

import pytest

from raypipe.experiments.report import paper_tables, tables
from raypipe.experiments.report.document import results_markdown
from raypipe.experiments.report.sweep import render_sweep
from raypipe.experiments.results import Results
from raypipe.report import formatting
from tests.fakes.html_reader import HOSTILE, Reader, markdown_rows
from tests.fakes.sweep_results import make_results, make_sweep

FIGURE = re.compile(r"(?<![\w.-])[+−]?\d[\d,]*(?:\.\d+)?(?![\w.]*\w)")


@pytest.fixture(scope="module")
def results() -> Results:
    return make_results()


@pytest.fixture(scope="module")
def document(results: Results) -> str:
    return results_markdown(results)


def numbers(part: Any) -> list[float]:
    """All numbers of a nested value."""
    if isinstance(part, bool) or part is None or isinstance(part, str):
        return []
    if isinstance(part, int | float):
        return [part]
    inner = part.values() if isinstance(part, dict) else part
    return [number for each in inner for number in numbers(each)]


def said(number: float) -> set[str]:
    """A number in every way that the report may say it."""
    ways = {
        formatting.score(number),
        formatting.points(number),
        formatting.points(-number),
        f"{number:g}",
    }
    ways |= {f"{100 * number:.1f}", f"{100 * number:.0f}", f"{number:,}"}
    return ways


def paper_figures() -> set[str]:
    accuracies = [0.317, 0.44, 0.717, 0.751, 0.642, 0.665, 0.826, 0.857, 0.607]
    accuracies += [*paper_tables.PAPER_TABLE5, *paper_tables.PAPER_TABLE5.values()]
    accuracies += numbers(paper_tables.PAPER_TABLE6)
    gains = {"+12.3", "+3.4", "−14.4", "−7.5", "−8.6", "+10.9", "+10.6"}
    sizes = {f"{1000 * size:,}" for size in range(1, 6)}
    return gains | sizes | {formatting.score(accuracy) for accuracy in accuracies}


def test_every_figure_of_the_tables_is_in_the_results_or_the_paper(results, document):
    known = {way for number in numbers(results.model_dump()) for way in said(number)}
    known |= paper_figures()
    titles = {arm.title for arm in results.arms} | {each.statement for each in results.comparisons}
    shown = {
        figure
        for row in markdown_rows(document)
        for cell in row
        if cell not in titles and cell not in results.refused.values()
        for figure in FIGURE.findall(cell)
    }
    assert len(shown) > 150
    assert shown <= known, sorted(shown - known)


def test_the_page_has_every_row_of_the_document(results, document):
    reader = Reader(render_sweep(results, None).decode())
    page_rows = {squash(row) for row in reader.rows}
    rows = markdown_rows(document)
    assert len(rows) > 50
    assert [row for row in rows if squash(row) not in page_rows] == []
    assert tables.headline(results) in "".join(reader.words)


def squash(row: list[str]) -> str:
    return " ".join(cell for cell in row if cell)


def test_the_papers_tables_are_whole(results):
    assert [(row.paper, row.technique) for row in paper_tables.table4(results)] == [
        (0.717, "Pretrained"),
        (0.751, "SFT"),
        (0.607, "SFT on answers without reasoning"),
        (0.642, "Self-learning from pretrained"),
        (0.665, "Self-learning from SFT"),
        (0.826, "DPO from pretrained"),
        (0.857, "DPO from SFT"),
        (0.317, "Pretrained, second model"),
        (0.44, "SFT, second model"),
    ]
    assert all(row.arm is not None for row in paper_tables.table4(results)[:7])
    assert [row.paper for row in paper_tables.table5(results)] == [0.83, 0.857, 0.831, 0.825]
    rows = paper_tables.table6(results)
    assert [row.paper_dpo for row in rows] == [0.816, 0.836, 0.84, 0.852, 0.857]
    assert [row.paper_self_learning for row in rows] == [0.785, 0.755, 0.73, 0.731, 0.66]
    assert [row.listings for row in rows] == [240, 480, 720, 960, 1200]


def test_a_second_model_is_beside_the_papers_second_model():
    sweep = make_sweep()
    sweep.arm("small", "Small", ("table4",), 0.3, method="none")
    sweep.arms["small"] = sweep.arms["small"].model_copy(update={"model": "smaller"})
    row = paper_tables.table4(sweep.results())[-2]
    assert row.arm is not None
    assert (row.arm.name, row.paper) == ("small", 0.317)


def test_an_arm_that_the_paper_lacks_follows_without_its_figure():
    sweep = make_sweep()
    sweep.arm("odd", "Something else", ("table4",), 0.6, method="vote", start="sft")
    last = paper_tables.table4(sweep.results())[-1]
    assert (last.technique, last.paper) == ("Something else", None)


def test_thresholds_with_the_same_votes_are_one_arm():
    sweep = make_sweep()
    sweep.arms = {
        name: arm.model_copy(update={"groups": tuple({*arm.groups} - {"table5"})})
        if arm.threshold == 0.7
        else arm.model_copy(update={"min_votes": 3 if arm.threshold == 0.5 else arm.min_votes})
        for name, arm in sweep.arms.items()
    }
    results = sweep.results().model_copy(update={"num_chains": 4})
    rows = {row.threshold: row for row in paper_tables.table5(results)}
    assert rows[0.7].arm == rows[0.5].arm is not None
    assert (rows[0.7].shares, rows[0.7].min_votes) == (0.5, 3)
    assert "the same arm as C > 0.5" in results_markdown(results)


def test_equal_pairs_stand_in_table_5_and_not_among_the_controls(results):
    equal = {row.threshold: row.equal for row in paper_tables.table5(results)}
    assert [threshold for threshold, arm in equal.items() if arm is not None] == [0.3, 0.7]
    controls = [row.arm.name for row in tables.variants(results)["Controls"]]
    assert controls == ["vote-sft", "dpo-sft-null", "self-learning-sft-paired"]


def test_a_contrast_can_be_read_from_either_side(results):
    one = tables.contrast(results, "dpo-sft", "vote-sft")
    other = tables.contrast(results, "vote-sft", "dpo-sft")
    assert one is not None
    assert other is not None
    assert other.difference == -one.difference
    assert other.ci95 == (-one.ci95[1], -one.ci95[0])
    assert other.seeds == tuple(-difference for difference in one.seeds)
    assert tables.contrast(results, "vote-sft", "pretrained") is None


def test_the_rivals_of_the_main_arm_share_its_start(results):
    rival, vote = tables.sibling(results, "self_learning"), tables.sibling(results, "vote")
    assert rival is not None
    assert vote is not None
    assert (rival.name, vote.name) == ("self-learning-sft", "vote-sft")


def test_gains_and_losses_are_of_the_main_arm_over_its_start(results):
    changes = tables.changes(results)
    assert changes is not None
    assert (changes.before.name, changes.after.name) == ("sft", "dpo-sft")
    gains = [change.difference for change in changes.attributes]
    assert gains == sorted(gains, reverse=True)
    shirts = [change for change in changes.attributes if change.name.startswith("shirt/")]
    shirt = next(change for change in changes.verticals if change.name == "shirt")
    mean = sum(change.difference for change in shirts) / len(shirts)
    assert shirt.difference == pytest.approx(mean)
    assert shirt.queries == sum(change.queries for change in shirts if change.queries)


def test_a_part_of_the_time_that_has_no_name_is_counted():
    sweep = make_sweep()
    sweep.arm("odd", "Odd", ("option",), 0.6, seconds={"sampling": 5.0, "voting": 2.0})
    row = tables.costs(sweep.results())[-1]
    assert (row.sampling, row.training, row.rest, row.total) == (5.0, 0.0, 2.0, 7.0)


def test_one_seed_and_many_are_not_read_alike(results):
    one = results.model_copy(update={"seeds": (0,)})
    assert "There is one seed" in tables.note_on_intervals(one)
    assert "mean over 3 seeds" in tables.note_on_intervals(results)


def test_absent_groups_are_left_out(results):
    arms = tuple(arm for arm in results.arms if arm.name in ("pretrained", "sft", "dpo-sft"))
    arms = tuple(arm.model_copy(update={"groups": ("table4",)}) for arm in arms)
    few = results.model_copy(update={"arms": arms, "comparisons": (), "votes": (), "refused": {}})
    heads = re.findall(r"^## (.*)$", results_markdown(few), re.MULTILINE)
    assert heads == ["Table 4: SFT, self-learning and DPO", "How to make it again"]


def test_the_document_says_how_to_make_it_again(results, document):
    assert f"```bash\n{results.command}\n```" in document
    assert "seeds 0, 1, 2" in document
    assert document == results_markdown(make_results())


def test_hostile_texts_stay_in_their_cells():
    attack = f"{HOSTILE} | [x](javascript:alert(1)) | `a`\n# b"
    sweep = make_sweep()
    sweep.arms = {
        name: arm.model_copy(update={"title": attack}) for name, arm in sweep.arms.items()
    }
    sweep.comparisons = [
        each.model_copy(update={"statement": attack}) for each in sweep.comparisons
    ]
    results = sweep.results().model_copy(update={"command": "a ``` b", "refused": {attack: attack}})
    document = results_markdown(results)
    assert "<" not in re.sub(r"\\<", "", document)
    assert not re.search(r"(?<!\\)\]\(", document)
    assert "````bash\na ``` b\n````" in document
    widths = {len(row) for row in markdown_rows(document)}
    assert widths == {len(row) for row in markdown_rows(results_markdown(make_results()))}
