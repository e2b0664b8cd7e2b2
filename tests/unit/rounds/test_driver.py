"""The driver's order of work, on scripted stages that commit tiny artifacts for real."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import pytest

from raypipe import progress
from raypipe.artifacts import Attempt, Run, committed
from raypipe.config import Config, ModelConfig, resolve
from raypipe.errors import (
    CollapseError,
    ConfigDriftError,
    InputError,
    NonFiniteLossError,
    RaypipeError,
)
from raypipe.evaluation.signs import Lean, Signs
from raypipe.manifest import Commit
from raypipe.policies import ADAPTER_WEIGHTS, Policy
from raypipe.rounds import driver, summary
from raypipe.rounds.console import Console
from raypipe.rounds.driver import Driver
from raypipe.slices import WHOLE, Slice
from raypipe.tracking import Tracking

BEGINNING = [
    "catalog/listings",
    "pretrained/chains",
    "pretrained/evaluation",
    "sft/adapter",
    "sft/chains",
    "sft/consensus",
    "sft/evaluation",
]
ROUND_1 = ["round-1/adapter", "round-1/chains", "round-1/consensus", "round-1/evaluation"]
ROUND_2 = ["round-2/adapter", "round-2/chains", "round-2/evaluation"]
WELL = Signs(queries=400, entropy=0.9, entropy_error=0.02, confidence=0.6, unanimity=0.2)
WORSE = replace(WELL, entropy=0.83, confidence=0.64, unanimity=0.24)
COLLAPSED = Signs(400, 0.7, 0.02, (Lean("toy/colour", "[/b]", 0.9, 0.1, 40),), 0.8, 0.6)


class Killed(BaseException):
    """What ends a process between two stages."""


@dataclass
class ScriptedStages:
    """Stand in for the stage modules: commit a file each, and remember what was made.

    ``anchor`` is the anchor accuracy of a policy, ``signs`` what is vital of it, ``pairs`` the
    number of pairs of a scope.
    """

    anchor: dict[str, float] = field(default_factory=dict)
    signs: dict[str, Signs] = field(default_factory=dict)
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

        return committed(run.artifact(name), fingerprint, make)

    def prepare(self, config: Config, run: Run) -> Commit:
        for name in ("catalog/seed", "catalog/truth"):
            committed(run.artifact(name), {}, lambda attempt: attempt.commit())
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
        queries = {"asked": 9, "kept": 3, "paired": min(num_pairs, 2)}
        committed(run.artifact(f"{scope}/pairs"), {}, lambda attempt: attempt.commit())
        funnel = {"total": {"queries": queries, "pairs": num_pairs}}
        fingerprint = {
            "round_index": round_index,
            "upstream": run.artifact(f"{scope}/chains").required().digest,
        }
        return self._commit(run, f"{scope}/consensus", fingerprint, {"funnel.json": funnel})

    def evaluate(self, config: Config, run: Run, *, scope: str, with_consensus: bool) -> Commit:
        assert with_consensus == (run.artifact(f"{scope}/consensus").commit() is not None)
        eval_metrics = {"accuracy": 0.5, "ci95": [0.4, 0.6], "queries": 100, "invalid": 0.1}
        metrics = {
            "eval": eval_metrics,
            "anchor": {"accuracy": self.anchor.get(scope, 0.5)},
            "signs": self.signs.get(scope, WELL).to_json(),
        }
        return self._commit(run, f"{scope}/evaluation", {}, {"metrics.json": metrics})

    def compare(
        self, config: Config, run: Run, *, before: str, after: str, split: str = "eval"
    ) -> dict[str, Any]:
        gain = 0.0
        if split == "anchor":
            gain = self.anchor.get(after, 0.5) - self.anchor.get(before, 0.5)
        return {"from": before, "to": after, "difference": gain, "ci95": [gain, gain], "queries": 1}

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


@pytest.fixture
def stages(monkeypatch: pytest.MonkeyPatch) -> ScriptedStages:
    scripted = ScriptedStages()
    modules = {
        "catalog": SimpleNamespace(run=scripted.prepare),
        "sampling": SimpleNamespace(run=scripted.sample),
        "consensus": SimpleNamespace(run=scripted.vote),
        "evaluation": SimpleNamespace(run=scripted.evaluate, compare=scripted.compare),
        "training": SimpleNamespace(run_sft=scripted.run_sft, run_round=scripted.run_round),
    }
    for name, module in modules.items():
        monkeypatch.setattr(driver, name, module)
    monkeypatch.setattr(progress.logger, "handlers", [])
    monkeypatch.setattr(progress.logger, "propagate", True)
    return scripted


@pytest.fixture
def drive(run: Run, tiny_model: ModelConfig) -> RunDriver:
    """Drive the run to its end with these sections of the configuration."""

    def go(**sections: dict[str, Any]) -> dict[str, Any]:
        config = resolve({"model": tiny_model.model_dump(), **sections})
        return Driver(config, run, Console()).go()

    return go


@pytest.fixture
def run_all(
    run: Run, tiny_model: ModelConfig, monkeypatch: pytest.MonkeyPatch
) -> Callable[[], tuple[RaypipeError, list[bytes]]]:
    """``run_rounds`` to its error, which comes with the summaries that were reported before it."""

    @contextmanager
    def no_session(*_: Any) -> Iterator[None]:
        yield

    def go() -> tuple[RaypipeError, list[bytes]]:
        reported: list[bytes] = []

        def report(config: Config, run: Run) -> str:
            reported.append(run.read(summary.PATH) or b"")
            return "page"

        monkeypatch.setattr(driver, "open_run", lambda config: run)
        monkeypatch.setattr(driver, "ray_session", no_session)
        monkeypatch.setattr(driver, "report", SimpleNamespace(run=report))
        monkeypatch.setattr(driver.training, "check", lambda config: None, raising=False)
        config = resolve({"model": tiny_model.model_dump(), "rounds": {"num_rounds": 3}})
        with pytest.raises(RaypipeError) as raised:
            driver.run_rounds(config, Console())
        return raised.value, reported

    return go


def names(written: dict[str, Any]) -> list[str]:
    return [stage["name"] for stage in written["stages"]]


def test_work_is_done_in_the_order_of_the_method(stages: ScriptedStages, drive: RunDriver) -> None:
    written = drive(rounds={"num_rounds": 2})
    assert stages.made == [*BEGINNING, *ROUND_1, *ROUND_2]
    assert names(written) == ["pretrained", "sft", "round-1", "round-2"]


def test_chains_are_drawn_for_the_round_that_will_learn_from_them_and_no_other(
    stages: ScriptedStages, drive: RunDriver
) -> None:
    drive(rounds={"num_rounds": 2})
    assert stages.sampled == {
        "pretrained": ("pretrained", None),
        "sft": ("sft", 1),
        "round-1": ("round-1", 2),
        "round-2": ("round-2", None),
    }


def test_rounds_may_take_turns_on_slices_of_the_pool(
    stages: ScriptedStages, drive: RunDriver
) -> None:
    drive(rounds={"num_rounds": 2, "pool_slices": 2})
    assert stages.pools == {
        "pretrained": WHOLE,
        "sft": Slice(0.0, 0.5),
        "round-1": Slice(0.5, 1.0),
        "round-2": WHOLE,
    }


def test_each_round_goes_on_from_the_last_and_refers_to_the_start(
    stages: ScriptedStages, drive: RunDriver
) -> None:
    drive(rounds={"num_rounds": 2})
    assert stages.trained == {
        "round-1": {"start": "sft", "source": "sft", "reference": "sft"},
        "round-2": {"start": "round-1", "source": "round-1", "reference": "sft"},
    }


def test_the_reference_may_be_the_start_of_each_round(
    stages: ScriptedStages, drive: RunDriver
) -> None:
    drive(rounds={"num_rounds": 2}, training={"reference": "round_start"})
    assert [how["reference"] for how in stages.trained.values()] == ["sft", "round-1"]


def test_a_second_pass_makes_nothing_and_writes_the_same_bytes(
    stages: ScriptedStages, drive: RunDriver, run: Run
) -> None:
    drive(rounds={"num_rounds": 2})
    made, written = len(stages.made), run.read(summary.PATH)
    drive(rounds={"num_rounds": 2})
    assert len(stages.made) == made
    assert run.read(summary.PATH) == written


@pytest.mark.parametrize("stage", [*BEGINNING, *ROUND_1, *ROUND_2])
def test_killed_before_any_stage_the_same_command_goes_on_and_makes_none_twice(
    stages: ScriptedStages, drive: RunDriver, run: Run, stage: str
) -> None:
    stages.kill_before = stage
    with pytest.raises(Killed):
        drive(rounds={"num_rounds": 2})
    assert stage not in stages.made
    assert run.read(summary.PATH) is None
    stages.kill_before = None
    drive(rounds={"num_rounds": 2})
    assert stages.made == [*BEGINNING, *ROUND_1, *ROUND_2]


def test_after_a_rollback_the_next_round_draws_anew_from_the_best(
    stages: ScriptedStages, drive: RunDriver
) -> None:
    stages.anchor = {"sft": 0.7, "round-1": 0.3, "round-2": 0.8}
    written = drive(rounds={"num_rounds": 2})
    assert stages.made[len(BEGINNING) + len(ROUND_1) :] == [
        "round-2-draw/chains",
        "round-2-draw/consensus",
        *ROUND_2,
    ]
    assert stages.sampled["round-2-draw"] == ("sft", 2)
    assert stages.trained["round-2"] == {
        "start": "sft",
        "source": "round-2-draw",
        "reference": "sft",
    }
    assert [stage["decision"] for stage in written["stages"]] == [
        None,
        None,
        "rolled_back",
        "accepted",
    ]
    assert written["best"] == "round-2"
    assert [record["source"] for record in written["pairs"]] == ["sft", "round-2-draw"]


def test_when_every_round_is_rolled_back_the_start_is_the_best_and_nothing_is_compared(
    stages: ScriptedStages, drive: RunDriver
) -> None:
    stages.anchor = {"sft": 0.7, "round-1": 0.3, "round-2": 0.3}
    written = drive(rounds={"num_rounds": 2})
    assert (written["best"], written["comparison"]) == ("sft", None)


def test_the_best_is_compared_with_the_start(stages: ScriptedStages, drive: RunDriver) -> None:
    stages.anchor = {"sft": 0.5, "round-1": 0.7, "round-2": 0.69}
    comparison = drive(rounds={"num_rounds": 2})["comparison"]
    assert (comparison["from"], comparison["to"]) == ("sft", "round-1")


def test_a_round_without_pairs_ends_the_run_with_the_adapter_as_it_was(
    stages: ScriptedStages, drive: RunDriver, run: Run
) -> None:
    stages.pairs = {"round-1": 0}
    written = drive(rounds={"num_rounds": 3})
    assert "round-2/adapter" not in stages.made
    assert names(written) == ["pretrained", "sft", "round-1"]
    assert [record["outcome"] for record in written["pairs"]] == ["trained", "no_pairs"]
    assert written["best"] == "round-1"
    before = run.read(summary.PATH)
    drive(rounds={"num_rounds": 3})
    assert run.read(summary.PATH) == before


def test_a_round_that_changed_nothing_is_neither_accepted_nor_best(
    stages: ScriptedStages, drive: RunDriver, run: Run
) -> None:
    stages.unchanged = ("round-1",)
    written = drive(rounds={"num_rounds": 3})
    assert names(written) == ["pretrained", "sft"]
    assert [record["outcome"] for record in written["pairs"]] == ["unchanged"]
    assert (written["best"], written["comparison"]) == ("sft", None)
    assert written["unchanged"] == ["round-1/adapter"]
    assert not {"round-1/chains", "round-2/adapter"} & set(stages.made)
    before = run.read(summary.PATH)
    drive(rounds={"num_rounds": 3})
    assert run.read(summary.PATH) == before


def test_an_sft_that_changed_nothing_is_told(stages: ScriptedStages, drive: RunDriver) -> None:
    stages.unchanged = ("sft",)
    written = drive(rounds={"num_rounds": 1})
    assert written["unchanged"] == ["sft/adapter"]
    assert names(written) == ["pretrained", "sft", "round-1"]


def test_a_round_that_diverges_ends_the_run_with_the_adapter_before_it_and_says_why(
    stages: ScriptedStages, drive: RunDriver
) -> None:
    stages.diverges = "round-2"
    written = drive(rounds={"num_rounds": 3})
    assert names(written) == ["pretrained", "sft", "round-1"]
    assert written["best"] == "round-1"
    assert [record["outcome"] for record in written["pairs"]] == ["trained", "diverged"]
    assert written["pairs"][1]["reason"] == "loss is nan at step 3, in p0/colour"


def test_a_round_that_collapses_ends_the_run_with_the_policy_before_it(
    stages: ScriptedStages, drive: RunDriver
) -> None:
    stages.anchor = {"sft": 0.5, "round-1": 0.6, "round-2": 0.59}
    stages.signs = {"round-2": COLLAPSED}
    written = drive(rounds={"num_rounds": 3})
    assert names(written) == ["pretrained", "sft", "round-1", "round-2"]
    assert [stage["decision"] for stage in written["stages"]] == [
        None,
        None,
        "accepted",
        "collapsed",
    ]
    assert written["best"] == written["comparison"]["to"] == "round-1"
    assert written["alarm"]["since"] == "round-1"
    assert "anchor accuracy 0.600 → 0.590" in written["alarm"]["reason"]


def test_a_collapse_that_creeps_is_told_from_the_policy_before_round_1(
    stages: ScriptedStages, drive: RunDriver
) -> None:
    stages.signs = {"round-1": WORSE, "round-2": replace(COLLAPSED, entropy=0.76, confidence=0.68)}
    alarm = drive(rounds={"num_rounds": 3})["alarm"]
    assert (alarm["since"], alarm["policy"]) == ("sft", "round-2")


def test_a_round_that_is_surer_and_better_goes_on(stages: ScriptedStages, drive: RunDriver) -> None:
    stages.anchor = {"round-1": 0.55, "round-2": 0.6}
    stages.signs = {"round-1": COLLAPSED, "round-2": COLLAPSED}
    written = drive(rounds={"num_rounds": 2})
    assert (written["best"], written["alarm"]) == ("round-2", None)


def test_without_the_alarm_the_gate_alone_judges(stages: ScriptedStages, drive: RunDriver) -> None:
    stages.signs = {"round-1": COLLAPSED}
    assert "round-2/adapter" not in made_with(stages, drive, alarm=True)
    assert "round-2/adapter" in made_with(stages, drive, alarm=False)


def made_with(stages: ScriptedStages, drive: RunDriver, *, alarm: bool) -> list[str]:
    drive(rounds={"num_rounds": 2, "alarm": alarm})
    return stages.made


def test_an_evaluation_without_signs_raises_no_alarm(
    stages: ScriptedStages, drive: RunDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    stages.signs = {"round-1": COLLAPSED}
    metrics = Driver._metrics
    monkeypatch.setattr(Driver, "_metrics", lambda *of: metrics(*of) | {"signs": None})
    assert drive(rounds={"num_rounds": 1})["alarm"] is None


@pytest.mark.parametrize("kind", [CollapseError, NonFiniteLossError])
def test_what_stopped_the_rounds_is_raised_after_the_report_and_again_by_the_same_command(
    stages: ScriptedStages,
    run_all: Callable[[], tuple[RaypipeError, list[bytes]]],
    kind: type[RaypipeError],
) -> None:
    if kind is CollapseError:
        stages.signs = {"round-1": COLLAPSED}
    else:
        stages.diverges = "round-1"
    first, reported = run_all()
    assert type(first) is kind
    assert first.exit_code == 3
    (written,) = map(json.loads, reported)
    assert written["best"] == "sft"
    if kind is CollapseError:
        assert str(first).startswith(written["alarm"]["reason"])
        assert "with sft as the policy to use" in str(first)
    made = list(stages.made)
    second, again = run_all()
    assert stages.made == made
    assert (str(second), again) == (str(first), reported)


def test_self_learning_trains_on_kept_queries_also_when_there_is_no_pair(
    stages: ScriptedStages, drive: RunDriver
) -> None:
    stages.pairs = {"sft": 0}
    written = drive(rounds={"num_rounds": 1}, training={"method": "self_learning"})
    assert "round-1/adapter" in stages.made
    assert written["pairs"][0]["queries"] == 3


def test_more_rounds_continue_a_finished_run_with_a_draw_of_their_own(
    stages: ScriptedStages, drive: RunDriver
) -> None:
    drive(rounds={"num_rounds": 2})
    done = len(stages.made)
    written = drive(rounds={"num_rounds": 3})
    assert stages.made[done:] == [
        "round-3-draw/chains",
        "round-3-draw/consensus",
        "round-3/adapter",
        "round-3/chains",
        "round-3/evaluation",
    ]
    assert stages.sampled["round-3-draw"] == ("round-2", 3)
    assert names(written)[-1] == "round-3"
    again = len(stages.made)
    drive(rounds={"num_rounds": 3})
    assert len(stages.made) == again


def test_fewer_rounds_summarise_the_first_ones_and_make_nothing(
    stages: ScriptedStages, drive: RunDriver
) -> None:
    drive(rounds={"num_rounds": 2})
    done = len(stages.made)
    written = drive(rounds={"num_rounds": 1})
    assert len(stages.made) == done
    assert names(written) == ["pretrained", "sft", "round-1"]


def test_no_rounds_measure_the_base_and_sft_and_vote_on_nothing(
    stages: ScriptedStages, drive: RunDriver
) -> None:
    written = drive(rounds={"num_rounds": 0})
    assert stages.made == [name for name in BEGINNING if name != "sft/consensus"]
    assert (written["best"], written["pairs"], written["funnel"]) == ("sft", [], {})


def test_rounds_from_the_pretrained_model_skip_sft(
    stages: ScriptedStages, drive: RunDriver
) -> None:
    written = drive(rounds={"num_rounds": 1, "start": "pretrained"})
    assert stages.made == [
        "catalog/listings",
        "pretrained/chains",
        "pretrained/consensus",
        "pretrained/evaluation",
        "round-1/adapter",
        "round-1/chains",
        "round-1/evaluation",
    ]
    assert stages.trained["round-1"] == {
        "start": "pretrained",
        "source": "pretrained",
        "reference": "pretrained",
    }
    assert names(written) == ["pretrained", "round-1"]


def test_a_changed_key_is_refused_and_the_summary_stays(
    stages: ScriptedStages, drive: RunDriver, run: Run
) -> None:
    drive(rounds={"num_rounds": 1})
    written = run.read(summary.PATH)
    with pytest.raises(ConfigDriftError, match="seed: 0 -> 1"):
        drive(rounds={"num_rounds": 1}, run={"seed": 1})
    assert run.read(summary.PATH) == written


def test_an_anchor_split_without_queries_is_an_input_error(
    stages: ScriptedStages, drive: RunDriver
) -> None:
    stages.anchor = {"sft": None}  # type: ignore[dict-item]
    with pytest.raises(InputError, match=r"catalog\.anchor_share"):
        drive(rounds={"num_rounds": 1})


def test_the_summary_has_the_documented_keys_and_a_digest_and_seconds_for_every_artifact(
    stages: ScriptedStages, drive: RunDriver, run: Run
) -> None:
    written = drive(rounds={"num_rounds": 2})
    assert json.loads(run.read(summary.PATH) or b"") == written
    for key in written:
        assert f'"{key}":' in (summary.__doc__ or "")
    by_products = {"catalog/seed", "catalog/truth", "sft/pairs", "round-1/pairs"}
    assert written["digests"].keys() == {*stages.made, *by_products}
    assert written["seconds"].keys() == written["digests"].keys()
    assert written["funnel"].keys() == {"sft", "round-1"}
    (pretrained, *_) = written["stages"]
    assert pretrained | {"policy_id": ""} == {
        "name": "pretrained",
        "accuracy": 0.5,
        "ci95": [0.4, 0.6],
        "queries": 100,
        "invalid": 0.1,
        "anchor_accuracy": 0.5,
        "decision": None,
        "policy_id": "",
    }
    assert len({stage["policy_id"] for stage in written["stages"]}) == 4


# Trackers


class Listening:
    """A tracker that keeps what it is told, as one does from call to call."""

    name = "listening"

    def __init__(self) -> None:
        self.known: set[tuple[str, int]] = set()
        self.points: list[tuple[str, int, float]] = []
        self.words: dict[str, str] = {}

    def log(self, step: int, values: dict[str, float]) -> None:
        self.points += [(tag, step, value) for tag, value in values.items()]

    def text(self, name: str, text: str) -> None:
        self.words[name] = text

    def end(self, *, failed: bool) -> None:
        pass

    def series(self, tag: str) -> dict[int, float]:
        return {step: value for name, step, value in self.points if name == tag}


@pytest.fixture
def tell(run: Run, tiny_model: ModelConfig) -> Callable[[Listening], None]:
    """Drive two rounds with a tracker."""

    def go(listening: Listening) -> None:
        rounds = {"num_rounds": 2}
        config = resolve({"model": tiny_model.model_dump(), "rounds": rounds})
        Driver(config, run, Console(), Tracking({"listening": lambda: listening})).go()

    return go


def test_trackers_are_told_of_every_stage_at_its_round(
    stages: ScriptedStages, tell: Callable[[Listening], None]
) -> None:
    stages.anchor = {"pretrained": 0.3, "sft": 0.7, "round-1": 0.4, "round-2": 0.8}
    stages.pairs = {"sft": 5, "round-2-draw": 4}
    listening = Listening()
    tell(listening)
    assert listening.series("anchor/accuracy") == {0: 0.7, 1: 0.4, 2: 0.8}
    assert listening.series("pretrained/anchor/accuracy") == {0: 0.3}
    assert listening.series("eval/low") == {0: 0.4, 1: 0.4, 2: 0.4}
    assert listening.series("gate/accepted") == {1: 0.0, 2: 1.0}
    assert listening.series("funnel/pairs") == {0: 5, 1: 5}
    assert listening.series("draw/funnel/pairs") == {2: 4}
    assert listening.series("chains/seconds").keys() == {0, 1, 2}
    assert listening.series("signs/entropy") == dict.fromkeys(range(3), WELL.entropy)
    assert listening.words == {"gate/round-1": "rolled_back", "gate/round-2": "accepted"}


@pytest.mark.parametrize("stage", ["sft/evaluation", "round-1/consensus", "round-2/adapter"])
def test_a_killed_and_repeated_run_tells_each_point_once_and_none_is_lost(
    stages: ScriptedStages, tell: Callable[[Listening], None], stage: str
) -> None:
    listening = Listening()
    stages.kill_before = stage
    with pytest.raises(Killed):
        tell(listening)
    stages.kill_before = None
    tell(listening)
    told = list(listening.points)
    tell(listening)
    assert listening.points == told
    assert len({(tag, step) for tag, step, _ in told}) == len(told)
    assert listening.series("eval/accuracy").keys() == {0, 1, 2}
    assert listening.series("adapter/seconds").keys() == {0, 1, 2}
