"""Long work tells how far it is: a line every so often, when there is something new to say."""

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator

INTERVAL_S = 15.0
logger = logging.getLogger("raypipe.progress")


@contextlib.contextmanager
def reported(read: Callable[[], str | None]) -> Iterator[None]:
    """While the body runs, log what ``read`` says every fifteen seconds; None says nothing."""
    finished = threading.Event()

    def watch() -> None:
        said: str | None = None
        while not finished.wait(INTERVAL_S):
            text = read()
            if text is not None and text != said:
                logger.info(text)
                said = text

    thread = threading.Thread(target=watch, name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        finished.set()
        thread.join()
