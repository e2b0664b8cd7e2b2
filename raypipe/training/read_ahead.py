"""The packs of a worker in their order, read from storage before their turn."""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from raypipe.training.pack_reader import LoadedPack
from raypipe.training.packing import Pack, PackingPlan

NumberedPack = tuple[int, LoadedPack]
"""A pack and the number of its step."""


class ReadAhead:
    """The batch sampler of a ``DataLoader`` that makes batches of :class:`ReadPacks`.

    Reads in a thread of the worker's own process: the loader's processes are forked, where no
    client of an object store works.

    Args:
        rank: of the worker in the plan.
        depth: packs that are read ahead.
        num_done: packs that a resumed training drops; they are not read.
    """

    def __init__(
        self,
        plan: PackingPlan[Any],
        rank: int,
        read: Callable[[Pack[Any]], LoadedPack],
        *,
        depth: int,
        num_done: Callable[[], int],
    ) -> None:
        self._plan = plan
        self._rank = rank
        self._read = read
        self._depth = depth
        self._num_done = num_done

    def __len__(self) -> int:
        return self._plan.num_packs

    def __iter__(self) -> Iterator[list[NumberedPack]]:
        done = min(self._num_done(), len(self))
        for _ in range(done):
            yield [(0, LoadedPack(()))]
        pending: deque[Future[NumberedPack]] = deque()
        pool = ThreadPoolExecutor(1, thread_name_prefix="packs")
        try:
            for number in range(done, len(self)):
                pending.append(pool.submit(self._load, number))
                if len(pending) > self._depth:
                    yield [pending.popleft().result()]
            while pending:
                yield [pending.popleft().result()]
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def _load(self, number: int) -> NumberedPack:
        step, pack = self._plan.pack(self._rank, number)
        return step, self._read(pack)


class ReadPacks:
    """A data set whose indices are its items: :class:`ReadAhead` has read them."""

    def __init__(self, num_packs: int) -> None:
        self._num_packs = num_packs

    def __len__(self) -> int:
        return self._num_packs

    def __getitem__(self, item: NumberedPack) -> NumberedPack:
        return item
