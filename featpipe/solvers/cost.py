"""What a pass over the codes costs, and what follows: device, threads, C at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from featpipe.solvers.problem import Options, Problem

__all__ = [
    "FREE_RIDGE",
    "choose_device",
    "count_operations",
    "few_threads",
    "group_size",
]

# Operations of a pass up to which C that have a start on both sides go together: what
# Python takes for a pass, at the rate of products of few columns.
TOGETHER = 1e8
# Operations of a pass below which a CPU keeps to one thread: the threads would wait for
# one another, and on a busy machine for other processes.
ONE_THREAD = 2.2e8
# Operations of a pass from which a GPU is faster: a pass is some forty kernels, each
# launched in about the time that a CPU takes for 1e6 operations.
GPU_PAYS = 1e8
# Operations of all predictions of a least-squares path up to which every C is solved.
FREE_RIDGE = 2e10


def count_operations(problem: Problem, n_folds: int, rank: int) -> int:
    """Return the operations of one pass: products with the codes and back."""
    n_rows = len(problem.labels)
    return 4 * n_folds * n_rows * min(rank, n_rows) * problem.n_columns


def choose_device(problem: Problem, n_folds: int, options: Options) -> torch.device:
    """Return the device of the options; the faster one for "auto"."""
    if options.device != "auto":
        return torch.device(options.device)
    large = count_operations(problem, n_folds, problem.codes.shape[1]) > GPU_PAYS
    use_gpu = large and torch.cuda.is_available()
    return torch.device("cuda" if use_gpu else "cpu")


def group_size(n_operations: int) -> int:
    """Return how many C with a start on both sides are solved together."""
    return int(max(1, TOGETHER / n_operations))


@contextmanager
def few_threads(n_operations: int) -> Iterator[None]:
    """Keep small passes to one thread for as long as the block lasts."""
    before = torch.get_num_threads()
    if n_operations < ONE_THREAD:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
