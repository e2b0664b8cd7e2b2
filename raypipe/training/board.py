"""Where the workers of a training say how far they are, for the driver to read."""

from typing import Any


class StepBoard:
    """The newest optimizer step of a training, and why it must not be tried again."""

    def __init__(self) -> None:
        self._text: str | None = None
        self._refusal: str | None = None

    def show(self, step: int, num_steps: int, loss: float) -> None:
        self._text = f"step {step} of {num_steps}, loss {loss:.3f}"

    def text(self) -> str | None:
        return self._text

    def refuse(self, reason: str) -> None:
        self._refusal = reason

    def refusal(self) -> str | None:
        """Set when another try would only fail in the same way, as after a NaN."""
        return self._refusal


def step_board() -> Any:
    """A board in a Ray actor of its own; it goes when the last handle does."""
    import ray

    return ray.remote(num_cpus=0)(StepBoard).remote()
