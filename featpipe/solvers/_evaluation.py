"""One pass over the codes: loss, gradient and curvature of many units at once."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple, Self, TypeVar

import torch

from featpipe.solvers import _losses
from featpipe.solvers._frame import Frame, training
from featpipe.solvers._standing import Trial
from featpipe.solvers._threads import dealt, side_by_side

__all__ = ["Evaluation", "Objective"]

# Lanes that share the rows of a pass, at most; with more processors each has several.
MOST_LANES = 8

Piece = tuple[slice, torch.Tensor | None]
_S = TypeVar("_S", bound="_Added")


class Evaluation(NamedTuple):
    """The loss of each unit (without C or the norm) and its derivatives.

    Parameters
    ----------
    loss : (n_units,) float64
    blur : (n_units,) float64
        How far rounding is likely to have moved it.
    sway : (n_units,) float64
        The same of the gradient's norm, for rows of norm 1; zero where not known.
    gradient : (n_units, n_columns, width + 1) float64
        By the coefficients of the split's standardised codes, in the objective's
        basis; the intercept last.
    curvature : (n_units, n_columns, n_columns) float64
    sampled : (n_units,) float64
    sides : (n_units, 2) float64
        As `_losses.Slope` says.
    """

    loss: torch.Tensor
    blur: torch.Tensor
    sway: torch.Tensor
    gradient: torch.Tensor
    curvature: torch.Tensor
    sampled: torch.Tensor
    sides: torch.Tensor

    @classmethod
    def nothing(cls, theta: torch.Tensor) -> Evaluation:
        """Give room for what these units (n_units, n_columns, width + 1) will have."""
        n, k = theta.shape[:2]
        new = theta.new_zeros
        gradient = torch.zeros_like(theta)
        return cls(new(n), new(n), new(n), gradient, new(n, k, k), new(n), new(n, 2))

    def some(self, which: torch.Tensor) -> Evaluation:
        """Give the same of some of the units."""
        return Evaluation(*(part[which] for part in self))


@dataclass(frozen=True, eq=False, kw_only=True)
class Objective(Frame):
    """The loss of all units of one design.

    Parameters
    ----------
    loss : {"svm", "logistic"}
    n_columns : int
        Columns a unit: the classes of a multinomial unit, else 1.
    own : (n_units,) int64
        The class told from the rest, where a unit has one column.
    """

    loss: str
    n_columns: int
    own: torch.Tensor

    @property
    def n_operations(self) -> int:
        """What one product of a unit forth and back takes, two a multiplication."""
        return 4 * self.design.table.n_rows * self.design.table.width * self.n_columns

    def evaluate(self, trial: Trial, *, settled: bool = False) -> Evaluation:
        """Evaluate units where a trial puts them; settle intercepts of kept scores."""
        if settled and trial.kept:
            self._settle(trial)
        sums = self._over_rows(trial, _Sums)
        gradient = self.from_table(sums.gradient, sums.residual, trial.units)
        eps = torch.finfo(trial.dtype).eps
        blur, sway = eps * sums.loss, torch.zeros_like(sums.loss)
        if trial.kept:
            # What is rounded differs from row to row, and steps are rounded too.
            blur = torch.finfo(trial.table.dtype).eps * sums.squares.sqrt()
            sway = eps * sums.pull.sqrt()
        rest = sums.curvature, sums.sampled, sums.sides
        return Evaluation(sums.loss, blur, sway, gradient, *rest)

    def along(self, trial: Trial) -> torch.Tensor:
        """Give the loss's derivative along a trial's direction, (n_units,) float64."""
        return self._over_rows(trial, _Along).slope

    def _settle(self, trial: Trial) -> None:
        """Shift the intercepts by a Newton step, which takes no product.

        A gradient by them weighs heavily in the bounds of the gap.
        """
        found = self._over_rows(trial, _Pulls)
        total, bend, sampled = found.total, found.curvature, found.sampled
        split = self.split[trial.units]
        if self.n_columns > 1:
            # They sum to zero but for rounding, along which nothing bends.
            there = self.design.class_mass[split] > 0
            mean = total.sum(1, keepdim=True) / there.sum(1, keepdim=True)
            total -= there * mean
        bend *= (self.design.mass[split] / sampled)[:, None, None]
        values, vectors = torch.linalg.eigh(bend)
        floor = 1e-9 * values.amax(1, keepdim=True)
        along = vectors.mT @ total.unsqueeze(2)
        step = torch.where(values > floor, 1 / values, 0.0).unsqueeze(2) * along
        shifts = (vectors @ step).squeeze(2)
        shifts = -shifts.nan_to_num(0.0).clamp(-1.0, 1.0)
        # Such that their exponentials are whole in that precision: a rounded factor
        # would move all rows alike, and so be seen in their sum.
        trial.shifts = shifts.exp().to(trial.dtype).to(shifts.dtype).log()

    def _over_rows(self, trial: Trial, kind: type[_S]) -> _S:
        """Go once over all rows, several pieces side by side, and give the sums."""
        pieces = list(self._pieces(trial))
        n_threads = torch.get_num_threads()
        # A file is read by one thread, and a GPU needs no second one.
        alone = self.design.table.kept is None or self.design.mass.device.type != "cpu"
        n_lanes = 1 if alone else min(n_threads, MOST_LANES, max(1, len(pieces) // 4))
        lanes = dealt([rows.stop - rows.start for rows, _ in pieces], n_lanes)
        sums = [kind(self, trial) for _ in lanes]

        def walk(lane: int) -> None:
            for number in lanes[lane]:
                rows, chosen = pieces[number]
                sums[lane].add(trial.read(rows, chosen), rows, chosen)

        side_by_side(walk, n_lanes, n_lanes, n_threads // n_lanes)
        trial.end()
        for more in sums[1:]:
            sums[0].join(more)
        return sums[0]

    def _pieces(self, trial: Trial) -> Iterator[Piece]:
        """Give rows that are worked on at once, and which units train on them."""
        split = self.split[trial.units]
        for block in self.design.pieces(self.design.table.step):
            chosen = training(split, block.splits)
            if chosen is None or len(chosen):
                for rows in trial.cut(block):
                    yield rows, chosen

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

    def slope(
        self, trial: Trial, z: torch.Tensor, rows: slice, chosen: torch.Tensor | None
    ) -> _losses.Slope:
        """Give loss and derivatives of some rows, for the units that train on them."""
        every = slice(None) if chosen is None else chosen
        units, dtype = trial.units[every], trial.dtype
        labels = self.design.labels[rows]
        if (e := trial.exponentials.pop(rows.start, None)) is not None:
            weights = self._weights(units, rows, dtype)
            e = e.shift(trial.shifts[every], labels)
            return _losses.softmax(e, labels, weights, self._stride)
        return self._slope(trial.scores(z, rows, chosen), units, rows, dtype)

    def _slope(
        self, f: torch.Tensor, units: torch.Tensor, rows: slice, dtype: torch.dtype
    ) -> _losses.Slope:
        f, labels, weights = self._prepare(f, units, rows)
        weights = weights.to(dtype)
        if self.n_columns > 1:
            e = _losses.Exponentials.of(f, labels, dtype)
            return _losses.softmax(e, labels, weights, self._stride)
        sign = self._sign(labels, units, dtype)
        loss = _losses.squared_hinge if self.loss == "svm" else _losses.logistic
        return loss(f, sign, weights)

    def pull(
        self, trial: Trial, z: torch.Tensor, rows: slice, chosen: torch.Tensor | None
    ) -> _losses.Pull:
        """Give the derivatives by the intercepts, and keep what `slope` can use."""
        every = slice(None) if chosen is None else chosen
        f, units = trial.scores(z, rows, chosen), trial.units[every]
        if self.n_columns == 1:
            slope = self._slope(f, units, rows, z.dtype)
            total = slope.residual.sum(2, dtype=torch.float64)
            return _losses.Pull(total, slope.curvature, slope.sampled)
        f, labels, weights = self._prepare(f, units, rows)
        e = _losses.Exponentials.of(f, labels, z.dtype)
        if trial.dtype == z.dtype:
            trial.exponentials[rows.start] = e
        return _losses.softmax_pull(e, labels, weights.to(z.dtype), self._stride)

    @property
    def _stride(self) -> int:
        """How sparsely rows are sampled for the curvature between classes.

        Some 50 rows a class settle it; all rows would cost as much as the scores when
        classes are as many as columns of the codes.
        """
        return max(1, self.design.table.n_rows // max(2048, 50 * self.n_columns))

    def _prepare(
        self, f: torch.Tensor, units: torch.Tensor, rows: slice
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Silence absent classes; give scores, labels and weights of the rows."""
        design, split = self.design, self.split[units]
        if self.n_columns > 1:
            absent = design.class_mass[split] == 0
            if absent.any():
                f = f.masked_fill(absent[:, :, None], -torch.inf)
        return f, design.labels[rows], self._weights(units, rows, f.dtype)

    def _weights(
        self, units: torch.Tensor, rows: slice, dtype: torch.dtype
    ) -> torch.Tensor:
        return self.design.weights[self.split[units], rows].to(dtype)

    def _sign(
        self, labels: torch.Tensor, units: torch.Tensor, dtype: torch.dtype
    ) -> torch.Tensor:
        own = labels == self.own[units][:, None]
        return own.to(dtype).mul_(2).sub_(1)


class _Added(ABC):
    """What one pass over rows has added up so far."""

    def __init__(self, objective: Objective, trial: Trial) -> None:
        self.objective, self.trial = objective, trial

    @abstractmethod
    def add(self, z: torch.Tensor, rows: slice, chosen: torch.Tensor | None) -> None:
        """Add some rows, for the units that train on them."""

    def join(self, other: Self) -> None:
        """Add what another has added up over other rows."""
        for name, value in vars(other).items():
            if isinstance(value, torch.Tensor):
                getattr(self, name).add_(value)


class _Sums(_Added):
    """Loss, gradient and curvature."""

    def __init__(self, objective: Objective, trial: Trial) -> None:
        super().__init__(objective, trial)
        n_units, k, width = trial.shape
        new = objective.design.mass.new_zeros
        self.loss, self.squares, self.pull = (new(n_units) for _ in range(3))
        self.sampled, self.sides = new(n_units), new(n_units, 2)
        self.gradient, self.residual = new(n_units, k, width), new(n_units, k)
        self.curvature = new(n_units, k, k)

    def add(self, z: torch.Tensor, rows: slice, chosen: torch.Tensor | None) -> None:
        """Add some rows, for the units that train on them."""
        every = slice(None) if chosen is None else chosen
        slope = self.objective.slope(self.trial, z, rows, chosen)
        r = slope.residual
        n_units, k = r.shape[:2]
        z = z.to(r.dtype)
        self.gradient[every] += (r.reshape(-1, len(z)) @ z).view(n_units, k, -1)
        self.residual[every] += r.sum(2, dtype=torch.float64)
        self.loss[every] += slope.loss
        self.squares[every] += slope.squares
        self.pull[every] += torch.linalg.vecdot(r, r).sum(1).double()
        self.curvature[every] += slope.curvature
        self.sampled[every] += slope.sampled
        self.sides[every] += slope.sides


class _Pulls(_Added):
    """Derivatives by the intercepts."""

    def __init__(self, objective: Objective, trial: Trial) -> None:
        super().__init__(objective, trial)
        n_units, k = trial.shape[:2]
        new = objective.design.mass.new_zeros
        self.total, self.curvature = new(n_units, k), new(n_units, k, k)
        self.sampled = new(n_units)

    def add(self, z: torch.Tensor, rows: slice, chosen: torch.Tensor | None) -> None:
        """Add some rows, for the units that train on them."""
        every = slice(None) if chosen is None else chosen
        pull = self.objective.pull(self.trial, z, rows, chosen)
        self.total[every] += pull.total
        self.curvature[every] += pull.curvature
        self.sampled[every] += pull.sampled


class _Along(_Added):
    """The derivative along the trial's direction."""

    def __init__(self, objective: Objective, trial: Trial) -> None:
        super().__init__(objective, trial)
        self.slope = objective.design.mass.new_zeros(len(trial.units))

    def add(self, z: torch.Tensor, rows: slice, chosen: torch.Tensor | None) -> None:
        """Add some rows, for the units that train on them."""
        every = slice(None) if chosen is None else chosen
        r = self.objective.slope(self.trial, z, rows, chosen).residual
        change = self.trial.changes(z, rows, chosen)
        self.slope[every] += torch.linalg.vecdot(r, change.to(r.dtype)).sum(1)
