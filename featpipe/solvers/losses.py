"""The losses, and proven bounds of how far their objectives are from the minimum.

Scores lie as (fold, unit, column, row). A unit is what is minimised together: every
column of one C for ``logistic`` with three classes or more, one column of one C else.

docs/inside/solvers.md derives the bounds: from the strong convexity of the penalty, and
what the intercept adds to it.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

__all__ = [
    "BlockLoss",
    "Hinge",
    "Logistic",
    "Softmax",
    "Squared",
    "hinge_gap",
    "logistic_gap",
    "make_loss",
    "relative_gap",
    "unweighted",
]

# Share of the objective that a gain is at least taken to be.
LEAST_GAIN = 1e-3


class BlockLoss(NamedTuple):
    """What a block of rows adds to the loss of every unit.

    Attributes
    ----------
    value : (n_folds, n_units) float64
        Weighted sum of the loss.
    residual : (n_folds, n_units, n_columns, n_rows)
        Derivative of the weighted loss by the scores.
    curvature : (n_folds, n_units, n_columns, n_rows)
        What ``hessian_product`` needs: weighted probabilities of ``Softmax``, else the
        weighted second derivative by the score.
    steep : (n_folds, n_units) float64
        Upper bound of the summed largest second derivative by the scores of a row.
    """

    value: torch.Tensor
    residual: torch.Tensor
    curvature: torch.Tensor
    steep: torch.Tensor


def unweighted(summed: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Return what was multiplied by the weights of the rows; zero where they are."""
    return summed / weights.clamp_min(torch.finfo(weights.dtype).tiny)[:, None, None]


class Softmax:
    """Multinomial log-loss; ``targets`` are class numbers (n_rows,).

    Neither the loss nor the residual subtracts nearly equal numbers: with p the
    probability of the row's class, -log p is log1p((1 - p) / p), and 1 - p is summed
    from the other classes. In float32 the textbook form stalls at relative gaps of
    1e-2 for large C.
    """

    def __call__(
        self, f: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor
    ) -> BlockLoss:
        """Evaluate a block of scores."""
        at = targets.expand(*f.shape[:2], 1, -1)
        w = weights[:, None, None]
        # The largest score becomes zero, so that no exponential overflows. In place,
        # as all that follows: what costs here is passes over the scores.
        f -= f.amax(2, keepdim=True)
        own_log = f.gather(2, at)
        p = f.exp_()
        # The own class is kept apart: 1 - p of a nearly certain row would be rounded
        # away.
        own = p.gather(2, at)
        rest = p.scatter_(2, at, torch.zeros_like(own)).sum(2, keepdim=True)
        total = rest + own
        loss = torch.where(
            own > 0.5, torch.log1p(rest / own), torch.log(total) - own_log
        )
        # Held-out rows of a class that is absent have infinite loss, and no weight.
        loss = torch.where(w > 0, loss * w, 0.0)
        share = w / total
        missed = rest * share
        p *= share
        residual = p.scatter(2, at, -missed)
        p.scatter_(2, at, own * share)
        value = loss.sum((2, 3), dtype=torch.float64)
        # Of a row the largest is at most twice 1 - p of its class.
        return BlockLoss(value, residual, p, 2 * missed.sum((2, 3)).double())

    def hessian_product(
        self, curvature: torch.Tensor, df: torch.Tensor, weights: torch.Tensor
    ) -> torch.Tensor:
        """Return w (p df - p (p . df)) for every row."""
        q = curvature * df
        mean = unweighted(q.sum(2, keepdim=True), weights)
        return q.addcmul_(curvature, mean, value=-1)


class _OneColumn:
    """Losses of one column; ``targets`` are +1 or -1, (n_units, n_rows)."""

    def hessian_product(
        self, curvature: torch.Tensor, df: torch.Tensor, weights: torch.Tensor
    ) -> torch.Tensor:
        """Return second derivative times change for every row."""
        return curvature * df

    @staticmethod
    def _pack(
        loss: torch.Tensor, residual: torch.Tensor, bend: torch.Tensor
    ) -> BlockLoss:
        sums = loss.sum(2).double(), bend.sum(2).double()
        return BlockLoss(sums[0], residual.unsqueeze(2), bend.unsqueeze(2), sums[1])


class Logistic(_OneColumn):
    """Log-loss of two classes in one column."""

    def __call__(
        self, f: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor
    ) -> BlockLoss:
        """Evaluate a block of scores."""
        w = weights[:, None]
        margin = targets * f.squeeze(2)
        # Beyond 80 softplus is its argument in float64 too; torch's default of 20 is
        # for float32.
        loss = torch.nn.functional.softplus(-margin, threshold=80.0)
        weighted = w * torch.sigmoid(-margin)
        bend = weighted * torch.sigmoid(margin)
        return self._pack(w * loss, -targets * weighted, bend)


class Hinge(_OneColumn):
    """Squared hinge of one class against the rest."""

    def __call__(
        self, f: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor
    ) -> BlockLoss:
        """Evaluate a block of scores."""
        hinge = f.squeeze(2).mul_(-targets).add_(1).clamp_min_(0)
        weighted = weights[:, None] * hinge
        # Rows beyond the margin add nothing: the generalised Hessian of Keerthi and
        # DeCoste (2005).
        bend = (2 * weights[:, None]) * (hinge > 0)
        return self._pack(hinge.mul_(weighted), weighted * (-2 * targets), bend)


class Squared(_OneColumn):
    """Squared error of one class against the rest, on +1 and -1."""

    def __call__(
        self, f: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor
    ) -> BlockLoss:
        """Evaluate a block of scores."""
        error = f.squeeze(2) - targets
        weighted = weights[:, None] * error
        bend = (2 * weights[:, None]).expand_as(error)
        return self._pack(weighted * error, 2 * weighted, bend)


Loss = Softmax | Logistic | Hinge | Squared


def make_loss(name: str, n_columns: int) -> Loss:
    """Return the loss of a classifier by its name."""
    if name == "logistic":
        return Logistic() if n_columns == 1 else Softmax()
    return Hinge() if name == "svm" else Squared()


def logistic_gap(
    slope: torch.Tensor,
    along: torch.Tensor,
    values: torch.Tensor,
    steepest: torch.Tensor,
    n_free: torch.Tensor,
) -> torch.Tensor:
    """Bound the gap of (multinomial) logistic units.

    Parameters
    ----------
    slope : (...) float64
        Norm of the gradient by W.
    along : (..., n_columns) float64
        Gradient by the intercepts, along the eigenvectors of their Hessian.
    values : (..., n_columns) float64
        Its eigenvalues, ascending, or anything smaller.
    steepest : (...) float64
        Largest eigenvalue of the Hessian of the loss by W, or anything larger.
    n_free : (...) int64
        Intercept directions that change nothing (absent classes).

    Returns
    -------
    (...) float64, infinite where nothing is proven

    References
    ----------
    Bach 2010, "Self-concordant analysis for logistic regression": along u the
    curvature of log-sum-exp falls at most by exp(-range(u)).
    """
    order = torch.arange(values.shape[-1], device=values.device)
    values = torch.where(order >= n_free[..., None], values, torch.inf)
    decrement = (along**2 / values).nan_to_num(0.0).sum(-1).sqrt()
    reach = (2 / values.amin(-1)).sqrt() * decrement
    reach = reach.nan_to_num(0.0, posinf=torch.inf)
    span = -torch.log1p(-reach.clamp_max(1.0))
    growth = torch.where(reach > 0, span / reach, 1.0)
    length = decrement * growth
    moved = (steepest * span.exp()).sqrt() * length
    gap = decrement * length + (slope + moved) ** 2 / 2
    finite: torch.Tensor = gap.nan_to_num(torch.inf, posinf=torch.inf)
    return finite


def hinge_gap(
    gradient: torch.Tensor, pull: torch.Tensor, own: torch.Tensor, loss: torch.Tensor
) -> torch.Tensor:
    """Bound the gap of squared-hinge units by the value of a point of their dual.

    Residuals are dual variables, but for their sum, which has to be zero. Those of the
    class are multiplied by 1 + x and those of the others by 1 + y, so that it is, with
    the x and y that bring the bound lowest.

    Parameters
    ----------
    gradient : (..., width + 1) float64
        By W and, last, by the intercept.
    pull : (..., width + 1) float64
        The part of the gradient that comes from the rows.
    own : (..., width + 1) float64
        The part of it that comes from the rows of the class.
    loss : (...) float64
        C times the weighted sum of the loss.

    Returns
    -------
    (...) float64, infinite where nothing is proven
    """
    parts = torch.stack([own, pull - own], dim=-2)
    sums, slope = parts[..., -1], gradient[..., -1:]
    square = sums.square().sum(-1, keepdim=True)
    tiny = torch.finfo(square.dtype).tiny
    # (x, y) is the shortest way to a sum of zero, and a length along what keeps it.
    shortest = -slope * sums / square.clamp_min(tiny)
    keeps = torch.stack([-sums[..., 1], sums[..., 0]], dim=-1)
    keeps = keeps / square.clamp_min(tiny).sqrt()
    start = gradient[..., :-1] + (shortest.unsqueeze(-2) @ parts).squeeze(-2)[..., :-1]
    along = (keeps.unsqueeze(-2) @ parts).squeeze(-2)[..., :-1]
    bend = along.square().sum(-1) + 2 * loss
    length = -(start * along).sum(-1) / bend.clamp_min(tiny)
    xy = shortest + length.unsqueeze(-1) * keeps
    distance = (start + length.unsqueeze(-1) * along).square().sum(-1)
    gap = distance / 2 + xy.square().amax(-1) * loss
    # Residuals may not change their sign, and some must be there if their sum is not.
    proven = (xy >= -1).all(-1) & ((square > 0) | (slope == 0)).squeeze(-1)
    return torch.where(proven, gap, torch.inf).nan_to_num(torch.inf, posinf=torch.inf)


def relative_gap(
    gap: torch.Tensor, value: torch.Tensor, without: torch.Tensor, floor: torch.Tensor
) -> torch.Tensor:
    """Return a gap relative to the objective, or to what W gains if that is less.

    Where the penalty rules nearly all of the objective is there without W, and a small
    share of it would leave predictions open.

    Parameters
    ----------
    gap, value : (...) float64
    without : (...) float64
        The objective where W is zero.
    floor : (...) float64
        What is added to the denominator, so that a minimum of zero can be reached.
    """
    gain = torch.maximum(without - value, LEAST_GAIN * value)
    return gap / (torch.minimum(value, gain) + floor)
