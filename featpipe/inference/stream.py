"""Compute the codes of images in memory, a batch at a time.

Reading, decoding, preprocessing, network and rounding are those of codes files; nothing
is written. Knows nothing of classifiers.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from featpipe.images import Failure, ImageError, ImageSet, describe_values
from featpipe.inference.engine import Engine
from featpipe.inference.loader import worker_server
from featpipe.inference.machine import Machine
from featpipe.inference.network import Network
from featpipe.inference.processes import WorkerServer
from featpipe.inference.progress import Progress
from featpipe.inference.recipe import Recipe
from featpipe.inference.results import ComputedBatch

if TYPE_CHECKING:
    from featpipe.backbones import Backbone

__all__ = ["Batch", "Stream"]

_FLOAT16_MAX = float(np.finfo(np.float16).max)
_LARGEST_BATCH = 512


class Batch(NamedTuple):
    """Adjacent images: the codes of some, and the failures of the others.

    Attributes
    ----------
    positions : (n,) int64
        In the `ImageSet`, ascending.
    codes : (n, width) float32
    failures : list of (position, Failure)

    Examples
    --------
    >>> batch = Batch(np.array([0, 2]), np.zeros((2, 512), np.float32), [])
    >>> batch.codes.shape
    (2, 512)
    """

    positions: np.ndarray
    codes: np.ndarray
    failures: list[tuple[int, Failure]]


class Stream:
    """A recipe that runs in memory, without a file.

    Parameters
    ----------
    recipe : Recipe
        The codes of several depths are put side by side.
    machine : Machine, optional
    check : callable, optional
        Takes the `Backbone` once it is loaded and before it runs; raises if it is not
        the expected one.

    Examples
    --------
    >>> from featpipe import images
    >>> from featpipe.inference import Machine, Recipe, Stream
    >>> pictures = images.from_arrays(np.zeros((3, 8, 8, 3), np.uint8))
    >>> stream = Stream(Recipe("mini", input_size=32), Machine("cpu"))
    >>> stream.whole(pictures).shape
    (3, 384)
    """

    def __init__(
        self,
        recipe: Recipe,
        machine: Machine | None = None,
        *,
        check: Callable[[Backbone], None] | None = None,
    ) -> None:
        self.recipe = recipe
        self._network = Network(recipe, machine)
        self._check = check

    @cached_property
    def precision(self) -> str:
        """Arithmetic of the network: ``fp32``, ``bf16`` or ``fp16``."""
        return self._network.precision(self.recipe.precision)

    @cached_property
    def loaded(self) -> Backbone:
        """The checked network, on the CPU and in float32."""
        backbone = self._network.backbone(self.recipe.depths)
        if self._check is not None:
            self._check(backbone)
        return backbone

    @property
    def width(self) -> int:
        """Numbers per code."""
        return sum(depth.width for depth in self.loaded.depths)

    def run(
        self,
        image_set: ImageSet,
        progress: Callable[[Progress], None] | None = None,
    ) -> Iterator[Batch]:
        """Yield the codes of images, a batch at a time, in their order.

        Parameters
        ----------
        image_set : ImageSet
            Failures of the scan are in no batch.
        progress : callable, optional
            Called with the `Progress` after every batch.

        Yields
        ------
        Batch
        """
        exact = self.recipe.decoding_at(self.recipe.precision).exact
        n_workers = self._network.machine.n_workers
        # Started before the network is loaded, so that both start at the same time.
        with worker_server(n_workers, len(image_set), exact=exact) as server:
            yield from self._run(image_set, progress, server)

    def _run(
        self,
        image_set: ImageSet,
        report: Callable[[Progress], None] | None,
        server: WorkerServer | None,
    ) -> Iterator[Batch]:
        progress = Progress(n_images=len(image_set))
        depths, side = self.recipe.depths, self.loaded.preprocessing.crop
        execution = self._network.choose_execution(
            depths,
            self.precision,
            side,
            n_images=len(image_set),
            largest_batch=_LARGEST_BATCH,
        )
        lanes = self._network.lanes(depths, self.precision, execution)
        size = execution.batch_size
        engine = Engine(
            image_set,
            size,
            lambda: lanes,
            decoding=self.recipe.decoding_at(self.precision),
            hflip=self.recipe.hflip,
            workers=self._network.machine.n_workers,
            progress=progress,
            server=server,
        )
        # A range, so that the positions of a million images take no memory.
        positions = range(len(image_set))
        groups = (positions[k : k + size] for k in positions[::size])
        notes: list[str] = []
        with closing(engine.batches(groups, lambda i, sha256: None)) as computed:
            for whole in computed:
                notes += [note for image in whole.images for note in image.notes]
                batch = self._batch(whole, image_set)
                progress.computed += len(batch.positions)
                progress.failed += len(batch.failures)
                if report is not None:
                    report(progress)
                yield batch
        # One warning for all images.
        if notes and (text := describe_values(notes, self.recipe.value_range)):
            warnings.warn(text, UserWarning, stacklevel=2)

    def whole(self, image_set: ImageSet) -> np.ndarray:
        """Return the codes of all images, (n, width) float32.

        Raises
        ------
        ValueError
            If an image fails; names the first, and the number of them.
        """
        # Allocated at once: joining batches at the end would need the memory twice.
        codes = np.empty((len(image_set), self.width), np.float32)
        failures: list[Failure] = []
        for batch in self.run(image_set):
            codes[batch.positions] = batch.codes
            failures += [failure for _, failure in batch.failures]
        if failures:
            path, stage, reason = failures[0][:3]
            more = f" ({len(failures)} such images)" if len(failures) > 1 else ""
            raise ValueError(
                f"{path}: {stage}: {reason}{more}; leave it out, or repair it"
            )
        return codes

    def _batch(self, batch: ComputedBatch, image_set: ImageSet) -> Batch:
        batch = batch.without_infinite()
        failures = [
            (image.position, _failure(image_set, image.position, image.failure))
            for image in batch.images
            if image.failure is not None
        ]
        # A batch in which every image failed has no codes to round.
        if not batch.fresh:
            return Batch(np.empty(0, np.int64), np.empty((0, self.width)), failures)
        positions = np.array(batch.fresh, np.int64)
        codes = self._stored(batch.codes)
        # Finite before rounding, a code may exceed the range of float16.
        sound = np.isfinite(codes).all(axis=1)
        for position in positions[~sound].tolist():
            reason = f"its code is too large for {self.recipe.dtype}"
            error = ImageError("network", reason)
            failures.append((position, _failure(image_set, position, error)))
        return Batch(positions[sound], codes[sound], sorted(failures))

    def _stored(self, by_depth: dict[str, np.ndarray]) -> np.ndarray:
        """Put depths side by side, rounded as in a codes file of this dtype."""
        specs = [depth.spec for depth in self.loaded.depths]
        codes = np.concatenate([by_depth[spec] for spec in specs], axis=1)
        if self.recipe.dtype != "float16":
            return codes
        # astype would warn of the overflow; an infinite code makes the image a failure,
        # as in a codes file.
        codes[np.abs(codes) > _FLOAT16_MAX] = np.inf
        return codes.astype(np.float16).astype(np.float32)


def _failure(image_set: ImageSet, i: int, error: ImageError) -> Failure:
    return Failure(image_set.paths[i], error.stage, error.reason)
