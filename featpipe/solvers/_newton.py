"""Newton directions, for units that steps alone do not solve.

Where classes can be separated, curvature sits on a few rows that change along the
path, and a remembered metric is always late. The true Hessian is not.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch

from featpipe.solvers import _factoring
from featpipe.solvers._curved import Curved
from featpipe.solvers._evaluation import Objective
from featpipe.solvers._threads import processors

__all__ = ["Newton", "Point", "bent_rows"]

# Products one direction may take.
LARGEST_ROUND = 100
# Products a unit is first expected to take.
EXPECTED = 10.0
# Residual, relative to the gradient, that a direction is solved to.
FORCING = 0.1

Inverse = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
Preconditioner = Callable[[torch.Tensor], Inverse]


class Point(NamedTuple):
    """Where some units stand.

    Parameters
    ----------
    theta, gradient : (n_units, n_columns, width + 1) float64
    units : (n_units,) int64
    C : (n_units,) float64
    gap : (n_units,) float64
        What may be left of the objective; a direction need not be finer.
    n_bent : (n_units,) float64
        How many rows have curvature, about.
    """

    theta: torch.Tensor
    gradient: torch.Tensor
    units: torch.Tensor
    C: torch.Tensor
    gap: torch.Tensor
    n_bent: torch.Tensor

    def some(self, which: torch.Tensor) -> Point:
        """Give the same of some of the units."""
        return Point(*(part[which] for part in self))


class Newton:
    """Solve Hessian x = -gradient, by factorisation or by conjugate gradients.

    Whichever is expected to cost less; the expectation for conjugate gradients is what
    they took the unit last time.

    Parameters
    ----------
    objective : Objective
    radius : (n_units,) float64
        Largest norm of a row.
    memory : int
        Bytes that curvature of rows, or rows in double precision, may take.
    """

    def __init__(self, objective: Objective, radius: torch.Tensor, memory: int) -> None:
        self.objective, self.radius, self.memory = objective, radius, memory
        self.effort = torch.full_like(radius, EXPECTED)
        self.n_operations = 0.0

    def directions(
        self,
        at: Point,
        precondition: Preconditioner,
        dtype: torch.dtype,
        *,
        settle: bool,
    ) -> torch.Tensor:
        """Give a direction for each unit of a point, (n_units, n_columns, width + 1).

        Parameters
        ----------
        at : Point
        precondition : callable
            Makes an inverse metric for some of the units, given by number.
        dtype : torch.dtype
            Of the products of conjugate gradients.
        settle : bool
            Whether to find the minima of squared hinges themselves: dear.
        """
        objective, table = self.objective, self.objective.design.table
        n_bytes = 8 * table.n_rows * max(table.width, len(at.units))
        fits = table.kept is not None and n_bytes <= self.memory
        on_cpu = table.device.type == "cpu"
        n_workers = min(processors(), self.memory // n_bytes) if on_cpu else 1
        direct = torch.zeros_like(at.units, dtype=torch.bool)
        if fits and objective.n_columns == 1:
            product = table.n_rows * table.width * table.dtype.itemsize
            cost = _factoring.operations(at.n_bent, table.width)
            direct = cost < self.effort[at.units] * product
            affordable = float(cost.max()) <= _factoring.SETTLING / 10
            if settle and affordable and objective.loss == "svm":
                found, n_factored = _factoring.settled(
                    objective, at.theta, at.units, at.C, n_workers
                )
                self.n_operations += n_factored * float(cost.mean())
                return found
        found = torch.zeros_like(at.theta)
        if direct.any():
            some = at.some(direct)
            self.n_operations += float(cost[direct].sum())
            found[direct] = _factoring.factored(
                objective, some.theta, some.units, some.C, some.gradient, n_workers
            )
        others = (~direct).nonzero()[:, 0]
        if len(others):
            metric = precondition(others)
            found[others] = self._conjugate(at.some(others), metric, dtype)
        return found

    def _conjugate(
        self, at: Point, precondition: Inverse, dtype: torch.dtype
    ) -> torch.Tensor:
        curved = Curved(self.objective, at.theta, at.units, dtype, self.memory)
        radius, x = self.radius[at.units], torch.zeros_like(at.theta)
        residual = -at.gradient
        size = _residual_norm(residual, radius)
        target = (0.5 * (2 * at.gap).sqrt()).clamp_max(0.5 * size)
        target = torch.maximum(FORCING * size, target)
        p, product = torch.zeros_like(x), torch.zeros_like(size)
        going = torch.arange(len(at.units), device=x.device)
        self.effort[at.units] = LARGEST_ROUND
        for n_products in range(LARGEST_ROUND + 1):
            near = _residual_norm(residual[going], radius[going]) <= target[going]
            self.effort[at.units[going[near]]] = max(1, n_products)
            going = going[~near]
            if not len(going) or n_products == LARGEST_ROUND:
                break
            z = precondition(residual[going], going)
            product_new = (residual[going] * z).sum((1, 2))
            beta = torch.where(product[going] > 0, product_new / product[going], 0.0)
            p[going] = z + beta[:, None, None] * p[going]
            product[going] = product_new
            bent = at.C[going, None, None] * curved.apply(p[going], going)
            bent[..., :-1] += p[going, :, :-1]
            step = (product_new / (p[going] * bent).sum((1, 2)))[:, None, None]
            x[going] += step * p[going]
            residual[going] -= step * bent
            self.n_operations += len(going) * self.objective.n_operations
        return x


def bent_rows(
    objective: Objective, units: torch.Tensor, sides: torch.Tensor
) -> torch.Tensor:
    """Estimate how many rows of each unit have curvature, (n_units,) float64."""
    design, split = objective.design, objective.split[units]
    n_rows = (design.weights[split] > 0).sum(1).double()
    if objective.loss != "svm":
        return n_rows
    # The second derivative is twice the weight inside the margin, else zero.
    return n_rows * sides.sum(1) / (2 * design.mass[split])


def _residual_norm(v: torch.Tensor, radius: torch.Tensor) -> torch.Tensor:
    """Give the norm of each gradient, intercepts counting as they do in the bounds."""
    inner, last = (v[..., :-1] ** 2).sum((1, 2)), (v[..., -1] ** 2).sum(1)
    return (inner + radius**2 * last).sqrt()
