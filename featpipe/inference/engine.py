"""Run images through the network: load and compute several batches at once, in order.

Returns arrays and failures; knows nothing of codes files.
"""

from __future__ import annotations

from collections import deque
from collections.abc import (
    Callable,
    Collection,
    Generator,
    Iterable,
    Iterator,
    Sequence,
)
from concurrent.futures import Future
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from featpipe.images import ImageError, ImageSet
from featpipe.inference.lanes import InferenceWorkers
from featpipe.inference.loader import Loader, LoadingBatch, worker_server
from featpipe.inference.loading import Loaded
from featpipe.inference.pixels import Decoding
from featpipe.inference.processes import WorkerServer
from featpipe.inference.progress import Progress
from featpipe.inference.results import CodesByDepth, ComputedBatch, LoadedImage

if TYPE_CHECKING:
    from torch import Tensor

    from featpipe.backbones import Backbone

__all__ = ["Engine"]

# Batches that are in a lane, or wait for one.
_PER_LANE = 2

_Item = TypeVar("_Item")
_Started = TypeVar("_Started")


class Engine:
    """Load images and run them through the network, a batch at a time.

    Parameters
    ----------
    image_set : ImageSet
    batch_size : int
        Images of a batch, at most.
    backbones : callable
        Returns one `Backbone` for every lane, on its device; called when the first
        image needs it.
    decoding : Decoding
    hflip : bool
        Average image and mirror image.
    workers : int
        Number of images that are loaded at once; see `loader`.
    progress : Progress
        Collects the seconds of each stage.
    n_images : int, optional
        Number of images that will be loaded, which decides whether worker processes are
        worth starting; default all.
    server : WorkerServer, optional
        A running server, which stays open.

    Examples
    --------
    >>> from featpipe import images
    >>> from featpipe.inference import Machine, Network, Recipe
    >>> network = Network(Recipe("mini"), Machine("cpu"))
    >>> engine = Engine(
    ...     images.from_arrays(np.zeros((3, 8, 8, 3), np.uint8)),
    ...     2,
    ...     lambda: network.lanes(["penultimate"], "fp32"),
    ...     decoding=Decoding(),
    ...     hflip=False,
    ...     workers=1,
    ...     progress=Progress(n_images=3),
    ... )
    >>> batches = engine.batches([[0, 1], [2]], lambda i, sha256: None)
    >>> [batch.codes["penultimate"].shape for batch in batches]
    [(2, 384), (1, 384)]
    """

    def __init__(
        self,
        image_set: ImageSet,
        batch_size: int,
        backbones: Callable[[], Sequence[Backbone]],
        *,
        decoding: Decoding,
        hflip: bool,
        workers: int,
        progress: Progress,
        n_images: int | None = None,
        server: WorkerServer | None = None,
    ) -> None:
        self._images = image_set
        self._batch_size = batch_size
        self._backbones = backbones
        self._decoding = decoding
        self._hflip = hflip
        self._progress = progress
        self._n_workers = workers
        self._n_images = len(image_set) if n_images is None else n_images
        self._server = server
        self._lanes: InferenceWorkers[LoadingBatch, Sequence[int]] | None = None
        # Halved when a batch does not fit, and never raised again: each try would cost
        # a failed allocation.
        self._at_most = batch_size

    def batches(
        self,
        groups: Iterable[Sequence[int]],
        find_existing: Callable[[int, bytes], Any],
        digests: Collection[bytes] = (),
    ) -> Generator[ComputedBatch, None, None]:
        """Load and compute groups of images, several at a time, in order.

        Parameters
        ----------
        groups : iterable of sequence of int
            Positions; those of a group go through the network together.
        find_existing : callable
            Takes position and content digest. Returns None for an image to compute, and
            the place of its code for one that has a code already; raises `ImageError`
            for one that must not be computed.
        digests : collection of bytes
            Digests of images that have a code already, so that they are not decoded.

        Yields
        ------
        ComputedBatch
            One for each group.
        """
        self._progress.begin()
        n_workers = self._n_workers
        self._progress.threads |= {"read": n_workers, "decode": n_workers}
        with self._started_server() as server:
            loader = self._loader(digests, server)

            def send(
                batch: LoadingBatch,
            ) -> tuple[list[LoadedImage], list[int], Future[CodesByDepth] | None]:
                return self._send(batch, find_existing)

            try:
                # Two queues in a row, so that a slow image delays neither the loading
                # of the next nor the network.
                loading = _in_flight(loader.submit, groups, lambda: loader.ahead)
                computing = _in_flight(send, loading, lambda: _PER_LANE * self._n_lanes)
                for images, fresh, codes in computing:
                    yield ComputedBatch(
                        images, fresh, {} if codes is None else codes.result()
                    )
            finally:
                # Also when the caller stops early: worker processes would outlive the
                # program.
                loader.close()
                if self._lanes is not None:
                    self._lanes.close()
                    self._lanes = None

    def _started_server(self) -> AbstractContextManager[WorkerServer | None]:
        if self._server is not None:
            return nullcontext(self._server)
        return worker_server(
            self._n_workers, self._n_images, exact=self._decoding.exact
        )

    def _loader(
        self, digests: Collection[bytes], server: WorkerServer | None
    ) -> Loader:
        return Loader(
            self._images,
            self._batch_size,
            lambda: self._backbones()[0].preprocessing,
            n_workers=self._n_workers,
            # Batches in lanes keep their shared memory until they are computed; without
            # processes each batch has memory of its own.
            in_lanes=0 if server is None else _PER_LANE * len(self._backbones()),
            decoding=self._decoding,
            progress=self._progress,
            known=digests,
            server=server,
        )

    @property
    def _n_lanes(self) -> int:
        return 1 if self._lanes is None else len(self._lanes)

    def _send(
        self, batch: LoadingBatch, find_existing: Callable[[int, bytes], Any]
    ) -> tuple[list[LoadedImage], list[int], Future[CodesByDepth] | None]:
        """Send the loaded images of a batch through the network, if there are any."""
        loaded = batch.images()
        images = [
            _look_up(i, image, find_existing)
            for i, image in zip(batch.positions, loaded, strict=True)
        ]
        rows = [
            k
            for k, image in enumerate(images)
            if image.failure is None and image.existing is None
        ]
        if not rows:
            # The lane releases the memory of batches that are computed.
            batch.release()
            return images, [], None
        # Only now, so that a run whose images all have codes, or all fail, loads no
        # network.
        if self._lanes is None:
            self._lanes = InferenceWorkers(self._backbones(), self._run)
            self._progress.threads["network"] = len(self._lanes)
        fresh = [images[k].position for k in rows]
        return images, fresh, self._lanes.submit(batch, rows)

    def _run(
        self, backbone: Backbone, batch: LoadingBatch, rows: Sequence[int]
    ) -> CodesByDepth:
        """Compute the codes of some rows of a batch, and release its memory."""
        try:
            return self.run(backbone, batch.memory()[0], rows)
        finally:
            batch.release()

    def run(
        self, backbone: Backbone, pixels: np.ndarray, rows: Sequence[int]
    ) -> CodesByDepth:
        """Compute the codes of one batch.

        Parameters
        ----------
        backbone : Backbone
        pixels : (n, 3, S, S) uint8
        rows : sequence of int
            Rows of ``pixels`` to compute, ascending.

        Returns
        -------
        dict of SPEC to (len(rows), width) float32
            Maps: (n, C, H, W) float16.
        """
        pieces: list[CodesByDepth] = []
        with self._progress.timing("network"):
            done = 0
            while done < len(rows):
                now = rows[done : done + self._at_most]
                piece = self._forward(backbone, pixels, now)
                if piece is None:
                    self._halve(backbone, len(now))
                else:
                    pieces.append(piece)
                    done += len(now)
        specs = pieces[0]
        return {s: np.concatenate([piece[s] for piece in pieces]) for s in specs}

    def _forward(
        self, backbone: Backbone, pixels: np.ndarray, rows: Sequence[int]
    ) -> CodesByDepth | None:
        """Compute some images at once; return None if they need too much memory."""
        import torch

        # Returned inside the block, so that no frame holds tensors after a failure.
        with suppress(torch.OutOfMemoryError):
            return self._codes(backbone, placed(pixels, rows, backbone))
        # Here the memory of the failed call is free again.
        if len(rows) == 1:
            raise torch.OutOfMemoryError(
                f"{backbone.device} has no memory for a single image; use --device cpu"
            )
        return None

    def _codes(self, backbone: Backbone, batch: Tensor) -> CodesByDepth:
        codes = backbone(batch)
        if self._hflip:
            mirrored = backbone(batch.flip(-1))
            codes = {s: _mean(codes[s], mirrored[s]) for s in codes}
        return {spec: code.cpu().numpy() for spec, code in codes.items()}

    def _halve(self, backbone: Backbone, tried: int) -> None:
        """Send half as many images through the network at once from here on."""
        import torch

        self._at_most = min(self._at_most, max(tried // 2, 1))
        if torch.device(backbone.device).type == "cuda":
            # The allocator keeps freed blocks of the large batch, which the small one
            # may not fit into.
            torch.cuda.empty_cache()
        self._progress.add_message(
            f"out of memory on {backbone.device}: batches are halved, to {tried // 2}"
        )


def _look_up(
    i: int, image: Loaded, find_existing: Callable[[int, bytes], Any]
) -> LoadedImage:
    """Return the image with the place of its code, if there is one, or its failure."""
    # An image that could not be read has no content to look up.
    if image.error is not None and not image.sha256:
        return LoadedImage(i, b"", failure=image.error)
    try:
        row = find_existing(i, image.sha256)
    except ImageError as error:
        return LoadedImage(i, image.sha256, failure=error)
    if row is not None:
        return LoadedImage(i, image.sha256, existing=row)
    # After the look-up: an image that cannot be decoded now may have a code from an
    # earlier run.
    if image.error is not None:
        return LoadedImage(i, image.sha256, failure=image.error)
    if not image.has_pixels:
        # Two contents agree in 64 bits of SHA-256, or the caller has dropped a code.
        raise RuntimeError(
            f"image {i} was taken for one whose code exists; run the same command again"
        )
    return LoadedImage(i, image.sha256, notes=image.notes)


def placed(pixels: np.ndarray, rows: Sequence[int], backbone: Backbone) -> Tensor:
    """Return some rows of pixels on the device of a backbone."""
    import torch

    # Without a copy: the tensor uses the shared memory of the batch until the device
    # has its own.
    batch = torch.from_numpy(pixels)
    # Most batches are computed whole, which needs no copy.
    if rows[-1] - rows[0] + 1 == len(rows):
        batch = batch[rows[0] : rows[-1] + 1]
    else:
        batch = batch[torch.tensor(rows)]
    device = torch.device(backbone.device)
    if device.type == "cuda":
        # A GPU copies from pinned memory while it computes.
        pinned = torch.empty(batch.shape, dtype=torch.uint8, pin_memory=True)
        batch = pinned.copy_(batch)
    return batch.to(device, non_blocking=True)


def _mean(code: Tensor, mirrored: Tensor) -> Tensor:
    """Return the mean of the codes of images and of their mirror images."""
    if mirrored.ndim == 4:
        mirrored = mirrored.flip(-1)
    # Halved first: the sum of two float16 may be too large for one.
    return code / 2 + mirrored / 2


def _in_flight(
    start: Callable[[_Item], _Started],
    items: Iterable[_Item],
    ahead: Callable[[], int],
) -> Iterator[_Started]:
    """Start work on items in order, a few ahead of the caller; yield the results."""
    started: deque[_Started] = deque()
    for item in items:
        started.append(start(item))
        # Each time anew: the number of lanes is known only after the first batch.
        while len(started) > ahead():
            yield started.popleft()
    while started:
        yield started.popleft()
