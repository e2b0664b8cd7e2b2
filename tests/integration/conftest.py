import pytest

from tests.fakes import small_run


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> small_run.FinishedRun:
    return small_run.finished(tmp_path_factory.getbasetemp())
