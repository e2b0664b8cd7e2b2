"""The rows of the embedded default, given the same chains, stay what they are.

``tests/data/chains.parquet`` holds the chains of round 1 of ``make round`` (``sft/chains``): an
engine does not promise the same text twice, and everything after it does.
"""

from pathlib import Path

import pyarrow.parquet as pq
import pytest

import raypipe.catalog.stage as catalog
import raypipe.consensus.stage as consensus
from raypipe import config as configuration
from raypipe.schemas import CHAINS, CONSENSUS, LISTINGS, PAIRS, Table
from raypipe.store.artifacts import Run
from raypipe.store.digest import digest_rows

DRAWN = Path(__file__).resolve().parents[1] / "data" / "chains.parquet"
DIGESTS = {
    "listings": "1096a7ba768362b98ff3d605c4cd495e",
    "consensus": "e0cec2ebd9a2141427512d304d6de217",
    "pairs": "ff7302748f72efc7a2357053636a6761",
}


@pytest.fixture(scope="module")
def voted(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The default's catalog, the chains, and the vote on them."""
    run = Run(str(tmp_path_factory.mktemp("run")))
    config = configuration.load()
    catalog.run(config, run)
    attempt = run.artifact("sft/chains", CHAINS).attempt({})
    attempt.write(pq.read_table(DRAWN))
    attempt.commit()
    consensus.run(config, run, scope="sft", round_index=1)
    return run


@pytest.mark.parametrize("table", [LISTINGS, CONSENSUS, PAIRS], ids=lambda table: table.name)
def test_rows_of_the_embedded_default_are_the_same(voted: Run, table: Table) -> None:
    scope = "catalog" if table is LISTINGS else "sft"
    rows = voted.artifact(f"{scope}/{table.name}", table).read()
    assert f"{digest_rows(rows):032x}" == DIGESTS[table.name]
