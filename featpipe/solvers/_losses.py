"""Loss, residual and curvature of a block of scores, for many problems at once.

Scores lie as (unit, column, row): sums over columns then run along contiguous rows.
A unit is what is solved together: all columns of one split for ``logistic``, a
single column for ``svm``.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

__all__ = [
    "Exponentials",
    "Pull",
    "Slope",
    "logistic",
    "softmax",
    "softmax_pull",
    "squared_hinge",
]


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


class Exponentials(NamedTuple):
    """What the multinomial loss is made of: exp(f - largest f) of each row.

    Parameters
    ----------
    others : (n_units, n_columns, n_rows)
        Zero where the row is of the column's class.
    own : (n_units, 1, n_rows)
        Those of the row's class.
    own_log : (n_units, 1, n_rows)
        Their logarithm.
    """

    others: torch.Tensor
    own: torch.Tensor
    own_log: torch.Tensor

    @classmethod
    def of(
        cls, f: torch.Tensor, labels: torch.Tensor, dtype: torch.dtype
    ) -> Exponentials:
        """Take those of scores (n_units, n_columns, n_rows)."""
        f = (f - f.amax(1, keepdim=True)).to(dtype)
        at = labels.expand(f.shape[0], 1, -1)
        own_log = f.gather(1, at)
        others = f.exp_()
        own = others.gather(1, at)
        return cls(others.scatter_(1, at, 0.0), own, own_log)

    def shift(self, shifts: torch.Tensor, labels: torch.Tensor) -> Exponentials:
        """Give those of scores with ``shifts`` (n_units, n_columns) added; in place."""
        factors = shifts.exp().to(self.others.dtype)
        return Exponentials(
            self.others.mul_(factors.unsqueeze(2)),
            self.own.mul_(factors[:, labels].unsqueeze(1)),
            self.own_log.add_(shifts[:, labels].unsqueeze(1)),
        )


class Pull(NamedTuple):
    """What a block adds to the intercepts' derivatives; as in `Slope`.

    Parameters
    ----------
    total : (n_units, n_columns) float64
        Sum of the residual over rows.
    curvature, sampled
    """

    total: torch.Tensor
    curvature: torch.Tensor
    sampled: torch.Tensor


def softmax_pull(
    e: Exponentials, labels: torch.Tensor, weights: torch.Tensor, stride: int
) -> Pull:
    """Give what `softmax` says of the intercepts, and leave ``e`` as it is."""
    some = slice(None, None, stride)
    rest = e.others.sum(1, keepdim=True)
    share = weights.unsqueeze(1) / (rest + e.own)
    residual = e.others * share
    total = residual.sum(2, dtype=torch.float64)
    missed = (rest * share).squeeze(1).double()
    total.scatter_add_(1, labels.expand_as(missed), -missed)
    p = residual[..., some]
    p.scatter_(1, labels[some].expand(len(p), 1, -1), (e.own * share)[..., some])
    return Pull(total, *_bend(p, weights[:, some]))


def softmax(
    e: Exponentials, labels: torch.Tensor, weights: torch.Tensor, stride: int
) -> Slope:
    """Multinomial log-loss. ``e`` is overwritten.

    Neither the loss nor the residual subtracts nearly equal numbers: with p the
    probability of the row's class, -log p is log1p((1 - p) / p) and 1 - p is summed
    from the other classes. In float32 the textbook form stalls at relative gaps of
    1e-2 for large C.

    Parameters
    ----------
    e : Exponentials
    labels : (n_rows,) int64
    weights : (n_units, n_rows)
    stride : int
        Every stride-th row counts in the curvature.
    """
    at = labels.expand(len(weights), 1, -1)
    rest = e.others.sum(1, keepdim=True)
    total = rest + e.own
    loss = torch.where(
        e.own > 0.5, torch.log1p(rest / e.own), torch.log(total) - e.own_log
    ).squeeze(1)
    share = weights.unsqueeze(1) / total
    residual = e.others.mul_(share)
    some = slice(None, None, stride)
    p = residual[..., some].clone()
    p.scatter_(1, at[..., some], (e.own * share)[..., some])
    missed = rest * share
    residual.scatter_(1, at, -missed)
    # Held-out rows of a class that is absent have infinite loss, and no weight.
    loss = torch.where(weights > 0, loss * weights, 0.0)
    sides = missed.sum(2, dtype=torch.float64).expand(-1, 2)
    return Slope(*_sums(loss), residual, *_bend(p, weights[:, some]), sides)


def _bend(p: torch.Tensor, weights: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Give curvature and weight of rows, of weighted probabilities; overwrites them."""
    root = weights.unsqueeze(1).clamp_min(torch.finfo(p.dtype).tiny).sqrt()
    diagonal = torch.diag_embed(p.sum(2, dtype=torch.float64))
    p /= root
    sampled = weights.sum(1, dtype=torch.float64)
    return diagonal - (p @ p.mT).double(), sampled


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
