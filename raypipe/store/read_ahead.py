"""Reads from an object store a few files ahead of whoever uses them."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

_READS_AT_ONCE, _READ_AHEAD_BYTES = 8, 64 << 20
T = TypeVar("T")


def read_ahead(reads: Iterable[tuple[int, Callable[[], T]]]) -> Iterator[T]:
    """What some reads return, in their order.

    Args:
        reads: the bytes that each will hold, and the read.
    """
    with ThreadPoolExecutor(_READS_AT_ONCE, thread_name_prefix="read") as pool:
        pending: deque[tuple[int, Future[T]]] = deque()
        try:
            for size, read in reads:
                under_way = sum(size for size, _ in pending) + size
                while len(pending) == _READS_AT_ONCE or (pending and under_way > _READ_AHEAD_BYTES):
                    done, reading = pending.popleft()
                    under_way -= done
                    yield reading.result()
                pending.append((size, pool.submit(read)))
            while pending:
                yield pending.popleft()[1].result()
        finally:
            pool.shutdown(cancel_futures=True)
