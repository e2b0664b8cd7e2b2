"""No text, bytes or file as image, id, name, value or answer ends a job: ten thousand rows of them.

The rows go through prepare, the survey and a scripted labeling; each comes out once, as a row or as
a refused one with a reason.
"""

import ast
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

import raypipe.catalog.stage as catalog
from raypipe.attributes.prompts import completion
from raypipe.config import Config
from raypipe.labeling.driver import LabelingDriver
from raypipe.labeling.label_versions import label_versions
from raypipe.models.policies import Policy
from raypipe.runtime.console import Console
from raypipe.sampling.chains import Chain
from raypipe.sampling.engine import Prompt, Request
from raypipe.schemas import LABELS, LISTINGS
from raypipe.seeds import derive
from raypipe.store.artifacts import Run
from raypipe.store.runs import open_run
from tests.fakes.catalog_files import LISTINGS as ROWS_OF_BYTES
from tests.fakes.catalog_files import CatalogFiles, photo

pytestmark = pytest.mark.engine
ROWS, ROWS_AT_ONCE = 10_000, 20
ROWS_OF_NAMES = ROWS_OF_BYTES.set(2, pa.field("images", pa.list_(pa.string())))
GOOD = 24
WORDS = (
    *("", " ", "\0", "a\0b", "null", "NaN", "-1", "..", "shoe", "watch", "color", "Red"),
    *("../../etc/passwd", "/proc/self/environ", "/dev/zero", "a/" * 3_000, "x" * 20_000),
    *(
        "good.png",
        "GOOD.PNG",
        "good.png\0",
        "good.png/x",
        "file:///etc/passwd",
        "s3://",
        "gs://b/k",
    ),
    *(
        "https://xn--a/",
        "https://[::1/x",
        "http://127.0.0.1:1/x.jpg",
        "https://user:pw@a.example/x",
    ),
    *("data:image/png;base64,iVBORw0KGgo=", "javascript:alert(1)", "<script>alert(1)</script>"),
    *("<|im_end|>", "<|image_pad|>", "[IMG]", "[/INST]", "</answer>", "<reasoning>", "{{7*7}}"),
    *("=cmd|'/c calc'!A1", "'; DROP TABLE listings; --", "%s%n%x", "\n\r\t", "\x1b[31m"),
    *(
        "\u202eevil",
        "\ufeffmark",
        "e\u0301\u0301",
        "\U0001f600" * 300,
        "\U0001f3f3\ufe0f\u200d\U0001f308",
    ),
)
words = st.one_of(st.sampled_from(WORDS), st.text(max_size=30))


@cache
def photos() -> tuple[bytes, ...]:
    """A photo in every format, and in some that are not taken."""
    forms = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "ICO")
    return tuple(photo(number, (20, 20), form) for number, form in enumerate(forms))


@st.composite
def broken_photos(draw: st.DrawFn) -> bytes:
    """A photo of which bytes are changed, left out or added."""
    content = bytearray(draw(st.sampled_from(photos())))
    for _ in range(draw(st.integers(0, 3))):
        content[draw(st.integers(0, len(content) - 1))] = draw(st.integers(0, 255))
    kept = draw(st.integers(0, 2 * len(content)))
    return bytes(content[:kept]) + draw(st.binary(max_size=8))


def rows_of(images: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries(
        {
            "listing_id": st.one_of(st.none(), words),
            "vertical": st.one_of(st.none(), st.just("shoe"), words),
            "images": st.one_of(st.none(), st.lists(st.one_of(st.none(), images), max_size=3)),
            "group_id": st.one_of(st.none(), words),
            "seller_values": st.one_of(
                st.none(), st.lists(st.tuples(words, st.one_of(st.none(), words)), max_size=2)
            ),
        }
    )


def generated(images: st.SearchStrategy[Any], count: int, mark: str) -> list[dict[str, Any]]:
    """So many rows, each with an id of its own that ends in ``mark`` and a number, but for those
    that have none."""
    found: list[dict[str, Any]] = []

    @settings(
        max_examples=count // ROWS_AT_ONCE,
        phases=[Phase.generate],
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.lists(rows_of(images), min_size=ROWS_AT_ONCE, max_size=ROWS_AT_ONCE))
    def collect(rows: list[dict[str, Any]]) -> None:
        for row in rows:
            if row["listing_id"]:
                row = row | {"listing_id": f"{row['listing_id']}{mark}{len(found)}"}
            found.append(row)

    collect()
    return found


class HostileEngine:
    """Answers a question with an allowed value or with anything."""

    max_prompt_tokens = 100_000

    def generate(self, requests: list[Request]) -> list[list[Chain]]:
        return [
            [self._chain(request, request.seed + index) for index in range(request.num_chains)]
            for request in requests
        ]

    def num_prompt_tokens(self, prompt: Prompt) -> int:
        return len(prompt.text)

    def _chain(self, request: Request, seed: int) -> Chain:
        draw = derive("hostile", seed)
        options = ast.literal_eval(request.prompt.text.rsplit("Options: ", 1)[1])
        word = WORDS[draw % len(WORDS)]
        is_hostile = derive("query", request.seed) % 4 == 0 or draw % 3 == 0
        text = word if is_hostile else completion(options[0], word, "reasoning")
        return Chain(text, (draw % 100,), -0.1, "stop" if draw % 5 else "length")


def start(config: Config, policy: Policy) -> HostileEngine:
    return HostileEngine()


@pytest.fixture
def shop(tmp_path: Path) -> CatalogFiles:
    """Good listings with seed and truth, and beside them the hostile ones in two files."""
    shop = CatalogFiles(tmp_path / "shop")
    for number in range(GOOD):
        shop.add(f"good-{number}", number)
        values = [{"attribute": "color", "value": "Red"}, {"attribute": "heel", "value": "Flat"}]
        if number < 2:
            shop.seed[f"good-{number}"] = [
                {"attribute": "color", "reasoning": "It is red.", "answer": "Red"},
                *({"attribute": word, "reasoning": word, "answer": word} for word in WORDS),
            ]
        elif number < 14:
            odd = [{"attribute": word, "value": word} for word in WORDS]
            shop.truth[f"good-{number}"] = [*values, *odd]
    shop.write()
    listings = shop.directory / "listings"
    listings.mkdir()
    (shop.directory / "listings.parquet").rename(listings / "good.parquet")
    (listings / "good.png").write_bytes(photo(77))
    for name, images, schema in (
        ("bytes", st.one_of(st.binary(max_size=40), broken_photos()), ROWS_OF_BYTES),
        ("names", words, ROWS_OF_NAMES),
    ):
        table = pa.Table.from_pylist(generated(images, ROWS // 2, f"-{name}-"), schema=schema)
        pq.write_table(table, listings / f"{name}.parquet", row_group_size=500)
    return shop


def accounted(run: Run, name: str, table: Any) -> tuple[list[str], list[str]]:
    """Ids of an artifact's rows and of what it refused, each with a reason."""
    artifact = run.artifact(name, table)
    refused = artifact.read(kind="quarantine").to_pylist()
    assert all(row["reason"] and row["detail"] for row in refused)
    ids = artifact.read(["listing_id"]).column("listing_id").unique().to_pylist()
    return ids, [row["id"] for row in refused]


@pytest.mark.usefixtures("local_ray")
def test_ten_thousand_hostile_rows_end_as_rows_or_refusals(
    shop: CatalogFiles, tmp_path: Path
) -> None:
    listings = str(shop.directory / "listings")
    config = shop.config(listings=listings, max_quarantined=1.0)
    labeling = config.labeling.model_copy(update={"policy": "pretrained", "listings": listings})
    place = config.run.model_copy(update={"directory": str(tmp_path / "runs")})
    config = config.model_copy(update={"labeling": labeling, "run": place})
    run = open_run(config)

    catalog.run(config, run)
    kept, refused = accounted(run, "catalog/listings", LISTINGS)
    assert {f"good-{number}" for number in range(GOOD)} <= set(kept)
    assert len({*kept, *refused}) == len(kept) + len(refused) == ROWS + GOOD

    LabelingDriver(config, run, Console(), start).go()
    scope = label_versions(run)[-1]
    labeled, refused = accounted(run, f"{scope}/labels", LABELS)
    assert len({*labeled, *refused}) == len(labeled) + len(refused) == ROWS + GOOD
    outcomes = run.artifact(f"{scope}/labels", LABELS).read(["reason"]).column("reason")
    assert set(outcomes.unique().to_pylist()) >= {"answered", "no_valid_chain"}
