"""Preconditioners of the Hessian: the mean row's, and each column's own in two forms.

`mean_row` is the Hessian if every row bent the loss like the mean row.

With G the Gram matrix of the standardised codes and A the mean second derivative
between classes (n_columns × n_columns), that Hessian is C (A ⊗ G) + I, without the I
for the intercept. In the eigenbases of both it is diagonal (Kronecker-factored
curvature, Martens and Grosse 2015). Where one column is all there is, A is a number.

`own_column` is the Hessian of each column alone, C Zᵀ diag(h) Z + I, inverted. It costs
n · rank² a column, so it is for where few rows bend the loss and conjugate gradients
with `mean_row` take many steps. `few_rows` is the same inverse for even fewer rows, m
of them, by a matrix of m columns instead of rank + 1 (Woodbury 1950): m² · rank a
column.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from featpipe.solvers.objective import Evaluation, Objective

__all__ = [
    "Preconditioner",
    "column_hessians",
    "few_rows",
    "mean_row",
    "most_active",
    "own_column",
]

# Share of the largest eigenvalue of A below which it is rounding.
FREE = 1e-10
# Numbers gathered at once for the Hessians of columns.
GATHERED = 2**24
# A curvature of zero is taken to be this.
TINY = 1e-300
# Rounding of single precision, with a margin, relative to the largest sum.
SINGLE = 1e-6
# Share of the rows up to which those that bend the loss are gathered.
GATHER = 0.7
# Rows that bend the loss of a column, by the rank, up to which `few_rows` costs less.
FEW = 0.7


@dataclass(frozen=True, eq=False)
class Preconditioner:
    """An inverse of something near the Hessian of every unit.

    Conjugate gradients stay in its own coordinates from `enter` to `leave`: the
    eigenbases of A and G, where the mean-row Hessian is diagonal, or none.

    Parameters
    ----------
    inverse : callable
        From gradients that have entered, (n_folds, n_units, n_columns, rank + 1)
        float64, to the inverse times them.
    classes : (n_folds, n_units, n_columns, n_columns) float64, or None
        Eigenvectors of A; None where gradients stay as they are.
    basis : `FoldCodes.basis`, or None
    """

    inverse: Callable[[torch.Tensor], torch.Tensor]
    classes: torch.Tensor | None = None
    basis: torch.Tensor | None = None

    def enter(self, gradient: torch.Tensor) -> torch.Tensor:
        """Return a gradient as conjugate gradients take it."""
        x = gradient if self.classes is None else self.classes.mT @ gradient
        return x if self.basis is None else self._turn(x, self.basis)

    def leave(self, direction: torch.Tensor) -> torch.Tensor:
        """Return a direction for the coefficients."""
        x = direction if self.basis is None else self._turn(direction, self.basis.mT)
        return x if self.classes is None else self.classes @ x

    def _turn(self, x: torch.Tensor, basis: torch.Tensor) -> torch.Tensor:
        turned = x.flatten(1, 2).to(basis.dtype) @ basis
        return turned.view_as(x).double()

    def __call__(self, gradient: torch.Tensor) -> torch.Tensor:
        """Return the inverse times a gradient that has entered."""
        return self.inverse(gradient)


def mean_row(
    objective: Objective, at: Evaluation, theta: torch.Tensor
) -> Preconditioner:
    """Return the mean row's preconditioner where a batch was evaluated."""
    codes, penalty, basis = objective.codes, objective.penalty, None
    if codes.basis is not None:
        basis = codes.cast("basis", objective.product_dtype)
    weight = torch.cat([codes.eigenvalues, codes.mass[:, None]], dim=1)
    weight = objective.C[:, None] * weight[:, None]  # (n_folds, n_units, rank + 1)
    if objective.k == 1:
        least = torch.finfo(weight.dtype).tiny
        full = (at.bends * weight + penalty).clamp_min(least)
        inverse = 1 / full[:, :, None]
        return Preconditioner(inverse.mul, at.classes, basis)
    values = at.bends[..., None]
    full = values * weight[:, :, None] + penalty
    free = values <= FREE * values.amax(2, keepdim=True)
    # Nothing resists there but the penalty: the intercepts stay as they are.
    inverse = torch.where(free & (penalty == 0), 0.0, 1 / full)
    # All scores moved alike change nothing; rounding must not move them.
    inverse[:, :, -1] = 0
    return Preconditioner(inverse.mul, at.classes, basis)


def own_column(
    objective: Objective, at: Evaluation, theta: torch.Tensor
) -> Preconditioner:
    """Return each column's own preconditioner where a batch was evaluated."""
    if most_active(objective, at) <= FEW * objective.codes.rank:
        return few_rows(objective, at)
    factor = _cholesky(column_hessians(objective, at, theta))

    def inverse(gradient: torch.Tensor) -> torch.Tensor:
        return _solve(factor, gradient.to(factor.dtype).mT).mT.double()

    return Preconditioner(inverse)


def _solve(factor: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Solve with Cholesky factors."""
    # `torch.cholesky_solve` copies the factors, and takes four times as long.
    x = torch.linalg.solve_triangular(factor, x, upper=False)
    x = torch.linalg.solve_triangular(factor.mT, x, upper=True)
    return x


def _cholesky(h: torch.Tensor) -> torch.Tensor:
    """Return Cholesky factors; of the diagonal where rounding leaves none.

    Not LU: MKL's, of many large matrices, was seen to return pivots out of range.
    """
    # Rounding of large sums must not outweigh the penalty.
    diagonal = h.diagonal(dim1=-2, dim2=-1)
    diagonal += torch.finfo(h.dtype).eps * diagonal
    factor: torch.Tensor
    factor, info = torch.linalg.cholesky_ex(h)
    fails = info != 0
    if bool(fails.any()):
        factor[fails] = torch.diag_embed(diagonal[fails].clamp_min(TINY).sqrt())
    return factor


def most_active(objective: Objective, at: Evaluation) -> int:
    """Return how many rows bend the loss of one column at most."""
    if at.curvature is None or objective.codes.rows.kept is None:
        return objective.codes.rows.n_rows
    counts = torch.stack([(part > 0).sum(3) for part in at.curvature])
    return int(counts.sum(0).max())


def few_rows(objective: Objective, at: Evaluation) -> Preconditioner:
    """Return each column's preconditioner, made of the rows that bend its loss.

    With h their second derivatives and S = √(C h) Z, the Hessian is I + SᵀS for the
    coefficients, without the I for the intercept, whose column of S is √(C h).
    """
    assert at.curvature is not None
    bend = torch.cat(at.curvature, dim=3).squeeze(2)
    # Zero where a column has fewer rows than another.
    bend, chosen = bend.topk(most_active(objective, at), dim=2)
    dtype = _precision(objective)
    root = (objective.C[:, None] * bend.double()).sqrt().to(dtype)
    rows = objective.codes.take(chosen, dtype).mul_(root.unsqueeze(3))
    kernel = rows @ rows.mT
    kernel.diagonal(dim1=2, dim2=3).add_(1)
    factor = _cholesky(kernel)

    def inverse(gradient: torch.Tensor) -> torch.Tensor:
        gradient = gradient[:, :, 0].to(dtype)
        w = gradient[..., :-1]
        both = torch.stack([(rows @ w.unsqueeze(3)).squeeze(3), root], dim=3)
        solved, of_root = _solve(factor, both).unbind(3)
        bends = (root * of_root).sum(2).clamp_min(torch.finfo(dtype).tiny)
        b = (gradient[..., -1] - (root * solved).sum(2)) / bends
        share = solved + b.unsqueeze(2) * of_root
        w = w - (share.unsqueeze(2) @ rows).squeeze(2)
        return torch.cat([w, b.unsqueeze(2)], dim=2).unsqueeze(2).double()

    return Preconditioner(inverse)


def _precision(objective: Objective) -> torch.dtype:
    """Return single precision where the penalty is above the rounding of the sums."""
    largest = float(objective.C.max() * objective.codes.top.max())
    return torch.float64 if largest * SINGLE > 1 else objective.product_dtype


def column_hessians(
    objective: Objective, at: Evaluation, theta: torch.Tensor
) -> torch.Tensor:
    """Return each column's Hessian, (n_folds, n_units, size, size)."""
    codes, (n_folds, n_units, _, size) = objective.codes, objective.shape
    dtype = _precision(objective)
    h = theta.new_zeros(n_folds, n_units, size, size, dtype=dtype)
    step = max(1, GATHERED // (n_folds * codes.rows.n_rows * size))
    for start, stop, bend in objective.curvatures(at.curvature, theta):
        z, bend = codes.fold_rows(start, stop, dtype), bend.squeeze(2).to(dtype)
        for first in range(0, n_units, step):
            some = slice(first, first + step)
            h[:, some] += _bent_gram(z, bend[:, some])
    h *= objective.C[:, None, None].to(dtype)
    h.diagonal(dim1=-2, dim2=-1).add_(objective.penalty)
    return h


def _bent_gram(z: torch.Tensor, bend: torch.Tensor) -> torch.Tensor:
    """Return Σ bend z zᵀ of every column, over the rows that bend at all.

    Parameters
    ----------
    z : (n_folds, n_rows, size)
    bend : (n_folds, n_columns, n_rows)

    Returns
    -------
    (n_folds, n_columns, size, size)
    """
    n_active = int((bend > 0).sum(2).max())
    root = bend.sqrt()
    if n_active > GATHER * bend.shape[2]:
        part = z.unsqueeze(1) * root.unsqueeze(3)
    else:
        root, rows = root.topk(n_active, dim=2)
        fold = torch.arange(len(z), device=z.device)[:, None, None]
        part = z[fold, rows] * root.unsqueeze(3)
    return part.mT @ part
