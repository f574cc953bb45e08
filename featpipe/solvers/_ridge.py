"""Least squares: every C in closed form from one eigendecomposition a split."""

from __future__ import annotations

import numpy as np
import torch

from featpipe.solvers import _gram
from featpipe.solvers._predictions import Predictions
from featpipe.solvers._rowspace import Turned
from featpipe.solvers._table import Design, as_given, build
from featpipe.solvers._task import Options, Path, Solution, Split, Task
from featpipe.solvers._threads import processors, side_by_side, threads_for

__all__ = ["ridge", "ridge_fits", "ridge_path", "ridge_turned", "targets"]


def ridge_fits(task: Task, n_splits: int, n_Cs: int, options: Options) -> bool:
    """Say whether one reading of the codes gives the whole path in this memory."""
    n_rows, width = task.codes.shape
    grams = (n_splits + 3) * width**2
    solutions = (n_splits + 1) * n_Cs * task.n_columns * (width + 1)
    return width <= n_rows and 8 * (grams + solutions) <= 0.5 * options.n_bytes


def ridge_path(
    task: Task, Cs: np.ndarray, splits: list[Split], options: Options
) -> Path:
    """Solve every C for every split, and for all rows too, from one reading.

    Parameters are those of `solve_path`.
    """
    every = np.arange(len(task.labels))
    n_splits, splits = len(splits), [*splits, (every, every[:0])]
    n_rows, width = task.codes.shape
    with threads_for(n_rows * width * len(splits) * task.n_columns):
        design = build(task, splits, options)
        predictions = Predictions(design, splits, len(Cs))
        grid = torch.from_numpy(np.asarray(Cs, np.float64)).to(design.table.device)
        thetas = ridge(design, task.n_classes, grid)
        for p, of_split in enumerate(thetas[:n_splits]):
            for position, theta in enumerate(of_split):
                predictions.add(p, position, theta)
        predictions.flush()
    whole = [Solution(*as_given(design, t, n_splits), 0.0, 1, True) for t in thetas[-1]]
    gaps, n_passes = np.zeros((n_splits, len(Cs))), np.ones((n_splits, len(Cs)), int)
    found, solved = predictions.found[:n_splits], np.ones(len(Cs), bool)
    return Path(found, gaps, n_passes, True, solved, whole)


def targets(labels: torch.Tensor, n_classes: int) -> torch.Tensor:
    """Give +1 and -1 for every column, (n, n_columns) float64."""
    own = torch.arange(n_classes, device=labels.device)
    own = own[1:] if n_classes == 2 else own
    return 2.0 * (labels[:, None] == own).double() - 1.0


def ridge(design: Design, n_classes: int, Cs: torch.Tensor) -> torch.Tensor:
    """Give theta for every split and C, (n_splits, n_C, n_columns, width + 1).

    The coefficients are those of the split's standardised, centred codes.
    """
    y = targets(design.labels, n_classes)
    grams, crosses, firsts = _gram.pattern_grams(design, y)
    n_splits = len(design.mass)
    found = y.new_empty(n_splits, len(Cs), y.shape[1], design.table.width + 1)

    def solve_split(p: int) -> None:
        ratio, centre, mass = design.ratio[p], design.centre[p], design.mass[p]
        mean = design.weights[p] @ y / mass
        outer = torch.outer(firsts[p], centre)
        centred = grams[p] - outer - outer.T + mass * torch.outer(centre, centre)
        gram = ratio[:, None] * centred * ratio
        cross = ratio[:, None] * (crosses[p] - torch.outer(firsts[p], mean))
        values, vectors = _gram.principal(gram)
        found[p] = _every_C(values, vectors.T @ cross, mean, Cs, vectors)

    # An eigendecomposition leaves most of its threads idle.
    on_cpu = y.device.type == "cpu"
    n_workers = min(n_splits, processors()) if on_cpu else 1
    side_by_side(solve_split, n_splits, n_workers)
    return found


def ridge_turned(turned: Turned, n_classes: int, Cs: torch.Tensor) -> torch.Tensor:
    """Give theta for every C of one turned split, (n_C, n_columns, rank + 1)."""
    design = turned.design
    y = targets(design.labels, n_classes)
    weights = design.weights[0]
    mean = weights @ y / design.mass[0]
    rows = design.table.rows(0, design.table.n_rows, torch.float64)
    cross = (rows.T * weights) @ (y - mean)
    return _every_C(turned.spread, cross, mean, Cs, None)


def _every_C(
    values: torch.Tensor,
    cross: torch.Tensor,
    mean: torch.Tensor,
    Cs: torch.Tensor,
    basis: torch.Tensor | None,
) -> torch.Tensor:
    # Setting the gradient to zero: (Gram + 1 / 2C) w = cross.
    w = cross.T / (values + 0.5 / Cs[:, None])[:, None, :]
    w = w if basis is None else w @ basis.T
    return torch.cat([w, mean.expand(len(Cs), -1).unsqueeze(2)], dim=2)
