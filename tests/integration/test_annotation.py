"""A seed of 120 listings from a real vLLM server, through faults and kills."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml

from raypipe.embedded.catalog import write_catalog
from raypipe.schemas import ANNOTATIONS
from raypipe.store.artifacts import Run
from tests.fakes.faulty_proxy import FAULTS, FaultyProxy
from tests.fakes.small_run import ROOT
from tests.fakes.vllm_server import MODEL, vllm_server

pytestmark = pytest.mark.engine

KEY = "sk-canary-3d2c70"
CONCURRENCY = 16
FEW = 4
"""Listings of each vertical where their number does not matter: a third of the default."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with vllm_server(tmp_path_factory.mktemp("vllm") / "server.log") as url:
        yield url


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's own files: the embedded catalog's listings, without its seed."""
    directory = tmp_path_factory.mktemp("files") / "shop"
    write_catalog(
        str(directory), seed=4711, num_pool=240, num_eval=12, num_anchor=12, seed_per_vertical=1
    )
    return directory


def write_config(shop: Path, directory: Path, endpoint: str, **annotation: object) -> Path:
    """Of a copy of the shop, beside which the seed is written."""
    catalog = shutil.copytree(shop, directory / "catalog")
    values = {
        "run": {"directory": str(directory / "runs"), "name": "seed"},
        "catalog": {
            "listings": f"{catalog}/listings.parquet",
            "attribute_schema": f"{catalog}/schema.yaml",
            "truth": f"{catalog}/truth.parquet",
            "seed": f"{catalog}/annotated",
        },
        "annotation": {
            "endpoint": endpoint,
            "endpoint_model": MODEL,
            "api_key_variable": "ANNOTATE_KEY",
            "structured": "never",  # the nano speaks in the training format alone
            "image_size": 112,
            "max_tokens": 64,
            "concurrency": CONCURRENCY,
            "max_attempts": 6,
        }
        | annotation,
    }
    path = directory / "catalog.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def annotate(config: Path, *overrides: str) -> subprocess.Popen[str]:
    environment = os.environ | {"ANNOTATE_KEY": KEY, "NO_PROXY": "127.0.0.1"}
    return subprocess.Popen(
        [sys.executable, "jobs/annotate.py", f"--config={config}", *overrides],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def kept(directory: Path) -> list[Path]:
    return list(directory.glob("runs/seed/annotation/replies/*/*.json"))


def kill_after(config: Path, directory: Path, replies: int) -> None:
    """SIGKILL a call when so many replies are kept."""
    job = annotate(config)
    deadline = time.monotonic() + 300
    while len(kept(directory)) < replies:
        assert job.poll() is None, job.communicate()[0]
        assert time.monotonic() < deadline, "the replies to kill at never came"
        time.sleep(0.01)
    job.send_signal(signal.SIGKILL)
    job.communicate()


def test_faults_and_kills_cost_no_answer_and_no_money(
    server: str, shop: Path, tmp_path: Path
) -> None:
    with FaultyProxy(f"{server}/chat/completions", share=0.3) as proxy:
        config = write_config(shop, tmp_path, proxy.url)
        paid: list[Counter[bytes]] = []
        for replies in (150, 320):
            kill_after(config, tmp_path, replies)
            time.sleep(1)  # what was under way is answered to nobody
            paid.append(proxy.answered.copy())
            cut_off = proxy.faults["cut_off"]
            # Paid for and lost: what was under way, or cut off on its way.
            assert paid[-1].total() - len(kept(tmp_path)) <= CONCURRENCY * len(paid) + cut_off
        job = annotate(config)
        output, _ = job.communicate(timeout=600)
        assert job.returncode == 0, output
        faults, answered = proxy.faults, proxy.answered

    assert set(faults) == set(FAULTS)
    run = Run(str(tmp_path / "runs/seed"))
    (manifest,) = Path(run.location).glob("annotation/*/answers/_COMMIT.json")
    artifact = run.artifact(str(manifest.parent.relative_to(run.location)), ANNOTATIONS)
    rows = artifact.read().to_pylist()
    assert len({row["listing_id"] for row in rows}) == 120
    reasons = Counter(row["reason"] for row in rows)
    assert reasons["ok"] > 0.9 * len(rows)
    assert all(row["text"] or row["reason"] == "endpoint_error" for row in rows)
    # Twice was paid only for what a kill or a cut took away before it could be kept.
    assert answered.total() - len(answered) <= 2 * CONCURRENCY + faults["cut_off"]
    (seed,) = (tmp_path / "catalog/annotated").glob("*.parquet")
    given = {
        (row["listing_id"], answer["attribute"])
        for row in pq.read_table(seed).to_pylist()
        for answer in row["answers"]
    }
    assert given == {(row["listing_id"], row["attribute"]) for row in rows if row["reason"] == "ok"}
    files = [path for path in (tmp_path / "runs").rglob("*") if path.is_file()]
    assert [path for path in files if KEY.encode() in path.read_bytes()] == []
    assert KEY not in output


def test_what_is_kept_is_never_asked_again(server: str, shop: Path, tmp_path: Path) -> None:
    with FaultyProxy(f"{server}/chat/completions", share=0.0) as proxy:
        config = write_config(shop, tmp_path, proxy.url, listings_per_vertical=FEW)
        limit = "annotation.max_total_tokens=20000"
        job = annotate(config, limit)
        output, _ = job.communicate(timeout=300)
        assert job.returncode == 3, output
        assert "annotation.max_total_tokens=20,000" in output
        first = set(proxy.answered)
        assert len(kept(tmp_path)) == len(first)
        job = annotate(config)
        output, _ = job.communicate(timeout=300)
        assert job.returncode == 0, output
        assert set(proxy.answered.values()) == {1}


def test_a_call_that_is_asked_to_stop_keeps_what_is_under_way(
    server: str, shop: Path, tmp_path: Path
) -> None:
    with FaultyProxy(f"{server}/chat/completions", share=0.0) as proxy:
        config = write_config(shop, tmp_path, proxy.url, listings_per_vertical=FEW)
        job = annotate(config)
        deadline = time.monotonic() + 300
        while len(kept(tmp_path)) < 50 and time.monotonic() < deadline:
            time.sleep(0.01)
        job.send_signal(signal.SIGTERM)
        output, _ = job.communicate(timeout=60)
        assert job.returncode == 128 + signal.SIGTERM, output
        assert len(kept(tmp_path)) == proxy.answered.total()
