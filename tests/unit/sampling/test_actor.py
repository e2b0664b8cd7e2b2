"""The actor around a scripted engine: which chains it asks for, with which seeds."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raypipe.artifacts import Run
from raypipe.sampling.actor import SamplingActor
from raypipe.sampling.engine import Chain, Prompt, Request
from raypipe.schemas import CHAINS, LISTINGS, QUARANTINE
from tests.conftest import MakeListing, Row

SEED_PARTS = (7, "round", 1)


class ScriptedEngine:
    """Answers every chain with the seed and index that it was asked for; counts words as tokens."""

    def __init__(self, max_prompt_tokens: int = 100) -> None:
        self.max_prompt_tokens = max_prompt_tokens
        self.calls: list[list[Request]] = []

    def generate(self, requests: list[Request]) -> list[list[Chain]]:
        self.calls.append(requests)
        return [self._chains(request) for request in requests]

    def num_prompt_tokens(self, prompt: Prompt) -> int:
        return len(prompt.text.split()) + len(prompt.images)

    def _chains(self, request: Request) -> list[Chain]:
        what = request.prompt.text
        if request.num_chains == 0:
            return [Chain(f"greedy {what}", (1,), -0.5, "stop")]
        return [
            Chain(f"{request.seed + index} {what}", (1, index), -1.0 - index, "length")
            for index in range(request.num_chains)
        ]


Refusals = list[dict[str, Any]]


class Sampled:
    """An actor with its scripted engine and what it wrote to quarantine."""

    def __init__(self, run: Run, engine: ScriptedEngine, num_chains: int = 3) -> None:
        self.engine = engine
        self._directory = Path(run.path("quarantine"))
        self._directory.mkdir(exist_ok=True)
        self._actor = SamplingActor(
            lambda: engine,
            policy_id="policy-1",
            num_chains=num_chains,
            seed_parts=SEED_PARTS,
            run=run,
            quarantine=str(self._directory),
        )

    def __call__(self, rows: list[Row]) -> list[Row]:
        chains = self._actor(LISTINGS.from_rows(rows))
        assert chains.schema == CHAINS.schema
        return list(chains.to_pylist())

    def refused(self) -> Refusals:
        tables = [pq.read_table(path) for path in sorted(self._directory.glob("*.parquet"))]
        rows = pa.concat_tables(QUARANTINE.conform(table) for table in tables).to_pylist()
        return sorted(rows, key=lambda row: str(row["id"]))


def shape(row: Row) -> list[tuple[bool, int]]:
    """Whether each query has a greedy chain, and how many sampled ones."""
    return [(query["greedy"] is not None, len(query["chains"])) for query in row["queries"]]


@pytest.mark.parametrize(
    ("split", "expected"),
    [("pool", (False, 3)), ("eval", (True, 0)), ("anchor", (True, 3))],
)
def test_each_split_gets_the_chains_that_it_is_for(
    run: Run, make_listing: MakeListing, split: str, expected: tuple[bool, int]
) -> None:
    (row,) = Sampled(run, ScriptedEngine())([make_listing("a", split)])
    assert shape(row) == [expected, expected]


@pytest.mark.parametrize(("split", "greedy"), [("pool", False), ("eval", True), ("anchor", True)])
def test_no_chains_asked_for_makes_the_greedy_pass_alone(
    run: Run, make_listing: MakeListing, split: str, greedy: bool
) -> None:
    (row,) = Sampled(run, ScriptedEngine(), num_chains=0)([make_listing("a", split)])
    assert shape(row) == [(greedy, 0)] * 2


def test_a_row_holds_what_the_engine_said_to_that_query(
    run: Run, make_listing: MakeListing
) -> None:
    (row,) = Sampled(run, ScriptedEngine())([make_listing("a", "anchor", ["colour"])])
    assert {name: row[name] for name in ("listing_id", "vertical", "split", "policy_id")} == {
        "listing_id": "a",
        "vertical": "Shoe",
        "split": "anchor",
        "policy_id": "policy-1",
    }
    (query,) = row["queries"]
    greedy = {"text": "greedy colour of a?", "token_ids": [1], "logprob": -0.5}
    assert query["greedy"] == greedy | {"finish_reason": "stop"}
    assert [chain["token_ids"] for chain in query["chains"]] == [[1, 0], [1, 1], [1, 2]]
    assert [chain["logprob"] for chain in query["chains"]] == [-1.0, -2.0, -3.0]
    assert {chain["finish_reason"] for chain in query["chains"]} == {"length"}


def test_every_listing_comes_out_once_whatever_its_split(
    run: Run, make_listing: MakeListing
) -> None:
    splits = ["pool", "eval", "anchor"] * 5
    rows = [make_listing(f"l{number}", split) for number, split in enumerate(splits)]
    sampled = Sampled(run, ScriptedEngine())(rows)
    assert [row["listing_id"] for row in sampled] == [row["listing_id"] for row in rows]
    for row in sampled:
        for query in row["queries"]:
            own = f"{query['attribute']} of {row['listing_id']}?"
            greedy = [query["greedy"]] if query["greedy"] else []
            assert all(chain["text"].endswith(own) for chain in [*greedy, *query["chains"]])


def test_a_batch_is_one_call_with_a_listings_queries_adjacent(
    run: Run, make_listing: MakeListing
) -> None:
    engine = ScriptedEngine()
    Sampled(run, engine)([make_listing("a", "anchor"), make_listing("b", "pool")])
    (requests,) = engine.calls
    asked = [request.prompt.image_hashes[0] for request in requests]
    assert asked == ["hash of a"] * 4 + ["hash of b"] * 2
    assert all(request.prompt.images == (b"image of a",) for request in requests[:4])


def test_chains_are_the_same_whatever_the_batch_and_its_order(
    run: Run, make_listing: MakeListing
) -> None:
    rows = [make_listing(f"l{number}", "pool") for number in range(6)]
    together = Sampled(run, ScriptedEngine())(rows)
    alone = [Sampled(run, ScriptedEngine())([row])[0] for row in rows]
    backwards = Sampled(run, ScriptedEngine())(rows[::-1])[::-1]
    assert together == alone == backwards


def test_seeds_differ_between_listings_attributes_and_rounds(
    run: Run, make_listing: MakeListing
) -> None:
    engine = ScriptedEngine()
    Sampled(run, engine)([make_listing("a", "pool"), make_listing("b", "pool")])
    seeds = [request.seed for request in engine.calls[0]]
    other = SamplingActor(
        lambda: engine,
        policy_id="policy-1",
        num_chains=3,
        seed_parts=(7, "round", 2),
        run=run,
        quarantine="",
    )
    other(LISTINGS.from_rows([make_listing("a", "pool"), make_listing("b", "pool")]))
    seeds += [request.seed for request in engine.calls[1]]
    assert len(set(seeds)) == 8


def test_a_prompt_that_is_too_long_goes_to_quarantine_with_its_reason(
    run: Run, make_listing: MakeListing
) -> None:
    long = make_listing("long", "pool")
    long["queries"][1]["prompt"] = "word " * 30
    sampled = Sampled(run, ScriptedEngine(max_prompt_tokens=30))
    rows = sampled([make_listing("a", "pool"), long, make_listing("b", "eval")])
    assert [row["listing_id"] for row in rows] == ["a", "b"]
    assert sampled.refused() == [
        {
            "id": "long",
            "stage": "sampling",
            "reason": "prompt_too_long",
            "detail": "31 tokens, the engine takes 30",
        }
    ]


def test_a_prompt_that_just_fits_is_asked(run: Run, make_listing: MakeListing) -> None:
    listing = make_listing("a", "pool", ["colour"])
    listing["queries"][0]["prompt"] = "word " * 29
    assert len(Sampled(run, ScriptedEngine(max_prompt_tokens=30))([listing])) == 1


def test_a_batch_of_which_nothing_is_left_asks_the_engine_nothing(
    run: Run, make_listing: MakeListing
) -> None:
    sampled = Sampled(run, ScriptedEngine(max_prompt_tokens=1))
    assert sampled([make_listing("a", "pool"), make_listing("b", "pool")]) == []
    assert sampled.engine.calls == []
    assert [row["id"] for row in sampled.refused()] == ["a", "b"]


def test_refusals_of_several_batches_do_not_overwrite_each_other(
    run: Run, make_listing: MakeListing
) -> None:
    sampled = Sampled(run, ScriptedEngine(max_prompt_tokens=1))
    for listing_id in ("a", "b", "c"):
        sampled([make_listing(listing_id, "pool")])
    assert [row["id"] for row in sampled.refused()] == ["a", "b", "c"]


def test_a_draw_without_the_greedy_pass_asks_for_sampled_chains_alone(
    run: Run, make_listing: MakeListing
) -> None:
    engine = ScriptedEngine()
    quarantine = Path(run.path("refused"))
    quarantine.mkdir()
    actor = SamplingActor(
        lambda: engine,
        policy_id="policy-1",
        num_chains=3,
        greedy=False,
        seed_parts=SEED_PARTS,
        run=run,
        quarantine=str(quarantine),
    )
    batch = LISTINGS.from_rows([make_listing("a", "anchor"), make_listing("p", "pool")])
    rows = actor(batch).to_pylist()
    assert all(query["greedy"] is None for row in rows for query in row["queries"])
    assert {request.num_chains for call in engine.calls for request in call} == {3}
