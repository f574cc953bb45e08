"""What choosing C and fitting will take, estimated before there are codes.

Steps of the solvers are passes over all rows: two products, with as many columns as
there are classes in all folds. One pass is timed; how many it takes depends on how
separable the classes are, so the estimate is a range.
"""

from __future__ import annotations

import math
import statistics
import time
from typing import NamedTuple

from featpipe.defaults import N_FOLDS

__all__ = ["SolveCost", "solve_cost"]

# Passes that a search over the default values of C takes, at the least and the most. In
# two runs of `benchmarks/cost_model.py --solve` those of a second or more took 26 to
# 99, 137 to 570 and 63 to 660, eigendecompositions included.
PASSES = {"linear": (10, 100), "svm": (80, 500), "logistic": (50, 500)}
# Seconds that are no passes: steps of few rows, and the choice.
FIXED_SECONDS = 2.0
# Operations of an eigendecomposition of width d are about 9 d³ (Golub and Van Loan,
# Matrix Computations, 8.3); they are done at half the rate of products.
EIGEN_OPERATIONS = 2 * 9
# The largest product that is timed: rows, which no cache holds, width, columns, and
# operations. A thousand classes or a flattened map would take minutes and gigabytes.
_SAMPLE, _MOST_WIDTH, _MOST_COLUMNS, _MOST_OPERATIONS = 16_384, 4096, 256, 4e9
# Seconds of timing it, and how often at the most, where it takes microseconds.
_TRIAL_SECONDS, _TRIALS = 0.3, 100


class SolveCost(NamedTuple):
    """The estimated cost of fitting each classifier once, C chosen over all folds.

    Attributes
    ----------
    n_bytes : int
        Of the codes in memory, which are float32.
    operations : float
        Of a pass over all rows, all folds and classes at once.
    pass_seconds : float
        That it takes here.
    seconds : dict
        The least and the most seconds of each classifier by name.

    Examples
    --------
    >>> SolveCost(8000, 4e5, 0.01, {"linear": (0.1, 2.8)}).seconds["linear"]
    (0.1, 2.8)
    """

    n_bytes: int
    operations: float
    pass_seconds: float
    seconds: dict[str, tuple[float, float]]


def solve_cost(
    n_rows: int, width: int, n_classes: int, n_folds: int = N_FOLDS
) -> SolveCost:
    """Estimate the time of `linear`, `svm` and `logistic` on codes of this shape.

    Parameters
    ----------
    n_rows, width : int
        Shape of the training codes; they are in memory.
    n_classes : int
        Two classes need one column, more as many as there are.
    n_folds : int

    Returns
    -------
    SolveCost

    Examples
    --------
    >>> cost = solve_cost(1_000, 64, 10)
    >>> cost.n_bytes, cost.operations
    (256000, 12800000.0)
    >>> least, most = cost.seconds["logistic"]
    >>> 0 < least < most
    True
    """
    columns = n_folds * (n_classes if n_classes > 2 else 1)
    rank = min(n_rows, width)
    operations = 4.0 * n_rows * rank * columns
    each = _pass_seconds(n_rows, rank, columns)
    basis = n_folds * EIGEN_OPERATIONS * rank**3 * each / operations
    seconds = {
        name: (least * each, most * each + 2 * basis + FIXED_SECONDS)
        for name, (least, most) in PASSES.items()
    }
    return SolveCost(4 * n_rows * width, operations, each, seconds)


def _pass_seconds(n_rows: int, width: int, columns: int) -> float:
    """Time the two products of a part of the codes, and scale them up to all."""
    import torch

    d, m = min(width, _MOST_WIDTH), min(columns, _MOST_COLUMNS)
    n = min(n_rows, _SAMPLE, math.ceil(_MOST_OPERATIONS / (4 * d * m)))
    X, weights = torch.ones(n, d), torch.ones(d, m)
    X.T @ (X @ weights)  # starts the threads
    seconds: list[float] = []
    while len(seconds) < 3 or (
        sum(seconds) < _TRIAL_SECONDS and len(seconds) < _TRIALS
    ):
        start = time.perf_counter()
        X.T @ (X @ weights)
        seconds.append(time.perf_counter() - start)
    share = n * d * m / (n_rows * width * columns)
    return statistics.median(seconds) / share
