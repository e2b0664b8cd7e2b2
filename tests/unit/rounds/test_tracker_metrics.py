"""What trackers are told of a run."""

from collections.abc import Callable

import pytest

from raypipe.config import ModelConfig, resolve
from raypipe.rounds.driver import RoundsDriver
from raypipe.runtime.console import Console
from raypipe.runtime.tracking import Tracking
from raypipe.store.artifacts import Run
from tests.fakes.scripted_rounds import WELL, Killed, ScriptedRounds


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
        RoundsDriver(config, run, Console(), Tracking({"listening": lambda: listening})).go()

    return go


def test_trackers_are_told_of_every_stage_at_its_round(
    stages: ScriptedRounds, tell: Callable[[Listening], None]
) -> None:
    stages.anchor = {"pretrained": 0.3, "sft": 0.7, "round-1": 0.4, "round-2": 0.8}
    stages.pairs = {"sft": 5, "round-2-draw": 4}
    listening = Listening()
    tell(listening)
    assert listening.series("anchor/accuracy") == {0: 0.7, 1: 0.4, 2: 0.8}
    assert listening.series("pretrained/anchor/accuracy") == {0: 0.3}
    assert listening.series("eval/low") == {0: 0.45, 1: 0.45, 2: 0.45}
    assert listening.series("gate/accepted") == {1: 0.0, 2: 1.0}
    assert listening.series("funnel/pairs") == {0: 5, 1: 5}
    assert listening.series("draw/funnel/pairs") == {2: 4}
    assert listening.series("chains/seconds").keys() == {0, 1, 2}
    assert listening.series("collapse/entropy") == dict.fromkeys(range(3), WELL.entropy)
    assert listening.words == {"gate/round-1": "rolled_back", "gate/round-2": "accepted"}


@pytest.mark.parametrize("stage", ["sft/evaluation", "round-1/consensus", "round-2/adapter"])
def test_a_killed_and_repeated_run_tells_each_point_once_and_none_is_lost(
    stages: ScriptedRounds, tell: Callable[[Listening], None], stage: str
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
