"""The driver: goes through prepare, SFT and rounds, and knows what is done from commits alone.

It wires the stages and is the only one that knows them all; no stage knows the driver or another
stage. Every stage is called every time: one that is committed with the same fingerprint returns
its manifest at once, so that the same command begins, resumes and repeats a run.

    prepare → [pretrained: sample, evaluate] → sft → [sft: sample, vote, evaluate]
            → per round: train → [round: sample, vote, evaluate] → gate → alarm
"""

import time
from collections.abc import Callable, Iterable
from dataclasses import replace

import raypipe.catalog.stage as catalog
import raypipe.consensus.stage as consensus
import raypipe.evaluation.stage as evaluation
import raypipe.report.stage as report
import raypipe.sampling.stage as sampling
import raypipe.training.stage as training
from raypipe.attributes.pool_slices import WHOLE, Slice, slice_of_round
from raypipe.config import Config
from raypipe.errors import CollapseError, InputError, NonFiniteLossError
from raypipe.models.policies import PRETRAINED, SFT, policy, round_name
from raypipe.rounds import summary
from raypipe.rounds.alarm import Measured, collapse, gain_of
from raypipe.rounds.console import print_decision, print_summary
from raypipe.rounds.gate import GateDecision, best, decide, next_start
from raypipe.rounds.tracker_metrics import points_of, step_of
from raypipe.runtime.cluster import ray_session
from raypipe.runtime.console import Console
from raypipe.runtime.tracking import Tracking, tracked
from raypipe.store.artifacts import Run
from raypipe.store.manifest import Commit
from raypipe.store.paths import CATALOG, Paths
from raypipe.store.runs import open_run
from raypipe.summaries import (
    ACCEPTED,
    COLLAPSED,
    DIVERGED,
    NO_PAIRS,
    START,
    TRAINED,
    UNCHANGED,
    Evidence,
    Funnel,
    Metrics,
    RoundRecord,
    Summary,
)


def run_rounds(config: Config, console: Console) -> Summary:
    """Run, resume or repeat a whole run; returns its summary.

    Raises:
        ConfigError: a tracker that ``run.report_to`` names is not installed.
        RaypipeError: whatever stopped a stage. What was committed stays, and the same call
            goes on from there.
        NonFiniteLossError: a round's training diverged; summary and report are written, with the
            adapter before it as the one to use.
        CollapseError: a round's policy collapsed; the same, and the same call ends the same way.
    """
    started = time.time()
    run = open_run(config)
    console.begin(
        f"run {config.run.name}: {config.model.path}, {config.rounds.num_rounds} rounds of "
        f"{config.training.method} from {config.rounds.start}",
        run.location,
    )
    training.check_training(config)
    with tracked(config, run, console.note) as tracking:
        with ray_session(config.cluster):
            driver = RoundsDriver(config, run, console, tracking)
            written = driver.go()
        page = report.run(config, run)
        tracking.text("report", page)
        print_summary(console, written)
        console.end(page, time.time() - started)
        if driver.stopped is not None:
            raise driver.stopped
    return written


class RoundsDriver:
    """One pass over a run."""

    def __init__(
        self, config: Config, run: Run, console: Console, tracking: Tracking | None = None
    ) -> None:
        self.config = config
        self.run = run
        self.console = console
        self.tracking = tracking or Tracking()
        self.commits: dict[str, Commit] = {}
        self.policies: list[str] = []
        self.judged: list[GateDecision] = []
        self.rounds: list[RoundRecord] = []
        self.alarm: Evidence | None = None
        self.stopped: NonFiniteLossError | CollapseError | None = None
        """Why the rounds ended early; to be raised once summary and report are written."""

    def go(self) -> Summary:
        """Every stage in its order; returns the summary."""
        rounds = self.config.rounds
        self._prepare()
        start = PRETRAINED if rounds.start == "pretrained" else SFT
        first = 1 if rounds.num_rounds else None
        self._measure(PRETRAINED, first if start == PRETRAINED else None)
        if start == SFT:
            name = Paths(SFT).adapter
            trained = self._stage(name, lambda: training.run_sft(self.config, self.run))
            if trained.counts.get("unchanged"):
                self.console.note("sft: training changed nothing; the policy answers as pretrained")
            self._measure(SFT, first)
        self.judged.append(GateDecision(start, self._anchor_accuracy(start), START))
        for round_index in range(1, rounds.num_rounds + 1):
            if not self._round(round_index, reference=start):
                break
        return self._summarise(start)

    def _round(self, round_index: int, *, reference: str) -> bool:
        """Train and judge one round; False when no round can follow it."""
        rounds = self.config.rounds
        start = next_start(self.judged)
        source = self._source(round_index, start)
        pairs, queries = self._pairs(source)
        record = RoundRecord(
            round=round_index,
            start=start,
            source=source,
            pairs=pairs,
            queries=queries,
            outcome=TRAINED if pairs else NO_PAIRS,
        )
        self.rounds.append(record)
        if not pairs:
            self.console.note(f"round {round_index}: no preference pair; the adapter stays")
            return False
        name = round_name(round_index)
        frozen = reference if self.config.training.reference == "start" else start
        try:
            trained = self._stage(
                Paths(name).adapter,
                lambda: training.run_round(
                    self.config,
                    self.run,
                    name=name,
                    round_index=round_index,
                    start=start,
                    source=source,
                    reference=frozen,
                ),
            )
        except NonFiniteLossError as error:
            self.stopped = error
            self._amend(outcome=DIVERGED, reason=str(error))
            self.console.note(f"round {round_index}: {error}")
            return False
        if trained.counts.get("unchanged"):
            self._amend(outcome=UNCHANGED)
            self.console.note(f"round {round_index}: training changed nothing; {start} stays")
            return False
        self._measure(name, round_index + 1 if round_index < rounds.num_rounds else None)
        self._judge(name, dict.fromkeys((start, reference)))
        return self.alarm is None

    def _amend(self, **fields: object) -> None:
        self.rounds[-1] = self.rounds[-1].model_copy(update=fields)

    def _judge(self, name: str, earlier: Iterable[str]) -> None:
        """Gate and alarm on a round's policy. The alarm compares it with each of the earlier ones,
        the start of the round and that of round 1, since a collapse may creep."""
        accuracy = self._anchor_accuracy(name)
        judged = decide(self.judged, name, accuracy, self.config.rounds.max_anchor_drop)
        if self.config.rounds.alarm:
            found = (self._collapse(before, name) for before in earlier)
            self.alarm = next((evidence for evidence in found if evidence is not None), None)
        if self.alarm is not None:
            judged = replace(judged, decision=COLLAPSED)
        self.judged.append(judged)
        winner = best(self.judged)
        print_decision(self.console, judged, winner)
        self.tracking.log(step_of(name), {"gate/accepted": float(judged.decision == ACCEPTED)})
        self.tracking.text(f"gate/{name}", judged.decision)
        if self.alarm is not None:
            self.console.note(self.alarm.reason)
            self.stopped = CollapseError(
                f"{self.alarm.reason}. The run stops with {winner.policy} as the policy to use; "
                "rounds.alarm=false goes on"
            )

    def _collapse(self, before: str, after: str) -> Evidence | None:
        gain = evaluation.compare(self.config, self.run, before=before, after=after, split="anchor")
        earlier, later = self._measured(before), self._measured(after)
        if gain is None or earlier is None or later is None:
            return None
        return collapse(earlier, later, gain_of(gain), self.config.rounds)

    def _measured(self, name: str) -> Measured | None:
        """What the alarm compares; None where there are no verified anchor queries."""
        collapse_metrics = self._metrics(name).collapse
        if collapse_metrics is None:
            return None
        return Measured(name, self._anchor_accuracy(name), collapse_metrics)

    def _prepare(self) -> None:
        self._stage(CATALOG.listings, lambda: catalog.run(self.config, self.run))
        for name in (CATALOG.seed, CATALOG.truth):
            self.commits[name] = self.run.artifact(name).require_commit()

    def _measure(self, name: str, next_round: int | None) -> None:
        """Sample a policy, vote on its chains if a round will learn from them, and evaluate it.

        A policy that was the last of its run has no chains for a next round: when the run is
        continued with more rounds, those come from a draw of their own.
        """
        committed = self.run.artifact(Paths(name).chains).commit()
        if committed is not None:
            next_round = committed.fingerprint["round_index"]
        self._chains(name, policy_name=name, round_index=next_round, greedy=True)
        voted = next_round is not None
        if next_round is not None:
            self._vote(name, next_round)
        self._stage(
            Paths(name).evaluation,
            lambda: evaluation.run(self.config, self.run, scope=name, with_consensus=voted),
        )
        self.policies.append(name)

    def _source(self, round_index: int, start: str) -> str:
        """The scope whose chains a round learns from: its start policy's own, or a new draw."""
        own = self.commits[Paths(start).chains].fingerprint["round_index"]
        if own == round_index:
            return start
        scope = Paths.of_redraw(round_name(round_index))
        self._chains(scope, policy_name=start, round_index=round_index, greedy=False)
        self._vote(scope, round_index)
        return scope

    def _chains(
        self, scope: str, *, policy_name: str, round_index: int | None, greedy: bool
    ) -> None:
        sampled = policy(self.run, self.config.model, policy_name)
        self._stage(
            Paths(scope).chains,
            lambda: sampling.run(
                self.config,
                self.run,
                policy=sampled,
                scope=scope,
                round_index=round_index,
                greedy=greedy,
                pool=self._pool(round_index),
            ),
        )

    def _pool(self, round_index: int | None) -> Slice:
        """The part of the pool that a round learns from."""
        if round_index is None:
            return WHOLE
        return slice_of_round(round_index, self.config.rounds.pool_slices)

    def _vote(self, scope: str, round_index: int) -> None:
        self._stage(
            Paths(scope).consensus,
            lambda: consensus.run(self.config, self.run, scope=scope, round_index=round_index),
        )
        self.commits[Paths(scope).pairs] = self.run.artifact(Paths(scope).pairs).require_commit()

    def _pairs(self, scope: str) -> tuple[int, int]:
        """Training examples of a scope and the queries they come from."""
        funnel = Funnel.of(self.run.artifact(Paths(scope).consensus)).total
        if self.config.training.method == "self_learning":
            return funnel.queries.kept, funnel.queries.kept
        return funnel.pairs, funnel.queries.paired

    def _metrics(self, name: str) -> Metrics:
        return Metrics.of(self.run.artifact(Paths(name).evaluation))

    def _anchor_accuracy(self, name: str) -> float:
        accuracy = self._metrics(name).anchor.accuracy
        if accuracy is None:
            raise InputError("the anchor split has no queries: set catalog.anchor_share above 0")
        return accuracy

    def _summarise(self, start: str) -> Summary:
        winner = best(self.judged).policy
        comparison = None
        if winner != start:
            comparison = evaluation.compare(self.config, self.run, before=start, after=winner)
        return summary.write_summary(
            self.config,
            self.run,
            policies=self.policies,
            judged=self.judged,
            rounds=self.rounds,
            commits=self.commits,
            comparison=comparison,
            alarm=self.alarm,
        )

    def _stage(self, name: str, work: Callable[[], Commit]) -> Commit:
        commit = self.commits[name] = self.console.run_stage(name, work)
        self.tracking.log(*points_of(self.run, name, commit, self.config.rounds.start))
        return commit
