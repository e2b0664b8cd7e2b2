import pytest

from raypipe.store.artifacts import Run
from tests.fakes.experiment_run import write_run


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """All stages up to a round that was rolled back. Shared: do not write artifacts into it."""
    return write_run(tmp_path_factory.mktemp("finished"), 48)
