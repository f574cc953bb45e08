"""The codes as blocks of standardised rows, and what is known of them beforehand.

One standardisation, over all rows, is applied to the codes themselves; that of each
split is a scale per column and a shift on top of it (`Design`), so a fold copies
nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
import torch

from featpipe.solvers._task import Options, Split, Task

__all__ = ["Block", "Design", "Rows", "Table", "as_given", "as_standardised", "build"]

READ_BYTES = 32 * 2**20
# A fold's variance below this share of its second moment is rounding.
FLAT = 1e-12
# Numbers up to which double precision costs nothing worth having.
SMALL = 2 * 10**6
# Rows from which skipping what a split omits is worth cutting the table up for.
SORTED = 8192


@dataclass(frozen=True, eq=False)
class Block:
    """Some rows of the table: where they lie, and which splits train on them."""

    start: int
    stop: int
    splits: tuple[int, ...]


class Rows:
    """Rows held in memory.

    ``order`` holds the row of the codes that each of them is, if not the same.
    """

    def __init__(
        self, shape: tuple[int, int], device: torch.device, order: np.ndarray | None
    ) -> None:
        self.n_rows, self.width = shape
        self.device, self.order = device, order
        self.step = max(256, READ_BYTES // (8 * self.width))
        small = self.n_rows * self.width <= SMALL
        self.dtype = torch.float64 if small else torch.float32
        self.kept: torch.Tensor | None = None

    def rows(
        self, start: int, stop: int, dtype: torch.dtype | None = None
    ) -> torch.Tensor:
        """Give rows ``start`` to ``stop`` as (n, width) on the device."""
        if self.kept is None:
            raise RuntimeError("no rows are kept")
        return self.kept[start:stop].to(dtype or self.dtype)


class Table(Rows):
    """Rows of standardised codes, kept in memory or read again on every pass."""

    def __init__(self, task: Task, order: np.ndarray | None, options: Options) -> None:
        n_rows, width = task.codes.shape
        super().__init__((int(n_rows), int(width)), options.torch_device, order)
        self.codes = task.codes
        self.mean, self.scale = self._standards(task)

    @property
    def n_bytes(self) -> int:
        """What keeping all rows would take."""
        return self.n_rows * self.width * self.dtype.itemsize

    def keep(self) -> None:
        """Hold all rows, standardised and in order, from now on."""
        shape = (self.n_rows, self.width)
        kept = torch.empty(shape, dtype=self.dtype, device=self.device)
        for start in range(0, self.n_rows, self.step):
            stop = min(start + self.step, self.n_rows)
            kept[start:stop] = self.rows(start, stop, self.dtype)
        self.kept = kept

    def rows(
        self, start: int, stop: int, dtype: torch.dtype | None = None
    ) -> torch.Tensor:
        """Give rows ``start`` to ``stop`` as (n, width) on the device."""
        if self.kept is not None:
            return super().rows(start, stop, dtype)
        # A copy: the codes may be read-only, and torch warns of sharing those.
        raw = torch.tensor(self._raw(start, stop), device=self.device)
        return raw.sub_(self.mean).div_(self.scale).to(dtype or self.dtype)

    def _raw(self, start: int, stop: int) -> np.ndarray:
        if not isinstance(self.codes, np.ndarray):
            raw = np.asarray(self.codes.rows(start, stop), np.float64)
            if not np.isfinite(raw).all():
                raise ValueError(
                    f"codes of rows {start} to {stop} hold NaN or infinity; "
                    "extract them again"
                )
            return raw
        if self.order is None:
            return np.asarray(self.codes[start:stop], np.float64)
        return np.asarray(self.codes[self.order[start:stop]], np.float64)

    def _standards(self, task: Task) -> tuple[torch.Tensor, torch.Tensor]:
        """Give mean and standard deviation of each column over all rows, in float64."""
        weights = task.row_weights
        if self.order is not None:
            weights = weights[self.order]
        mass, mean, square = 0.0, np.zeros(self.width), np.zeros(self.width)
        for start in range(0, self.n_rows, self.step):
            stop = min(start + self.step, self.n_rows)
            w, raw = weights[start:stop], self._raw(start, stop)
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
        scale = np.where(flat | (not task.standardize), 1.0, deviation)
        tensors = torch.from_numpy(mean), torch.from_numpy(scale)
        return tensors[0].to(self.device), tensors[1].to(self.device)


@dataclass(frozen=True, eq=False)
class Design:
    """A table with the splits that are trained on it.

    For split p the standardised, centred codes are ``(z - centre[p]) * ratio[p]``
    of the table's rows z.

    Parameters
    ----------
    table : Rows
    labels : (n,) int64 tensor, in the order of the table
    weights : (n_splits, n) float64 tensor
        Weight of each row in the loss of each split; zero outside its training part.
    ratio, centre : (n_splits, width) float64 tensors
    blocks : list of Block
    mass : (n_splits,) float64 tensor
        Sum of the weights.
    class_mass : (n_splits, n_classes) float64 tensor
    """

    table: Rows
    labels: torch.Tensor
    weights: torch.Tensor
    ratio: torch.Tensor
    centre: torch.Tensor
    blocks: list[Block]
    mass: torch.Tensor
    class_mass: torch.Tensor

    @cached_property
    def radius(self) -> torch.Tensor:
        """Largest norm of a training row of each split, (n_splits,) float64."""
        largest = self.ratio.new_zeros(len(self.ratio))
        used, square = (self.weights > 0).T, (self.ratio**2).T
        inner = (self.centre * self.ratio**2).T
        constant = (self.centre * self.ratio).square().sum(1)
        for start in range(0, self.table.n_rows, self.table.step):
            stop = min(start + self.table.step, self.table.n_rows)
            z = self.table.rows(start, stop, torch.float64)
            norms = (z * z) @ square - 2 * (z @ inner) + constant
            largest = torch.maximum(largest, (norms * used[start:stop]).amax(0))
        return largest.clamp_min(0).sqrt()

    def pieces(self, n_rows: int) -> Iterator[Block]:
        """Cut the blocks into pieces of at most that many rows."""
        for block in self.blocks:
            for start in range(block.start, block.stop, n_rows):
                stop = min(start + n_rows, block.stop)
                yield Block(start, stop, block.splits)


def build(task: Task, splits: list[Split], options: Options) -> Design:
    """Read the codes twice or thrice and lay out the design of these splits."""
    n_rows = len(task.labels)
    use = np.zeros((n_rows, len(splits)), bool)
    for p, (train, _) in enumerate(splits):
        use[train, p] = True
    order = None
    if isinstance(task.codes, np.ndarray) and n_rows >= SORTED:
        # Rows used by the same splits lie together: a pass skips what a split omits.
        order = np.lexsort(use.T)
        use = use[order]
    table = Table(task, order, options)
    if table.n_bytes <= 0.6 * options.n_bytes:
        table.keep()
    at = np.arange(n_rows) if order is None else order
    weights = use * task.weights[at, None]
    labels = task.labels[at]
    counts = [np.bincount(labels, w, minlength=task.n_classes) for w in weights.T]
    ratio, centre = _moments(table, use * task.row_weights[at, None], weights, task)
    device = table.device
    return Design(
        table=table,
        labels=torch.from_numpy(labels).to(device),
        weights=torch.from_numpy(np.ascontiguousarray(weights.T)).to(device),
        ratio=ratio,
        centre=centre,
        blocks=_blocks(use, order is not None),
        mass=torch.from_numpy(weights.sum(0)).to(device),
        class_mass=torch.from_numpy(np.array(counts)).to(device),
    )


def _blocks(use: np.ndarray, is_sorted: bool) -> list[Block]:
    n_rows, n_splits = use.shape
    if not is_sorted:
        return [Block(0, n_rows, tuple(range(n_splits)))]
    change = np.flatnonzero((use[1:] != use[:-1]).any(axis=1)) + 1
    edges = [0, *change.tolist(), n_rows]
    return [
        Block(start, stop, tuple(np.flatnonzero(use[start]).tolist()))
        for start, stop in pairwise(edges)
        if use[start].any()
    ]


def _moments(
    table: Table, rows: np.ndarray, loss: np.ndarray, task: Task
) -> tuple[torch.Tensor, torch.Tensor]:
    """Give each split's scale relative to the table's, and its loss-weighted mean."""
    n_splits = rows.shape[1]
    both = torch.from_numpy(np.hstack([rows, loss])).to(table.device)
    first = torch.zeros(2 * n_splits, table.width, dtype=torch.float64)
    first = first.to(table.device)
    second = torch.zeros_like(first[:n_splits])
    for start in range(0, table.n_rows, table.step):
        stop = min(start + table.step, table.n_rows)
        z, w = table.rows(start, stop, torch.float64), both[start:stop].T
        first += w @ z
        second += w[:n_splits] @ (z * z)
    mass = both.sum(0)[:, None]
    first /= mass
    mean, centre = first[:n_splits], first[n_splits:]
    second /= mass[:n_splits]
    variance = second - mean**2
    flat = variance <= FLAT * second
    if not task.standardize:
        return torch.ones_like(mean), centre
    deviation = torch.where(flat, 1 / table.scale, variance.clamp_min(0).sqrt())
    return 1 / deviation, centre


def as_standardised(
    design: Design, coef: np.ndarray, intercept: np.ndarray, p: int = 0
) -> torch.Tensor:
    """Give what `as_given` would fold into these, (n_columns, width + 1) float64."""
    table = design.table
    if not isinstance(table, Table):
        raise TypeError("only the table of the codes knows their scale")
    w, b = (torch.from_numpy(x.astype(np.float64)) for x in (coef, intercept))
    w, b = w.to(table.device), b.to(table.device)
    v = w * table.scale
    b = b + v @ design.centre[p] + w @ table.mean
    return torch.cat([v / design.ratio[p], b[:, None]], dim=1)


def as_given(
    design: Design, theta: torch.Tensor, p: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Fold the standardisation of a split into its coefficients."""
    table = design.table
    if not isinstance(table, Table):
        raise TypeError("only the table of the codes knows their scale")
    v = theta[:, :-1] * design.ratio[p]
    coef = v / table.scale
    intercept = theta[:, -1] - v @ design.centre[p] - coef @ table.mean
    return coef.cpu().numpy(), intercept.cpu().numpy()
