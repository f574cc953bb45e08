"""The path of C: every split at every C, in groups that memory holds."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from featpipe.solvers import _plan
from featpipe.solvers._judge import Judge
from featpipe.solvers._predictions import Predictions
from featpipe.solvers._ridge import ridge_fits, ridge_path
from featpipe.solvers._roads import KEPT, solve_all
from featpipe.solvers._sample import MANY
from featpipe.solvers._standing import Standing
from featpipe.solvers._starts import Starts
from featpipe.solvers._table import Design, as_given, build
from featpipe.solvers._task import Options, Path, Split, Task
from featpipe.solvers._walkers import Grid

__all__ = ["skips_Cs", "solve_path"]

Score = Callable[[int, np.ndarray], float]


def solve_path(
    task: Task,
    Cs: np.ndarray,
    splits: list[Split],
    *,
    options: Options | None = None,
    score: Score | None = None,
) -> Path:
    """Solve every C for every split, and predict the held-out rows.

    Parameters
    ----------
    task : Task
    Cs : (n_C,) float64
        Ascending, above zero.
    splits : list of (train, held-out) row numbers
    options : Options or None
    score : callable or None
        Takes the number of a split and its held-out predictions (n_held_out,), gives
        how good they are, 1 being perfect. With it, not every C of a large problem is
        solved (`featpipe.solvers._plan`). Splits that memory parts into groups follow
        the first group.

    Returns
    -------
    Path

    Examples
    --------
    >>> codes = np.random.default_rng(0).normal(size=(40, 3))
    >>> labels = (codes[:, 0] > 0).astype(np.int64)
    >>> ones, rows = np.ones(40), np.arange(40)
    >>> task = Task(codes, labels, 2, "logistic", ones, ones)
    >>> path = solve_path(task, np.array([0.1, 1.0]), [(rows[10:], rows[:10])])
    >>> path.converged, path.predicted[0].shape
    (True, (2, 10))
    """
    options = options or Options()
    if task.loss == "linear" and ridge_fits(task, len(splits), len(Cs), options):
        return ridge_path(task, Cs, splits, options)
    Cs = np.asarray(Cs, np.float64)
    gaps = np.full((len(splits), len(Cs)), np.nan)
    chosen = np.arange(len(Cs))
    n_passes = np.zeros((len(splits), len(Cs)), np.int64)
    found: list[np.ndarray] = []
    starts = Starts(len(splits), options.n_bytes // 10)
    for group in _groups(task, len(splits), options):
        design = build(task, [splits[p] for p in group], options)
        predictions = Predictions(design, [splits[p] for p in group], len(Cs))
        first = group[0]

        def arrive(
            p: int,
            position: int,
            theta: torch.Tensor,
            gap: float,
            taken: int,
            *,
            first: int = first,
            design: Design = design,
            predictions: Predictions = predictions,
            chosen: np.ndarray = chosen,
        ) -> None:
            position = int(chosen[position])
            gaps[first + p, position] = gap
            n_passes[first + p, position] = taken
            predictions.add(p, position, theta)
            if task.n_columns > MANY:
                starts.add(position, *as_given(design, theta, p))

        grid = Grid.evenly(Cs[chosen], options.tol, options.max_passes)
        judge = None
        if score is not None and not first:
            judge = Judge(predictions, score, first)
        solved = solve_all(task, design, grid, options, arrive, judge)
        chosen = chosen[solved]
        predictions.flush()
        found += predictions.found
    evaluated = np.isin(np.arange(len(Cs)), chosen)
    gaps[:, ~evaluated] = np.nan
    converged = bool((gaps[:, evaluated] <= options.tol).all())
    return Path(found, gaps, n_passes, converged, evaluated, starts=starts.found())


def skips_Cs(task: Task, n_splits: int, n_Cs: int) -> bool:
    """Say whether `solve_path`, given a score, solves some of the C only."""
    n_rows, width = task.codes.shape
    many = _plan.is_large(n_rows, width, n_splits * task.n_columns, n_Cs)
    return task.loss != "linear" and many


def _groups(task: Task, n_splits: int, options: Options) -> list[list[int]]:
    """Cut the splits into groups whose state the memory holds."""
    width = task.codes.shape[1]
    # About a dozen arrays of coefficients in double precision a split.
    one = 12 * 8 * task.n_columns * (width + 1)
    if task.loss == "linear":
        # A Gram matrix a split, and what its eigenvectors take.
        one = max(one, 3 * 8 * width**2)
    else:
        # Kept scores are worth a group for each few splits, if one split's fit.
        kept = Standing.n_bytes(len(task.labels) * task.n_columns)
        if kept <= KEPT * options.n_bytes:
            one = max(one, int(0.5 / KEPT * kept))
    size = int(max(1, min(n_splits, 0.5 * options.n_bytes // one)))
    numbers = list(range(n_splits))
    return [numbers[i : i + size] for i in range(0, n_splits, size)]
