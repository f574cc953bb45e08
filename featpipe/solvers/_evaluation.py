"""One pass over the codes: loss, gradient and curvature of many units at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch

from featpipe.solvers import _losses
from featpipe.solvers._table import Block, Design

__all__ = ["Curved", "Evaluation", "Objective", "scores"]

# Scores held at once on a CPU: small enough for its caches; a GPU wants many.
CPU_SCORES = 2**18
# Rows at once at least: fewer make the sums over blocks dearer than the products.
# 60,000 x 512, 1,000 columns: 1.36 s a pass with 262 rows at once, 0.87 s with 2,048.
LEAST_ROWS = 2048
GPU_SCORES = 2**26


class Evaluation(NamedTuple):
    """The loss of each unit (without C or the norm) and its derivatives.

    Parameters
    ----------
    loss : (n_units,) float64
    gradient : (n_units, n_columns, width + 1) float64
        By the coefficients of the split's standardised codes, in the objective's
        basis; the intercept last.
    curvature : (n_units, n_columns, n_columns) float64
    sampled : (n_units,) float64
    sides : (n_units, 2) float64
        As `_losses.Slope` says.
    """

    loss: torch.Tensor
    gradient: torch.Tensor
    curvature: torch.Tensor
    sampled: torch.Tensor
    sides: torch.Tensor


@dataclass(frozen=True, eq=False)
class Objective:
    """The loss of all units of one design.

    Parameters
    ----------
    design : Design
    loss : {"svm", "logistic"}
    n_columns : int
        Columns a unit: the classes of a multinomial unit, else 1.
    split : (n_units,) int64
        What each unit trains on.
    own : (n_units,) int64
        The class told from the rest, where a unit has one column.
    basis : (width, width) float64 tensor or None
        What coefficients are given in: the eigenvectors of the Gram matrix, as
        columns. None is that of the codes' own columns.
    """

    design: Design
    loss: str
    n_columns: int
    split: torch.Tensor
    own: torch.Tensor
    basis: torch.Tensor | None = None

    def evaluate(
        self, theta: torch.Tensor, units: torch.Tensor, dtype: torch.dtype
    ) -> Evaluation:
        """Evaluate these units at ``theta`` (n_units, n_columns, width + 1)."""
        v, shift = self.to_table(theta, units)
        sums = _Sums(self, units, v.to(dtype), shift.to(dtype))
        for block in self.design.pieces(self.design.table.step):
            sums.add(block)
        gradient = self.from_table(sums.gradient, sums.residual, units)
        return Evaluation(sums.loss, gradient, sums.curvature, sums.sampled, sums.sides)

    def slopes(
        self,
        theta: torch.Tensor,
        direction: torch.Tensor,
        units: torch.Tensor,
        lengths: torch.Tensor,
        dtype: torch.dtype,
    ) -> torch.Tensor:
        """Give the loss's derivative along directions at several lengths.

        Parameters
        ----------
        theta, direction : (n_units, n_columns, width + 1) float64
        units : (n_units,) int64
        lengths : (n_units, n_lengths) float64
        dtype : torch.dtype

        Returns
        -------
        (n_units, n_lengths) float64
        """
        (v, shift), (dv, dshift) = (
            (part.to(dtype) for part in self.to_table(at, units))
            for at in (theta, direction)
        )
        n_rows, table = _rows_at_once(v), self.design.table
        found = torch.zeros_like(lengths)
        for block in self.design.pieces(table.step):
            rows = table.rows(block.start, block.stop, dtype)
            for start in range(0, len(rows), n_rows):
                z = rows[start : start + n_rows]
                span = slice(block.start + start, block.start + start + len(z))
                f, change = scores(v, shift, z), scores(dv, dshift, z)
                for i, length in enumerate(lengths.T.to(dtype)):
                    moved = f + length[:, None, None] * change
                    r = self.slope(moved, units, span).residual
                    found[:, i] += (r * change).sum((1, 2), dtype=torch.float64)
        return found

    def bend(self, f: torch.Tensor, units: torch.Tensor, rows: slice) -> torch.Tensor:
        """Give what the second derivative of the loss by the scores is made of.

        One column: the derivative itself, (n_units, 1, n). More: the probabilities
        and below them the row's weight, (n_units, n_columns + 1, n).
        """
        f, labels, weights = self._prepare(f, units, rows)
        if self.n_columns > 1:
            return torch.cat([f.softmax(1), weights.unsqueeze(1)], dim=1)
        if self.loss == "logistic":
            p = f.sigmoid()
            return weights.unsqueeze(1) * p * (1 - p)
        sign = self._sign(labels, units, f.dtype)
        return 2 * (weights * (sign * f.squeeze(1) < 1)).unsqueeze(1)

    def slope(self, f: torch.Tensor, units: torch.Tensor, rows: slice) -> _losses.Slope:
        """Give loss and derivatives of these rows' scores; overwrites the scores."""
        f, labels, weights = self._prepare(f, units, rows)
        if self.n_columns > 1:
            stride = _stride(self.design.table.n_rows, self.n_columns)
            return _losses.softmax(f, labels, weights, stride)
        sign = self._sign(labels, units, f.dtype)
        loss = _losses.squared_hinge if self.loss == "svm" else _losses.logistic
        return loss(f, sign, weights)

    def _prepare(
        self, f: torch.Tensor, units: torch.Tensor, rows: slice
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Silence absent classes; give scores, labels and weights of the rows."""
        design, split = self.design, self.split[units]
        if self.n_columns > 1:
            absent = design.class_mass[split] == 0
            if absent.any():
                f = f.masked_fill(absent[:, :, None], -torch.inf)
        return f, design.labels[rows], design.weights[split, rows].to(f.dtype)

    def _sign(
        self, labels: torch.Tensor, units: torch.Tensor, dtype: torch.dtype
    ) -> torch.Tensor:
        own = labels == self.own[units][:, None]
        return own.to(dtype).mul_(2).sub_(1)

    def to_table(
        self, theta: torch.Tensor, units: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Give coefficients and intercepts for the rows of the table."""
        ratio, centre = self._scales(units)
        v = self.unturned(theta)[..., :-1] * ratio
        return v, theta[..., -1] - (v * centre).sum(2)

    def from_table(
        self, gradient: torch.Tensor, total: torch.Tensor, units: torch.Tensor
    ) -> torch.Tensor:
        """Give the gradient by theta from sums over the rows of the table."""
        ratio, centre = self._scales(units)
        total = total.unsqueeze(2)
        plain = torch.cat([ratio * (gradient - centre * total), total], dim=2)
        return self.turned(plain)

    def standardised(self, rows: torch.Tensor, split: int) -> torch.Tensor:
        """Give some rows as a split standardises them, (n, width) float64."""
        kept, design = self.design.table.kept, self.design
        if kept is None:
            raise RuntimeError("no rows are kept")
        return (kept[rows].double() - design.centre[split]) * design.ratio[split]

    def turned(self, theta: torch.Tensor) -> torch.Tensor:
        """Give coefficients in the basis instead of the codes' own columns."""
        if self.basis is None:
            return theta
        return torch.cat([theta[..., :-1] @ self.basis, theta[..., -1:]], dim=-1)

    def unturned(self, theta: torch.Tensor) -> torch.Tensor:
        """Give coefficients of the codes' own columns instead of in the basis."""
        if self.basis is None:
            return theta
        return torch.cat([theta[..., :-1] @ self.basis.T, theta[..., -1:]], dim=-1)

    def _scales(self, units: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        split = self.split[units]
        return self.design.ratio[split][:, None], self.design.centre[split][:, None]


class _Sums:
    """What one pass has added up so far."""

    def __init__(
        self,
        objective: Objective,
        units: torch.Tensor,
        v: torch.Tensor,
        shift: torch.Tensor,
    ) -> None:
        self.objective, self.units, self.v, self.shift = objective, units, v, shift
        n_units, k, width = v.shape
        new = objective.design.mass.new_zeros
        self.loss, self.sampled, self.sides = (
            new(n_units),
            new(n_units),
            new(n_units, 2),
        )
        self.gradient, self.residual = new(n_units, k, width), new(n_units, k)
        self.curvature = new(n_units, k, k)
        self.split = objective.split[units]
        self.n_rows = _rows_at_once(v)

    def add(self, block: Block) -> None:
        """Add all rows of a block, read at once."""
        chosen = _training(self.split, block.splits)
        if chosen is not None and not len(chosen):
            return
        z = self.objective.design.table.rows(block.start, block.stop, self.v.dtype)
        for start in range(0, len(z), self.n_rows):
            part = z[start : start + self.n_rows]
            self._add_rows(part, block.start + start, chosen)

    def _add_rows(
        self, z: torch.Tensor, start: int, chosen: torch.Tensor | None
    ) -> None:
        every = slice(None) if chosen is None else chosen
        v = self.v[every]
        n_units, k, width = v.shape
        f = scores(v, self.shift[every], z)
        rows = slice(start, start + len(z))
        slope = self.objective.slope(f, self.units[every], rows)
        r = slope.residual
        self.gradient[every] += (r.reshape(-1, len(z)) @ z).view(n_units, k, width)
        self.residual[every] += r.sum(2, dtype=torch.float64)
        self.loss[every] += slope.loss
        self.curvature[every] += slope.curvature
        self.sampled[every] += slope.sampled
        self.sides[every] += slope.sides


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
        self.n_rows = _rows_at_once(v)
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
        v, shift = objective.to_table(direction, units)
        gradient = torch.zeros_like(v)
        total = torch.zeros_like(shift)
        split, table = objective.split[units], objective.design.table
        v, shift = v.to(self.dtype), shift.to(self.dtype)
        for block in objective.design.pieces(table.step):
            chosen = _training(split, block.splits)
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
        return objective.from_table(gradient, total, units)

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


def scores(v: torch.Tensor, shift: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
    """Give scores as (unit, column, row)."""
    flat = torch.addmm(shift.reshape(-1, 1), v.flatten(0, 1), z.T)
    return flat.view(*v.shape[:2], len(z))


def _rows_at_once(v: torch.Tensor) -> int:
    scores = CPU_SCORES if v.device.type == "cpu" else GPU_SCORES
    columns = v.shape[0] * v.shape[1]
    return max(LEAST_ROWS, min(scores // columns, 8192 * scores // 2**18))


def _training(split: torch.Tensor, splits: tuple[int, ...]) -> torch.Tensor | None:
    """Give the units that train on one of these splits; None where all do."""
    inside = torch.isin(split, torch.tensor(splits, device=split.device))
    return None if inside.all() else inside.nonzero()[:, 0]


def _stride(n_rows: int, n_columns: int) -> int:
    """Give how sparsely rows are sampled for the curvature between classes.

    Some 50 rows a class settle it; all rows would cost as much as the scores when
    classes are as many as columns of the codes.
    """
    return max(1, n_rows // max(2048, 50 * n_columns))
