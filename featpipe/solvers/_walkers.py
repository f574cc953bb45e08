"""Who walks along the path of C, from where to where, and what they leave behind."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

__all__ = ["Arrival", "Grid", "Trail", "Walkers"]

# How much shorter or longer a step along the path may be than the one before.
TREND = 0.1, 1.2


class Grid(NamedTuple):
    """What is solved one after the other, and from where.

    Parameters
    ----------
    Cs, tols : (n_C,) float64
        The grid, and the relative gap each C is solved to.
    most : (n_C,) int64
        Passes each C may take.
    start : (n_columns, width + 1) float64 tensor or None
        Where to begin, in a split's standardised codes; None is where W is zero.
    """

    Cs: np.ndarray
    tols: np.ndarray
    most: np.ndarray
    start: torch.Tensor | None = None

    @classmethod
    def evenly(cls, Cs: np.ndarray, tol: float, most: int) -> Grid:
        """Ask the same of every C."""
        return cls(Cs, np.full(len(Cs), tol), np.full(len(Cs), most))


@dataclass(frozen=True, eq=False)
class Walkers:
    """Which unit belongs to which walker, and which stretch of the grid it walks.

    Parameters
    ----------
    walker : (n_units,) int64
    first, last : (n_walkers,) int64
        Positions in the grid; ``last`` is not included.
    grid : Grid
    """

    walker: torch.Tensor
    first: np.ndarray
    last: np.ndarray
    grid: Grid


@dataclass(frozen=True, eq=False)
class Arrival:
    """What a walker has solved: the units' ``theta`` at one position of the grid."""

    walker: int
    position: int
    units: torch.Tensor
    theta: torch.Tensor
    gap: float
    n_passes: int


class Trail:
    """The last solutions of each unit: where the path is heading in log C.

    By how much a step was shorter than the one before, the next is expected to be:
    towards large C the path comes to rest.
    """

    def __init__(self, theta: torch.Tensor) -> None:
        self.last, self.rate = torch.zeros_like(theta), torch.zeros_like(theta)
        self.at = theta.new_full((len(theta),), torch.nan)
        self.trend = torch.ones_like(self.at)

    def add(self, units: torch.Tensor, theta: torch.Tensor, C: torch.Tensor) -> None:
        """Remember these units' solutions at their C."""
        length = (C.log() - self.at[units])[:, None, None]
        rate = ((theta - self.last[units]) / length).nan_to_num(0.0)
        before = self.rate[units]
        trend = (rate * before).sum((1, 2)) / before.square().sum((1, 2))
        self.trend[units] = trend.nan_to_num(1.0).clamp(*TREND)
        self.last[units], self.rate[units] = theta, rate
        self.at[units] = C.log()

    def step(self, units: torch.Tensor, C: torch.Tensor) -> torch.Tensor:
        """Give the step from the last solution to where the path may be at this C."""
        length = (C.log() - self.at[units]).nan_to_num(0.0)
        return (length * self.trend[units])[:, None, None] * self.rate[units]
