"""Choose the input of training: images for the whole network, or cached maps or codes.

Also notes the reason, and builds the part of the network that is run in every epoch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from featpipe.backbones import (
    Backbone,
    Depth,
    TrainablePart,
    input_depth,
    trainable_tail,
    trainable_whole,
)
from featpipe.codes import Codes
from featpipe.finetuning import views
from featpipe.finetuning.augmentation_check import CANDIDATES, check_augmentations
from featpipe.finetuning.feeds import CachedFeed, CachedRows, Feed, PictureFeed
from featpipe.finetuning.pictures import Pictures
from featpipe.finetuning.settings import Settings
from featpipe.images import ImageSet
from featpipe.inference import Decoding
from featpipe.protocol import TuningRows

__all__ = ["DataContext", "Inputs", "choose"]

_MOST_BYTES = 8 * 2**30
# More than one view only up to this size: writing and reading them takes time too.
_MOST_BYTES_OF_VIEWS = 2**30
_VIEWS = 4
_NEAR = 0.01


@dataclass(frozen=True, eq=False, kw_only=True)
class DataContext:
    """The images, their codes and rows, and how further codes are extracted.

    Parameters
    ----------
    images : ImageSet
    codes : Codes
        Codes of these images, a row for each that could be read.
    rows : TuningRows
    labels : (n_rows,) int64
        Class numbers of the rows that train; −1 elsewhere.
    backbone : Backbone
        On its device.
    folder : Path
        For more codes.
    decoding : Decoding
    workers : int or None
    extract : callable
        Takes depths, images and a path; returns codes.
    """

    images: ImageSet
    codes: Codes
    rows: TuningRows
    labels: np.ndarray
    backbone: Backbone
    folder: Path
    decoding: Decoding
    workers: int | None
    extract: Callable[[tuple[str, ...], ImageSet, Path], Codes]

    def positions(self) -> np.ndarray:
        """Return the image of each row, (n_rows,) int64."""
        at = {path: i for i, path in enumerate(self.images.paths)}
        return np.array([at[path] for path in self.codes.paths], np.int64)


@dataclass(frozen=True, eq=False)
class Inputs:
    """The chosen input of a training; `make` builds it once there are codes.

    Parameters
    ----------
    depth : Depth
        Of the head.
    cached : Depth or None
        The input of the part that is trained; None runs the whole network.
    n_views : int
    notes : list of str
    """

    depth: Depth
    cached: Depth | None
    n_views: int
    notes: list[str] = field(default_factory=list)

    @property
    def specs(self) -> tuple[str, ...]:
        """The depths to extract."""
        more = () if self.cached is None else (self.cached.spec,)
        return tuple(dict.fromkeys((self.depth.spec, *more)))

    def make(
        self, settings: Settings, where: DataContext
    ) -> tuple[TrainablePart | None, Feed]:
        """Build the part of the network that runs in every epoch, and its input.

        Returns
        -------
        part : TrainablePart or None
            None where the head alone is trained, on cached codes.
        feed : Feed
        """
        if self.cached is None:
            return self._whole(settings, where)
        rows = where.rows.train
        shelves = [
            CachedRows(where.codes, self.cached.spec, np.arange(len(where.codes)))
        ]
        if settings.node is None:
            part = None
        else:
            part = trainable_tail(where.backbone, settings.node)
            # Maps stored as float16 may be too coarse for the following layers; then
            # the slow way is right.
            if not self._agrees(part, where):
                self.notes.append(
                    f"{self.cached.spec!r} is too coarse: it does not give the codes "
                    "again, so the whole network runs in every epoch"
                )
                return self._whole(settings, where)
        if self.n_views > 1:
            shelves += self._views(settings, where)
        feed = CachedFeed(
            shelves,
            rows,
            channels_last=part is not None and part.channels_last,
            device=where.backbone.device,
        )
        self.notes.append(
            f"trained from cached {self.cached.spec!r}, {self.n_views} view"
            f"{'s' * (self.n_views > 1)} of each image"
        )
        return part, feed

    def _whole(
        self, settings: Settings, where: DataContext
    ) -> tuple[TrainablePart, Feed]:
        part = trainable_whole(where.backbone, settings.node)
        pictures = Pictures(where.images, where.backbone.preprocessing, where.decoding)
        kinds = self._kinds(settings, where, pictures)
        positions = where.positions()
        return part, PictureFeed(
            where.backbone, pictures, positions, kinds, where.workers
        )

    def _agrees(self, part: TrainablePart, where: DataContext) -> bool:
        """Return whether cached maps lead to the same codes as the whole network."""
        assert self.cached is not None
        # Sixteen images show whether a kind of map is precise enough; it is the same
        # for all.
        rows = where.rows.train[:16]
        maps = where.codes.take(self.cached.spec, rows)
        codes = where.codes.take(self.depth.spec, rows).astype(np.float64)
        x = torch.from_numpy(maps).float()
        with torch.inference_mode():
            computed = part.network(x.permute(0, 2, 3, 1) if part.channels_last else x)[
                0
            ]
        off = np.abs(computed.numpy() - codes).max()
        return bool(off <= _NEAR * np.abs(codes).max())

    def _views(self, settings: Settings, where: DataContext) -> list[CachedRows]:
        assert self.cached is not None
        rows, positions = where.rows.train, where.positions()
        pictures = Pictures(where.images, where.backbone.preprocessing, where.decoding)
        kinds = self._kinds(settings, where, pictures)
        drawn = views.views_of(
            where.images.take(positions[rows]),
            self.n_views - 1,  # the plain image is the first view
            where.backbone.preprocessing,
            kinds,
            where.decoding,
            seed=settings.seed,
        )
        codes = where.extract((self.cached.spec,), drawn, where.folder / "views.h5")
        # -1 marks views that failed; the plain image is used instead.
        row_of = {path: row for row, path in enumerate(codes.paths)}
        shelves = []
        for k in range(1, self.n_views):
            at = np.full(len(where.codes), -1, np.int64)
            for row in rows:
                at[row] = row_of.get(views.name(k, where.codes.paths[row]), -1)
            shelves.append(CachedRows(codes, self.cached.spec, at))
        return shelves

    def _kinds(
        self, settings: Settings, where: DataContext, pictures: Pictures
    ) -> tuple[str, ...]:
        """Return the augmentations of the settings, or those that a check finds fit."""
        kinds = settings.augment
        why = ""
        if isinstance(kinds, str):
            check = check_augmentations(
                where.codes,
                where.rows,
                where.labels,
                where.backbone,
                pictures,
                where.positions(),
                seed=settings.seed,
            )
            kinds = tuple(name for name in CANDIDATES if check[name][1])
            shares = (f"{name} {100 * check[name][0]:.0f}" for name in CANDIDATES)
            why = (
                " (a probe, untrained on any, recognises "
                f"{100 * check[''][0]:.0f} % as they are; {', '.join(shares)})"
            )
        self.notes.append(f"augmentation: {', '.join(kinds) or 'none'}{why}")
        return kinds


def choose(
    settings: Settings,
    backbone: Backbone,
    n_images: int,
    specs: Collection[str] = (),
) -> Inputs:
    """Choose the input of a training before anything is computed.

    Parameters
    ----------
    settings : Settings
    backbone : Backbone
    n_images : int
    specs : collection of str
        Depths that the codes file has already.

    Raises
    ------
    ValueError
        If there is no such node, or nothing to train from it.
    """
    depth = backbone.depths[0]
    if settings.train != "head":
        # Before hours of extraction.
        trainable_whole(backbone, settings.node)  # raises where nothing could learn
    if settings.train == "all" or settings.views == 0:
        return Inputs(depth, None, 0)
    kept = [depth] if settings.node is None else _entering(backbone, settings.node)
    if not kept:
        why = (
            f"more than one output enters {settings.node!r}, or it cannot be told, so "
            "nothing is cached: the whole network runs in every epoch"
        )
        return Inputs(depth, None, 0, [why])
    there = [each for each in kept if each.spec in specs]
    kept = there or kept
    many = settings.views or (_VIEWS if settings.augment else 1)
    # Fewer views are better than float16, and float16 is better than no cache.
    for cached in kept:
        one_view = n_images * _row_bytes(cached)
        if settings.views is None and many * one_view <= _MOST_BYTES_OF_VIEWS:
            return Inputs(depth, cached, many)
        if (settings.views or 1) * one_view <= _MOST_BYTES:
            return Inputs(depth, cached, settings.views or 1)
    if settings.views is not None or there:
        return Inputs(depth, kept[-1], settings.views or 1)
    gigabytes = n_images * _row_bytes(kept[-1]) / 2**30
    why = (
        f"{kept[-1].spec!r} of {n_images:,} images would take {gigabytes:.0f} GB, so "
        "nothing is cached: the whole network runs in every epoch (views=1 caches all "
        "the same)"
    )
    return Inputs(depth, None, 0, [why])


def _entering(backbone: Backbone, node: str) -> list[Depth]:
    """Return the depths of a node's input, float32 and float16; empty if several."""
    depths = (input_depth(backbone, node, how) for how in ("map32", "map"))
    return list({each.spec: each for each in depths if each is not None}.values())


def _row_bytes(depth: Depth) -> int:
    return math.prod(depth.shape) * (2 if depth.pool == "map" else 4)
