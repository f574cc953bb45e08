"""Standardised rows of the codes, kept in memory or read again on every pass.

One standardisation, over all rows, is applied to the codes themselves. That of a fold
is a scale per column and a shift on top of it (`Moments`), so that a fold copies
nothing.
"""

from __future__ import annotations

from copy import copy
from typing import NamedTuple

import numpy as np
import torch

from featpipe.solvers.problem import Problem

__all__ = ["Moments", "Rows", "fold_moments", "moments_of_sums"]

# Bytes of float64 that are read at a time.
READ_BYTES = 32 * 2**20
# A fold's variance below this share of its second moment is rounding.
FLAT = 1e-12
# Below it a column's coefficients, on its own scale, could be infinite.
SMALLEST = 1e-302
# Beyond it sums of a column's squares, which is not standardised, could be infinite.
LARGEST = 1e100
# Numbers in the codes up to which everything is double precision.
SMALL = 2 * 10**6


class Rows:
    """Rows of the codes, standardised by the mean and deviation of all of them.

    Parameters
    ----------
    problem : Problem
    device : torch.device
    n_bytes : int
        What keeping the rows may take; beyond, they are read again on every pass.
    """

    # Whether every pass reads the rows from a file.
    streams = False
    # Which of the rows of the codes these are: every so many-th.
    stride = 1

    def __init__(self, problem: Problem, device: torch.device, n_bytes: int) -> None:
        self.n_rows, self.width = (int(n) for n in problem.codes.shape)
        self.device, self.codes = device, problem.codes
        self.step = max(256, READ_BYTES // (8 * self.width))
        small = self.n_rows * self.width <= SMALL
        self.dtype = torch.float64 if small else torch.float32
        self.unit = self._units()
        self.mean, self.scale = self._standards(problem)
        self.kept: torch.Tensor | None = None
        self.single: torch.Tensor | None = None
        # Small codes are kept in both precisions.
        size = 12 if small else 4
        if size * self.n_rows * self.width <= n_bytes:
            self._keep()

    def blocks(self) -> list[tuple[int, int]]:
        """Return first and last row of each block that is read at a time."""
        starts = range(0, self.n_rows, self.step)
        return [(start, min(start + self.step, self.n_rows)) for start in starts]

    def read(
        self, start: int, stop: int, dtype: torch.dtype | None = None
    ) -> torch.Tensor:
        """Return standardised rows ``start`` to ``stop``, (n, width), on the device."""
        dtype = dtype or self.dtype
        if self.single is not None and dtype == torch.float32:
            return self.single[start:stop]
        if self.kept is not None:
            return self.kept[start:stop].to(dtype)
        # A copy: the codes may be read-only, and torch warns of sharing those.
        raw = torch.tensor(self._raw(start, stop), device=self.device)
        return raw.sub_(self.mean).div_(self.scale).to(dtype)

    def _units(self) -> torch.Tensor:
        """Return a power of two for each column, near its largest number.

        Squares of columns measured in it neither overflow nor vanish.
        """
        largest = np.zeros(self.width)
        for start, stop in self.blocks():
            raw = self._given(start, stop)
            np.maximum(largest, np.abs(raw).max(axis=0), out=largest)
        tiny = np.flatnonzero((largest > 0) & (largest < SMALLEST))
        if len(tiny):
            raise ValueError(
                f"column {tiny[0]} of the codes holds no number above "
                f"{largest[tiny[0]]:.3g}, too small for coefficients on its scale; "
                f"multiply it so that one reaches {SMALLEST:g}, or leave it out"
            )
        largest[largest == 0] = 1.0
        return torch.from_numpy(2.0 ** np.floor(np.log2(largest))).to(self.device)

    def every(self, stride: int) -> Rows:
        """Return every so many-th row, in memory and in single precision."""
        some = copy(self)
        parts = [
            self.read(start, stop, torch.float32)[-start % stride :: stride]
            for start, stop in self.blocks()
        ]
        some.kept = some.single = torch.cat(parts)
        some.n_rows, some.dtype = len(some.kept), torch.float32
        some.stride = stride * self.stride
        return some

    def _keep(self) -> None:
        shape = self.n_rows, self.width
        kept = torch.empty(shape, dtype=self.dtype, device=self.device)
        for start, stop in self.blocks():
            kept[start:stop] = self.read(start, stop)
        self.kept, self.single = kept, kept.float()

    def _raw(self, start: int, stop: int) -> np.ndarray:
        rows: np.ndarray = self._given(start, stop) / self.unit.cpu().numpy()
        return rows

    def _given(self, start: int, stop: int) -> np.ndarray:
        if isinstance(self.codes, np.ndarray):
            return np.asarray(self.codes[start:stop], np.float64)
        raw = np.asarray(self.codes.rows(start, stop), np.float64)
        if not np.isfinite(raw).all():
            raise ValueError(
                f"codes of rows {start} to {stop} hold NaN or infinity; "
                "extract them again"
            )
        return raw

    def _standards(self, problem: Problem) -> tuple[torch.Tensor, torch.Tensor]:
        """Return mean and standard deviation of each column over all rows, float64."""
        mass, mean, square = 0.0, np.zeros(self.width), np.zeros(self.width)
        for start, stop in self.blocks():
            w, raw = problem.row_weights[start:stop], self._raw(start, stop)
            part = w.sum()
            if not part:
                continue
            # Merging means and squares block by block loses no digits (Chan 1979).
            middle = w @ raw / part
            shift = middle - mean
            raw = raw - middle
            square += w @ (raw * raw) + shift**2 * (mass * part / (mass + part))
            mean += shift * (part / (mass + part))
            mass += part
        deviation = np.sqrt(square / mass)
        flat = deviation <= mass * np.finfo(float).eps * np.abs(mean)
        scale = np.where(flat, 1.0, deviation)
        if not problem.standardize:
            # The penalty is on coefficients of the columns as they are given.
            unit = self.unit.cpu().numpy()
            if unit.max() > LARGEST:
                raise ValueError(
                    f"column {unit.argmax()} of the codes holds numbers beyond "
                    f"{LARGEST:g}, too large to be used as they are; standardise, or "
                    "divide it"
                )
            scale = 1 / unit
        tensors = torch.from_numpy(mean), torch.from_numpy(scale)
        return tensors[0].to(self.device), tensors[1].to(self.device)


class Moments(NamedTuple):
    """Standardisation of each fold: its codes are ``(z - centre) * ratio`` of rows z.

    Attributes
    ----------
    ratio, centre : (n_folds, width) float64
        ``centre`` is the mean by the weights of the loss, so that the intercept
        decouples from W where every row bends alike.
    """

    ratio: torch.Tensor
    centre: torch.Tensor


def fold_moments(
    rows: Rows, row_weights: torch.Tensor, weights: torch.Tensor, standardize: bool
) -> Moments:
    """Return the standardisation of each fold from one reading of the rows.

    Parameters
    ----------
    rows : Rows
    row_weights, weights : (n_folds, n) float64
        Of the deviations and of the loss; zero outside the fold's training rows.
    standardize : bool
    """
    n_folds = len(weights)
    mean, second = (row_weights.new_zeros(n_folds, rows.width) for _ in range(2))
    centre = mean if weights is row_weights else torch.zeros_like(mean)
    for start, stop in rows.blocks():
        z, w = rows.read(start, stop, torch.float64), row_weights[:, start:stop]
        mean += w @ z
        if centre is not mean:
            centre += weights[:, start:stop] @ z
        second += w @ (z * z)
    mass = row_weights.sum(1, keepdim=True)
    moments = moments_of_sums(rows, mass, mean, second, standardize)
    if centre is mean:
        return moments
    return Moments(moments.ratio, centre / weights.sum(1, keepdim=True))


def moments_of_sums(
    rows: Rows,
    mass: torch.Tensor,
    first: torch.Tensor,
    second: torch.Tensor,
    standardize: bool,
) -> Moments:
    """Return the standardisation of each fold from sums over its rows.

    Parameters
    ----------
    rows : Rows
    mass : (n_folds, 1) float64
        Summed weights.
    first, second : (n_folds, width) float64
        Weighted sums of the rows, and of their squares.
    standardize : bool
    """
    mean, second = first / mass, second / mass
    if not standardize:
        return Moments(torch.ones_like(mean), mean)
    variance = second - mean**2
    # A column that is constant in a fold is scaled by 1, as the codes are given.
    flat = variance <= FLAT * second
    deviation = torch.where(flat, 1 / rows.scale, variance.clamp_min(0).sqrt())
    return Moments(1 / deviation, mean)
