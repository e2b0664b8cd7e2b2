"""The page of an evaluation: a policy or a served model beside the run's own policies."""

from collections.abc import Mapping, Sequence
from typing import Any

from raypipe.artifacts import Run
from raypipe.config import Config
from raypipe.report.page import set_page


def write(
    config: Config,
    run: Run,
    *,
    scope: str,
    table: Sequence[Mapping[str, Any]],
) -> str:
    """Write ``report/evaluation-<name>.html`` and return where it is.

    Args:
        scope: of the evaluation.
        table: metrics of the eval split with ``name`` and ``gain`` (by how much the judged policy
            is ahead, paired on the same queries; or None), the judged policy first.
    """
    path = f"report/evaluation-{scope.rpartition('/')[2]}.html"
    page = set_page(
        "evaluation.html.j2",
        config=config,
        judged=table[0],
        table=table,
    )
    run.replace(path, page)
    return run.path(path)
