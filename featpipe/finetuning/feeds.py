"""Yield the input of the network in batches: new views of pictures, or cached maps.

A *draw* is the seed of an epoch: the same draw gives the same batches. Without one,
images are as `predict` sees them. Knows nothing of labels or training.
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
    """The input of the network."""

    runs_images: bool

    def batches(
        self, rows: np.ndarray, size: int, draw: Draw | None = None
    ) -> Iterator[Batch]:
        """Yield row numbers and the network's input for them, on the device."""
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
        Has the normalisation of images, and the device.
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
        """Yield batches; the next one is made while one is used."""
        waiting: deque[tuple[np.ndarray, list[Future[Tensor]]]] = deque()
        pool = ThreadPoolExecutor(self._workers, thread_name_prefix="view")
        try:
            for part in parts(rows, size):
                waiting.append(
                    (part, [pool.submit(self._square, int(row), draw) for row in part])
                )
                # Two batches: threads make the next while the network computes one.
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
        # By row and epoch, so that views do not depend on threads or batches.
        return view(picture, side, self._kinds, np.random.default_rng([*draw, row]))

    def _batch(self, part: np.ndarray, squares: list[Future[Tensor]]) -> Batch:
        pixels = torch.stack([square.result() for square in squares])
        return part, self._backbone.normalised(pixels)


class CachedRows(NamedTuple):
    """One view of the images: a depth of a codes file.

    Parameters
    ----------
    codes : Codes
    spec : str
    at : (n_rows,) int64
        The row in the file of each training row; −1 where it has none.
    """

    codes: Codes
    spec: str
    at: np.ndarray


class CachedFeed:
    """The input of the last part of a network, or of its head, from codes files.

    Parameters
    ----------
    shelves : sequence of CachedRows
        The first has the images as `predict` sees them; a draw takes any of them.
    rows : (n,) int64
        The rows that will be used; kept in memory if they fit.
    channels_last : bool
        Whether the network takes maps as (n, H, W, C).
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
        # All or nothing: with half of them in memory every batch would still wait for
        # the disk.
        fits = n_bytes <= (budget() if memory is None else memory)
        self._kept = [self._read(k, rows) for k in range(len(shelves))] if fits else []

    def batches(
        self, rows: np.ndarray, size: int, draw: Draw | None = None
    ) -> Iterator[Batch]:
        """Yield batches; a draw takes a view of each row at random."""
        views = np.zeros(len(rows), np.int64)
        if draw is not None and len(self._shelves) > 1:
            rng = np.random.default_rng(list(draw))
            # A random view in each epoch, so that over the epochs each row gets all.
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

        Rows that a view lacks are those of the first.
        """
        first, shelf = self._shelves[0], self._shelves[k]
        there = shelf.at[rows] >= 0
        maps = shelf.codes.take(shelf.spec, shelf.at[rows[there]])
        if not there.all():
            # A missing view is replaced by the plain image, so that every epoch has all
            # images.
            drawn, maps = maps, first.codes.take(first.spec, first.at[rows])
            maps[there] = drawn
        x = torch.from_numpy(maps).float()
        # In the layout of convolutions: converting each batch took most of an epoch.
        return x.permute(0, 2, 3, 1).contiguous() if x.ndim == 4 else x
