"""``summary.json``: what a run came to, derived from its commits alone.

    {"version": 1, "run": name, "model": path, "method": "dpo" | "self_learning",
     "stages": [{"name": "pretrained" | "sft" | "round-1" …, "accuracy": 0-1, "ci95": [lo, hi],
                 "queries": n, "invalid": share, "anchor_accuracy": 0-1,
                 "decision": null | "accepted" | "rolled_back" | "collapsed",
                 "policy_id": hex}],
     "best": name of the policy to use,
     "alarm": null | the fields of summaries.Evidence,
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

from raypipe.config import Config
from raypipe.rounds.gate import GateDecision, best
from raypipe.store.artifacts import Run
from raypipe.store.manifest import Commit
from raypipe.store.paths import Paths
from raypipe.summaries import (
    START,
    Comparison,
    Decision,
    Evidence,
    Funnel,
    FunnelCounts,
    Metrics,
    RoundRecord,
    StageSummary,
    Summary,
)


def write_summary(
    config: Config,
    run: Run,
    *,
    policies: Sequence[str],
    judged: Sequence[GateDecision],
    rounds: Sequence[RoundRecord],
    commits: Mapping[str, Commit],
    comparison: Comparison | None,
    alarm: Evidence | None,
) -> Summary:
    """Write and return the summary of a run."""
    decisions = {judgement.policy: judgement.decision for judgement in judged}
    summary = Summary(
        run=config.run.name,
        model=config.model.path,
        method=config.training.method,
        stages=tuple(_stage(run, commits, name, decisions.get(name)) for name in policies),
        best=best(judged).policy if judged else policies[-1],
        alarm=alarm,
        comparison=comparison,
        funnel=_funnels(run, commits),
        pairs=tuple(rounds),
        unchanged=tuple(name for name, c in commits.items() if c.counts.get("unchanged")),
        digests={name: commit.digest for name, commit in commits.items()},
        seconds={name: commit.seconds for name, commit in commits.items()},
        quarantined={name: c.quarantined for name, c in commits.items() if c.quarantined},
        within={name: parts for name, c in commits.items() if (parts := _within(c))},
    )
    run.replace(Summary.FILE, json.dumps(summary.to_json(), indent=1).encode())
    return summary


def _stage(
    run: Run, commits: Mapping[str, Commit], name: str, decision: Decision | None
) -> StageSummary:
    metrics = Metrics.of(run.artifact(Paths(name).evaluation))
    return StageSummary(
        name=name,
        accuracy=metrics.eval.accuracy,
        ci95=metrics.eval.ci95,
        queries=metrics.eval.queries,
        invalid=metrics.eval.invalid,
        anchor_accuracy=metrics.anchor.accuracy,
        decision=None if decision == START else decision,
        policy_id=commits[Paths(name).chains].fingerprint["policy_id"],
    )


def _within(commit: Commit) -> dict[str, float]:
    """The parts of a stage's time: counts whose names end in "_s"."""
    counts = commit.counts.items()
    return {name.removesuffix("_s"): value for name, value in counts if name.endswith("_s")}


def _funnels(run: Run, commits: Mapping[str, Commit]) -> dict[str, FunnelCounts]:
    return {
        Paths.of(name): Funnel.of(run.artifact(name)).total
        for name in commits
        if name == Paths.of(name).consensus
    }
