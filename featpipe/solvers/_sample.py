"""A sample of the rows: where the loss of each column bends, and how wide that is."""

from __future__ import annotations

from typing import NamedTuple

import torch

from featpipe.solvers._evaluation import Objective
from featpipe.solvers._frame import scores

__all__ = ["MANY", "Bent", "Sample"]

# Columns beyond which each is looked at by itself. Fewer leave the metric early, for
# Newton steps, whose conjugate gradients take up to twice as many products with it.
MANY = 50
# Rows of a sample: some a column, and some in any case.
PER_COLUMN, LEAST = 50, 2048
# Rows that what is known beforehand counts for.
PRIOR = 100.0


class Bent(NamedTuple):
    """The codes of each column, a row counting by the second derivative of its loss.

    Parameters
    ----------
    centre, spread : (n_units, n_columns, width)
        Their mean, less that of all rows, and their variance along each direction of
        the basis.
    """

    centre: torch.Tensor
    spread: torch.Tensor


class Sample:
    """Every so many-th row of the table, in the basis of the coefficients.

    How the scale of a split differs from the table's is left out: a metric is a guess.

    Parameters
    ----------
    objective : Objective
    spread : (n_units, width) float64
        The variance of the codes of each unit, which is also what is taken where few
        rows bend.
    memory : int
        Bytes the sample and the scores of its rows may take.
    """

    def __init__(self, objective: Objective, spread: torch.Tensor, memory: int) -> None:
        self.objective, self.spread = objective, spread
        table, k = objective.design.table, objective.n_columns
        columns = len(objective.split) * k
        one = table.dtype.itemsize * (2 * table.width + 4 * columns)
        n_rows = max(LEAST, min(PER_COLUMN * k, memory // one))
        self.rows = slice(None, None, max(1, table.n_rows // n_rows))
        self.z = objective.turned_rows(self.rows.step) if k > MANY else None

    @property
    def looks(self) -> bool:
        """Whether columns are many, so that each is looked at."""
        return self.z is not None

    def bent(self, theta: torch.Tensor, units: torch.Tensor) -> Bent:
        """Look where the loss bends at ``theta`` (n_units, n_columns, width + 1).

        Few columns are not looked at: each is taken to bend at all rows.
        """
        objective, known = self.objective, self.spread[units, None]
        if self.z is None:
            known = known.expand(*theta.shape[:2], -1)
            return Bent(torch.zeros_like(known), known)
        z = self.z
        v, shift = objective.to_table(theta, units)
        f = scores(objective.turn(v).to(z.dtype), shift.to(z.dtype), z)
        bend = objective.bend(f, units, self.rows).to(z.dtype)
        p = bend[:, :-1]
        bend = bend[:, -1:] * p * (1 - p)
        total = bend.sum(2, keepdim=True)
        n_rows = total.square() / bend.square().sum(2, keepdim=True)
        share = (n_rows / (n_rows + PRIOR)).nan_to_num(0.0)
        flat = bend.flatten(0, 1)
        mean = ((flat @ z).view_as(v) / total).nan_to_num(0.0)
        square = ((flat @ (z * z)).view_as(v) / total).nan_to_num(0.0)
        own = (square - mean.square()).clamp_min(0)
        centre = objective.turn(objective.design.centre[objective.split[units]])
        return Bent(share * (mean - centre[:, None]), share * own + (1 - share) * known)
