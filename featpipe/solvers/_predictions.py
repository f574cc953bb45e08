"""Classes of held-out rows, for many solutions in one pass over the codes."""

from __future__ import annotations

import numpy as np
import torch

from featpipe.solvers._table import Design
from featpipe.solvers._task import Split

__all__ = ["Predictions"]

SCORES = 2**21
QUEUE_BYTES = 2**25


class Predictions:
    """Held-out predictions by (split, C), filled as solutions come.

    ``found`` holds one (n_C, n_held_out) array of class numbers a split.
    """

    def __init__(self, design: Design, splits: list[Split], n_C: int) -> None:
        self.design = design
        n_rows = design.table.n_rows
        place = np.arange(n_rows)
        if design.table.order is not None:
            place[design.table.order] = np.arange(n_rows)
        n_classes = design.class_mass.shape[1]
        kind = np.min_scalar_type(n_classes)
        self.found, self.rows, self.slots = [], [], []
        for _, held_out in splits:
            rows = place[held_out]
            slots = np.argsort(rows, kind="stable")
            self.rows.append(rows[slots])
            self.slots.append(slots)
            self.found.append(np.zeros((n_C, len(rows)), kind))
        self.queue: list[tuple[int, int, torch.Tensor]] = []
        self.n_queued = 0

    def add(self, split: int, position: int, theta: torch.Tensor) -> None:
        """Predict, sooner or later, by ``theta`` (n_columns, width + 1)."""
        self.queue.append((split, position, theta))
        self.n_queued += theta.numel() * 8
        if self.n_queued > QUEUE_BYTES:
            self.flush()

    def flush(self) -> None:
        """Predict by all that is queued."""
        table = self.design.table
        work = [(p, *self._stack(p)) for p in sorted({p for p, *_ in self.queue})]
        for start in range(0, table.n_rows, table.step):
            stop = min(start + table.step, table.n_rows)
            z = None
            for p, positions, v, shift in work:
                low, high = np.searchsorted(self.rows[p], [start, stop])
                if low == high:
                    continue
                z = table.rows(start, stop) if z is None else z
                local = torch.from_numpy(self.rows[p][low:high] - start).to(z.device)
                self._predict(p, positions, v, shift, z[local], slice(low, high))
        self.queue, self.n_queued = [], 0

    def _stack(self, p: int) -> tuple[list[int], torch.Tensor, torch.Tensor]:
        """Give what is queued for one split: places, coefficients and shifts."""
        design, dtype = self.design, self.design.table.dtype
        positions = [position for q, position, _ in self.queue if q == p]
        theta = torch.stack([theta for q, _, theta in self.queue if q == p])
        v = theta[..., :-1] * design.ratio[p]
        shift = theta[..., -1] - v @ design.centre[p]
        if theta.shape[1] > 1:
            shift = shift.masked_fill(design.class_mass[p] == 0, -torch.inf)
        return positions, v.to(dtype), shift.to(dtype)

    def _predict(
        self,
        p: int,
        positions: list[int],
        v: torch.Tensor,
        shift: torch.Tensor,
        z: torch.Tensor,
        span: slice,
    ) -> None:
        n, k, width = v.shape
        step = max(1, SCORES // (n * k))
        for start in range(0, len(z), step):
            part = z[start : start + step]
            f = torch.addmm(shift.reshape(-1, 1), v.reshape(-1, width), part.T)
            f = f.view(n, k, -1)
            number = (f[:, 0] > 0).long() if k == 1 else _argmax(f)
            first = span.start + start
            slots = self.slots[p][first : first + len(part)]
            self.found[p][np.ix_(np.array(positions), slots)] = number.cpu().numpy()


def _argmax(f: torch.Tensor) -> torch.Tensor:
    """Give the first column of the largest score, (n, n_rows), by whole columns.

    Some five times faster on a CPU than torch's own, where columns are not the last.
    """
    if f.device.type != "cpu":
        return f.argmax(1)
    best, number = f[:, 0].clone(), torch.zeros_like(f[:, 0], dtype=torch.int32)
    for column in range(1, f.shape[1]):
        better = f[:, column] > best
        number.masked_fill_(better, column)
        torch.maximum(best, f[:, column], out=best)
    return number
