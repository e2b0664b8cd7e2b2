"""Ctrl-C and SIGTERM: one line, what was started is ended, and the exit code says which it was.

A run may be killed between any two writes, so nothing has to be saved on the way out. The main
thread unwinds by KeyboardInterrupt, so that trackers hear of the end; what hangs in the meantime, a
library's own handler or a thread that waits for a dead server, is left behind after ``GRACE_S``.
"""

import contextlib
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

GRACE_S = 2.0
KEPT = "stopped; what is committed is kept, and the same command goes on from there"
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class _Stop:
    """What one process knows of its end; there is one of it at a time."""

    def __init__(self, line: str) -> None:
        self._line = line
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._writer, False)
        self._begun = threading.Lock()
        self._left = threading.Lock()
        self.number = 0
        self.has_raised = False
        self.endings: list[Callable[[], None]] = []

    def begin(self, number: int) -> None:
        """Say so, once. Whatever libraries and threads print after that is of their own end."""
        if not self._begun.acquire(blocking=False):
            return
        self.number = number
        with contextlib.suppress(OSError):
            os.write(2, f"{self._line}\n".encode())
        silent = os.open(os.devnull, os.O_WRONLY)
        for stream in (1, 2):
            os.dup2(silent, stream)

    def leave(self) -> None:
        """End what was started, and this process."""
        self._left.acquire()  # whoever is second waits for an end that comes
        self.begin(self.number)
        from raypipe.processes import end_descendants

        for ending in (*reversed(self.endings), end_descendants):
            with contextlib.suppress(Exception):
                ending()
        os._exit(128 + self.number)

    def watch(self) -> None:
        """Wait for a signal, also where the main thread is deep in a library and hears of none."""
        received = os.read(self._reader, 1)
        while received and received[0] not in _SIGNALS:
            received = os.read(self._reader, 1)
        if not received:
            os.close(self._reader)
            return
        self.begin(received[0])
        deadline = time.monotonic() + GRACE_S
        while select.select([self._reader], [], [], max(0.0, deadline - time.monotonic()))[0]:
            if os.read(self._reader, 1)[0] in _SIGNALS:
                break
        self.leave()

    def listen(self) -> None:
        signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        for one in _SIGNALS:
            # What a shell has told a job in the background to ignore stays ignored.
            if signal.getsignal(one) is not signal.SIG_IGN:
                signal.signal(one, self._interrupt)

    def close(self) -> None:
        """The watch ends when there is nobody left to write."""
        os.close(self._writer)

    def stop(self, number: int) -> NoReturn:
        self.begin(number)
        self.has_raised = True
        raise KeyboardInterrupt

    def _interrupt(self, number: int, frame: Any) -> None:
        self.begin(number)
        if not self.has_raised:
            self.stop(number)


_stop: _Stop | None = None


@contextlib.contextmanager
def stoppable(line: str = KEPT) -> Iterator[None]:
    """Ctrl-C and SIGTERM in the body end the process with 130 or 143, a second one at once.

    In another thread than the main one, or inside another body, nothing is changed.
    """
    global _stop
    if _stop is not None or threading.current_thread() is not threading.main_thread():
        yield
        return
    former = {one: signal.getsignal(one) for one in _SIGNALS}
    woken = signal.set_wakeup_fd(-1)
    stop = _stop = _Stop(line)
    stop.listen()
    thread = threading.Thread(target=stop.watch, name="stop", daemon=True)
    thread.start()
    try:
        yield
    finally:
        if stop.number:
            stop.leave()
        _stop = None
        signal.set_wakeup_fd(woken)
        for one, handler in former.items():
            signal.signal(one, handler)
        stop.close()


def listen() -> None:
    """Take the signals again, after a library took them for itself."""
    if _stop is not None and threading.current_thread() is threading.main_thread():
        _stop.listen()


def stop(number: int) -> NoReturn:
    """End as a signal does, for work that takes signals itself and has come to an end."""
    if _stop is None:
        sys.exit(128 + number)
    _stop.stop(number)


def leave_within(number: int, seconds: float) -> None:
    """The same, at the latest after some seconds, wherever the main thread is then."""
    if _stop is not None:
        _stop.number = number
        timer = threading.Timer(seconds, _stop.leave)
        timer.daemon = True
        timer.start()


def is_stopping() -> bool:
    return _stop is not None and _stop.number != 0


@contextlib.contextmanager
def ended_by(ending: Callable[[], None]) -> Iterator[None]:
    """``ending`` is called when a signal ends the process while the body runs."""
    stop = _stop
    if stop is None:
        yield
        return
    stop.endings.append(ending)
    try:
        yield
    finally:
        if not stop.number:
            stop.endings.remove(ending)
