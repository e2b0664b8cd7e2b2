"""A whole sweep on scripted stages: every artifact is committed for real, none costs anything."""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from raypipe.config import Config
from raypipe.errors import NonFiniteLossError
from raypipe.experiments.results import Results
from raypipe.models.policies import ADAPTER_WEIGHTS, Policy
from raypipe.schemas import EVALUATION
from raypipe.seeds import derive
from raypipe.store.artifacts import Attempt, Run, get_or_commit
from raypipe.store.manifest import Commit
from raypipe.summaries import Group, Metrics
from tests.fakes.documents import metrics, split_metrics

EVAL_LISTINGS = 60
PAIRS = {3: 90, 4: 60, 5: 40, 6: 20, 7: 0}


class Killed(BaseException):
    """What ends a process between two stages."""


@dataclass
class ScriptedStages:
    """Stand in for the stage modules, and remember what was made.

    Args:
        right: how often (0-1) an arm is right; SFT's where an arm is not named.
        right_with: the same for an arm with one seed.
        diverges, gives_nothing: arms whose training fails, or whose selection is empty.
        kill_before: artifact before which the process ends.
    """

    right: dict[str, float] = field(default_factory=dict)
    right_with: dict[tuple[str, str], float] = field(default_factory=dict)
    diverges: str = ""
    gives_nothing: str = ""
    kill_before: str = ""
    made: list[str] = field(default_factory=list)
    sampled: list[tuple[str, str, int | None]] = field(default_factory=list)
    trained: dict[str, dict[str, Any]] = field(default_factory=dict)
    selected: dict[str, Any] = field(default_factory=dict)

    def _commit(
        self, run: Run, name: str, fingerprint: dict[str, Any], make: Callable[[Attempt], Commit]
    ) -> Commit:
        def noted(attempt: Attempt) -> Commit:
            if name.endswith(self.kill_before or "never"):
                raise Killed
            self.made.append(name)
            return make(attempt)

        table = EVALUATION if name.endswith("/evaluation") else None
        return get_or_commit(run.artifact(name, table), fingerprint, noted)

    def prepare(self, config: Config, run: Run) -> Commit:
        return self._commit(run, "catalog/listings", {}, lambda attempt: attempt.commit())

    def sample(self, config: Config, run: Run, *, policy: Policy, scope: str, **how: Any) -> Commit:
        self.sampled.append((scope, policy.policy_id, how["round_index"]))
        fingerprint = {"policy": policy.policy_id, **how}
        if fingerprint.pop("vote_on_eval"):
            fingerprint["sampled"] = ["eval"]
        return self._commit(run, f"{scope}/chains", fingerprint, lambda a: a.commit())

    def vote(
        self, config: Config, run: Run, *, scope: str, round_index: int, chains_of: str
    ) -> Commit:
        votes = int(scope.rsplit("-", 1)[1])
        fingerprint = {"threshold": config.consensus.threshold, "round": round_index}
        run.artifact(f"{chains_of}/chains").require_commit()
        counts = {"pairs": PAIRS[votes]}
        return self._commit(
            run, f"{scope}/consensus", fingerprint, lambda attempt: attempt.commit(counts=counts)
        )

    def select(
        self, config: Config, run: Run, *, scope: str, source: str, selection: Any
    ) -> Commit:
        self.selected[scope] = (source, selection)
        total = run.artifact(f"{source}/consensus").require_commit().counts["pairs"]
        share = selection.pool.high - selection.pool.low
        pairs = round(min(total * share, selection.max_pairs or total))
        if scope.endswith(self.gives_nothing or "never"):
            pairs = 0
        counts = dict.fromkeys(("listings", "queries", "kept", "unanimous", "paired"), pairs)
        return self._commit(
            run,
            f"{scope}/consensus",
            {"selection": repr(selection)},
            lambda attempt: attempt.commit(counts=counts | {"pairs": pairs}),
        )

    def run_sft(self, config: Config, run: Run, *, name: str) -> Commit:
        if name.endswith(self.diverges or "never"):
            raise NonFiniteLossError("loss is nan at step 3")
        return self._train(run, name, {"model": config.model.path, "seed": config.run.seed})

    def run_round(self, config: Config, run: Run, *, name: str, **how: Any) -> Commit:
        self.trained[name] = how | {"training": config.training}
        if name.endswith(self.diverges or "never"):
            raise NonFiniteLossError("loss is nan at step 3")
        return self._train(run, name, how)

    def _train(self, run: Run, name: str, fingerprint: dict[str, Any]) -> Commit:
        def make(attempt: Attempt) -> Commit:
            attempt.write_json(ADAPTER_WEIGHTS, name)
            return attempt.commit(counts={"num_examples": 12, "num_steps": 3})

        return self._commit(run, f"{name}/adapter", fingerprint, make)

    def evaluate(self, config: Config, run: Run, *, scope: str, **how: Any) -> Commit:
        rows = list(self.judged(scope))
        right = sum(row["correct"] for row in rows) / len(rows)
        by_attribute = {"Shoe/colour": Group(accuracy=right, queries=len(rows))}
        measured = split_metrics(right, invalid=0.0, by_attribute=by_attribute)
        written = metrics().model_copy(update={"eval": measured})

        def make(attempt: Attempt) -> Commit:
            attempt.write(EVALUATION.from_rows(rows))
            attempt.write_json(Metrics.FILE, written.to_json())
            return attempt.commit()

        return self._commit(run, f"{scope}/evaluation", how, make)

    def judged(self, scope: str) -> Iterator[dict[str, Any]]:
        """Queries have a difficulty of their own, so that arms err on the same ones."""
        seed, arm = scope.split("/", 1)
        right = self.right.get(arm, self.right.get("sft", 0.6))
        right = self.right_with.get((seed, arm), right)
        for number in range(EVAL_LISTINGS):
            for attribute in ("colour", "heel"):
                difficulty = random.Random(derive(number, attribute)).random()
                yield {
                    "listing_id": f"e{number}",
                    "vertical": "Shoe",
                    "split": "eval",
                    "attribute": attribute,
                    "truth": "Red",
                    "answer": "Red" if difficulty < right else "Blue",
                    "reason": "ok",
                    "correct": difficulty < right,
                    "text": "",
                }


RunSweep = Callable[..., Results]
