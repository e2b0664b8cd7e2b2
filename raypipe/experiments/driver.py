"""The driver of a sweep: makes every arm, each after those that it needs, and what they share once.

    seed-<n>/pretrained: sample, evaluate            one engine session per policy, for its greedy
    seed-<n>/sft: train, sample, evaluate            chains and those that its arms learn from
    seed-<n>/sft-votes-<k>: vote                     one vote per policy and number of votes
    seed-<n>/<arm>: select, train, sample, evaluate  the arm's own part of the vote

What is done is known from commits alone, as in the driver of rounds: the same command begins,
resumes and extends a sweep, and arms that are finished are never made again.
"""

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

import raypipe.catalog.stage as catalog
import raypipe.consensus.stage as consensus
import raypipe.evaluation.stage as evaluation
import raypipe.experiments.report.stage as report
import raypipe.sampling.stage as sampling
import raypipe.training.stage as training
from raypipe import config as configuration
from raypipe.attributes.vote import min_votes
from raypipe.config import Config
from raypipe.consensus.subset import Subset, select
from raypipe.errors import NonFiniteLossError
from raypipe.experiments import aggregate
from raypipe.experiments.aggregate import RefusedArm
from raypipe.experiments.arms import Arm, plan_arms, sampled, scope_of, votes_of
from raypipe.experiments.console import print_arm, print_results
from raypipe.experiments.results import Results
from raypipe.models.policies import PRETRAINED, Policy, policy
from raypipe.runtime.cluster import ray_session
from raypipe.runtime.console import Console
from raypipe.store.artifacts import Run
from raypipe.store.manifest import Commit
from raypipe.store.paths import CATALOG, Paths
from raypipe.store.runs import open_run


def run_sweep(config: Config, console: Console, *, command: str) -> Results:
    """Make every arm of the configured sweep, and write ``results.json`` and the page.

    Args:
        command: what was typed, for the page.

    Raises:
        RaypipeError: whatever stopped a stage; the same call goes on from there. An arm whose
            training diverges, or that finds no pair, stops nothing: the results say why it has no
            figures.
    """
    started = time.time()
    run = open_run(config)
    arms = {seed: plan_arms(config, seed) for seed in config.sweep.seeds}
    console.begin(
        f"sweep {config.run.name}: {config.model.path}, {sum(map(len, arms.values()))} arms, "
        f"seeds {', '.join(map(str, arms))}",
        run.location,
    )
    for seed, planned in arms.items():
        for arm in planned:
            training.check_training(arm_config(config, arm, seed))
    with ray_session(config.cluster):
        console.run_stage(CATALOG.listings, lambda: catalog.run(config, run))
        refused = [refusal for seed in arms for refusal in _Seed(config, run, seed, console).go()]
    results = aggregate.gather(config, run, arms, refused, command=command)
    run.replace(Results.FILE, results.model_dump_json(indent=1).encode())
    page = report.write_sweep_report(run, results)
    print_results(console, results)
    console.end(page, time.time() - started)
    return results


@dataclass(frozen=True)
class SampledPolicy:
    """What a policy is sampled for: the round that learns from its chains, if any, and whether
    eval is sampled too."""

    round_index: int | None
    on_eval: bool

    def serves(self, wanted: "SampledPolicy") -> bool:
        """Whether nothing is missing."""
        learned = wanted.round_index is None or self.round_index is not None
        return learned and (self.on_eval or not wanted.on_eval)


class _Seed:
    """All arms of one seed."""

    def __init__(self, config: Config, run: Run, seed: int, console: Console) -> None:
        self._config, self._run, self._seed, self._console = config, run, seed, console
        self._arms = plan_arms(config, seed)
        self._sampled = sampled(self._arms)

    def go(self) -> list[RefusedArm]:
        """Every arm in its turn; those that could not be made, with the reason."""
        waiting, running = list(self._arms), dict[Any, Arm]()
        reasons: dict[str, str | None] = {}  # by settled arm; None where it has figures
        room = self._config.sweep.arms_at_once
        while waiting or running:
            for arm in _ready(waiting, reasons, room - len(running)):
                waiting.remove(arm)
                lacking = next((name for name in arm.needs if reasons[name]), None)
                if lacking is not None:
                    reasons[arm.name] = f"{lacking} has no policy: {reasons[lacking]}"
                elif room == 1:
                    reasons[arm.name] = self.make(arm)
                else:
                    self._console.stage(self._scope(arm.name))
                    running[_elsewhere(self._config, self._run, self._seed, arm)] = arm
                if arm.name in reasons:
                    print_arm(self._console, self._scope(arm.name), reasons[arm.name])
            if running:
                arm, reason = _first_done(running)
                reasons[arm.name] = reason
                print_arm(self._console, self._scope(arm.name), reason)
        return [RefusedArm(self._seed, name, why) for name, why in reasons.items() if why]

    def make(self, arm: Arm) -> str | None:
        """Everything an arm commits; the reason when it comes to no policy."""
        config, scope = arm_config(self._config, arm, self._seed), scope_of(self._seed, arm.name)
        run = self._run
        try:
            if arm.kind == "sft":
                self._stage(Paths(scope).adapter, lambda: training.run_sft(config, run, name=scope))
            if arm.kind == "learned" and (reason := self._learn(arm, config, scope)):
                return reason
        except NonFiniteLossError as error:
            return str(error)
        if arm.kind == "vote":
            self._evaluate(scope, config, with_consensus=False, vote_of=self._ceiling(arm.start))
        else:
            self._measure(arm, config, scope)
        return None

    def _measure(self, arm: Arm, config: Config, scope: str) -> None:
        """Sample the policy once, for its evaluation and for every arm that learns from it.

        A policy that was sampled for less than a larger sweep needs gets a draw beside the first.
        """
        ceiling = any(other.kind == "vote" and other.start == arm.name for other in self._arms)
        wanted = SampledPolicy(self._sampled.get(arm.name), ceiling)
        own = self._drawn(scope) or wanted
        policy = policy_of(self._run, config, arm, scope)
        self._sample(config, policy, scope, own, greedy=True)
        if not own.serves(wanted):  # once, for whatever a still larger sweep may need
            beside = SampledPolicy(self._sampled.get(arm.name, arm.round_index), on_eval=True)
            self._sample(config, policy, Paths.of_redraw(scope), beside, greedy=False)
        voted = None
        if own.round_index is not None:
            least = min_votes(config.consensus.threshold, config.sampling.num_chains)
            voted = self._vote(arm.name, own.round_index, least, config)
        self._evaluate(scope, config, with_consensus=voted is not None, consensus_of=voted)

    def _sample(
        self, config: Config, policy: Policy, scope: str, drawn: SampledPolicy, *, greedy: bool
    ) -> None:
        self._stage(
            Paths(scope).chains,
            lambda: sampling.run(
                config,
                self._run,
                policy=policy,
                scope=scope,
                round_index=drawn.round_index,
                greedy=greedy,
                vote_on_eval=drawn.on_eval,
            ),
        )

    def _drawn(self, scope: str) -> SampledPolicy | None:
        commit = self._run.artifact(Paths(scope).chains).commit()
        if commit is None:
            return None
        return SampledPolicy(commit.fingerprint["round_index"], "sampled" in commit.fingerprint)

    def _chains(self, name: str | None) -> str:
        """The scope of the chains that arms learn from."""
        scope = self._scope(name)
        own = self._drawn(scope)
        return scope if own is None or own.round_index is not None else Paths.of_redraw(scope)

    def _ceiling(self, name: str | None) -> str:
        """The scope of the chains that vote on eval."""
        scope = self._scope(name)
        own = self._drawn(scope)
        return scope if own is None or own.on_eval else Paths.of_redraw(scope)

    def _learn(self, arm: Arm, config: Config, scope: str) -> str | None:
        """Vote, take the arm's part and train; the reason when that gives no policy."""
        run = self._run
        source = self._vote(arm.chains_of, arm.round_index, votes_of(arm, config), config)
        part = self._selection(arm, config)
        taken = self._stage(
            Paths(scope).consensus,
            lambda: select(config, run, scope=scope, source=source, selection=part),
        )
        if not taken.counts["pairs" if arm.method == "dpo" else "kept"]:
            return "its chains give nothing to learn from"
        trained = self._stage(
            Paths(scope).adapter,
            lambda: training.run_round(
                config,
                run,
                name=scope,
                round_index=arm.round_index,
                start=self._policy(arm.start),
                source=scope,
                reference=self._reference(arm, config),
                chains_of=self._chains(arm.chains_of),
                reference_of=self._referred(arm, config),
            ),
        )
        return "training changed nothing" if trained.counts.get("unchanged") else None

    def _vote(self, name: str | None, round_index: int, votes: int, config: Config) -> str:
        """The scope of the vote on an arm's chains that keeps queries with so many votes."""
        chains = self._chains(name)
        scope = f"{chains}-votes-{votes}"
        between = (votes - 0.5) / config.sampling.num_chains
        voting = overridden(config, {"consensus": {"threshold": between}})
        self._stage(
            Paths(scope).consensus,
            lambda: consensus.run(
                voting, self._run, scope=scope, round_index=round_index, chains_of=chains
            ),
        )
        return scope

    def _evaluate(self, scope: str, config: Config, **how: Any) -> None:
        self._stage(
            Paths(scope).evaluation, lambda: evaluation.run(config, self._run, scope=scope, **how)
        )

    def _selection(self, arm: Arm, config: Config) -> Subset:
        """The arm's selection, with the number of pairs where that is what other votes give."""
        if not arm.fewest:
            return arm.selection
        num_chains = config.sampling.num_chains
        votes = {min_votes(threshold, num_chains) for threshold in config.sweep.thresholds}
        scopes = [
            self._vote(arm.chains_of, arm.round_index, number, config) for number in sorted(votes)
        ]
        voted = [self._run.artifact(Paths(scope).consensus).require_commit() for scope in scopes]
        counts = [commit.counts["pairs"] for commit in voted if commit.counts["pairs"]]
        return replace(arm.selection, max_pairs=min(counts, default=0))

    def _reference(self, arm: Arm, config: Config) -> str:
        """The policy before round 1, or the one that the arm's round starts from."""
        by_name = {other.name: other for other in self._arms}
        start = arm.start or PRETRAINED
        if config.training.reference == "start":
            while by_name[start].kind == "learned":
                start = by_name[start].start or PRETRAINED
        return self._policy(start)

    def _referred(self, arm: Arm, config: Config) -> str | None:
        """The vote whose pairs hold those of every arm with the same chains and reference."""
        if config.training.reference == "round_start" or arm.method != "dpo":
            return None
        sisters = [
            other
            for other in self._arms
            if other.kind == "learned" and other.chains_of == arm.chains_of
        ]
        fewest = min(votes_of(sister, config) for sister in sisters)
        return self._vote(arm.chains_of, arm.round_index, fewest, config)

    def _policy(self, name: str | None) -> str:
        return PRETRAINED if name in (None, PRETRAINED) else self._scope(name)

    def _scope(self, name: str | None) -> str:
        return scope_of(self._seed, name or PRETRAINED)

    def _stage(self, name: str, work: Callable[[], Commit]) -> Commit:
        return self._console.run_stage(name, work)


def _ready(waiting: Sequence[Arm], settled: Collection[str], room: int) -> list[Arm]:
    """As many arms as there is room for, whose needs are settled."""
    return [arm for arm in waiting if all(name in settled for name in arm.needs)][: max(room, 0)]


def _elsewhere(config: Config, run: Run, seed: int, arm: Arm) -> Any:
    """Make an arm in a process of its own, on the driver's node, which outlives the workers."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)

    def make() -> str | None:
        return _Seed(config, run, seed, Console()).make(arm)

    return ray.remote(num_cpus=0, scheduling_strategy=here)(make).remote()


def _first_done(running: dict[Any, Arm]) -> tuple[Arm, str | None]:
    import ray

    [done], _ = ray.wait(list(running))
    return running.pop(done), ray.get(done)


def overridden(config: Config, settings: Any) -> Config:
    """The configuration with some keys of some sections changed, validated anew."""
    values = config.model_dump()
    for section, changed in settings.items():
        values[section] |= changed
    return configuration.resolve(values)


def arm_config(config: Config, arm: Arm, seed: int) -> Config:
    """The configuration of an arm: its own settings, and its seed."""
    return overridden(config, {**arm.settings, "run": {"seed": seed}})


def policy_of(run: Run, config: Config, arm: Arm, scope: str) -> Policy:
    """The policy that an arm measures."""
    if arm.kind == "base":
        return Policy(scope, config.model)
    return policy(run, config.model, scope)
