"""Proven bounds of how far an objective is from its minimum.

The derivations stand in docs/solvers.md. Both have the form

    F(W, b) - F*  <=  step + (|dF/dW| + moved)^2 / 2

where ``step`` bounds what the best intercept for this W gains, and ``moved`` how far
the gradient by W can change on the way there. The square is the strong convexity of
the penalty (equally: the duality gap at the residuals).
"""

from __future__ import annotations

import torch

__all__ = ["hinge_gap", "logistic_gap"]


def logistic_gap(
    slope: torch.Tensor,
    bend: torch.Tensor,
    curvature: torch.Tensor,
    steepest: torch.Tensor,
    n_free: torch.Tensor,
) -> torch.Tensor:
    """Bound the gap of (multinomial) logistic units.

    Parameters
    ----------
    slope : (n_units,) float64
        Norm of the gradient by W.
    bend : (n_units, n_columns) float64
        Gradient by the intercepts.
    curvature : (n_units, n_columns, n_columns) float64
        Of the objective by the intercepts, or anything smaller.
    steepest : (n_units,) float64
        Largest eigenvalue of the Hessian of the loss by W, or anything larger.
    n_free : (n_units,) int64
        Intercept directions that change nothing (all alike, absent classes).

    Returns
    -------
    (n_units,) float64, infinite where nothing can be said
    """
    values, vectors = torch.linalg.eigh(curvature)
    along = (vectors.mT @ bend.unsqueeze(2)).squeeze(2)
    rank = torch.arange(values.shape[1], device=values.device)
    fixed = rank >= n_free[:, None]
    values = torch.where(fixed, values.clamp_min(0), torch.inf)
    decrement = (along**2 / values).nan_to_num(0.0).sum(1).sqrt()
    reach = (2 / values.amin(1)).sqrt() * decrement
    reach = reach.nan_to_num(0.0, posinf=torch.inf)
    # Generalised self-concordance: along u the curvature falls by exp(-range(u)).
    span = -torch.log1p(-reach.clamp_max(1.0))
    growth = torch.where(reach > 0, span / reach, 1.0)
    length = decrement * growth
    moved = (steepest * span.exp()).sqrt() * length
    gap = decrement * length + (slope + moved) ** 2 / 2
    return gap.nan_to_num(torch.inf, posinf=torch.inf)


def hinge_gap(
    slope: torch.Tensor, bend: torch.Tensor, sides: torch.Tensor, radius: torch.Tensor
) -> torch.Tensor:
    """Bound the gap of squared-hinge units.

    Parameters
    ----------
    slope : (n_units,) float64
    bend : (n_units,) float64
    sides : (n_units, 2) float64
        Curvature by the intercept from rows of the class, and from the rest.
    radius : (n_units,) float64
        Largest norm of a training row.
    """
    # Moving b against its slope only adds active rows on the side that resists, and
    # the hinges change by |bend| in all.
    resisting = torch.where(bend > 0, sides[:, 0], sides[:, 1])
    shift = (bend.abs() / resisting).nan_to_num(0.0, posinf=torch.inf)
    gap = bend.abs() * shift + (slope + radius * bend.abs()) ** 2 / 2
    return gap.nan_to_num(torch.inf, posinf=torch.inf)
