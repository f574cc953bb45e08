"""One slice of images through the network: threads read and decode, torch computes.

Knows nothing of files that hold codes; what it gives is arrays and failures.
"""

import hashlib
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Lock
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from featpipe import images
from featpipe.codes import Failure, Row
from featpipe.images import ImageSet

if TYPE_CHECKING:
    from torch import Tensor

    from featpipe.backbones import Backbone

__all__ = ["Engine", "Prepared", "Tally"]


@dataclass
class Tally:
    """How far an extraction is, and where its time went.

    Parameters
    ----------
    n_images : int
        Inputs of the source, failures of the scan included.
    computed : int
        Images that went through the network in this run.
    kept : int
        Rows taken from an earlier run.
    failed : int
        Inputs without a row.
    started : float
        Of `time.perf_counter`.
    seconds : dict
        ``read`` and ``decode`` (summed over threads), ``network``, ``write``.
    said : list of str
        What the user should know, such as a halved batch.
    """

    n_images: int = 0
    computed: int = 0
    kept: int = 0
    failed: int = 0
    started: float = field(default_factory=time.perf_counter)
    seconds: dict[str, float] = field(
        default_factory=lambda: dict.fromkeys(("read", "decode", "network", "write"), 0)
    )
    said: list[str] = field(default_factory=list)
    _guard: Lock = field(default_factory=Lock, repr=False)

    @property
    def done(self) -> int:
        """Inputs dealt with so far."""
        return self.computed + self.kept + self.failed

    @property
    def elapsed(self) -> float:
        """Seconds since the start."""
        return time.perf_counter() - self.started

    @property
    def rate(self) -> float:
        """Images through the network a second."""
        return self.computed / max(self.elapsed, 1e-9)

    @contextmanager
    def timing(self, what: str) -> Iterator[None]:
        """Add the time of a block to one of `seconds`."""
        start = time.perf_counter()
        try:
            yield
        finally:
            seconds = time.perf_counter() - start
            with self._guard:
                self.seconds[what] += seconds


class Prepared(NamedTuple):
    """One image, ready for the network; or known already; or failed."""

    position: int
    sha256: bytes
    pixels: np.ndarray | None = None
    known: Row | None = None
    failure: Failure | None = None
    notes: tuple[str, ...] = ()


class Engine:
    """Reads, decodes and runs images, a slice at a time.

    Parameters
    ----------
    image_set : ImageSet
    backbone : callable
        Gives the `Backbone` on its device; called when the first image needs it.
    exact : bool
        Decode every pixel; else JPEG may scale down by itself.
    hflip : bool
        Average image and mirror image.
    workers : int
        Threads that read and decode.
    tally : Tally
        Told the time.
    """

    def __init__(
        self,
        image_set: ImageSet,
        backbone: Callable[[], "Backbone"],
        *,
        exact: bool,
        hflip: bool,
        workers: int,
        tally: Tally,
    ) -> None:
        self._images = image_set
        self._backbone = backbone
        self._exact = exact
        self._hflip = hflip
        self._tally = tally
        self._workers = workers

    def prepare(
        self,
        positions: Iterable[int],
        known: Callable[[int, bytes], Row | None],
        window: int,
    ) -> Generator[Prepared, None, None]:
        """Read and decode images in threads; yield them in order.

        Parameters
        ----------
        positions : iterable of int
        known : callable
            Tells, from position and content digest, whether the row exists already.
        window : int
            Images in memory at most.

        Yields
        ------
        Prepared
        """
        pool = ThreadPoolExecutor(self._workers, thread_name_prefix="decode")
        waiting: deque[Future[Prepared]] = deque()
        try:
            for position in positions:
                waiting.append(pool.submit(self._prepare, position, known))
                if len(waiting) >= window:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def _prepare(self, i: int, known: Callable[[int, bytes], Row | None]) -> Prepared:
        sha256 = b""
        try:
            with self._tally.timing("read"):
                content = self._images.read(i)
                sha256 = hashlib.sha256(content).digest()
            row = known(i, sha256)
            if row is not None:
                return Prepared(i, sha256, known=row)
            with self._tally.timing("decode"):
                preprocessing = self._backbone().preprocessing
                side = preprocessing.resize or preprocessing.crop
                target = None if self._exact else side
                image, notes = images.decode(content, target=target)
                pixels = preprocessing.apply(image)
            return Prepared(i, sha256, pixels=pixels, notes=notes)
        except images.ImageError as error:
            return Prepared(i, sha256, failure=self._failure(i, error))

    def _failure(self, i: int, error: images.ImageError) -> Failure:
        stamp = int(self._images.sizes[i]), int(self._images.mtimes[i])
        return Failure(self._images.paths[i], error.stage, error.reason, *stamp)

    def run(self, batch: list[Prepared]) -> dict[str, np.ndarray]:
        """Compute the codes of one batch.

        Parameters
        ----------
        batch : list of n Prepared
            With pixels.

        Returns
        -------
        dict of SPEC to (n, width) float32
            Maps: (n, C, H, W) float16.
        """
        pixels = np.stack([im.pixels for im in batch if im.pixels is not None])
        with self._tally.timing("network"):
            return self._forward(pixels)

    def _forward(self, pixels: np.ndarray) -> dict[str, np.ndarray]:
        import torch

        backbone = self._backbone()
        try:
            batch = torch.from_numpy(pixels).to(backbone.device)
            found = backbone(batch)
            if self._hflip:
                mirrored = backbone(batch.flip(-1))
                found = {s: _mean(found[s], mirrored[s]) for s in found}
            return {spec: code.cpu().numpy() for spec, code in found.items()}
        except torch.OutOfMemoryError:
            if len(pixels) == 1:
                raise
        # Outside the handler, which keeps the failed batch's memory alive.
        half = len(pixels) // 2
        text = f"out of memory on {backbone.device}: batches are halved"
        if text not in self._tally.said:
            self._tally.said.append(text)
        first, second = self._forward(pixels[:half]), self._forward(pixels[half:])
        return {spec: np.concatenate([first[spec], second[spec]]) for spec in first}


def _mean(code: "Tensor", mirrored: "Tensor") -> "Tensor":
    """Average the codes of images and mirror images; maps place by place."""
    if mirrored.ndim == 4:
        mirrored = mirrored.flip(-1)
    # Halved first: the sum of two float16 may be too large for one.
    return code / 2 + mirrored / 2
