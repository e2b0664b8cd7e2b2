"""The page of an evaluation: a policy or a served model beside the run's own policies."""

from collections.abc import Sequence
from dataclasses import dataclass

from raypipe.config import Config
from raypipe.report.page import set_page
from raypipe.store.artifacts import Run
from raypipe.store.paths import Paths
from raypipe.summaries import Comparison, SplitMetrics


@dataclass(frozen=True)
class EvaluatedPolicy:
    """A policy on the eval split; ``gain`` is by how much the evaluated policy is ahead of it,
    paired on the same queries, or None."""

    name: str
    metrics: SplitMetrics
    gain: Comparison | None


def write_evaluation_page(
    config: Config,
    run: Run,
    *,
    scope: str,
    table: Sequence[EvaluatedPolicy],
) -> str:
    """Write ``report/evaluation-<name>.html`` and return its path.

    Args:
        scope: of the evaluation.
        table: the evaluated policy first.
    """
    path = Paths(scope).evaluation_page
    page = set_page(
        "evaluation.html.j2",
        config=config,
        evaluated=table[0],
        table=table,
    )
    run.replace(path, page)
    return run.path(path)
