"""Rows that do not fit into the memory: read on every pass, the next while one is used.

In single precision, as large codes are kept too. Their standardisation is read off a
sample: any near enough will do, since that of each fold is put on top of it. Never
here: when codes are streamed, which `classifiers.budgeting` decides.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from copy import copy
from typing import Any

import numpy as np
import torch

from featpipe.solvers.problem import Problem
from featpipe.solvers.standardize import Rows

__all__ = ["StreamedRows", "fits"]

# Bytes of a block in single precision: two of them stay in the caches of a processor.
BLOCK_BYTES = 8 * 2**20
# Rows, in runs, that the standardisation is read off.
SAMPLE_ROWS, SAMPLE_RUNS = 8192, 32
# Rows of a sample for each column, below which it says nothing of the others.
LEAST_ROWS = 4
# Distance of a mean from zero, in deviations, up to which rows may stay as they are,
# since each fold is standardised anyway; and up to which single precision will do.
NEAR, FAR = 4.0, 100.0


def fits(codes: Any, n_bytes: int) -> bool:
    """Decide whether standardised rows are kept; always where `StreamedRows` cannot."""
    if isinstance(codes, np.ndarray) or np.dtype(codes.dtype).itemsize > 4:
        return True
    return bool(4 * codes.shape[0] * codes.shape[1] <= n_bytes)


class StreamedRows(Rows):
    """Rows of a reader, standardised as they are read, and one sample of them.

    Where no column lies far from zero they stay as they are, which saves a quarter of
    a pass.

    Parameters
    ----------
    problem : Problem
        Whose codes have ``shape``, ``dtype`` (of four bytes at most) and ``rows``.
    device : torch.device
    n_bytes : int
        What the sample of the rows may take (`every`).
    """

    streams = True

    def __init__(self, problem: Problem, device: torch.device, n_bytes: int) -> None:
        self.n_rows, self.width = (int(n) for n in problem.codes.shape)
        self.device, self.codes, self.n_bytes = device, problem.codes, n_bytes
        self.step = max(64, BLOCK_BYTES // (4 * self.width))
        self.dtype = torch.float32
        self.kept = self.single = None
        # Squares of single precision fit into double: no other unit is needed.
        self.unit = torch.ones(self.width, dtype=torch.float64, device=device)
        self._sample = _Sample(problem.codes)
        self._ahead: _Ahead | _SampledRows = _Ahead(problem.codes)
        self.mean, self.scale = self._sampled_standards(problem.standardize)
        self._slope, self._offset = 1 / self.scale, -self.mean / self.scale
        farthest = float(self._offset.abs().max())
        self._near, self._far = farthest <= NEAR, farthest > FAR
        if self._near:
            self.mean = torch.zeros_like(self.mean)
            self.scale = torch.ones_like(self.scale)
        # One buffer for all blocks, in each precision: where small things are kept
        # between blocks, memory that is freed and taken again piles up, to the size
        # of the file.
        self._buffers: dict[torch.dtype, torch.Tensor] = {}

    @property
    def finest(self) -> int:
        """The least stride, a power of two, whose sample fits into the memory."""
        size = self.n_rows * self.width * np.dtype(self.codes.dtype).itemsize
        share = max(1, -(-size // self.n_bytes))
        return int(1 << (share - 1).bit_length())

    def read(
        self, start: int, stop: int, dtype: torch.dtype | None = None
    ) -> torch.Tensor:
        """Return standardised rows ``start`` to ``stop``, (n, width), on the device.

        They are overwritten by the next ones of the same precision.
        """
        raw = torch.from_numpy(self._ahead.rows(start, stop)).to(self.device)
        z = self._buffer(len(raw), torch.float32)
        if self._far:
            z.copy_(raw.double().mul_(self._slope).add_(self._offset))
        else:
            z.copy_(raw)
            if not self._near:
                z.mul_(self._slope.float()).add_(self._offset.float())
        if not torch.isfinite(z.sum()):
            raise ValueError(
                f"codes of rows {start} to {stop} hold NaN or infinity; "
                "extract them again"
            )
        if dtype in (None, torch.float32):
            return z
        return self._buffer(len(raw), dtype).copy_(z)

    def _buffer(self, n_rows: int, dtype: torch.dtype) -> torch.Tensor:
        """Return memory for some rows, the same for all blocks."""
        buffer = self._buffers.get(dtype)
        if buffer is None or len(buffer) < n_rows:
            shape = max(n_rows, self.step), self.width
            buffer = torch.empty(shape, dtype=dtype, device=self.device)
            self._buffers[dtype] = buffer
        return buffer[:n_rows]

    def every(self, stride: int) -> Rows:
        """Return about every so many-th row, held as stored; all if that is too much.

        One sample is held for all: the finest asked for so far. Strides are powers of
        two, so that the rows of a coarser one are among its rows.
        """
        stride = self.stride * (1 << (stride.bit_length() - 1))
        if self.streams:
            stride = max(stride, self.finest)
            if self.n_rows < LEAST_ROWS * self.width * stride:
                return self
            self._sample.refine(stride, self._ahead.rows, self.blocks())
        some = copy(self)
        # Read in turns with all rows: not into the same memory.
        some._buffers = {}
        some._ahead = _SampledRows(self._sample, stride)
        some.streams, some.stride = False, stride
        some.n_rows = len(range(0, int(self.codes.shape[0]), stride))
        return some

    def _sampled_standards(self, divides: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """Return mean and deviation of each column over some rows."""
        length = min(self.n_rows, SAMPLE_ROWS // SAMPLE_RUNS)
        starts = np.linspace(0, self.n_rows - length, SAMPLE_RUNS).astype(int)
        runs = [self.codes.rows(start, start + length) for start in np.unique(starts)]
        # Run by run: in double precision all would be over a hundred megabytes.
        mean = np.mean([run.mean(axis=0, dtype=np.float64) for run in runs], axis=0)
        squares = [np.square(run - mean).mean(axis=0) for run in runs]
        deviation = np.sqrt(np.mean(squares, axis=0))
        n_rows = length * len(runs)
        flat = deviation <= n_rows * np.finfo(float).eps * np.abs(mean)
        scale = np.where(flat | (not divides), 1.0, deviation)
        # Of single precision, so that they are undone by the numbers that were used.
        slope = (1 / scale).astype(np.float32).astype(np.float64)
        offset = (-mean * slope).astype(np.float32).astype(np.float64)
        both = torch.from_numpy(-offset / slope), torch.from_numpy(1 / slope)
        return both[0].to(self.device), both[1].to(self.device)


class _Sample:
    """Every so many-th row, as stored."""

    def __init__(self, codes: Any) -> None:
        self.codes, self.stride = codes, 0
        self.held = np.empty((0, 0), codes.dtype)

    def refine(
        self,
        stride: int,
        read: Callable[[int, int], np.ndarray],
        blocks: list[tuple[int, int]],
    ) -> None:
        """Hold every ``stride``-th row, where it is not held yet."""
        if 0 < self.stride <= stride:
            return
        n_rows, width = self.codes.shape
        # The one before is let go first: there is memory for one of them.
        self.held, self.stride = np.empty((0, 0), self.codes.dtype), 0
        held = np.empty((len(range(0, n_rows, stride)), width), self.codes.dtype)
        for start, stop in blocks:
            chosen = read(start, stop)[-start % stride :: stride]
            first = -(-start // stride)
            held[first : first + len(chosen)] = chosen
        self.held, self.stride = held, stride


class _SampledRows:
    """Every so many-th row of what a sample holds, also when it holds more."""

    def __init__(self, sample: _Sample, stride: int) -> None:
        self.sample, self.stride = sample, stride

    def rows(self, start: int, stop: int) -> np.ndarray:
        step = self.stride // self.sample.stride
        return self.sample.held[start * step : stop * step : step]


class _Ahead:
    """Reads on in a thread: passes go through the rows in order."""

    def __init__(self, codes: Any) -> None:
        self.codes = codes
        self.thread = ThreadPoolExecutor(1, "read-ahead")
        self.next: tuple[tuple[int, int], Future[np.ndarray]] | None = None
        self.last: tuple[tuple[int, int], np.ndarray] | None = None

    def rows(self, start: int, stop: int) -> np.ndarray:
        if self.last is not None and self.last[0] == (start, stop):
            return self.last[1]
        ahead, self.next, self.last = self.next, None, None
        if ahead is not None and ahead[0] == (start, stop):
            block = ahead[1].result()
        else:
            block = self.thread.submit(self.codes.rows, start, stop).result()
        self.last = (start, stop), block
        n_rows = int(self.codes.shape[0])
        # After the last block comes the first of the next pass.
        first = stop if stop < n_rows else 0
        span = first, min(first + stop - start, n_rows)
        if stop - start < n_rows:
            self.next = span, self.thread.submit(self.codes.rows, *span)
        return block
