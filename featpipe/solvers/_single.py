"""One fit at one C, on all rows."""

from __future__ import annotations

import numpy as np
import torch

from featpipe.solvers._roads import solve_all
from featpipe.solvers._table import as_given, as_standardised, build
from featpipe.solvers._task import Options, Solution, Start, Task
from featpipe.solvers._walkers import Grid

__all__ = ["solve"]

# A single fit is solved this much more exactly than a path, for its predictions.
FINER = 1e-2
# Passes that may go into that once ``tol`` is proven.
FINER_PASSES = 25
# Rungs that lead a single fit to its C: their ratio, their tolerance, the first.
RUNG, RUNG_TOL, FIRST_MASS = 2.0, 1e-2, 50.0


def solve(
    task: Task,
    C: float,
    *,
    options: Options | None = None,
    start: Start | None = None,
) -> Solution:
    """Solve one C on all rows.

    Parameters
    ----------
    task : Task
    C : float
    options : Options or None
        The fit is solved a hundred times more exactly than ``tol`` where ``max_passes``
        allows, so that its predictions are those of the minimum.
    start : Start or None
        Where to begin; None leads up to C from below.

    Returns
    -------
    Solution
    """
    options = options or Options()
    rows = np.arange(len(task.labels))
    design = build(task, [(rows, rows[:0])], options)
    begun = None if start is None else as_standardised(design, *start)
    lowest = C if start else min(C, FIRST_MASS / float(design.mass[0]))
    n_rungs = int(np.floor(np.log(C / lowest) / np.log(RUNG) + 1e-9))
    if task.loss == "linear":
        n_rungs = 0
    Cs = C * RUNG ** -np.append(np.arange(n_rungs, -1.0, -1.0), 0.0)
    tols = np.full(len(Cs), max(RUNG_TOL, options.tol))
    tols[-2:] = options.tol, FINER * options.tol
    most = np.full(len(Cs), options.max_passes)
    most[-1] = min(FINER_PASSES, options.max_passes)
    found: list[tuple[float, torch.Tensor]] = []
    passes = np.zeros(len(Cs), np.int64)

    def arrive(
        p: int, position: int, theta: torch.Tensor, gap: float, taken: int
    ) -> None:
        passes[position] = taken
        if position >= len(Cs) - 2:
            found.append((gap, theta))

    solve_all(task, design, Grid(Cs, tols, most, begun), options, arrive)
    gap, theta = min(found, key=lambda each: each[0])
    coef, intercept = as_given(design, theta)
    n_passes = max(1, int(passes.sum()))
    return Solution(coef, intercept, gap, n_passes, gap <= options.tol)
