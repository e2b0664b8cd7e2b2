"""Where the workers of a training say how far they are, for the driver to read."""

from typing import Any


class TrainingProgress:
    """The newest optimizer step of a training, and why it must not be tried again."""

    def __init__(self) -> None:
        self._text: str | None = None
        self._refusal: str | None = None
        self._rejected: dict[str, str] = {}
        self._notes: list[str] = []

    def show(self, step: int, num_steps: int, loss: float) -> None:
        self._text = f"step {step} of {num_steps}, loss {loss:.3f}"

    def text(self) -> str | None:
        return self._text

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
