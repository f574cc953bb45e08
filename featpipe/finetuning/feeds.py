"""What the network is fed, batch by batch: fresh views of pictures, or cached maps.

A *draw* is the seed of an epoch: the same draw gives the same batches. Without one,
images come as `predict` sees them. Knows nothing of labels, or of how training goes.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from featpipe.backbones import Backbone
from featpipe.codes import Codes
from featpipe.finetuning.augment import centre, view
from featpipe.finetuning.pictures import Pictures, budget

__all__ = ["CachedFeed", "CachedRows", "Feed", "PictureFeed", "parts"]

Draw = Sequence[int]
Batch = tuple[np.ndarray, Tensor]


class Feed(Protocol):
    """Gives the network its input."""

    runs_images: bool

    def batches(
        self, rows: np.ndarray, size: int, draw: Draw | None = None
    ) -> Iterator[Batch]:
        """Yield row numbers and what the network takes of them, on the device."""
        ...


def parts(rows: np.ndarray, size: int) -> list[np.ndarray]:
    """Cut rows into batches of at most ``size``, equal but for one.

    A last batch of a single image would have no variance for batch norm to learn.
    """
    return np.array_split(rows, max(1, -(-len(rows) // size)))


class PictureFeed:
    """Images through the whole network, a new view of each in every epoch.

    Parameters
    ----------
    backbone : Backbone
        Says how images are normalised, and on which device.
    pictures : Pictures
    positions : (n_rows,) int64
        The picture of each row.
    kinds : sequence of str
        As `augment.view` takes them.
    workers : int, optional
        Threads that decode and augment; default one a processor.
    """

    runs_images = True

    def __init__(
        self,
        backbone: Backbone,
        pictures: Pictures,
        positions: np.ndarray,
        kinds: Sequence[str],
        workers: int | None = None,
    ) -> None:
        self._backbone = backbone
        self._pictures = pictures
        self._positions = positions
        self._kinds = kinds
        self._workers = workers or os.cpu_count() or 1

    def batches(
        self, rows: np.ndarray, size: int, draw: Draw | None = None
    ) -> Iterator[Batch]:
        """Yield batches; while one is at work the next is made."""
        waiting: deque[tuple[np.ndarray, list[Future[Tensor]]]] = deque()
        pool = ThreadPoolExecutor(self._workers, thread_name_prefix="view")
        try:
            for part in parts(rows, size):
                waiting.append(
                    (part, [pool.submit(self._square, int(row), draw) for row in part])
                )
                # Two batches: while the network works on one, threads draw the next.
                if len(waiting) > 1:
                    yield self._batch(*waiting.popleft())
            while waiting:
                yield self._batch(*waiting.popleft())
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def _square(self, row: int, draw: Draw | None) -> Tensor:
        picture = self._pictures.get(int(self._positions[row]))
        side = self._backbone.preprocessing.crop
        if draw is None:
            return centre(picture, side)
        # By row and epoch, not by order: the views do not depend on threads or batches.
        return view(picture, side, self._kinds, np.random.default_rng([*draw, row]))

    def _batch(self, part: np.ndarray, squares: list[Future[Tensor]]) -> Batch:
        pixels = torch.stack([square.result() for square in squares])
        return part, self._backbone.normalised(pixels)


class CachedRows(NamedTuple):
    """One view of the images, as a depth of a codes file.

    Parameters
    ----------
    codes : Codes
    spec : str
    at : (n_rows,) int64
        The row in the file of each row that is asked for; −1 where it has none.
    """

    codes: Codes
    spec: str
    at: np.ndarray


class CachedFeed:
    """What enters the last part of a network, or its head, out of codes files.

    Parameters
    ----------
    shelves : sequence of Shelf
        The first has the images as `predict` sees them; a draw takes any of them.
    rows : (n,) int64
        The rows that will be asked for; kept in memory where they fit.
    channels_last : bool
        The network takes maps as (n, H, W, C).
    device : torch.device
    memory : int, optional
        Bytes that may be kept.
    """

    runs_images = False

    def __init__(
        self,
        shelves: Sequence[CachedRows],
        rows: np.ndarray,
        *,
        channels_last: bool,
        device: torch.device,
        memory: int | None = None,
    ) -> None:
        self._shelves = shelves
        self._device = device
        self._channels_last = channels_last
        # Row of the codes file to row in memory, which holds the training rows only.
        self._place = np.full(len(shelves[0].at), -1, np.int64)
        self._place[rows] = np.arange(len(rows))
        shape = shelves[0].codes.shapes[shelves[0].spec][1:]
        n_bytes = len(shelves) * len(rows) * 4 * int(np.prod(shape, dtype=np.int64))
        # All or nothing: half in memory would leave every batch waiting for the disk.
        fits = n_bytes <= (budget() if memory is None else memory)
        self._kept = [self._read(k, rows) for k in range(len(shelves))] if fits else []

    def batches(
        self, rows: np.ndarray, size: int, draw: Draw | None = None
    ) -> Iterator[Batch]:
        """Yield batches; a draw takes a view of each row at random."""
        views = np.zeros(len(rows), np.int64)
        if draw is not None and len(self._shelves) > 1:
            rng = np.random.default_rng(list(draw))
            # Another view each epoch; over the epochs each row gets all of them.
            views = rng.integers(len(self._shelves), size=len(rows))
        for part, chosen in zip(parts(rows, size), parts(views, size), strict=True):
            yield part, self._taken(part, chosen)

    def _taken(self, rows: np.ndarray, views: np.ndarray) -> Tensor:
        used = np.unique(views)
        pieces = [self._one_view(rows[views == k], k) for k in used]
        x = pieces[0]
        if len(pieces) > 1:
            x = x.new_empty(len(rows), *x.shape[1:])
            for k, piece in zip(used, pieces, strict=True):
                x[torch.from_numpy(views == k)] = piece
        x = x.to(self._device)
        return x if x.ndim < 4 or self._channels_last else x.permute(0, 3, 1, 2)

    def _one_view(self, rows: np.ndarray, k: int) -> Tensor:
        if self._kept:
            return self._kept[k].index_select(0, torch.from_numpy(self._place[rows]))
        return self._read(k, rows)

    def _read(self, k: int, rows: np.ndarray) -> Tensor:
        """Read rows of a view, maps as (n, H, W, C) float32.

        What a view lacks comes as the first has it.
        """
        first, shelf = self._shelves[0], self._shelves[k]
        there = shelf.at[rows] >= 0
        maps = shelf.codes.take(shelf.spec, shelf.at[rows[there]])
        if not there.all():
            # A view that could not be drawn is replaced by the plain image, so that no
            # image is missing from an epoch.
            drawn, maps = maps, first.codes.take(first.spec, first.at[rows])
            maps[there] = drawn
        x = torch.from_numpy(maps).float()
        # Laid out once as convolutions want it; to do so anew took most of an epoch.
        return x.permute(0, 2, 3, 1).contiguous() if x.ndim == 4 else x
