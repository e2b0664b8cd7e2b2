"""``summary.json``: what a run came to, derived from its commits alone.

    {"version": 1, "run": name, "model": path, "method": "dpo" | "self_learning",
     "stages": [{"name": "pretrained" | "sft" | "round-1" …, "accuracy": 0-1, "ci95": [lo, hi],
                 "queries": n, "invalid": share, "anchor_accuracy": 0-1,
                 "decision": null | "accepted" | "rolled_back" | "collapsed",
                 "policy_id": hex}],
     "best": name of the policy to use,
     "alarm": null | what alarm.Evidence holds, with "reason": text,
     "comparison": null | {"from": name, "to": name, "difference": x, "ci95": [lo, hi]},
     "funnel": {scope: totals}, "pairs": [{"round": n, "start": name, "source": scope,
                 "pairs": n, "queries": n, "reason": text,
                 "outcome": "trained" | "unchanged" | "no_pairs" | "diverged"}],
     "unchanged": [adapter that training left as it was],
     "digests": {artifact: hex}, "seconds": {artifact: s}, "quarantined": {artifact: rows},
     "within": {adapter: {"reference" | "steps": s}}}

A rerun that recomputes nothing writes the same bytes.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from raypipe.artifacts import Run
from raypipe.config import Config
from raypipe.manifest import Commit
from raypipe.rounds.alarm import Evidence
from raypipe.rounds.gate import Judged, best

PATH = "summary.json"


@dataclass(frozen=True)
class RoundRecord:
    """What a round had to train on. ``outcome`` is "trained", "no_pairs", "diverged", or
    "unchanged" where training left the adapter as it was: such a round has no policy."""

    round: int
    start: str
    source: str
    pairs: int
    queries: int
    outcome: str
    reason: str = ""
    """Why it is not trained, where that takes words."""


def write(
    config: Config,
    run: Run,
    *,
    policies: Sequence[str],
    judged: Sequence[Judged],
    rounds: Sequence[RoundRecord],
    commits: Mapping[str, Commit],
    comparison: Mapping[str, Any] | None,
    alarm: Evidence | None,
) -> dict[str, Any]:
    """Write and return the summary of a run."""
    decisions = {judgement.policy: judgement.decision for judgement in judged}
    stages = [_stage(run, commits, name, decisions.get(name)) for name in policies]
    summary = {
        "version": 1,
        "run": config.run.name,
        "model": config.model.path,
        "method": config.training.method,
        "stages": stages,
        "best": best(judged).policy if judged else policies[-1],
        "alarm": None if alarm is None else alarm.to_json(),
        "comparison": comparison,
        "funnel": _funnels(run, commits),
        "pairs": [asdict(record) for record in rounds],
        "unchanged": [name for name, c in commits.items() if c.counts.get("unchanged")],
        "digests": {name: commit.digest for name, commit in commits.items()},
        "seconds": {name: commit.seconds for name, commit in commits.items()},
        "quarantined": {name: c.quarantined for name, c in commits.items() if c.quarantined},
        "within": {name: parts for name, c in commits.items() if (parts := _within(c))},
    }
    run.replace(PATH, json.dumps(summary, indent=1).encode())
    return summary


def _stage(
    run: Run, commits: Mapping[str, Commit], name: str, decision: str | None
) -> dict[str, Any]:
    metrics = run.artifact(f"{name}/evaluation").read_json("metrics.json")
    measured = metrics["eval"]
    return {
        "name": name,
        "accuracy": measured["accuracy"],
        "ci95": measured["ci95"],
        "queries": measured["queries"],
        "invalid": measured["invalid"],
        "anchor_accuracy": metrics["anchor"]["accuracy"],
        "decision": None if decision == "start" else decision,
        "policy_id": commits[f"{name}/chains"].fingerprint["policy_id"],
    }


def _within(commit: Commit) -> dict[str, float]:
    """What a stage says of its own time: counts whose names end in "_s"."""
    counts = commit.counts.items()
    return {name.removesuffix("_s"): value for name, value in counts if name.endswith("_s")}


def _funnels(run: Run, commits: Mapping[str, Commit]) -> dict[str, Any]:
    return {
        name.removesuffix("/consensus"): run.artifact(name).read_json("funnel.json")["total"]
        for name in commits
        if name.endswith("/consensus")
    }
