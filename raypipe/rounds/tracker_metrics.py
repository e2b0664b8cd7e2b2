"""What trackers get from a stage: figures by tag, at the round that they belong to.

| tag | what |
|---|---|
| ``<stage>/seconds``, ``rows``, ``quarantined``, and each count of its commit | what it took |
| ``funnel/…`` | where chains and queries went, of the pool |
| ``eval/…``, ``anchor/…`` | accuracy with its interval (``low``, ``high``), share of invalid |
| ``collapse/…`` | entropy, confidence and unanimity on the anchor split |
| ``gate/accepted`` | 1 or 0 |

Step 0 is the policy that round 1 starts from, step ``r`` the policy of round ``r``. The base model
of a run that starts from SFT has the tags ``pretrained/…``, a draw
beside a policy's own ``draw/…``.
"""

from collections.abc import Mapping
from typing import Any

from raypipe.config import flatten
from raypipe.models.policies import PRETRAINED
from raypipe.store.artifacts import Run
from raypipe.store.manifest import Commit
from raypipe.store.paths import is_of_round, is_redraw
from raypipe.summaries import Funnel, Metrics


def step_of(scope: str) -> int:
    """The round that a scope belongs to."""
    return int(scope.split("-")[1]) if is_of_round(scope) else 0


def points_of(run: Run, name: str, commit: Commit, start: str) -> tuple[int, dict[str, float]]:
    """The step and the values of a stage.

    Args:
        name: of its artifact.
        start: the policy that round 1 starts from.
    """
    scope, _, stage = name.rpartition("/")
    values = _of_commit(stage, commit)
    if stage == "consensus":
        values |= _numbers("funnel/", Funnel.of(run.artifact(name)).total.model_dump())
    if stage == "evaluation":
        values |= _of_metrics(Metrics.of(run.artifact(name)))
    prefix = ""
    if scope == PRETRAINED != start:
        prefix = "pretrained/"
    elif is_redraw(scope):
        prefix = "draw/"
    return step_of(scope), {prefix + tag: value for tag, value in values.items()}


def _of_commit(stage: str, commit: Commit) -> dict[str, float]:
    figures = {
        "seconds": commit.seconds,
        "rows": commit.rows,
        "quarantined": commit.quarantined,
        **commit.counts,
    }
    return _numbers(f"{stage}/", figures)


def _of_metrics(metrics: Metrics) -> dict[str, float]:
    figures: dict[str, Any] = {}
    for split, measured in (("eval", metrics.eval), ("anchor", metrics.anchor)):
        low, high = measured.ci95 or (None, None)
        figures[split] = {"accuracy": measured.accuracy, "invalid": measured.invalid}
        figures[split] |= {"low": low, "high": high}
    if metrics.collapse is not None:
        figures["collapse"] = metrics.collapse.model_dump(exclude={"queries", "overpredicted"})
    return _numbers("", figures)


def _numbers(prefix: str, values: Mapping[str, Any]) -> dict[str, float]:
    """Every number in nested values, by a tag with slashes."""
    return {
        prefix + key.replace(".", "/"): value
        for key, value in flatten(values).items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }
