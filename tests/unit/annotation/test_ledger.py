"""Limits on what an annotation spends."""

import json
from pathlib import Path
from typing import Any

import pytest

from raypipe.errors import EndpointError, SpendingLimitError
from raypipe.store.artifacts import Run
from tests.fakes.annotation_server import TOKENS, Configure, go, in_json, seed_rows
from tests.fakes.catalog_files import CatalogFiles
from tests.fakes.chat_server import Asked, ChatServer, completion


@pytest.mark.parametrize("limit", ["max_total_tokens", "max_cost"])
def test_the_spending_limit_holds_to_within_the_requests_under_way(
    configure: Configure, shop: CatalogFiles, server: ChatServer, limit: str
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
    configure: Configure, shop: CatalogFiles, server: ChatServer
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
    with pytest.raises(EndpointError, match="reports no token usage"):
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
