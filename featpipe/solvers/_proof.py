"""How far units are from their minima, relative to what is to be gained."""

from __future__ import annotations

import torch

from featpipe.solvers import _bounds
from featpipe.solvers._evaluation import Evaluation, Objective

__all__ = ["Proof"]

# Share of the objective that a gain is at least taken to be.
LEAST_GAIN = 1e-3


class Proof:
    """Bounds of the relative gap of an objective's units.

    Parameters
    ----------
    objective : Objective
    top : (n_units,) float64
        Bound of the largest eigenvalue of each unit's Gram matrix.
    flat : (n_units,) float64
        The loss of each unit where W is zero.
    """

    def __init__(
        self, objective: Objective, top: torch.Tensor, flat: torch.Tensor
    ) -> None:
        design, split = objective.design, objective.split
        self.loss, self.n_columns = objective.loss, objective.n_columns
        self.top, self.flat = top, flat
        self.mass, self.radius = design.mass[split], design.radius[split]
        absent = (design.class_mass[split] == 0).sum(1)
        self.n_free = absent + 1 if self.n_columns > 1 else absent * 0

    def gap(
        self,
        value: torch.Tensor,
        gradient: torch.Tensor,
        at: Evaluation,
        units: torch.Tensor,
        C: torch.Tensor,
    ) -> torch.Tensor:
        """Bound the relative gap where these units were evaluated.

        Parameters
        ----------
        value, gradient : (n_units,), (n_units, n_columns, width + 1) float64
            Of the objective.
        at : Evaluation
        units : (n_units,) int64
        C : (n_units,) float64

        Returns
        -------
        (n_units,) float64
        """
        slope = (gradient[..., :-1] ** 2).sum((1, 2)).sqrt()
        bend, radius = gradient[..., -1], self.radius[units]
        if self.loss == "svm":
            gap = _bounds.hinge_gap(slope, bend[:, 0], C[:, None] * at.sides, radius)
        else:
            curvature = C[:, None, None] * at.curvature
            steepest = C * self._steepest(units, at)
            free = self.n_free[units]
            gap = _bounds.logistic_gap(slope, bend, curvature, steepest, free)
        # A class that is absent has the minimum zero: the floor lets it be reached.
        floor = 1e-12 * C * self.mass[units]
        # Where the penalty rules, nearly all of the objective is there without W: the
        # gap is then held against what W has gained.
        gained = torch.maximum(C * self.flat[units] - value, LEAST_GAIN * value)
        return gap / (torch.minimum(value, gained) + floor)

    def _steepest(self, units: torch.Tensor, at: Evaluation) -> torch.Tensor:
        """Bound the largest eigenvalue of the Hessian of the logistic loss by W.

        The curvature of a row is at most 1/2 (1/4 in one column), and its trace at
        most 2 (1 - p), p being the probability of the row's class.
        """
        if self.n_columns == 1:
            every, rows = 0.25 * self.top[units], at.sides.sum(1)
        else:
            every, rows = 0.5 * self.top[units], 2 * at.sides[:, 0]
        return torch.minimum(every, rows * self.radius[units] ** 2)
