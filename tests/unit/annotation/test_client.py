"""Servers that fail, now and then or for good."""

import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from raypipe.errors import ConfigError, EndpointError, InputError
from tests.fakes.annotation_server import (
    KEY,
    Configure,
    answers,
    attribute_of,
    go,
    in_json,
    seed_rows,
)
from tests.fakes.catalog_files import CatalogFiles
from tests.fakes.chat_server import Answer, Asked, ChatServer, completion


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
    configure: Configure, shop: CatalogFiles, server: ChatServer
) -> None:
    server.answer = faulty(in_json, every=3)
    go(configure(max_attempts=8))
    assert {row["reason"] for row in answers(configure())} == {"ok"}
    assert len(server.asked) > 12


def test_a_silent_server_is_asked_again(
    configure: Configure, shop: CatalogFiles, server: ChatServer
) -> None:
    turns = iter(range(1 << 30))

    def slow(asked: Asked) -> tuple[int, Any]:
        if next(turns) == 2:
            time.sleep(3)
        return in_json(asked)

    server.answer = slow
    go(configure(timeout_s=0.5))
    assert {row["reason"] for row in answers(configure())} == {"ok"}
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
    assert {row["reason"] for row in answers(configure())} == {"ok"}


def test_a_server_that_fails_for_good_ends_the_call_and_the_next_asks_only_the_rest(
    configure: Configure, shop: CatalogFiles, server: ChatServer
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
    configure: Configure, shop: CatalogFiles, server: ChatServer
) -> None:
    turns = iter(range(1 << 30))
    server.answer = lambda asked: (
        (500, {"error": {"message": "oops"}}) if next(turns) == 3 else in_json(asked)
    )
    config = configure(catalog={"max_quarantined": 0.2}, max_attempts=1, concurrency=1)
    go(config)
    rows = Counter((row["reason"], row["text"] == "") for row in answers(config))
    assert rows == {("ok", False): 11, ("endpoint_error", True): 1}


def test_what_failed_is_asked_by_the_next_call_and_then_in_the_seed(
    configure: Configure, shop: CatalogFiles, server: ChatServer
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
    configure: Configure, shop: CatalogFiles, server: ChatServer
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
