"""One problem after another by scipy: plain and slow, to be replaced."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize
from scipy.special import logsumexp, softmax

from featpipe.solvers._task import Options, Task

__all__ = ["Path", "Solution", "solve", "solve_path"]


@dataclass(frozen=True, eq=False)
class Solution:
    """One fitted classifier on the scale of the codes as given.

    ``gap`` is a bound of the relative distance of the objective to its minimum.
    """

    coef: np.ndarray
    intercept: np.ndarray
    gap: float
    n_passes: int
    converged: bool


@dataclass(frozen=True, eq=False)
class Path:
    """Out-of-fold predictions of every C, and how exact they are.

    ``predicted`` holds one (n_C, n_held_out) array of class numbers a split, ``gaps``
    the relative gap by (split, C).
    """

    predicted: list[np.ndarray]
    gaps: np.ndarray
    n_passes: int
    converged: bool

    def nearest(self, position: int) -> Solution | None:
        """Give a solution to start from at the C of that position, if one was kept."""
        return None


def solve_path(
    task: Task, Cs: np.ndarray, splits: list, *, options: Options | None = None
) -> Path:
    """Solve every C for every split."""
    predicted = []
    for train, held_out in splits:
        X, start = task.codes, None
        rows = []
        for C in Cs:
            coef, intercept, start = _solve(task, C, train, start)
            f = X[held_out] @ coef.T + intercept
            rows.append(f[:, 0] > 0 if f.shape[1] == 1 else f.argmax(1))
        predicted.append(np.array(rows, np.int64))
    return Path(predicted, np.zeros((len(splits), len(Cs))), 0, True)


def solve(
    task: Task,
    C: float,
    *,
    options: Options | None = None,
    start: Solution | None = None,
) -> Solution:
    """Solve one C on all rows."""
    coef, intercept, _ = _solve(task, C, np.arange(len(task.labels)), None)
    return Solution(coef, intercept, 0.0, 1, True)


def _solve(task, C, train, start):  # type: ignore[no-untyped-def]
    if not isinstance(task.codes, np.ndarray):
        raise NotImplementedError("readers are not supported yet")
    X = np.asarray(task.codes[train], np.float64)
    y, s, w = task.labels[train], task.weights[train], task.row_weights[train]
    mean = np.average(X, axis=0, weights=w)
    std = np.sqrt(np.average((X - mean) ** 2, axis=0, weights=w))
    scale = np.where(std > 1e-12 * np.maximum(np.abs(mean), 1e-300), std, 1.0)
    if not task.standardize:
        scale = np.ones_like(scale)
    X = (X - mean) / scale
    columns = 1 if task.n_classes == 2 else task.n_classes
    target = (
        (y == 1)[:, None] if columns == 1 else y[:, None] == np.arange(columns)
    ).astype(float)
    sign = 2 * target - 1

    def value(p):  # type: ignore[no-untyped-def]
        P = p.reshape(X.shape[1] + 1, columns)
        f = X @ P[:-1] + P[-1]
        if task.loss == "logistic" and columns > 1:
            loss = logsumexp(f, axis=1) - f[np.arange(len(y)), y]
            r = softmax(f, axis=1) - target
        elif task.loss == "logistic":
            loss = np.logaddexp(0, -sign * f)[:, 0]
            r = -sign / (1 + np.exp(np.clip(sign * f, -500, 500)))
        else:
            h = (
                sign - f
                if task.loss == "linear"
                else sign * np.maximum(1 - sign * f, 0)
            )
            loss, r = (h**2).sum(1), -2 * h
        r = C * s[:, None] * r
        g = np.vstack([X.T @ r + P[:-1], r.sum(0)])
        return 0.5 * (P[:-1] ** 2).sum() + C * (s * loss).sum(), g.ravel()

    if start is None:
        start = np.zeros((X.shape[1] + 1) * columns)
    out = minimize(
        value,
        start,
        jac=True,
        method="L-BFGS-B",
        options={"maxiter": 2000, "maxfun": 4000, "ftol": 1e-12, "gtol": 1e-9},
    )
    P = out.x.reshape(X.shape[1] + 1, columns)
    coef = (P[:-1] / scale[:, None]).T
    return coef, P[-1] - coef @ mean, out.x
