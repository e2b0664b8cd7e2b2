"""Which listings are annotated."""

from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from raypipe.errors import ConfigError, InputError
from raypipe.schemas import ANNOTATIONS, CONSENSUS
from raypipe.store.artifacts import Run
from tests.fakes.annotation_server import Configure, go, seed_rows
from tests.fakes.catalog_files import CatalogFiles
from tests.fakes.chat_server import ChatServer


def test_listings_whose_chains_disagree_most_are_chosen(
    configure: Configure, shop: CatalogFiles, tmp_path: Path
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


def test_the_newest_vote_is_asked(configure: Configure, shop: CatalogFiles) -> None:
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


def test_listings_whose_photos_are_most_unlike_are_chosen(
    configure: Configure, shop: CatalogFiles
) -> None:
    go(configure(choose="diversity", listings_per_vertical=3))
    assert Counter(name[0] for name in seed_rows(shop)) == {"s": 3, "w": 3}


def test_a_broken_listing_costs_nothing_and_is_told(
    configure: Configure, shop: CatalogFiles, server: ChatServer
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
        ({"endpoint": None, "endpoint_model": None}, "annotation.endpoint_model must be set"),
        ({"seed": "seed.parquet"}, "holds another seed; make catalog.seed a directory"),
    ],
)
def test_what_cannot_be_annotated_says_why(
    configure: Configure, shop: CatalogFiles, changes: dict[str, Any], says: str
) -> None:
    shop.seed["s03"] = [{"attribute": "color", "reasoning": "r", "answer": "Red"}]
    shop.write()
    with pytest.raises(ConfigError, match=says):
        go(configure(**changes))


def test_a_seed_may_be_one_file_of_its_own(configure: Configure, shop: CatalogFiles) -> None:
    go(configure(seed="annotated.parquet"))
    go(configure(seed="annotated.parquet"))
    assert len(pq.read_table(shop.directory / "annotated.parquet")) == 8


def test_nothing_left_to_annotate_says_why(configure: Configure, shop: CatalogFiles) -> None:
    go(configure(listings_per_vertical=100))
    with pytest.raises(
        InputError, match=r"no listing is left to annotate: .*16 are annotated in another file"
    ):
        go(configure(listings_per_vertical=100, endpoint_model="n"))


def test_who_is_left_out_is_told(
    configure: Configure, shop: CatalogFiles, capsys: pytest.CaptureFixture[str]
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
    configure: Configure, shop: CatalogFiles, capsys: pytest.CaptureFixture[str]
) -> None:
    shop.add(None, 6000)
    shop.add("x" * 600, 6001)
    shop.write()
    (shop.directory / "seed.parquet").unlink()
    go(configure())
    assert "left out: 2 without an id that a listing can have" in capsys.readouterr().out
    assert {name for name in seed_rows(shop) if name.startswith(("(", "x"))} == set()


def test_a_refused_listing_is_replaced(
    configure: Configure, shop: CatalogFiles, server: ChatServer
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
