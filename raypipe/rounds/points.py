"""What a run's trackers are told of a stage: figures by tag, at the round that they belong to.

| tag | what |
|---|---|
| ``<stage>/seconds``, ``rows``, ``quarantined``, and each count of its commit | what it took |
| ``funnel/…`` | where chains and queries went, of the pool |
| ``eval/…``, ``anchor/…`` | accuracy with its interval (``low``, ``high``), share of invalid |
| ``signs/…`` | vital signs of the anchor split |
| ``gate/accepted`` | 1 or 0 |

Step 0 is the policy that round 1 starts from, step ``r`` the policy of round ``r``. The base model
of a run that starts from SFT is told as ``pretrained/…``, a draw beside a policy's own as
``draw/…``.
"""

from collections.abc import Mapping
from typing import Any

from raypipe.artifacts import Run
from raypipe.config import flatten
from raypipe.manifest import Commit
from raypipe.policies import PRETRAINED

VERIFIED = ("eval", "anchor")


def step_of(scope: str) -> int:
    """The round that a scope belongs to."""
    return int(scope.split("-")[1]) if scope.startswith("round-") else 0


def points_of(run: Run, name: str, commit: Commit, start: str) -> tuple[int, dict[str, float]]:
    """The step and the values of a stage.

    Args:
        name: of its artifact.
        start: the policy that round 1 starts from.
    """
    scope, _, stage = name.rpartition("/")
    values = _of_commit(stage, commit)
    if stage == "consensus":
        values |= _numbers("funnel/", run.artifact(name).read_json("funnel.json")["total"])
    if stage == "evaluation":
        values |= _of_metrics(run.artifact(name).read_json("metrics.json"))
    prefix = ""
    if scope == PRETRAINED != start:
        prefix = "pretrained/"
    elif scope.endswith("-draw"):
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


def _of_metrics(metrics: Mapping[str, Any]) -> dict[str, float]:
    found: dict[str, Any] = {}
    for split in VERIFIED:
        measured = metrics[split]
        low, high = measured.get("ci95") or (None, None)
        found[split] = {"accuracy": measured["accuracy"], "low": low, "high": high}
        found[split]["invalid"] = measured.get("invalid")
    if metrics.get("signs"):
        found["signs"] = {
            name: value for name, value in metrics["signs"].items() if name != "queries"
        }
    return _numbers("", found)


def _numbers(prefix: str, values: Mapping[str, Any]) -> dict[str, float]:
    """Every number in nested values, by a tag with slashes."""
    return {
        prefix + key.replace(".", "/"): value
        for key, value in flatten(values).items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }
