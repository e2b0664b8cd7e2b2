"""The actor around a scripted engine: which chains it asks for, with which seeds."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any

import pyarrow as pa
import pytest

from raypipe.runtime.stream import BlockResult
from raypipe.sampling.actor import ChainSource, CrashReporter, SamplingActor, SamplingRequest
from raypipe.sampling.chains import Chain, chains_table
from raypipe.sampling.crash_tracker import CrashTracker
from raypipe.sampling.engine import Failure, Prompt, Request
from raypipe.sampling.stage import GREEDY_SPLITS, SAMPLED_SPLITS
from raypipe.schemas import CHAINS, LISTINGS
from tests.conftest import MakeListing, Row


class ScriptedEngine:
    """Answers every chain with the seed and index that it was asked for; counts words as tokens."""

    def __init__(self, max_prompt_tokens: int = 100) -> None:
        self.max_prompt_tokens = max_prompt_tokens
        self.calls: list[list[Request]] = []

    def generate(self, requests: list[Request]) -> list[list[Chain] | Failure]:
        self.calls.append(requests)
        return [self._chains(request) for request in requests]

    def num_prompt_tokens(self, prompt: Prompt) -> int:
        return len(prompt.text.split()) + len(prompt.images)

    def _chains(self, request: Request) -> list[Chain] | Failure:
        what = request.prompt.text
        if request.num_chains == 0:
            return [Chain(f"greedy {what}", (1,), -0.5, "stop")]
        return [
            Chain(f"{request.seed + index} {what}", (1, index), -1.0 - index, "length")
            for index in range(request.num_chains)
        ]


Answers = tuple[list[Row], list[Row]]


def draw(num_chains: int = 3, *, greedy: bool = True, round_index: int = 1) -> SamplingRequest:
    return SamplingRequest(
        num_chains=num_chains,
        greedy=GREEDY_SPLITS if greedy else frozenset(),
        sampled=SAMPLED_SPLITS,
        seed_parts=(7, "round", round_index),
    )


def receipt(outcome: BlockResult) -> pa.Table:
    """What a writer gives back, without writing."""
    return pa.table({"rows": [len(outcome.rows)], "refused": [len(outcome.refused)]})


def actor_of(
    engine: ChainSource, asked: SamplingRequest, report_crash: CrashReporter | None = None
) -> SamplingActor:
    make_rows = partial(chains_table, policy_id="policy-1")
    return SamplingActor(lambda: engine, asked, make_rows, receipt, report_crash)


def read(outcome: BlockResult) -> Answers:
    """The rows and the refusals of an outcome."""
    assert outcome.rows.schema == CHAINS.schema
    return outcome.rows.to_pylist(), [dict(row) for row in outcome.refused]


def asked_of(engine: ChainSource, rows: list[Row], asked: SamplingRequest | None = None) -> Answers:
    return read(actor_of(engine, asked or draw()).answer(LISTINGS.from_rows(rows)))


def shape(row: Row) -> list[tuple[bool, int]]:
    """Whether each query has a greedy chain, and how many sampled ones."""
    return [(query["greedy"] is not None, len(query["chains"])) for query in row["queries"]]


@pytest.mark.parametrize(
    ("split", "expected"),
    [("pool", (False, 3)), ("eval", (True, 0)), ("anchor", (True, 3))],
)
def test_each_split_gets_the_chains_that_it_is_for(
    make_listing: MakeListing, split: str, expected: tuple[bool, int]
) -> None:
    ((row,), _) = asked_of(ScriptedEngine(), [make_listing("a", split)])
    assert shape(row) == [expected, expected]


@pytest.mark.parametrize(("split", "greedy"), [("pool", False), ("eval", True), ("anchor", True)])
def test_no_chains_asked_for_makes_the_greedy_pass_alone(
    make_listing: MakeListing, split: str, greedy: bool
) -> None:
    ((row,), _) = asked_of(ScriptedEngine(), [make_listing("a", split)], draw(0))
    assert shape(row) == [(greedy, 0)] * 2


def test_a_row_holds_what_the_engine_said_to_that_query(make_listing: MakeListing) -> None:
    ((row,), _) = asked_of(ScriptedEngine(), [make_listing("a", "anchor", ["colour"])])
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


def test_every_listing_comes_out_once_whatever_its_split(make_listing: MakeListing) -> None:
    splits = ["pool", "eval", "anchor"] * 5
    rows = [make_listing(f"l{number}", split) for number, split in enumerate(splits)]
    sampled, _ = asked_of(ScriptedEngine(), rows)
    assert [row["listing_id"] for row in sampled] == [row["listing_id"] for row in rows]
    for row in sampled:
        for query in row["queries"]:
            own = f"{query['attribute']} of {row['listing_id']}?"
            greedy = [query["greedy"]] if query["greedy"] else []
            assert all(chain["text"].endswith(own) for chain in [*greedy, *query["chains"]])


def test_a_batch_is_one_call_with_a_listings_queries_adjacent(make_listing: MakeListing) -> None:
    engine = ScriptedEngine()
    asked_of(engine, [make_listing("a", "anchor"), make_listing("b", "pool")])
    (requests,) = engine.calls
    asked = [request.prompt.image_hashes[0] for request in requests]
    assert asked == ["hash of a"] * 4 + ["hash of b"] * 2
    assert all(request.prompt.images == (b"image of a",) for request in requests[:4])


def test_chains_are_the_same_whatever_the_batch_and_its_order(make_listing: MakeListing) -> None:
    rows = [make_listing(f"l{number}", "pool") for number in range(6)]
    together, _ = asked_of(ScriptedEngine(), rows)
    alone = [asked_of(ScriptedEngine(), [row])[0][0] for row in rows]
    backwards = asked_of(ScriptedEngine(), rows[::-1])[0][::-1]
    assert together == alone == backwards


def test_seeds_differ_between_listings_attributes_and_rounds(make_listing: MakeListing) -> None:
    engine = ScriptedEngine()
    rows = [make_listing("a", "pool"), make_listing("b", "pool")]
    asked_of(engine, rows)
    seeds = [request.seed for request in engine.calls[0]]
    asked_of(engine, rows, draw(round_index=2))
    seeds += [request.seed for request in engine.calls[1]]
    assert len(set(seeds)) == 8


def test_a_prompt_that_is_too_long_goes_to_quarantine_with_its_reason(
    make_listing: MakeListing,
) -> None:
    long = make_listing("long", "pool")
    long["queries"][1]["prompt"] = "word " * 30
    rows, refused = asked_of(
        ScriptedEngine(max_prompt_tokens=30),
        [make_listing("a", "pool"), long, make_listing("b", "eval")],
    )
    assert [row["listing_id"] for row in rows] == ["a", "b"]
    assert refused == [
        {
            "id": "long",
            "stage": "sampling",
            "reason": "prompt_too_long",
            "detail": "31 tokens, the engine takes 30",
        }
    ]


def test_a_prompt_that_just_fits_is_asked(make_listing: MakeListing) -> None:
    listing = make_listing("a", "pool", ["colour"])
    listing["queries"][0]["prompt"] = "word " * 29
    assert len(asked_of(ScriptedEngine(max_prompt_tokens=30), [listing])[0]) == 1


def test_a_block_of_which_nothing_is_left_still_says_so(make_listing: MakeListing) -> None:
    listings = [make_listing("a", "pool"), make_listing("b", "pool")]
    rows, refused = asked_of(ScriptedEngine(max_prompt_tokens=1), listings)
    assert (rows, [row["id"] for row in refused]) == ([], ["a", "b"])


def test_a_draw_without_the_greedy_pass_asks_for_sampled_chains_alone(
    make_listing: MakeListing,
) -> None:
    engine = ScriptedEngine()
    listings = [make_listing("a", "anchor"), make_listing("p", "pool")]
    rows, _ = asked_of(engine, listings, draw(greedy=False))
    assert all(query["greedy"] is None for row in rows for query in row["queries"])
    assert {request.num_chains for call in engine.calls for request in call} == {3}


def test_a_block_says_what_it_took(make_listing: MakeListing) -> None:
    block = LISTINGS.from_rows([make_listing("a", "pool"), make_listing("b", "anchor")])
    outcome = actor_of(ScriptedEngine(), draw()).answer(block)
    assert outcome.counts == {"queries": 4, "chains": 14, "tokens": 26}


def test_what_is_answered_is_written_before_the_call_ends(make_listing: MakeListing) -> None:
    listings = [make_listing("a", "pool"), make_listing("long", "pool", ["colour"])]
    listings[1]["queries"][0]["prompt"] = "word " * 200
    written = actor_of(ScriptedEngine(), draw())(LISTINGS.from_rows(listings))
    assert written.to_pylist() == [{"rows": 1, "refused": 1}]


class FailingEngine(ScriptedEngine):
    """Cannot answer the requests of one listing."""

    def _chains(self, request: Request) -> list[Chain] | Failure:
        if request.prompt.text.startswith("heel of bad"):
            return Failure("ValueError: no such image")
        return super()._chains(request)


@pytest.mark.parametrize("split", ["pool", "eval", "anchor"])
def test_a_request_that_fails_refuses_its_listing_and_no_other(
    make_listing: MakeListing, split: str
) -> None:
    listings = [make_listing(name, split) for name in ("a", "bad", "b")]
    rows, refused = asked_of(FailingEngine(), listings)
    assert [row["listing_id"] for row in rows] == ["a", "b"]
    assert [(row["id"], row["reason"]) for row in refused] == [("bad", "engine_error")]
    assert refused[0]["detail"] == "ValueError: no such image"


def test_constrained_requests_carry_the_options_and_others_do_not(
    make_listing: MakeListing,
) -> None:
    engine = ScriptedEngine()
    asked_of(engine, [make_listing("a", "anchor")])
    asked_of(engine, [make_listing("a", "anchor")], replace(draw(), constrained=True))
    free, constrained = ({request.options for request in call} for call in engine.calls)
    assert (free, constrained) == ({()}, {("Red", "Blue")})


def test_a_listing_that_came_back_is_asked_alone_and_a_deadly_one_is_refused(
    make_listing: MakeListing,
) -> None:
    suspects = CrashTracker(max_deaths=8)

    def report_crash(method: str, *arguments: Any) -> Any:
        return getattr(suspects, method)(*arguments)

    suspects.begin("another", ["came back", "deadly"])
    suspects.ask_alone("other", "deadly")
    suspects.start("other")
    engine = ScriptedEngine()
    actor = actor_of(engine, draw(), report_crash)
    listings = [make_listing(name, "pool") for name in ("a", "came back", "b", "deadly")]
    rows, refused = read(actor.answer(LISTINGS.from_rows(listings)))
    assert [row["listing_id"] for row in rows] == ["a", "came back", "b"]
    assert [(row["id"], row["reason"]) for row in refused] == [("deadly", "engine_crash")]
    together, alone = engine.calls
    assert {request.prompt.image_hashes for request in together} == {("hash of a",), ("hash of b",)}
    assert {request.prompt.image_hashes for request in alone} == {("hash of came back",)}
    assert suspects.begin("another", ["came back"]).alone == frozenset()


def test_calls_of_several_threads_share_the_engine_and_keep_their_own_answers(
    make_listing: MakeListing,
) -> None:
    actor = actor_of(ScriptedEngine(), draw())
    blocks = [
        LISTINGS.from_rows([make_listing(f"{block}-{row}", "pool") for row in range(5)])
        for block in range(12)
    ]
    with ThreadPoolExecutor(4) as threads:
        outcomes = list(threads.map(actor.answer, blocks))
    for block, outcome in zip(blocks, outcomes, strict=True):
        rows, _ = read(outcome)
        assert [row["listing_id"] for row in rows] == block.column("listing_id").to_pylist()
        for row in rows:
            texts = [chain["text"] for query in row["queries"] for chain in query["chains"]]
            assert all(text.endswith(f"of {row['listing_id']}?") for text in texts)
