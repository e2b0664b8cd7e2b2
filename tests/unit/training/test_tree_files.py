"""Trees in files: those of the examples, whatever the files they were made from."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from raypipe.config import Config, load
from raypipe.errors import ArtifactError
from raypipe.models.policies import model_path
from raypipe.models.processors import load_processor
from raypipe.schemas import CHAINS, CONSENSUS, LISTINGS, PAIRS, SEED, TREES
from raypipe.store.artifacts import Attempt, Run
from raypipe.training.examples import Examples, preference_pairs, preferred_targets, seed_targets
from raypipe.training.tree_files import _TreeTask, pair_trees, target_trees
from raypipe.training.tree_index import TreeIndex
from raypipe.training.tree_rows import to_tree
from raypipe.training.trees import Tree, build_trees
from tests.conftest import CommitRows, MakeListing, Row
from tests.unit.training.test_tree_rows import parts

SCOPE = "sft"
NUM_POOL = 5


@pytest.fixture(scope="module")
def config() -> Config:
    return load()


def picture(shade: int) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (4, 4), (shade, shade, shade)).save(stream, "PNG")
    return stream.getvalue()


def chains_of(listing: Row) -> Row:
    texts = ("first", "second", "third")
    chain = {"token_ids": [1], "logprob": -1.0, "finish_reason": "stop"}
    return {
        "listing_id": listing["listing_id"],
        "vertical": "Shoe",
        "split": listing["split"],
        "policy_id": "policy-0",
        "queries": [
            {
                "attribute": query["attribute"],
                "greedy": None,
                "chains": [chain | {"text": f"{query['prompt']} {text}"} for text in texts],
            }
            for query in listing["queries"]
        ],
    }


def consensus_of(listing: Row, number: int) -> list[Row]:
    return [
        {
            "listing_id": listing["listing_id"],
            "vertical": "Shoe",
            "split": listing["split"],
            "attribute": query["attribute"],
            "answer": "Red",
            "confidence": 1.0,
            "votes": [{"value": "Red", "count": 2}],
            "num_chains": 3,
            "num_valid": 3,
            "num_truncated": 0,
            "num_pairs": 0,
            "gate": "tie" if number == 1 else "kept",
            "preferred": [0, 2] if at else [1],
        }
        for at, query in enumerate(listing["queries"])
    ]


def pairs_of(listing: Row, number: int) -> list[Row]:
    return [
        {
            "listing_id": listing["listing_id"],
            "attribute": query["attribute"],
            "prompt": query["prompt"],
            "margin": (1 + at + number) / 7,
            "pairs": [
                {"chosen": "good", "rejected": bad, "chosen_index": 0, "rejected_index": 1}
                for bad in ("worse", "bad")[: 1 + at]
            ],
        }
        for at, query in enumerate(listing["queries"])
    ]


Fill = Callable[..., Run]


@pytest.fixture
def fill(commit_rows: CommitRows, make_listing: MakeListing) -> Fill:
    """Commit everything that examples come from, with so many listings in a file."""

    def filled(run: Run, per_file: int, *, backwards: bool = False) -> Run:
        listings = [make_listing(f"p{number}", "pool") for number in range(NUM_POOL)]
        listings += [make_listing("s0", "seed"), make_listing("a0", "anchor")]
        for number, listing in enumerate(listings):
            listing["images"] = [picture(number)] * (number % 3)
            listing["image_hashes"] = [f"{number}-{at}" for at in range(number % 3)]
        pool = list(enumerate(listings[:NUM_POOL]))
        answer = {"attribute": "heel", "reasoning": "It is high.", "answer": "High"}
        rows: dict[str, tuple[Any, list[Row]]] = {
            "catalog/listings": (LISTINGS, listings),
            "catalog/seed": (SEED, [{"listing_id": "s0", "answers": [answer]}]),
            f"{SCOPE}/chains": (CHAINS, [chains_of(listing) for _, listing in pool]),
            f"{SCOPE}/consensus": (CONSENSUS, [r for n, x in pool for r in consensus_of(x, n)]),
            f"{SCOPE}/pairs": (PAIRS, [r for n, x in pool for r in pairs_of(x, n)]),
        }
        for name, (table, contents) in rows.items():
            own = contents[::-1] if backwards else contents
            commit_rows(run, name, table, own, per_file=per_file)
        return run

    return filled


def trees_in(run: Run, name: str) -> list[Tree]:
    """In the order of their listings."""
    found = [
        to_tree(table.slice(row, 1))[0]
        for table in run.artifact(name, TREES).read_files()
        for row in range(len(table))
    ]
    return sorted(found, key=lambda tree: tree.listing_id)


def wanted(config: Config, examples: Examples) -> list[tuple[object, ...]]:
    processor = load_processor(model_path(config.model), None)
    num_tokens = (config.catalog.image_size // 28) ** 2
    return list(map(parts, build_trees(examples, processor, num_tokens)))


@pytest.mark.parametrize(("per_file", "backwards"), [(100, False), (2, True), (1, False)])
def test_files_hold_the_trees_of_all_examples(
    config: Config, run: Run, fill: Fill, per_file: int, backwards: bool
) -> None:
    fill(run, per_file, backwards=backwards)
    pair_trees(config, run, SCOPE)
    target_trees(config, run, "round-1", SCOPE, SCOPE)
    target_trees(config, run, "sft", None, None)
    found = {
        name: list(map(parts, trees_in(run, name)))
        for name in ("sft/trees", "round-1/target_trees", "sft/target_trees")
    }
    by_margin = preference_pairs(run, SCOPE, "reasoning", "margin")
    mean = TreeIndex.of(run.artifact("sft/trees", TREES)).mean_margin
    by_margin = Examples(
        [row | {"weight": row["weight"] * mean} for row in by_margin.rows], by_margin.images
    )
    for one, other in zip(found["sft/trees"], wanted(config, by_margin), strict=True):
        assert one[:-1] == other[:-1]
        assert one[-1] == pytest.approx(other[-1])
    targets = preferred_targets(run, SCOPE, SCOPE, "reasoning")
    assert found["round-1/target_trees"] == wanted(config, targets)
    assert found["sft/target_trees"] == wanted(config, seed_targets(run, "reasoning"))
    assert [tree[0] for tree in found["round-1/target_trees"]] == ["p0", "p2", "p3", "p4"]


def test_a_tree_names_the_row_of_its_images(config: Config, run: Run, fill: Fill) -> None:
    fill(run, 2)
    pair_trees(config, run, SCOPE)
    listings = run.artifact("catalog/listings", LISTINGS)
    for row in run.artifact("sft/trees", TREES).read().to_pylist():
        table = listings.rows_of(listings.files()[row["image_file"]], ["listing_id"])
        assert table.column("listing_id")[row["image_row"]].as_py() == row["listing_id"]


def test_trees_are_committed_once(config: Config, run: Run, fill: Fill) -> None:
    fill(run, 2)
    first = pair_trees(config, run, SCOPE)
    assert (first.rows, first.counts) == (NUM_POOL, {"listings": NUM_POOL})
    assert pair_trees(config, run, SCOPE).reused


def test_what_an_interrupted_attempt_has_built_is_not_built_again(
    config: Config, run: Run, fill: Fill, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(run, 2)
    store, stored = Attempt.store, []

    def interrupted(self: Attempt, table: Any, *kind: Any) -> Any:
        if self.artifact.name == "sft/trees":
            if len(stored) == limit:
                raise KeyboardInterrupt
            stored.append(table.column("listing_id").to_pylist())
        return store(self, table, *kind)

    monkeypatch.setattr(Attempt, "store", interrupted)
    limit = 2
    with pytest.raises(KeyboardInterrupt):
        pair_trees(config, run, SCOPE)
    assert run.artifact("sft/trees").commit() is None
    limit = 3
    assert pair_trees(config, run, SCOPE).rows == NUM_POOL
    assert stored == [["p0", "p1"], ["p2", "p3"], ["p4"]]


def test_a_listing_that_got_no_tree_is_missed_at_the_commit(
    config: Config, run: Run, fill: Fill, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(run, 2)
    table = _TreeTask._table

    def without_p3(self: _TreeTask, by_listing: dict[str, list[Row]]) -> Any:
        return table(self, {name: own for name, own in by_listing.items() if name != "p3"})

    monkeypatch.setattr(_TreeTask, "_table", without_p3)
    with pytest.raises(ArtifactError, match=r"1 rows lost.*first: p3"):
        pair_trees(config, run, SCOPE)


def test_examples_of_a_listing_that_is_not_in_the_catalog_are_refused(
    config: Config, run: Run, tmp_path: Path, fill: Fill, commit_rows: CommitRows
) -> None:
    fill(run, 2)
    run.filesystem.delete_dir(run.path("sft/pairs"))
    stranger = pairs_of({"listing_id": "x", "queries": [{"attribute": "a", "prompt": "a?"}]}, 0)
    commit_rows(run, "sft/pairs", PAIRS, stranger)
    with pytest.raises(ArtifactError, match="catalog/listings does not hold 'x'"):
        pair_trees(config, run, SCOPE)


def test_no_examples_are_no_trees(
    config: Config, run: Run, fill: Fill, commit_rows: CommitRows
) -> None:
    fill(run, 2)
    run.filesystem.delete_dir(run.path("sft/pairs"))
    commit_rows(run, "sft/pairs", PAIRS)
    assert pair_trees(config, run, SCOPE).rows == 0
    assert len(TreeIndex.of(run.artifact("sft/trees", TREES))) == 0
