"""A seed annotated by a scripted server: what is paid for, kept and asked again."""

import json
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raypipe.annotation.driver import AnnotationDriver
from raypipe.catalog import stage as catalog
from raypipe.config import RunConfig
from raypipe.errors import SpendingLimitError
from raypipe.runtime.console import Console
from raypipe.schemas import SEED
from raypipe.store.artifacts import Run
from tests.fakes.annotation_server import (
    KEY,
    TOKENS,
    VALUES,
    Configure,
    answers,
    attribute_of,
    go,
    in_json,
    seed_rows,
)
from tests.fakes.catalog_files import CatalogFiles
from tests.fakes.chat_server import Asked, ChatServer, completion


def test_a_seed_is_annotated_and_the_next_run_has_it(
    configure: Configure, shop: CatalogFiles, server: ChatServer, tmp_path: Path
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
    assert {row["reason"] for row in answers(config)} == {"ok"}
    run = Run(str(tmp_path / "next"))
    catalog.run(configure(catalog={"max_quarantined": 0.1}), run)  # s01 is a relative of s00
    prepared = run.artifact("catalog/seed", SEED).read().to_pylist()
    assert {row["listing_id"] for row in prepared} == set(seed)
    assert {answer["reasoning"] for row in prepared for answer in row["answers"]} == {"It shows."}


def test_the_verified_and_their_relatives_are_not_annotated(
    configure: Configure, shop: CatalogFiles
) -> None:
    go(configure(listings_per_vertical=100))
    assert set(seed_rows(shop)) == {f"s{index:02}" for index in range(2, 12)} | {
        f"w{index}" for index in range(6)
    }


def test_the_same_command_pays_for_nothing_twice_and_more_listings_only_add(
    configure: Configure, shop: CatalogFiles, server: ChatServer
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
    configure: Configure, shop: CatalogFiles, server: ChatServer
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
    configure: Configure, shop: CatalogFiles, server: ChatServer, tmp_path: Path
) -> None:
    go(configure())
    first = seed_rows(shop)
    server.asked.clear()
    later = configure().model_copy(update={"run": RunConfig(directory=str(tmp_path), name="b")})
    go(later)
    assert server.asked == []
    assert seed_rows(shop) == first


def test_a_reviewed_listing_keeps_its_place(
    configure: Configure, shop: CatalogFiles, server: ChatServer
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
    configure: Configure, shop: CatalogFiles, server: ChatServer
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
    configure: Configure, shop: CatalogFiles, server: ChatServer
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
    configure: Configure, shop: CatalogFiles, server: ChatServer
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


def test_the_key_is_in_no_file_that_a_run_leaves(
    configure: Configure, shop: CatalogFiles, server: ChatServer, capsys: pytest.CaptureFixture[str]
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


def test_the_driver_returns_the_commit(configure: Configure) -> None:
    config = configure()
    run = Run(f"{config.run.directory}/{config.run.name}")
    commit = AnnotationDriver(config, run, Console()).go()
    assert commit is not None
    assert commit.counts["answered"] == 12
    assert commit.counts["cost"] == pytest.approx(12 * (50 * 1000 + 7 * 10_000) / 1e6)
