"""Where the workers of a training say how far they are, for the driver to read."""

from typing import Any, Literal

WorkerState = Literal["lacking", "asked", "there"]
"""Of a training's workers: no room for them, asked of Ray, or at work."""


class TrainingProgress:
    """The newest optimizer step of a training, where its workers are, and why it must not be tried
    again."""

    def __init__(self) -> None:
        self._text: str | None = None
        self._steps = 0
        self._nodes: set[str] = set()
        self._workers: WorkerState = "there"
        self._refusal: str | None = None
        self._rejected: dict[str, str] = {}
        self._notes: list[str] = []

    def show(self, step: int, num_steps: int, loss: float) -> None:
        self._text = f"step {step} of {num_steps}, loss {loss:.3f}"
        self._steps += 1

    def text(self) -> str | None:
        return self._text

    def steps(self) -> int:
        """Steps taken so far, those that were repeated included."""
        return self._steps

    def turn(self, workers: WorkerState) -> None:
        """What has become of the workers."""
        self._workers = workers
        if workers != "there":
            self._nodes = set()

    def workers(self) -> WorkerState:
        return self._workers

    def place(self, node_id: str) -> None:
        """A worker has begun on this node."""
        self._nodes.add(node_id)

    def nodes(self) -> set[str]:
        """The nodes of the present workers."""
        return self._nodes

    def refuse(self, reason: str) -> None:
        self._refusal = reason

    def refusal(self) -> str | None:
        """Set when another try would only fail in the same way, as after a NaN."""
        return self._refusal

    def reject(self, checkpoint: str, reason: str) -> None:
        """A training that goes on from this checkpoint fails at once."""
        self._rejected[checkpoint] = reason

    def rejected(self) -> dict[str, str]:
        """Checkpoints that no further try goes on from, with the reasons."""
        return self._rejected

    def note(self, text: str) -> None:
        if text not in self._notes:
            self._notes.append(text)

    def notes(self) -> list[str]:
        """What whoever runs the training is to know of it."""
        return self._notes


def training_progress() -> Any:
    """A :class:`TrainingProgress` in a Ray actor on the driver's node, which outlives the workers.
    It ends with its last handle."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return ray.remote(num_cpus=0, scheduling_strategy=here)(TrainingProgress).remote()
