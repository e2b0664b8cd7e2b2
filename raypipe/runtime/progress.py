"""Periodic progress lines of long work, logged when the text changes."""

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator

INTERVAL_S = 15.0
logger = logging.getLogger("raypipe.runtime.progress")


@contextlib.contextmanager
def reported(read: Callable[[], str | None]) -> Iterator[None]:
    """While the body runs, log the text of ``read`` every fifteen seconds; None is skipped."""
    finished = threading.Event()

    def watch() -> None:
        last: str | None = None
        while not finished.wait(INTERVAL_S):
            text = read()
            if text is not None and text != last:
                logger.info(text)
                last = text

    thread = threading.Thread(target=watch, name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        finished.set()
        thread.join()
