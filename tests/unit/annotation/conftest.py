"""The fixtures of these tests."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from raypipe.config import Config
from tests.fakes.annotation_server import KEY, Configure, in_json
from tests.fakes.catalog_files import CatalogFiles
from tests.fakes.chat_server import ChatServer, shorten_pauses


@pytest.fixture
def server() -> Iterator[ChatServer]:
    with ChatServer(in_json) as server:
        yield server


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANNOTATE_KEY", KEY)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    shorten_pauses(monkeypatch)


@pytest.fixture
def shop(tmp_path: Path) -> CatalogFiles:
    """Twelve shoes and six watches; s00 is verified, and s01 is of the same family."""
    shop = CatalogFiles(tmp_path / "shop")
    for index in range(12):
        shop.add(f"s{index:02}", 20 * index, group_id="family" if index < 2 else None)
    for index in range(6):
        shop.add(f"w{index}", 256 * 50 + 20 * index, vertical="watch")
    shop.truth["s00"] = [{"attribute": "color", "value": "Red"}]
    shop.write()
    (shop.directory / "seed.parquet").unlink()
    return shop


@pytest.fixture
def configure(shop: CatalogFiles, server: ChatServer, tmp_path: Path) -> Configure:
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
