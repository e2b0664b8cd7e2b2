"""Annotation through a server on loopback: what is asked, kept, paid for and written."""

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raypipe.annotation.console import AnnotationConsole
from raypipe.annotation.driver import Driver, annotate
from raypipe.artifacts import Run
from raypipe.catalog import stage as catalog
from raypipe.config import Config, RunConfig
from raypipe.errors import ConfigError, EndpointError, InputError, SpendingLimitError
from raypipe.prompts import SYSTEM_PROMPTS
from raypipe.schemas import ANNOTATIONS, CONSENSUS, SEED
from tests.chat_server import Answer, Asked, ChatServer, completion
from tests.unit.catalog.shop import Shop

KEY = "sk-canary-91be77"
VALUES = {"color": "Blue", "heel": "Kitten Heel", "dial": "Square"}
TOKENS = 57  # of one reply, as tests.chat_server counts them


def attribute_of(asked: Asked) -> str:
    return asked.prompt.split(" for ")[1]


def in_tags(asked: Asked) -> tuple[int, Any]:
    value = VALUES[attribute_of(asked)]
    return completion(f"<reasoning>It shows.</reasoning><answer>{value}</answer>")


def in_json(asked: Asked) -> tuple[int, Any]:
    value = VALUES[attribute_of(asked)]
    return completion(json.dumps({"reasoning": "It shows.", "answer": value}))


@pytest.fixture
def server() -> Iterator[ChatServer]:
    with ChatServer(in_json) as server:
        yield server


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANNOTATE_KEY", KEY)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    """Twelve shoes and six watches; s00 is verified, and s01 is of the same family."""
    shop = Shop(tmp_path / "shop")
    for index in range(12):
        shop.add(f"s{index:02}", 20 * index, group_id="family" if index < 2 else None)
    for index in range(6):
        shop.add(f"w{index}", 256 * 50 + 20 * index, vertical="watch")
    shop.truth["s00"] = [{"attribute": "color", "value": "Red"}]
    shop.write()
    (shop.directory / "seed.parquet").unlink()
    return shop


Configure = Callable[..., Config]


@pytest.fixture
def configure(shop: Shop, server: ChatServer, tmp_path: Path) -> Configure:
    def configure(seed: str = "seed", catalog: dict[str, Any] | None = None, **keys: Any) -> Config:
        config = shop.config(seed=str(shop.directory / seed), **(catalog or {}))
        annotation = {
            "endpoint": server.url,
            "endpoint_model": "m",
            "api_key_variable": "ANNOTATE_KEY",
            "max_attempts": 3,
            "concurrency": 3,
            "listings_per_vertical": 4,
            "image_size": 28,
        } | keys
        run = {"directory": str(tmp_path / "runs"), "name": "a"}
        rates = {"million_prompt_tokens": 1000.0, "million_answer_tokens": 10_000.0}
        values = config.model_dump(mode="json")
        return Config.model_validate(
            values | {"annotation": annotation, "run": run, "rates": rates}
        )

    return configure


def go(config: Config, **options: Any) -> None:
    annotate(config, AnnotationConsole(), plan_only=options.get("plan_only", False))


def answers(config: Config) -> list[dict[str, Any]]:
    """The rows of the only annotation that the run has committed."""
    run = Run(f"{config.run.directory}/{config.run.name}")
    (manifest,) = Path(run.location).glob("annotation/*/answers/_COMMIT.json")
    name = str(manifest.parent.relative_to(run.location))
    return run.artifact(name, ANNOTATIONS).read().to_pylist()


def seed_rows(shop: Shop) -> dict[str, dict[str, str]]:
    (path,) = (shop.directory / "seed").glob("*.parquet")
    rows = pq.read_table(path).to_pylist()
    assert {(row["source"], row["annotator"]) for row in rows} == {("annotation", "m")}
    return {
        row["listing_id"]: {answer["attribute"]: answer["answer"] for answer in row["answers"]}
        for row in rows
    }


def test_a_seed_is_annotated_and_the_next_run_has_it(
    configure: Configure, shop: Shop, server: ChatServer, tmp_path: Path
) -> None:
    config = configure()
    go(config)
    assert len(server.asked) == 4 * 2 + 4
    for asked in server.asked:
        assert asked.headers["authorization"] == f"Bearer {KEY}"
        options = asked.body["response_format"]["json_schema"]["schema"]["properties"]["answer"]
        assert VALUES[attribute_of(asked)] in options["enum"]
        assert asked.body["max_tokens"] == 400
    seed = seed_rows(shop)
    assert Counter(name[0] for name in seed) == {"s": 4, "w": 4}
    assert all(given in ({"color": "Blue", "heel": "Kitten Heel"}, {"dial": "Square"})
               for given in seed.values())  # fmt: skip
    assert {row["outcome"] for row in answers(config)} == {"ok"}
    run = Run(str(tmp_path / "next"))
    catalog.run(configure(catalog={"max_quarantined": 0.1}), run)  # s01 is a relative of s00
    prepared = run.artifact("catalog/seed", SEED).read().to_pylist()
    assert {row["listing_id"] for row in prepared} == set(seed)
    assert {answer["reasoning"] for row in prepared for answer in row["answers"]} == {"It shows."}


def test_the_verified_and_their_relatives_are_not_annotated(
    configure: Configure, shop: Shop
) -> None:
    go(configure(listings_per_vertical=100))
    assert set(seed_rows(shop)) == {f"s{index:02}" for index in range(2, 12)} | {
        f"w{index}" for index in range(6)
    }


def test_the_same_command_pays_for_nothing_twice_and_more_listings_only_add(
    configure: Configure, shop: Shop, server: ChatServer
) -> None:
    go(configure())
    first = seed_rows(shop)
    server.asked.clear()
    go(configure())
    assert server.asked == []
    assert seed_rows(shop) == first
    go(configure(listings_per_vertical=5))
    assert len(server.asked) == 3
    assert seed_rows(shop).items() > first.items()


def test_a_grown_catalog_changes_no_choice(
    configure: Configure, shop: Shop, server: ChatServer
) -> None:
    go(configure())
    first = seed_rows(shop)
    server.asked.clear()
    for index in range(60):
        shop.add(f"t{index:02}", 256 * 90 + 20 * index)
    shop.write()
    (shop.directory / "seed.parquet").unlink()
    go(configure())
    assert server.asked == []
    assert seed_rows(shop) == first


def test_another_run_of_the_same_campaign_pays_for_nothing(
    configure: Configure, shop: Shop, server: ChatServer, tmp_path: Path
) -> None:
    go(configure())
    first = seed_rows(shop)
    server.asked.clear()
    later = configure().model_copy(update={"run": RunConfig(directory=str(tmp_path), name="b")})
    go(later)
    assert server.asked == []
    assert seed_rows(shop) == first


def test_a_reviewed_listing_keeps_its_place(
    configure: Configure, shop: Shop, server: ChatServer
) -> None:
    go(configure())
    first = seed_rows(shop)
    listing_id = next(name for name in first if name.startswith("s"))
    answer = {
        "attribute": "color",
        "reasoning": "I see it.",
        "answer": "Red",
        "source": "review",
        "reviewed_at": datetime(2026, 1, 1, tzinfo=UTC),
    }
    review = pa.Table.from_pylist([{"listing_id": listing_id, "answers": [answer]}])
    pq.write_table(review, shop.directory / "seed" / "reviewed-1.parquet")
    server.asked.clear()
    go(configure())
    assert server.asked == []
    (path,) = (shop.directory / "seed").glob("annotated-*.parquet")
    assert set(pq.read_table(path).column("listing_id").to_pylist()) == set(first)


def test_what_was_cut_off_is_asked_again_with_a_larger_limit(
    configure: Configure, shop: Shop, server: ChatServer
) -> None:
    def limited(asked: Asked) -> tuple[int, Any]:
        if attribute_of(asked) == "heel" and asked.body["max_tokens"] < 800:
            return completion('{"reasoning": "so', "length")
        return in_json(asked)

    server.answer = limited
    go(configure())
    chosen = seed_rows(shop).keys()
    server.asked.clear()
    go(configure(max_tokens=300))
    assert server.asked == []
    go(configure(max_tokens=800, max_total_tokens=16 * TOKENS + 1))
    assert {attribute_of(asked) for asked in server.asked} == {"heel"}
    assert len(server.asked) == 4
    assert seed_rows(shop).keys() == chosen
    with pytest.raises(SpendingLimitError):  # all sixteen replies were paid for
        go(configure(listings_per_vertical=5, max_tokens=800, max_total_tokens=16 * TOKENS))


def test_a_new_alias_reads_old_replies_again(
    configure: Configure, shop: Shop, server: ChatServer
) -> None:
    said = json.dumps({"reasoning": "so", "answer": "Azure"})
    server.answer = lambda asked: (
        completion(said) if attribute_of(asked) == "color" else in_json(asked)
    )
    go(configure())
    assert {tuple(given) for given in seed_rows(shop).values()} == {("heel",), ("dial",)}
    shop.schema = [dict(entry) for entry in shop.schema]
    shop.schema[0]["aliases"] = {"Azure": "Blue"}
    shop.write()
    (shop.directory / "seed.parquet").unlink()
    server.asked.clear()
    go(configure())
    assert server.asked == []
    assert {given.get("color") for given in seed_rows(shop).values()} == {"Blue", None}


def test_another_campaign_adds_a_file_of_other_listings(
    configure: Configure, shop: Shop, server: ChatServer
) -> None:
    go(configure())
    server.asked.clear()
    go(configure(endpoint_model="n"))
    first, second = (
        set(pq.read_table(path).column("listing_id").to_pylist())
        for path in sorted((shop.directory / "seed").glob("annotated-*.parquet"))
    )
    assert first.isdisjoint(second)
    assert len(server.asked) == 4 * 2 + 2  # two watches are left


def test_a_server_without_schemas_is_asked_in_the_words_of_the_training_prompt(
    configure: Configure, shop: Shop, server: ChatServer
) -> None:
    def plain(asked: Asked) -> tuple[int, Any]:
        if "response_format" in asked.body:
            return 400, {"error": {"message": "response_format is not supported"}}
        assert asked.system == SYSTEM_PROMPTS["reasoning"]
        return in_tags(asked)

    server.answer = plain
    go(configure(concurrency=1))
    assert len(server.asked) == 12 + 3  # it was asked for a schema once for each attribute
    assert len(seed_rows(shop)) == 8


@pytest.mark.parametrize(
    ("reply", "outcome"),
    [
        (completion("{not json"), "malformed"),
        (completion('{"reasoning": "so"}'), "malformed"),
        (completion('["Blue"]'), "malformed"),
        (completion("[" * 20_000), "malformed"),
        (completion('{"reasoning": "so", "answer": ' + "9" * 5000 + "}"), "malformed"),
        (completion('{"reasoning": "\\ud800", "answer": "Blue"}'), "malformed"),
        (completion('{"reasoning": "so", "answer": 7}'), "malformed"),
        (completion('{"reasoning": "so", "answer": "Mauve"}'), "out_of_schema"),
        (completion('{"reasoning": "so', "length"), "truncated"),
        (completion(None, "content_filter"), "refused"),
        (completion(None), "malformed"),
    ],
)
def test_garbage_and_refusals_become_rows_with_a_reason(
    configure: Configure, shop: Shop, server: ChatServer, reply: Any, outcome: str
) -> None:
    server.answer = lambda asked: reply if attribute_of(asked) == "heel" else in_json(asked)
    go(configure())
    rows = answers(configure())
    assert {row["outcome"] for row in rows if row["attribute"] == "heel"} == {outcome}
    assert {row["outcome"] for row in rows if row["attribute"] != "heel"} == {"ok"}
    assert {tuple(given) for given in seed_rows(shop).values()} == {("color",), ("dial",)}


def test_a_refusal_in_the_protocol_s_own_field_is_one(
    configure: Configure, server: ChatServer
) -> None:
    _, body = completion(None)
    body["choices"][0]["message"]["refusal"] = "I will not look at that."
    server.answer = lambda asked: (200, body) if attribute_of(asked) == "dial" else in_json(asked)
    go(configure())
    rows = answers(configure())
    assert {(row["outcome"], row["detail"]) for row in rows if row["attribute"] == "dial"} == {
        ("refused", "I will not look at that.")
    }


def test_a_policy_s_veto_is_a_refusal(configure: Configure, server: ChatServer) -> None:
    veto = {"message": "The prompt was filtered.", "code": "content_filter"}
    server.answer = lambda asked: (
        (400, {"error": veto}) if attribute_of(asked) == "dial" else in_json(asked)
    )
    go(configure(max_total_tokens=1_000_000))
    rows = answers(configure())
    outcomes = {(row["attribute"] == "dial", row["outcome"]) for row in rows}
    assert outcomes == {(True, "refused"), (False, "ok")}


def test_a_reasoning_model_is_asked_with_the_options_that_it_knows(
    configure: Configure, server: ChatServer
) -> None:
    def picky(asked: Asked) -> tuple[int, Any]:
        for option in ("max_tokens", "temperature"):
            if option in asked.body:
                error = {"message": f"'{option}' is not supported", "param": option}
                return 400, {"error": error | {"code": "unsupported_parameter"}}
        assert asked.body["max_completion_tokens"] == 400
        assert "response_format" in asked.body
        return in_json(asked)

    server.answer = picky
    go(configure())
    assert {row["outcome"] for row in answers(configure())} == {"ok"}
    assert len(server.asked) <= 12 + 2 * 3  # only the first ones had to learn


def test_a_model_that_answers_nothing_usable_is_no_seed(
    configure: Configure, shop: Shop, server: ChatServer
) -> None:
    server.answer = lambda asked: completion('{"reasoning": "so', "length")
    with pytest.raises(InputError, match=r"none of 12 replies can be used \(12 truncated\)"):
        go(configure())
    assert not (shop.directory / "seed").exists()


def faulty(answer: Answer, every: int) -> Answer:
    """Every so-manieth request fails, in turn, in all the ways that servers do."""
    lock, number = threading.Lock(), iter(range(1 << 30))
    faults: list[tuple[int, Any]] = [
        (429, {"error": {"message": "slow down"}}),
        (500, {"error": {"message": "oops"}}),
        (503, b"<html>down</html>"),
    ]

    def misbehaving(asked: Asked) -> tuple[int, Any]:
        with lock:
            turn = next(number)
        return faults[turn // every % len(faults)] if turn % every == 0 else answer(asked)

    return misbehaving


def test_a_server_that_fails_now_and_then_is_asked_again(
    configure: Configure, shop: Shop, server: ChatServer
) -> None:
    server.answer = faulty(in_json, every=3)
    go(configure(max_attempts=8))
    assert {row["outcome"] for row in answers(configure())} == {"ok"}
    assert len(server.asked) > 12


def test_a_silent_server_is_asked_again(
    configure: Configure, shop: Shop, server: ChatServer
) -> None:
    turns = iter(range(1 << 30))

    def slow(asked: Asked) -> tuple[int, Any]:
        if next(turns) == 2:
            time.sleep(3)
        return in_json(asked)

    server.answer = slow
    go(configure(timeout_s=0.5))
    assert {row["outcome"] for row in answers(configure())} == {"ok"}
    assert len(server.asked) == 13


def test_a_page_instead_of_an_answer_is_asked_again(
    configure: Configure, server: ChatServer
) -> None:
    seen: Counter[str] = Counter()

    def portal(asked: Asked) -> tuple[int, Any]:
        seen[str(asked.body["messages"])] += 1
        first = seen[str(asked.body["messages"])] == 1
        return (200, b"<html>a portal</html>") if first else in_json(asked)

    server.answer = portal
    go(configure())
    assert {row["outcome"] for row in answers(configure())} == {"ok"}


def test_a_server_that_fails_for_good_ends_the_call_and_the_next_asks_only_the_rest(
    configure: Configure, shop: Shop, server: ChatServer
) -> None:
    served: Counter[str] = Counter()

    def dying(asked: Asked) -> tuple[int, Any]:
        if served.total() >= 5:
            return 500, {"error": {"message": "gone"}}
        served[str(asked.body["messages"])] += 1
        return in_json(asked)

    server.answer = dying
    with pytest.raises(EndpointError, match=r"failed for 1 of 12 questions.*gone") as raised:
        go(configure(concurrency=1, max_attempts=1))
    assert raised.value.exit_code == 4
    assert not (shop.directory / "seed").exists()
    server.answer = in_json
    server.asked.clear()
    go(configure())
    assert len(server.asked) == 7
    assert not served & Counter(str(asked.body["messages"]) for asked in server.asked)


def test_a_few_failures_are_rows_with_a_reason(
    configure: Configure, shop: Shop, server: ChatServer
) -> None:
    turns = iter(range(1 << 30))
    server.answer = lambda asked: (
        (500, {"error": {"message": "oops"}}) if next(turns) == 3 else in_json(asked)
    )
    config = configure(catalog={"max_quarantined": 0.2}, max_attempts=1, concurrency=1)
    go(config)
    rows = Counter((row["outcome"], row["text"] == "") for row in answers(config))
    assert rows == {("ok", False): 11, ("endpoint_error", True): 1}


def test_what_failed_is_asked_by_the_next_call_and_then_in_the_seed(
    configure: Configure, shop: Shop, server: ChatServer
) -> None:
    turns = iter(range(1 << 30))
    server.answer = lambda asked: (
        (500, {"error": {"message": "oops"}}) if next(turns) == 3 else in_json(asked)
    )
    config = configure(catalog={"max_quarantined": 0.2}, max_attempts=1, concurrency=1)
    go(config)
    assert sum(map(len, seed_rows(shop).values())) == 11
    server.asked.clear()
    go(config)
    assert len(server.asked) == 1
    assert sum(map(len, seed_rows(shop).values())) == 12


def test_questions_that_a_server_will_never_answer_do_not_stop_a_second_call(
    configure: Configure, shop: Shop, server: ChatServer
) -> None:
    server.answer = lambda asked: (
        (400, {"error": {"message": "cannot parse the image"}})
        if attribute_of(asked) == "dial"
        else in_json(asked)
    )
    config = configure(catalog={"max_quarantined": 0.4})
    go(config)
    first = seed_rows(shop)
    go(config)
    assert seed_rows(shop) == first


def test_replies_under_way_are_kept_when_the_server_breaks(
    configure: Configure, server: ChatServer, tmp_path: Path
) -> None:
    started, answered = threading.Barrier(6), Counter[str]()

    def breaking(asked: Asked) -> tuple[int, Any]:
        first = started.wait(20) == 0
        if first:
            return 500, {"error": {"message": "oops"}}
        time.sleep(0.5)
        answered["so many"] += 1
        return in_json(asked)

    server.answer = breaking
    with pytest.raises(EndpointError):
        go(configure(max_attempts=1, concurrency=6))
    kept = list((tmp_path / "runs").rglob("annotation/replies/*/*.json"))
    assert len(kept) == answered["so many"] == 5


def test_a_model_of_no_use_is_not_paid_to_the_end(configure: Configure, server: ChatServer) -> None:
    server.answer = lambda asked: completion("I would rather not say.")
    with pytest.raises(InputError, match="none of the first 20 replies can be used"):
        go(configure(listings_per_vertical=100, concurrency=1))
    assert len(server.asked) == 20


def test_json_in_a_block_of_code_is_read(configure: Configure, server: ChatServer) -> None:
    def fenced(asked: Asked) -> tuple[int, Any]:
        said = json.dumps({"reasoning": "so", "answer": VALUES[attribute_of(asked)]})
        return completion(f"```json\n{said}\n```", "unknown")

    server.answer = fenced
    go(configure())
    assert {row["outcome"] for row in answers(configure())} == {"ok"}


@pytest.mark.parametrize("limit", ["max_total_tokens", "max_cost"])
def test_the_spending_limit_holds_to_within_the_requests_under_way(
    configure: Configure, shop: Shop, server: ChatServer, limit: str
) -> None:
    price = (50 * 1000 + 7 * 10_000) / 1e6  # of one reply
    allowed = {"max_total_tokens": 5 * TOKENS - 1, "max_cost": 5 * price - 0.01}[limit]
    with pytest.raises(SpendingLimitError, match=rf"annotation.{limit}=.* is reached") as raised:
        go(configure(**{limit: allowed}))
    assert 5 <= len(server.asked) < 5 + 3  # three at once
    assert raised.value.exit_code == 3
    assert not (shop.directory / "seed").exists()
    paid = len(server.asked)
    with pytest.raises(SpendingLimitError):
        go(configure(**{limit: allowed}))
    assert len(server.asked) == paid  # what is spent stays spent
    go(configure(**{limit: 100 * allowed}))
    assert len(server.asked) == 12
    assert len(seed_rows(shop)) == 8


def test_fewer_listings_can_be_had_for_what_is_paid(
    configure: Configure, shop: Shop, server: ChatServer
) -> None:
    with pytest.raises(SpendingLimitError):
        go(configure(max_total_tokens=8 * TOKENS, concurrency=1))
    server.asked.clear()
    go(configure(max_total_tokens=8 * TOKENS, listings_per_vertical=2))
    assert server.asked == []
    assert len(seed_rows(shop)) == 4


def test_a_limit_needs_a_server_that_counts(configure: Configure, server: ChatServer) -> None:
    status, body = completion("{}")
    server.answer = lambda asked: (status, body | {"usage": None})
    with pytest.raises(EndpointError, match="does not say how many tokens"):
        go(configure(max_total_tokens=10))


def test_a_reply_that_is_not_counted_counts_as_a_long_one(
    configure: Configure, server: ChatServer
) -> None:
    turns = iter(range(1 << 30))

    def forgetful(asked: Asked) -> tuple[int, Any]:
        status, body = in_json(asked)
        return status, body if next(turns) != 5 else body | {"usage": None}

    server.answer = forgetful
    config = configure(max_total_tokens=10_000)
    go(config)
    run = Run(f"{config.run.directory}/{config.run.name}")
    (manifest,) = Path(run.location).glob("annotation/*/answers/_COMMIT.json")
    counts = json.loads(manifest.read_text())["counts"]
    assert (counts["prompt_tokens"], counts["answer_tokens"]) == (12 * 50, 11 * 7 + 400)
    go(config, plan_only=True)


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_key_stops_at_once(configure: Configure, server: ChatServer, status: int) -> None:
    server.answer = lambda asked: (status, {"error": {"message": f"bad key {KEY}"}})
    with pytest.raises(ConfigError, match=f"the key in ANNOTATE_KEY: status {status}") as raised:
        go(configure())
    assert KEY not in str(raised.value)
    assert len(server.asked) <= 3


def test_an_account_without_money_stops_at_once(configure: Configure, server: ChatServer) -> None:
    error = {"message": "You exceeded your quota", "code": "insufficient_quota"}
    server.answer = lambda asked: (429, {"error": error})
    with pytest.raises(EndpointError, match="quota is used"):
        go(configure(max_attempts=1))
    assert len(server.asked) <= 3


def test_the_key_is_in_no_file_that_a_run_leaves(
    configure: Configure, shop: Shop, server: ChatServer, capsys: pytest.CaptureFixture[str]
) -> None:
    def chatty(asked: Asked) -> tuple[int, Any]:
        if attribute_of(asked) == "heel":
            return 400, {"error": {"message": f"your key {KEY} cannot do that"}}
        return completion(json.dumps({"reasoning": f"I saw {KEY}.", "answer": "Blue"}))

    server.answer = chatty
    config = configure(catalog={"max_quarantined": 1.0})
    go(config)
    files = [path for path in shop.directory.parent.rglob("*") if path.is_file()]
    assert any("replies" in str(path) for path in files)
    assert [path for path in files if KEY.encode() in path.read_bytes()] == []
    printed = capsys.readouterr()
    assert KEY not in printed.out + printed.err


def test_a_plan_asks_nothing(
    configure: Configure, server: ChatServer, capsys: pytest.CaptureFixture[str]
) -> None:
    go(configure(), plan_only=True)
    assert server.asked == []
    assert "12 questions, 0 of them answered already; 12 to ask" in capsys.readouterr().out


def test_a_corrupt_reply_is_named(configure: Configure) -> None:
    config = configure()
    go(config)
    first = next(Path(config.run.directory).rglob("annotation/replies/*/*.json"))
    first.write_text("{")
    with pytest.raises(Exception, match=f"{first} is unreadable: .*; delete it to ask again"):
        go(config)


def test_listings_whose_chains_disagree_most_are_chosen(
    configure: Configure, shop: Shop, tmp_path: Path
) -> None:
    config = configure(choose="disagreement", listings_per_vertical=2)
    with pytest.raises(InputError, match=r"needs a vote.*jobs/round.py first"):
        go(config)
    run = Run(f"{config.run.directory}/{config.run.name}")
    confident = {"s05": 0.3, "s07": 0.4, "w3": 0.1, "s02": 0.9, "w1": 0.8}
    rows = [
        vote(name, confidence, attribute)
        for name, confidence in confident.items()
        for attribute in ("color", "heel")
    ]
    attempt = run.artifact("sft/consensus", CONSENSUS).attempt({})
    attempt.write(CONSENSUS.from_rows(rows))
    attempt.commit()
    go(config)
    assert set(seed_rows(shop)) == {"s05", "s07", "w1", "w3"}


def test_the_newest_vote_is_asked(configure: Configure, shop: Shop) -> None:
    config = configure(choose="disagreement", listings_per_vertical=1)
    run = Run(f"{config.run.directory}/{config.run.name}")
    for scope, disputed in (("sft", "s03"), ("round-1", "s04"), ("round-2", "s05")):
        if scope != "sft":
            run.artifact(f"{scope}/adapter").attempt({}).commit()
        attempt = run.artifact(f"{scope}/consensus", CONSENSUS).attempt({})
        rows = [vote(name, 0.1 if name == disputed else 0.9, "color") for name in VOTED]
        attempt.write(CONSENSUS.from_rows(rows))
        attempt.commit()
    go(config)
    assert set(seed_rows(shop)) == {"s05"}


VOTED = ("s03", "s04", "s05")


def vote(listing_id: str, confidence: float, attribute: str) -> dict[str, Any]:
    return {
        "listing_id": listing_id,
        "vertical": "shoe",
        "split": "pool",
        "attribute": attribute,
        "answer": "Red",
        "confidence": confidence,
        "votes": [],
        "num_chains": 7,
        "num_valid": 7,
        "num_truncated": 0,
        "num_pairs": 0,
        "gate": "kept",
        "preferred": [],
    }


def test_listings_whose_photos_are_most_unlike_are_chosen(configure: Configure, shop: Shop) -> None:
    go(configure(choose="diversity", listings_per_vertical=3))
    assert Counter(name[0] for name in seed_rows(shop)) == {"s": 3, "w": 3}


def test_a_broken_listing_costs_nothing_and_is_told(
    configure: Configure, shop: Shop, server: ChatServer
) -> None:
    shop.listings[5]["images"] = [b"not an image"]
    seed = dict(shop.seed)
    shop.write()
    shop.seed = seed
    (shop.directory / "seed.parquet").unlink()
    config = configure(listings_per_vertical=100)
    go(config)
    assert len(server.asked) == 9 * 2 + 6
    run = Run(f"{config.run.directory}/{config.run.name}")
    (manifest,) = Path(run.location).glob("annotation/*/answers/_COMMIT.json")
    name = str(manifest.parent.relative_to(run.location))
    refused = run.artifact(name, ANNOTATIONS).read(kind="quarantine").to_pylist()
    assert [(row["id"], row["reason"]) for row in refused] == [("s05", "no_image")]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"endpoint": None, "endpoint_model": None}, "annotation.endpoint_model say who annotates"),
        ({"seed": "seed.parquet"}, "holds another seed; make catalog.seed a directory"),
    ],
)
def test_what_cannot_be_annotated_says_why(
    configure: Configure, shop: Shop, changes: dict[str, Any], says: str
) -> None:
    shop.seed["s03"] = [{"attribute": "color", "reasoning": "r", "answer": "Red"}]
    shop.write()
    with pytest.raises(ConfigError, match=says):
        go(configure(**changes))


def test_a_seed_may_be_one_file_of_its_own(configure: Configure, shop: Shop) -> None:
    go(configure(seed="annotated.parquet"))
    go(configure(seed="annotated.parquet"))
    assert len(pq.read_table(shop.directory / "annotated.parquet")) == 8


def test_nothing_left_to_annotate_says_why(configure: Configure, shop: Shop) -> None:
    go(configure(listings_per_vertical=100))
    with pytest.raises(
        InputError, match=r"no listing is left to annotate: .*16 are annotated in another file"
    ):
        go(configure(listings_per_vertical=100, endpoint_model="n"))


def test_who_is_left_out_is_told(
    configure: Configure, shop: Shop, capsys: pytest.CaptureFixture[str]
) -> None:
    shop.add("b0", 5000, vertical="Boots")
    shop.write()
    (shop.directory / "seed.parquet").unlink()
    go(configure(), plan_only=True)
    printed = capsys.readouterr().out
    assert "left out: 1 of a vertical that the attribute schema lacks" in printed
    assert "left out: 1 verified" in printed
    assert "left out: 1 of the family of a verified one" in printed


def test_listings_without_an_id_are_left_out(
    configure: Configure, shop: Shop, capsys: pytest.CaptureFixture[str]
) -> None:
    shop.add(None, 6000)
    shop.add("x" * 600, 6001)
    shop.write()
    (shop.directory / "seed.parquet").unlink()
    go(configure())
    assert "left out: 2 without an id that a listing can have" in capsys.readouterr().out
    assert {name for name in seed_rows(shop) if name.startswith(("(", "x"))} == set()


def test_a_refused_listing_is_replaced(
    configure: Configure, shop: Shop, server: ChatServer
) -> None:
    go(configure())
    chosen = set(seed_rows(shop))
    (shop.directory / "seed" / next((shop.directory / "seed").glob("*.parquet"))).unlink()
    for row in shop.listings:
        if row["listing_id"] in chosen and row["listing_id"].startswith("s"):
            row["images"] = [b"broken"]
            break
    shop.write()
    (shop.directory / "seed.parquet").unlink()
    go(configure())
    assert Counter(name[0] for name in seed_rows(shop)) == {"s": 4, "w": 4}


def test_the_driver_returns_the_commit(configure: Configure) -> None:
    config = configure()
    run = Run(f"{config.run.directory}/{config.run.name}")
    commit = Driver(config, run, AnnotationConsole()).go()
    assert commit is not None
    assert commit.counts["answered"] == 12
    assert commit.counts["cost"] == pytest.approx(12 * (50 * 1000 + 7 * 10_000) / 1e6)
