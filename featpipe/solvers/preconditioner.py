"""Two preconditioners of the Hessian: the mean row's, and each column's own.

`MeanRow` is the Hessian if every row bent the loss like the mean row.

With G the Gram matrix of the standardised codes and A the mean second derivative
between classes (n_columns × n_columns), that Hessian is C (A ⊗ G) + I, without the I
for the intercept. In the eigenbases of both it is diagonal (Kronecker-factored
curvature, Martens and Grosse 2015). Where one column is all there is, A is a number.

`OwnColumn` is the Hessian of each column alone, C Zᵀ diag(h) Z + I, inverted. It costs
n · rank² a column, so it is for where few rows bend the loss and conjugate gradients
with `MeanRow` take many steps.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from featpipe.solvers.objective import Evaluation, Objective

__all__ = [
    "MeanRow",
    "OwnColumn",
    "Preconditioner",
    "column_hessians",
    "mean_row",
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
FEW = 0.7


@dataclass(frozen=True, eq=False)
class MeanRow:
    """Inverse of the mean-row Hessian of every unit.

    Parameters
    ----------
    inverse : (n_folds, n_units, n_columns, rank + 1) float64
        In both eigenbases.
    classes : (n_folds, n_units, n_columns, n_columns) float64 or None
        Eigenvectors of A; None for one column.
    """

    inverse: torch.Tensor
    classes: torch.Tensor | None

    def __call__(self, gradient: torch.Tensor) -> torch.Tensor:
        """Return the inverse times a gradient of the shape of ``inverse``."""
        if self.classes is None:
            return self.inverse * gradient
        gradient = gradient - gradient.mean(2, keepdim=True)
        x = self.classes @ (self.inverse * (self.classes.mT @ gradient))
        return x - x.mean(2, keepdim=True)


def mean_row(objective: Objective, at: Evaluation, theta: torch.Tensor) -> MeanRow:
    """Return the preconditioner of a batch where it was evaluated."""
    codes, penalty = objective.codes, objective.penalty
    weight = torch.cat([codes.eigenvalues, codes.mass[:, None]], dim=1)
    weight = objective.C[:, None] * weight[:, None]  # (n_folds, n_units, rank + 1)
    if objective.k == 1:
        bend = at.between[..., 0]
        least = torch.finfo(bend.dtype).tiny
        return MeanRow(1 / (bend * weight + penalty).clamp_min(least)[:, :, None], None)
    values, classes = torch.linalg.eigh(at.between)
    values = values.clamp_min(0)[..., None]
    full = values * weight[:, :, None] + penalty
    free = values <= FREE * values.amax(2, keepdim=True)
    # Nothing resists there but the penalty: the intercepts stay as they are.
    inverse = torch.where(free & (penalty == 0), 0.0, 1 / full)
    return MeanRow(inverse, classes)


@dataclass(frozen=True, eq=False)
class OwnColumn:
    """Inverse of each column's own Hessian; of several columns, they sum to zero.

    Parameters
    ----------
    factor : (n_folds, n_units, n_columns, rank + 1, rank + 1)
        Of Cholesky.
    """

    factor: torch.Tensor

    def __call__(self, gradient: torch.Tensor) -> torch.Tensor:
        """Return the inverse times a gradient, (n_folds, n_units, n_columns, -1)."""
        joint = gradient.shape[2] > 1
        if joint:
            gradient = gradient - gradient.mean(2, keepdim=True)
        x = gradient.to(self.factor.dtype).unsqueeze(-1)
        # `torch.cholesky_solve` copies the factors, and takes four times as long.
        x = torch.linalg.solve_triangular(self.factor, x, upper=False)
        x = torch.linalg.solve_triangular(self.factor.mT, x, upper=True)
        x = x.squeeze(-1).double()
        centred: torch.Tensor = x - x.mean(2, keepdim=True) if joint else x
        return centred


Preconditioner = MeanRow | OwnColumn


def own_column(objective: Objective, at: Evaluation, theta: torch.Tensor) -> OwnColumn:
    """Return each column's preconditioner where a batch was evaluated.

    By Cholesky factors: MKL's LU of many large matrices was seen to return pivots out
    of range. A Hessian that is not positive definite is replaced by its diagonal.
    """
    h = column_hessians(objective, at, theta)
    factor, info = torch.linalg.cholesky_ex(h)
    fails = info != 0
    if bool(fails.any()):
        diagonal = h[fails].diagonal(dim1=-2, dim2=-1).clamp_min(TINY).sqrt()
        factor[fails] = torch.diag_embed(diagonal)
    return OwnColumn(factor)


def column_hessians(
    objective: Objective, at: Evaluation, theta: torch.Tensor
) -> torch.Tensor:
    """Return each column's Hessian, (n_folds, n_units, n_columns, size, size).

    In single precision where the penalty is above the rounding of the sums.
    """
    codes, (n_folds, n_units, k, size) = objective.codes, objective.shape
    dtype = objective.product_dtype
    if float(objective.C.max() * codes.top.max()) * SINGLE > 1:
        dtype = torch.float64
    h = theta.new_zeros(n_folds, n_units * k, size, size, dtype=dtype)
    step = max(1, GATHERED // (n_folds * codes.rows.n_rows * size))
    for start, stop, bend in objective.column_bends(at.curvature, theta):
        z, bend = codes.fold_rows(start, stop, dtype), bend.to(dtype)
        for first in range(0, n_units * k, step):
            some = slice(first, first + step)
            h[:, some] += _bent_gram(z, bend[:, some])
    h = h.view(n_folds, n_units, k, size, size)
    h *= objective.C[:, None, None, None].to(dtype)
    diagonal = h.diagonal(dim1=-2, dim2=-1)
    # Rounding of large sums must not outweigh the penalty.
    diagonal += objective.penalty + torch.finfo(dtype).eps * diagonal
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
    if n_active > FEW * bend.shape[2]:
        part = z.unsqueeze(1) * root.unsqueeze(3)
    else:
        root, rows = root.topk(n_active, dim=2)
        fold = torch.arange(len(z), device=z.device)[:, None, None]
        part = z[fold, rows] * root.unsqueeze(3)
    return part.mT @ part
