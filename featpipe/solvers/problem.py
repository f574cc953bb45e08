"""What is minimised, how exactly and by what means, and what comes out.

Also what a pass over the codes costs, and what follows: device, threads, C at a time.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch

from featpipe.devices import require_device

__all__ = [
    "FREE_RIDGE",
    "Options",
    "Path",
    "Problem",
    "Solution",
    "Split",
    "Start",
    "choose_device",
    "count_operations",
    "few_threads",
    "group_size",
]


DEFAULT_MEMORY = 10**9
_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}

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

Split = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True, eq=False)
class Problem:
    """Codes, classes and weights: everything that defines the objective but C.

    Parameters
    ----------
    codes : (n, width) float32 or float64, or a reader with shape, dtype and rows
    labels : (n,) int64
        Class numbers, from 0.
    n_classes : int
    loss : {"linear", "svm", "logistic"}
    weights : (n,) float64
        Weight of each row in the loss: sample weight times class weight.
    row_weights : (n,) float64
        Weight of each row in the standard deviations: the sample weight.
    standardize : bool

    Examples
    --------
    >>> X, y, ones = np.zeros((4, 2)), np.array([0, 1] * 2), np.ones(4)
    >>> Problem(X, y, 2, "svm", ones, ones).loss
    'svm'
    """

    codes: Any
    labels: np.ndarray
    n_classes: int
    loss: str
    weights: np.ndarray
    row_weights: np.ndarray
    standardize: bool = True

    @property
    def n_columns(self) -> int:
        """Columns of W: one for two classes, else one a class."""
        return 1 if self.n_classes == 2 else self.n_classes


@dataclass(frozen=True)
class Options:
    """How exactly, where, and within what memory.

    Parameters
    ----------
    tol : float
        Proven gap to the minimum at which a problem counts as solved, relative to the
        objective, or to what W gains over W = 0 if that is less (but at least a
        thousandth of the objective).
    max_passes : int
        Products with the codes and back that one problem may take at one C.
    device : str
        "auto" or a torch device.
    memory : int, str or None
        Bytes beyond the codes, or a text like "8GB"; None is 1 GB.
    full_path : bool
        Whether every C is solved, also those that cannot be chosen.

    Examples
    --------
    >>> Options(memory="2GB").n_bytes
    2000000000
    """

    tol: float = 1e-4
    max_passes: int = 1000
    device: str = "auto"
    memory: int | str | None = None
    full_path: bool = False

    @property
    def n_bytes(self) -> int:
        """The memory in bytes.

        Raises
        ------
        ValueError
            If ``memory`` is not a size.
        """
        if self.memory is None:
            return DEFAULT_MEMORY
        text = "" if isinstance(self.memory, bool) else str(self.memory).strip()
        match = re.fullmatch(r"(\d+(?:\.\d*)?|\.\d+) *([KMGT]?)i?B?", text, re.ASCII)
        n_bytes = float(match[1]) * _UNITS[match[2]] if match else 0.0
        if not _UNITS["K"] <= n_bytes <= 1000 * _UNITS["T"]:
            raise ValueError(
                f"memory={self.memory!r} is no size from 1KB to 1000TB; give bytes or "
                "a text like '8GB'"
            )
        return int(n_bytes)


class Start(NamedTuple):
    """Coefficients to begin from, on the scale of the codes as given.

    Attributes
    ----------
    coef : (n_columns, width)
    intercept : (n_columns,)

    Examples
    --------
    >>> start = Start(np.zeros((3, 2)), np.zeros(3))
    >>> start.coef.shape
    (3, 2)
    """

    coef: np.ndarray
    intercept: np.ndarray


@dataclass(frozen=True, eq=False)
class Solution:
    """One fitted classifier on the scale of the codes as given.

    Parameters
    ----------
    coef : (n_columns, width) float64
    intercept : (n_columns,) float64
    gap : float
        Proven bound of the relative distance of the objective to its minimum.
    n_passes : int
    converged : bool

    Examples
    --------
    >>> from featpipe.solvers import Problem, solve
    >>> X, y = np.random.default_rng(0).normal(size=(9, 2)), np.array([0, 1, 2] * 3)
    >>> solution = solve(Problem(X, y, 3, "logistic", np.ones(9), np.ones(9)), 1.0)
    >>> solution.coef.shape, solution.intercept.shape, solution.converged
    ((3, 2), (3,), True)
    """

    coef: np.ndarray
    intercept: np.ndarray
    gap: float
    n_passes: int
    converged: bool


@dataclass(frozen=True, eq=False)
class Path:
    """Out-of-fold predictions of every C, and how exact they are.

    Parameters
    ----------
    predicted : list of (n_C, n_held_out) int
        Class numbers, one array a split; without meaning where ``solved`` is false.
    gaps : (n_splits, n_C) float64
        Proven relative gap, the largest of the columns; nan where not solved.
    n_passes : (n_splits, n_C) int64
        Passes of the slowest column.
    converged : bool
        Whether every problem solved met its tolerance.
    solved : (n_C,) bool
    start : callable
        From the number of a solved C, and some splits or None for all, to where a fit
        on all rows may begin: the mean of these splits' solutions.

    Examples
    --------
    >>> from featpipe.solvers import Options, Problem, solve_path
    >>> X, y = np.random.default_rng(0).normal(size=(8, 2)), np.array([0, 1] * 4)
    >>> problem = Problem(X, y, 2, "linear", np.ones(8), np.ones(8))
    >>> rows = np.arange(8)
    >>> path = solve_path(problem, np.array([0.1, 1.0]), [(rows[:4], rows[4:])])
    >>> path.predicted[0].shape, path.gaps.shape, path.converged
    ((2, 4), (1, 2), True)
    """

    predicted: list[np.ndarray]
    gaps: np.ndarray
    n_passes: np.ndarray
    converged: bool
    solved: np.ndarray
    start: Callable[..., Start]


def count_operations(problem: Problem, n_folds: int, rank: int) -> int:
    """Return the operations of one pass: products with the codes and back."""
    n_rows = len(problem.labels)
    return 4 * n_folds * n_rows * min(rank, n_rows) * problem.n_columns


def choose_device(problem: Problem, n_folds: int, options: Options) -> torch.device:
    """Return the device of the options; the faster one for "auto"."""
    if options.device == "mps":
        return torch.device("cpu")  # MPS has no float64, which solving needs
    if options.device != "auto":
        require_device(options.device)
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
