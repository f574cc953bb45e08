"""The Hessian of the loss at a point, applied to directions."""

from __future__ import annotations

import torch

from featpipe.solvers._evaluation import Objective
from featpipe.solvers._frame import rows_at_once, scores, training

__all__ = ["Curved"]


class Curved:
    """The Hessian of the loss at one point, applied to directions.

    Parameters
    ----------
    theta : (n_units, n_columns, width + 1) float64
    units : (n_units,) int64
    dtype : torch.dtype
    memory : int
        Bytes the curvature of the rows may take; beyond, each pass works it out anew.
    """

    def __init__(
        self,
        objective: Objective,
        theta: torch.Tensor,
        units: torch.Tensor,
        dtype: torch.dtype,
        memory: int,
    ) -> None:
        self.objective, self.units, self.dtype = objective, units, dtype
        v, shift = objective.to_table(theta, units)
        self.v, self.shift = v.to(dtype), shift.to(dtype)
        self.n_rows = rows_at_once(v)
        scores = objective.design.table.n_rows * v.shape[0] * v.shape[1]
        self.kept: dict[int, torch.Tensor] | None = None
        if scores * dtype.itemsize <= memory:
            self.kept = {}

    def apply(self, direction: torch.Tensor, which: torch.Tensor) -> torch.Tensor:
        """Give the Hessian of the loss of the units ``which`` times their directions.

        Parameters
        ----------
        direction : (n, n_columns, width + 1) float64
        which : (n,) int64
            Numbers among the units this was made for.
        """
        objective, units = self.objective, self.units[which]
        v, shift = objective.to_table(direction.to(self.dtype), units)
        gradient = torch.zeros_like(v, dtype=torch.float64)
        total = torch.zeros_like(shift, dtype=torch.float64)
        split, table = objective.split[units], objective.design.table
        v, shift = v.to(self.dtype), shift.to(self.dtype)
        for block in objective.design.pieces(table.step):
            chosen = training(split, block.splits)
            every = slice(None) if chosen is None else chosen
            if not len(which[every]):
                continue
            rows = table.rows(block.start, block.stop, self.dtype)
            for start in range(0, len(rows), self.n_rows):
                z = rows[start : start + self.n_rows]
                bend = self._bend(z, block.start + start)[which[every]]
                q = self._bent(scores(v[every], shift[every], z), bend)
                gradient[every] += (q.flatten(0, 1) @ z).view_as(v[every])
                total[every] += q.sum(2, dtype=torch.float64)
        return objective.from_table(gradient, total, units, self.dtype)

    def _bend(self, z: torch.Tensor, start: int) -> torch.Tensor:
        """Give weighted probabilities, or second derivatives, (n_units, k + 1, n)."""
        if self.kept is not None and start in self.kept:
            return self.kept[start]
        f = scores(self.v, self.shift, z)
        rows = slice(start, start + len(z))
        bend = self.objective.bend(f, self.units, rows)
        if self.kept is not None:
            self.kept[start] = bend
        return bend

    def _bent(self, f: torch.Tensor, bend: torch.Tensor) -> torch.Tensor:
        if self.objective.n_columns == 1:
            return f * bend
        p, weight = bend[:, :-1], bend[:, -1:]
        return weight * (p * f - p * (p * f).sum(1, keepdim=True))
