"""A small shop for every test, and a run to prepare it in."""

import time
from pathlib import Path

import pytest

from raypipe.catalog.fetch import Fetcher
from raypipe.config import FetchConfig
from raypipe.store.artifacts import Run
from tests.fakes.catalog_files import CatalogFiles, photo
from tests.fakes.fetching import LOOPBACK, NAMES, SIGNATURE
from tests.fakes.images_server import ImagesServer


@pytest.fixture
def shop(tmp_path: Path) -> CatalogFiles:
    """Twelve listings with one photo each: two annotated, four verified, six unlabeled."""
    shop = CatalogFiles(tmp_path / "shop")
    for index in range(12):
        shop.add(f"L{index:02}", index)
    for index in range(2):
        shop.seed[f"L{index:02}"] = [
            {"attribute": "color", "reasoning": "It looks red.", "answer": "crimson"},
            {"attribute": "heel", "reasoning": None, "answer": "kitten-heel"},
        ]
    for index in range(2, 6):
        shop.truth[f"L{index:02}"] = [{"attribute": "color", "value": "Blue"}]
        shop.stated_splits[f"L{index:02}"] = "anchor" if index == 2 else "eval"
    return shop


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(str(tmp_path / "run"))


@pytest.fixture
def server():
    with ImagesServer() as server:
        server.image("/photo.png", photo(1))
        yield server


@pytest.fixture
def slept():
    return []


@pytest.fixture
def fetching(server, slept):
    """Makes fetchers for which 127.0.0.1 is the public internet."""
    opened = []

    def make(resolve=lambda host: NAMES.get(host, [host]), clock=time.monotonic, **changes):
        values = {"schemes": ("http",), "hosts": ("*.shop.com",), "timeout_s": 10} | changes
        fetcher = Fetcher(
            FetchConfig(**values),
            resolve=resolve,
            is_allowed_address=lambda address: address == LOOPBACK,
            sleep=slept.append,
            clock=clock,
        )
        opened.append(fetcher)
        return fetcher

    yield make
    for fetcher in opened:
        fetcher.__exit__(None, None, None)


@pytest.fixture
def uri(server):
    return lambda path, host="cdn.shop.com": f"http://{host}:{server.port}{path}?{SIGNATURE}"
