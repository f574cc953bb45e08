"""How far solutions are from a float64 optimum found by scipy."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from scipy.optimize import minimize
from scipy.special import logsumexp, softmax

from featpipe import solvers

__all__ = ["report"]

GRID = np.logspace(-6, 5, 45)
# Margins below this share of the largest score are rounding.
ROUNDING = 1e-3


def report(name: str, X: np.ndarray, y: np.ndarray, wanted: list[str]) -> None:
    """Print, for every fourth C, the true relative gap of a single fit.

    Beside it stand the gap that was proven, and the share of rows told alike among
    those whose margin exceeds rounding.
    """
    for kind, (rows, labels) in kinds(X, y):
        if any(wanted) and kind not in wanted:
            continue
        labels = np.unique(labels, return_inverse=True)[1]
        start, worst, least = None, -np.inf, 1.0
        for C in GRID[::4]:
            ones = np.ones(len(labels))
            k = int(labels.max()) + 1
            task = solvers.Problem(rows, labels, k, name, ones, ones)
            model = solvers.solve(task, C)
            value, best, start, f = optimum(name, rows, labels, C, model, start)
            gap, alike = value / best - 1, share_alike(rows, model, f)
            worst, least = max(worst, gap), min(least, alike)
            print(
                f"{name:9} {kind:16} C={C:7.1e} true gap {gap:8.1e}, "
                f"proven {model.gap:.1e}, {model.n_passes} passes, "
                f"{100 * alike:.2f} % told alike",
                flush=True,
            )
        print(
            f"{name:9} {kind:16} {rows.shape[0]} x {rows.shape[1]}: largest true gap "
            f"{worst:.1e}, least told alike {100 * least:.2f} %",
            flush=True,
        )


def share_alike(X: np.ndarray, model: solvers.Solution, f: np.ndarray) -> float:
    """Return the share of rows that both classify alike, where f is clear."""
    ours = X @ model.coef.T + model.intercept
    if f.shape[1] == 1:
        margin, same = np.abs(f[:, 0]), ((f > 0) == (ours > 0))[:, 0]
    else:
        ordered = np.sort(f, axis=1)
        margin = ordered[:, -1] - ordered[:, -2]
        same = f.argmax(axis=1) == ours.argmax(axis=1)
    clear = margin > ROUNDING * np.abs(f).max()
    return float(same[clear].mean()) if clear.any() else 1.0


def kinds(
    X: np.ndarray, y: np.ndarray
) -> Iterator[tuple[str, tuple[np.ndarray, np.ndarray]]]:
    """Return the codes as they are, and harder sets made of them."""
    yield "as given", (X, y)
    yield "separable", (X[: X.shape[1] // 2], y[: X.shape[1] // 2])
    yield "imbalanced", (X, (y == 0).astype(np.int64))
    yield "ill-conditioned", (skewed(X), y)
    wide = max(2 * int(y.max() + 1), X.shape[1] // 8)
    yield "more width", (X[:wide], y[:wide])


def skewed(X: np.ndarray) -> np.ndarray:
    """Return codes whose columns are nearly dependent: condition 1e4 times the own."""
    turn = np.random.default_rng(0).standard_normal((X.shape[1], X.shape[1]))
    turn = np.linalg.qr(turn)[0]
    turned: np.ndarray = (X - X.mean(axis=0)) @ (turn * np.logspace(0, -4, X.shape[1]))
    return turned @ turn.T


def optimum(
    name: str,
    X: np.ndarray,
    y: np.ndarray,
    C: float,
    model: solvers.Solution,
    start: np.ndarray | None,
) -> tuple[float, float, np.ndarray, np.ndarray]:
    """Return the model's objective, and what scipy finds, in float64.

    That is the smallest objective, its parameters and its scores (n, n_columns).
    """
    X = X.astype(np.float64)
    scale = X.std(axis=0)
    scale[scale < 1e-12] = 1.0
    Z = (X - X.mean(axis=0)) / scale
    U, S, _ = np.linalg.svd(Z, full_matrices=False)
    Z = (U * S)[:, 1e-9 * S[0] < S]
    k = model.coef.shape[0]
    own = y[:, None] == (np.arange(k) if k > 1 else 1)
    sign = 2.0 * own - 1.0

    def loss(f: np.ndarray) -> tuple[float, np.ndarray]:
        if name == "logistic" and k > 1:
            value = logsumexp(f, axis=1) - f[own]
            return value.sum(), softmax(f, axis=1) - own
        if name == "logistic":
            wrong = np.exp(-np.logaddexp(0, sign * f))
            return np.logaddexp(0, -sign * f).sum(), -sign * wrong
        h = sign - f if name == "linear" else sign * np.maximum(1 - sign * f, 0)
        return (h**2).sum(), -2 * h

    def objective(p: np.ndarray) -> tuple[float, np.ndarray]:
        P = p.reshape(-1, k)
        value, r = loss(Z @ P[:-1] + P[-1])
        slope = np.vstack([P[:-1] + C * Z.T @ r, C * r.sum(axis=0)])
        return 0.5 * (P[:-1] ** 2).sum() + C * value, slope.ravel()

    ours = 0.5 * ((model.coef * scale) ** 2).sum()
    ours += C * loss(X @ model.coef.T + model.intercept)[0]
    p = np.zeros((Z.shape[1] + 1) * k) if start is None else start
    limits = {"maxiter": 5000, "maxfun": 9000, "ftol": 1e-15, "gtol": 1e-9}
    limits["maxcor"] = 40
    minimum = minimize(objective, p, jac=True, method="L-BFGS-B", options=limits)
    P = minimum.x.reshape(-1, k)
    return ours, minimum.fun, minimum.x, Z @ P[:-1] + P[-1]
