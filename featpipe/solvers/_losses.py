"""Loss, residual and curvature of a block of scores, for many problems at once.

Scores lie as (unit, column, row): sums over columns then run along contiguous rows.
A unit is what is solved together: all columns of one split for ``logistic``, a
single column for ``svm``.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

__all__ = ["Slope", "logistic", "softmax", "squared_hinge"]


class Slope(NamedTuple):
    """What a block adds to the objective of each unit.

    Parameters
    ----------
    loss : (n_units,) float64
    squares : (n_units,) float64
        Sum of the squares of what each row adds to it.
    residual : (n_units, n_columns, n_rows)
        Derivative of the weighted loss by the scores.
    curvature : (n_units, n_columns, n_columns) float64
        Sum of the weighted second derivatives over some or all rows.
    sampled : (n_units,) float64
        Weight of the rows that the curvature is of.
    sides : (n_units, 2) float64
        One column: second derivative from rows of the class and from the rest. More:
        the sum of 1 - p over all rows, p the probability of the row's class, twice.
    """

    loss: torch.Tensor
    squares: torch.Tensor
    residual: torch.Tensor
    curvature: torch.Tensor
    sampled: torch.Tensor
    sides: torch.Tensor


def softmax(
    f: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor, stride: int
) -> Slope:
    """Multinomial log-loss. ``f`` is overwritten.

    Neither the loss nor the residual subtracts nearly equal numbers: with p the
    probability of the row's class, -log p is log1p((1 - p) / p) and 1 - p is summed
    from the other classes. In float32 the textbook form stalls at relative gaps of
    1e-2 for large C.

    Parameters
    ----------
    f : (n_units, n_columns, n_rows)
    labels : (n_rows,) int64
    weights : (n_units, n_rows)
    stride : int
        Every stride-th row counts in the curvature.
    """
    f = (f - f.amax(1, keepdim=True)).to(weights.dtype)
    at = labels.expand(f.shape[0], 1, -1)
    own = f.gather(1, at)
    e = f.exp_()
    e_own = e.gather(1, at)
    e.scatter_(1, at, 0.0)
    rest = e.sum(1, keepdim=True)
    total = rest + e_own
    loss = torch.where(
        e_own > 0.5, torch.log1p(rest / e_own), torch.log(total) - own
    ).squeeze(1)
    share = weights.unsqueeze(1) / total
    residual = e.mul_(share)
    some = slice(None, None, stride)
    p = residual[..., some].clone()
    p.scatter_(1, at[..., some], (e_own * share)[..., some])
    missed = rest * share
    residual.scatter_(1, at, -missed)
    root = weights[:, None, some].clamp_min(torch.finfo(f.dtype).tiny).sqrt()
    diagonal = torch.diag_embed(p.sum(2, dtype=torch.float64))
    p /= root
    curvature = diagonal - (p @ p.mT).double()
    # Held-out rows of a class that is absent have infinite loss, and no weight.
    loss = torch.where(weights > 0, loss * weights, 0.0)
    sampled = weights[:, some].sum(1, dtype=torch.float64)
    sides = missed.sum(2, dtype=torch.float64).expand(-1, 2)
    return Slope(*_sums(loss), residual, curvature, sampled, sides)


def logistic(f: torch.Tensor, sign: torch.Tensor, weights: torch.Tensor) -> Slope:
    """Log-loss of two classes in one column.

    Parameters
    ----------
    f : (n_units, 1, n_rows)
    sign : (n_units, n_rows), +1 or -1
    weights : (n_units, n_rows)
    """
    margin = (sign * f.squeeze(1)).to(weights.dtype)
    loss = torch.nn.functional.softplus(-margin, threshold=80.0)
    wrong = torch.sigmoid(-margin)
    weighted = weights * wrong
    bend = weighted * torch.sigmoid(margin)
    return Slope(
        *_sums(weights * loss),
        (-sign * weighted).unsqueeze(1),
        bend.sum(1, dtype=torch.float64)[:, None, None],
        weights.sum(1, dtype=torch.float64),
        _sides(bend, sign),
    )


def squared_hinge(f: torch.Tensor, sign: torch.Tensor, weights: torch.Tensor) -> Slope:
    """Squared hinge, one column a unit. Parameters as for `logistic`."""
    hinge = (1 - sign * f.squeeze(1)).to(weights.dtype).clamp_min_(0)
    weighted = weights * hinge
    bend = 2 * weights * (hinge > 0)
    return Slope(
        *_sums(weighted * hinge),
        (-2 * sign * weighted).unsqueeze(1),
        bend.sum(1, dtype=torch.float64)[:, None, None],
        weights.sum(1, dtype=torch.float64),
        _sides(bend, sign),
    )


def _sums(loss: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return loss.sum(1, dtype=torch.float64), torch.linalg.vecdot(loss, loss).double()


def _sides(bend: torch.Tensor, sign: torch.Tensor) -> torch.Tensor:
    both = bend.sum(1, dtype=torch.float64)
    more = torch.linalg.vecdot(bend, sign).double()
    # Lower bounds: what rounding may have added is taken off.
    both -= 4 * torch.finfo(bend.dtype).eps * both
    return torch.stack([both + more, both - more], dim=1).clamp_min_(0) / 2
