"""The losses, and proven bounds of how far their objectives are from the minimum.

Scores lie as (fold, unit, column, row). A unit is what is minimised together: every
column of one C for ``logistic`` with three classes or more, one column of one C else.

Both bounds have the form

    F(W, b) - F*  <=  step + (|dF/dW| + moved)^2 / 2

where ``step`` bounds what the best intercept for this W gains, and ``moved`` how far
the gradient by W can change on the way there. The square is the strong convexity of
the penalty (equally: the duality gap at the residuals). docs/inside/solvers.md derives
them.
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
# Rounding of a sum over a block of rows, in units of its precision. (torch adds up in
# pairs; told to sum in double precision, it first makes a copy of everything.)
SUMMED = 16


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
    sides : (n_folds, n_units, 2) float64
        Lower bounds of the summed second derivative over the rows of the class and
        over the others (one column); twice the sum of 1 - p for ``Softmax``, p being
        the probability of the row's class.
    """

    value: torch.Tensor
    residual: torch.Tensor
    curvature: torch.Tensor
    sides: torch.Tensor


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
        sides = missed.sum((2, 3), dtype=torch.float64)
        value = loss.sum((2, 3), dtype=torch.float64)
        return BlockLoss(value, residual, p, sides[..., None].expand(*sides.shape, 2))

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
        loss: torch.Tensor,
        residual: torch.Tensor,
        bend: torch.Tensor,
        sign: torch.Tensor,
    ) -> BlockLoss:
        both, more = bend.sum(2).double(), (bend * sign).sum(2).double()
        # Lower bounds: what rounding may have added is taken off.
        both = both - SUMMED * torch.finfo(bend.dtype).eps * both
        sides = torch.stack([both + more, both - more], dim=2).clamp_min_(0) / 2
        value = loss.sum(2).double()
        return BlockLoss(value, residual.unsqueeze(2), bend.unsqueeze(2), sides)


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
        return self._pack(w * loss, -targets * weighted, bend, targets)


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
        return self._pack(
            hinge.mul_(weighted), weighted * (-2 * targets), bend, targets
        )


class Squared(_OneColumn):
    """Squared error of one class against the rest, on +1 and -1."""

    def __call__(
        self, f: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor
    ) -> BlockLoss:
        """Evaluate a block of scores."""
        error = f.squeeze(2) - targets
        weighted = weights[:, None] * error
        bend = (2 * weights[:, None]).expand_as(error)
        return self._pack(weighted * error, 2 * weighted, bend, targets)


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
    slope: torch.Tensor,
    intercept_slope: torch.Tensor,
    sides: torch.Tensor,
    radius: torch.Tensor,
) -> torch.Tensor:
    """Bound the gap of squared-hinge units.

    Parameters
    ----------
    slope, intercept_slope : (...) float64
    sides : (..., 2) float64
        Curvature by the intercept from rows of the class, and from the others.
    radius : (...) float64
        Largest norm of a training row.

    Returns
    -------
    (...) float64, infinite where nothing is proven
    """
    # Moving b against its slope only adds active rows on the side that resists, and
    # the hinges change by |slope| in all.
    resisting = torch.where(intercept_slope > 0, sides[..., 0], sides[..., 1])
    steep = intercept_slope.abs()
    shift = (steep / resisting).nan_to_num(0.0, posinf=torch.inf)
    gap = steep * shift + (slope + radius * steep) ** 2 / 2
    return gap.nan_to_num(torch.inf, posinf=torch.inf)


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
