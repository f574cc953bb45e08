"""How many threads a fit takes, and splits that share nothing side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import torch

__all__ = ["SMALL", "side_by_side", "threads_for"]

# Products of a pass below which a fit keeps to one thread; see `threads_for`.
SMALL = 10**8


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
    torch.set_num_threads(1 if products < SMALL else before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def side_by_side(solve: Callable[[int], None], n_splits: int, n_workers: int) -> None:
    """Call ``solve(p)`` for every split, in threads of which each computes alone.

    Small splits that share no pass gain from all processors this way, and a thread
    waits for no other.
    """
    if n_workers < 2:
        for p in range(n_splits):
            solve(p)
        return
    with ThreadPoolExecutor(
        n_workers, initializer=torch.set_num_threads, initargs=(1,)
    ) as pool:
        for done in [pool.submit(solve, p) for p in range(n_splits)]:
            done.result()
