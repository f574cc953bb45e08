"""How many threads a fit takes; splits and rows that share nothing side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar

import torch

__all__ = ["SMALL", "dealt", "processors", "side_by_side", "threads_for"]

# Products of a pass below which a fit keeps to one thread; see `threads_for`.
SMALL = 10**8

_processors: ContextVar[int | None] = ContextVar("processors", default=None)


@contextmanager
def threads_for(products: int) -> Iterator[None]:
    """Keep small problems to one thread, for as long as the block lasts.

    A pass over few codes is short beside the wait of threads for one another where
    another process has a core. svm on 1,198 x 384 codes of 10 classes, two cores: 8.0 s
    with one thread and 6.4 s with two on an idle machine, but 27.7 s with two beside a
    busy process, where one still takes 8.0 s. So a fifth is given up for a time that
    can be relied on.
    """
    before = torch.get_num_threads()
    known = _processors.set(processors())
    torch.set_num_threads(1 if products < SMALL else before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
        _processors.reset(known)


def processors() -> int:
    """Say how many threads may run side by side, where none waits for another."""
    return _processors.get() or torch.get_num_threads()


def side_by_side(
    solve: Callable[[int], None], count: int, n_workers: int, n_threads: int = 1
) -> None:
    """Call ``solve(p)`` for every p below ``count``, in threads of ``n_threads`` each.

    What shares no pass gains from all processors this way, and a thread waits for no
    other.
    """
    if n_workers < 2:
        for p in range(count):
            solve(p)
        return
    with ThreadPoolExecutor(
        n_workers, initializer=torch.set_num_threads, initargs=(n_threads,)
    ) as pool:
        for done in [pool.submit(solve, p) for p in range(count)]:
            done.result()


def dealt(sizes: Sequence[int], n_lanes: int) -> list[list[int]]:
    """Deal pieces of such sizes out to lanes, each to the one with least so far.

    Gives the numbers of the pieces of each lane; the same ones every time.
    """
    lanes: list[list[int]] = [[] for _ in range(n_lanes)]
    load = [0] * n_lanes
    for number, size in enumerate(sizes):
        lane = load.index(min(load))
        lanes[lane].append(number)
        load[lane] += size
    return lanes
