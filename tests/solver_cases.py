"""Problems of two folds, and what a plain computation makes of them.

Codes are standardised by numpy, and the objective is that of torch's own losses, whose
derivatives autograd takes.
"""

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from featpipe import solvers
from featpipe.solvers import eigenbasis, fold_codes, path

__all__ = ["Case", "case_of", "drawn"]

CPU = torch.device("cpu")


@dataclass
class Case:
    """A problem of two folds, its codes in one form, and its objective."""

    problem: solvers.Problem
    splits: list
    codes: fold_codes.FoldCodes
    batch: object
    form: str

    def rows(self, fold):
        """Return all rows as a fold standardises them, with a column of ones."""
        train, X = self.splits[fold][0], self.problem.codes
        w, v = (
            part[train] for part in (self.problem.weights, self.problem.row_weights)
        )
        mean = np.average(X[train], axis=0, weights=v)
        scale = np.sqrt(np.average((X[train] - mean) ** 2, axis=0, weights=v))
        # The intercept is that at the mean by the weights of the loss.
        z = (X - np.average(X[train], axis=0, weights=w)) / scale
        return np.column_stack([z, np.ones(len(z))])

    def weights(self, fold):
        weights = np.zeros(len(self.problem.labels))
        train = self.splits[fold][0]
        weights[train] = self.problem.weights[train]
        return torch.from_numpy(weights)

    def basis(self, fold):
        """Return what turns coefficients of a fold into W and b."""
        rank, width = self.codes.rank, self.problem.codes.shape[1]
        basis = torch.zeros(rank + 1, width + 1, dtype=torch.float64)
        identity = torch.eye(rank, dtype=torch.float64)
        basis[:-1, :-1] = self.codes.unrotate(identity, fold)
        basis[-1, -1] = 1
        return basis

    def value(self, theta, fold, unit):
        """Return the objective at coefficients of one unit, by autograd's rules."""
        C, label = float(self.batch.C[unit]), torch.from_numpy(self.problem.labels)
        x = torch.from_numpy(self.rows(fold)) @ self.basis(fold).T
        f, weights = x @ theta.T, self.weights(fold)
        if self.problem.loss == "logistic" and f.shape[1] > 1:
            rows = torch.nn.functional.cross_entropy(f, label, reduction="none")
        else:
            own = label == int(self.batch.column[unit])
            margin = torch.where(own, 1.0, -1.0).double() * f[:, 0]
            if self.problem.loss == "logistic":
                rows = torch.logaddexp(torch.zeros_like(margin), -margin)
            elif self.problem.loss == "svm":
                rows = (1 - margin).clamp_min(0) ** 2
            else:
                rows = (1 - margin) ** 2
        # Rows of weight zero, of classes that are absent say, count for nothing.
        rows = torch.where(weights > 0, rows, 0.0)
        return (theta[:, :-1] ** 2).sum() / 2 + C * (weights * rows).sum()

    def units(self):
        return [(f, u) for f in range(2) for u in range(self.batch.shape[1])]


def case_of(seed, loss, form, n_classes, Cs=(0.05, 2.0), wide=False, offset=0.0):
    """Draw a problem, and make its objective in double precision."""
    rng = np.random.default_rng(seed)
    n, width = 24, 40 if wide else 4
    labels = np.concatenate(
        [np.tile(np.arange(n_classes), 4), rng.integers(0, n_classes, n)]
    )
    X = rng.standard_normal((len(labels), width)) * rng.uniform(0.1, 5, width)
    X[:, 0] += labels
    X += offset
    weights, row_weights = (rng.uniform(0.2, 2, len(labels)) for _ in "ab")
    weights[-3:] = 0
    problem = solvers.Problem(X, labels, n_classes, loss, weights, row_weights)
    rows = np.arange(len(labels))
    held = [rows[k : 2 * n_classes + k : 2] + 2 * n_classes for k in (0, 1)]
    splits = [(np.setdiff1d(rows, h), h) for h in held]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(eigenbasis, "_rotates", lambda *args: form == "rotated")
        patch.setattr(eigenbasis, "OWN_BASES", 0 if form == "common" else 256)
        codes = eigenbasis.fold_codes(problem, splits, solvers.Options(), CPU)
    batch = path._objective(problem, codes, list(Cs), solvers.Options())
    while (finer := batch.finer()) is not None:
        batch = finer
    return Case(problem, splits, codes, batch, form)


def drawn(shape, seed, size=0.5):
    rng = np.random.default_rng(seed)
    return torch.from_numpy(size * rng.standard_normal(shape))
