"""Handles Ctrl-C and SIGTERM: one message, child processes are ended, exit code 130 or 143.

A run may be killed between any two writes, so nothing needs saving on exit. The main thread unwinds
by KeyboardInterrupt, so that trackers can finish; whatever hangs (a library's handler, a thread
waiting for a dead server) is abandoned after ``GRACE_S``.
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
    """The stop state of this process; one at a time."""

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
        """Print the message, once, and silence what libraries and threads print later."""
        if not self._begun.acquire(blocking=False):
            return
        self.number = number
        with contextlib.suppress(OSError):
            os.write(2, f"{self._line}\n".encode())
        silent = os.open(os.devnull, os.O_WRONLY)
        for stream in (1, 2):
            os.dup2(silent, stream)

    def leave(self) -> None:
        """End child processes and this process."""
        self._left.acquire()  # a second caller waits for the exit
        self.begin(self.number)
        from raypipe.runtime.processes import end_descendants

        for ending in (*reversed(self.endings), end_descendants):
            with contextlib.suppress(Exception):
                ending()
        os._exit(128 + self.number)

    def watch(self) -> None:
        """Wait for a signal, even while the main thread is blocked in a library."""
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
            # Signals that the shell ignores for background jobs stay ignored.
            if signal.getsignal(one) is not signal.SIG_IGN:
                signal.signal(one, self._interrupt)

    def close(self) -> None:
        """End the watching thread by closing the write end of its pipe."""
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
    """Ctrl-C and SIGTERM in the body end the process with 130 or 143, a second one immediately.

    Does nothing outside of the main thread or when nested.
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
    """Reinstall the signal handlers after a library replaced them."""
    if _stop is not None and threading.current_thread() is threading.main_thread():
        _stop.listen()


def stop(number: int) -> NoReturn:
    """End as after a signal, for work that handles signals itself and has finished."""
    if _stop is None:
        sys.exit(128 + number)
    _stop.stop(number)


def leave_within(number: int, seconds: float) -> None:
    """The same, after at most some seconds, wherever the main thread is."""
    if _stop is not None:
        _stop.number = number
        timer = threading.Timer(seconds, _stop.leave)
        timer.daemon = True
        timer.start()


def is_stopping() -> bool:
    return _stop is not None and _stop.number != 0


@contextlib.contextmanager
def ended_by(ending: Callable[[], None]) -> Iterator[None]:
    """Call ``ending`` if a signal ends the process while the body runs."""
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
