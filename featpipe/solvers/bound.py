"""Proven bounds of how far an objective is from its minimum.

Both have the form

    F(W, b) - F*  <=  step + (|dF/dW| + moved)^2 / 2

where ``step`` bounds what the best intercept for this W gains, and ``moved`` how far
the gradient by W can change on the way there. The square is the strong convexity of
the penalty (equally: the duality gap at the residuals). docs/inside/solvers.md derives
them.
"""

from __future__ import annotations

import torch

__all__ = ["hinge_gap", "logistic_gap", "relative_gap"]

# Share of the objective that a gain is at least taken to be.
LEAST_GAIN = 1e-3


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
        Intercept directions that change nothing (all alike, absent classes).

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
