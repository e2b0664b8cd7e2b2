"""The rounds' driver on scripted stages: every artifact is committed, none costs anything."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from raypipe.attributes.pool_slices import Slice
from raypipe.config import Config
from raypipe.errors import (
    NonFiniteLossError,
)
from raypipe.models.policies import ADAPTER_WEIGHTS, Policy
from raypipe.store.artifacts import Attempt, Run, get_or_commit
from raypipe.store.manifest import Commit
from raypipe.summaries import CollapseMetrics, Comparison, Funnel, Metrics, Summary
from tests.fakes.documents import WELL, funnel, metrics


class Killed(BaseException):
    """What ends a process between two stages."""


@dataclass
class ScriptedRounds:
    """Stand in for the stage modules: commit a file each, and remember what was made.

    ``anchor`` is the anchor accuracy of a policy, ``collapse`` its metrics of collapse, ``pairs``
    the number of pairs of a scope.
    """

    anchor: dict[str, float] = field(default_factory=dict)
    collapse: dict[str, CollapseMetrics] = field(default_factory=dict)
    pairs: dict[str, int] = field(default_factory=dict)
    kill_before: str | None = None
    diverges: str | None = None
    unchanged: tuple[str, ...] = ()
    made: list[str] = field(default_factory=list)
    trained: dict[str, dict[str, Any]] = field(default_factory=dict)
    sampled: dict[str, tuple[str, int | None]] = field(default_factory=dict)
    pools: dict[str, Slice] = field(default_factory=dict)

    def _commit(
        self, run: Run, name: str, fingerprint: dict[str, Any], files: dict[str, Any]
    ) -> Commit:
        def make(attempt: Attempt) -> Commit:
            if name == self.kill_before:
                raise Killed
            self.made.append(name)
            for file_name, values in files.items():
                attempt.write_json(file_name, values)
            as_it_was = name.removesuffix("/adapter") in self.unchanged
            return attempt.commit(counts={"unchanged": True} if as_it_was else {})

        return get_or_commit(run.artifact(name), fingerprint, make)

    def prepare(self, config: Config, run: Run) -> Commit:
        for name in ("catalog/seed", "catalog/truth"):
            get_or_commit(run.artifact(name), {}, lambda attempt: attempt.commit())
        return self._commit(run, "catalog/listings", {"seed": config.run.seed}, {})

    def sample(
        self,
        config: Config,
        run: Run,
        *,
        policy: Policy,
        scope: str,
        round_index: int | None,
        greedy: bool,
        pool: Slice,
    ) -> Commit:
        self.sampled[scope] = (policy.name, round_index)
        self.pools[scope] = pool
        assert greedy == (scope == policy.name)
        fingerprint = {"policy_id": policy.policy_id, "round_index": round_index}
        return self._commit(run, f"{scope}/chains", fingerprint, {"scope.json": scope})

    def vote(self, config: Config, run: Run, *, scope: str, round_index: int) -> Commit:
        num_pairs = self.pairs.get(scope, 5)
        get_or_commit(run.artifact(f"{scope}/pairs"), {}, lambda attempt: attempt.commit())
        fingerprint = {
            "round_index": round_index,
            "upstream": run.artifact(f"{scope}/chains").require_commit().digest,
        }
        return self._commit(
            run,
            f"{scope}/consensus",
            fingerprint,
            {Funnel.FILE: funnel(num_pairs, paired=min(num_pairs, 2)).to_json()},
        )

    def evaluate(self, config: Config, run: Run, *, scope: str, with_consensus: bool) -> Commit:
        assert with_consensus == (run.artifact(f"{scope}/consensus").commit() is not None)
        collapse = self.collapse.get(scope, WELL)
        written = metrics(0.5, self.anchor.get(scope, 0.5), collapse=collapse)
        return self._commit(run, f"{scope}/evaluation", {}, {Metrics.FILE: written.to_json()})

    def compare(
        self, config: Config, run: Run, *, before: str, after: str, split: str = "eval"
    ) -> Comparison:
        gain = 0.0
        if split == "anchor":
            gain = self.anchor.get(after, 0.5) - self.anchor.get(before, 0.5)
        return Comparison(start=before, to=after, difference=gain, ci95=(gain, gain), queries=1)

    def run_sft(self, config: Config, run: Run) -> Commit:
        return self._commit(run, "sft/adapter", {}, {ADAPTER_WEIGHTS: "sft"})

    def run_round(
        self, config: Config, run: Run, *, name: str, round_index: int, **how: str
    ) -> Commit:
        assert name == f"round-{round_index}"
        self.trained[name] = how
        if name == self.diverges:
            raise NonFiniteLossError("loss is nan at step 3, in p0/colour")
        return self._commit(run, f"{name}/adapter", how, {ADAPTER_WEIGHTS: name})


RunDriver = Callable[..., dict[str, Any]]


def names(written: Summary) -> list[str]:
    return [stage.name for stage in written.stages]
