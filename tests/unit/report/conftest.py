import pytest
from experiment import write_run

from raypipe.artifacts import Run


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """All stages up to a round that was rolled back. Shared: do not write artifacts into it."""
    return write_run(tmp_path_factory.mktemp("finished"), 48)
