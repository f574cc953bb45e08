"""Images through the network: batches are loaded and computed side by side, in order.

Knows nothing of files that hold codes; what comes out is arrays and failures.
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
from featpipe.inference.batch import CodesByDepth, ComputedBatch, LoadedImage
from featpipe.inference.lanes import InferenceWorkers
from featpipe.inference.loader import Loader, LoadingBatch, worker_server
from featpipe.inference.loading import Loaded
from featpipe.inference.pixels import Decoding
from featpipe.inference.processes import WorkerServer
from featpipe.inference.progress import Progress

if TYPE_CHECKING:
    from torch import Tensor

    from featpipe.backbones import Backbone

__all__ = ["Engine"]

# Batches that are in a lane, or wait for it.
_PER_LANE = 2

_Item = TypeVar("_Item")
_Started = TypeVar("_Started")


class Engine:
    """Loads images and runs them through the network, a batch at a time.

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
        Images that are loaded at once; see `loader`.
    progress : Progress
        Collects the seconds of each stage.
    n_images : int, optional
        How many will be loaded, to tell whether worker processes pay; default all.
    server : WorkerServer, optional
        One that has been started already; it stays open.

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
        # Halved when a batch does not fit, and never raised again: trying would cost a
        # failed allocation each time.
        self._at_most = batch_size

    def batches(
        self,
        groups: Iterable[Sequence[int]],
        known: Callable[[int, bytes], Any],
        digests: Collection[bytes] = (),
    ) -> Generator[ComputedBatch, None, None]:
        """Load and compute groups of images, several at a time, in order.

        Parameters
        ----------
        groups : iterable of sequence of int
            Positions; those of a group go through the network together.
        known : callable
            Takes position and content digest. Returns None for an image to compute, and
            anything else for one whose code exists; raises `ImageError` for one that
            must not be computed.
        digests : collection of bytes
            Digests for which ``known`` has an answer, so that they are not decoded.

        Yields
        ------
        ComputedBatch
            One a group.
        """
        self._progress.begin()
        n_workers = self._n_workers
        self._progress.threads |= {"read": n_workers, "decode": n_workers}
        with self._started_server() as server:
            loader = self._loader(digests, server)

            def send(
                batch: LoadingBatch,
            ) -> tuple[list[LoadedImage], list[int], Future[CodesByDepth] | None]:
                return self._send(batch, known)

            try:
                # Two queues in a row, so that a slow image holds up neither the loading
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
        self, batch: LoadingBatch, known: Callable[[int, bytes], Any]
    ) -> tuple[list[LoadedImage], list[int], Future[CodesByDepth] | None]:
        """Send the loaded images of a batch through the network, if there are any."""
        loaded = batch.images()
        images = [
            _judged(i, image, known)
            for i, image in zip(batch.positions, loaded, strict=True)
        ]
        rows = [
            k
            for k, image in enumerate(images)
            if image.failure is None and image.known is None
        ]
        if not rows:
            # Nothing of it goes to the network, which would have released it.
            batch.release()
            return images, [], None
        # Only now: a run whose images are all known, or all broken, never loads the
        # network onto its device.
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
            Which of them, ascending.

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
        """Compute some images at once; None if the memory does not suffice for them."""
        import torch

        # Returned from inside the block, so that after a failure no frame of it holds
        # tensors.
        with suppress(torch.OutOfMemoryError):
            return self._codes(backbone, placed(pixels, rows, backbone))
        # Here nothing holds the memory of the failed call any more.
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
            # The allocator keeps freed blocks of the large batch, in which the small
            # one may not fit.
            torch.cuda.empty_cache()
        self._progress.add_message(
            f"out of memory on {backbone.device}: batches are halved, to {tried // 2}"
        )


def _judged(i: int, image: Loaded, known: Callable[[int, bytes], Any]) -> LoadedImage:
    """Return what becomes of a loaded image, now that its digest is known."""
    # It could not even be read: there is no content to look up.
    if image.error is not None and not image.sha256:
        return LoadedImage(i, b"", failure=image.error)
    try:
        row = known(i, image.sha256)
    except ImageError as error:
        return LoadedImage(i, image.sha256, failure=error)
    if row is not None:
        return LoadedImage(i, image.sha256, known=row)
    # After the look-up: an image that cannot be decoded here may be known from a run
    # that could.
    if image.error is not None:
        return LoadedImage(i, image.sha256, failure=image.error)
    if not image.has_pixels:
        # Two contents agree in 64 bits of SHA-256, or the caller has forgotten a code.
        raise RuntimeError(
            f"image {i} was taken for one whose code exists; run the same command again"
        )
    return LoadedImage(i, image.sha256, notes=image.notes)


def placed(pixels: np.ndarray, rows: Sequence[int], backbone: Backbone) -> Tensor:
    """Return some rows of pixels on the device of a backbone."""
    import torch

    # No copy: the tensor uses the shared memory of the batch until the device has its
    # own.
    batch = torch.from_numpy(pixels)
    # Whole batches, which nearly all are, need no copy.
    if rows[-1] - rows[0] + 1 == len(rows):
        batch = batch[rows[0] : rows[-1] + 1]
    else:
        batch = batch[torch.tensor(rows)]
    device = torch.device(backbone.device)
    if device.type == "cuda":
        # From pinned memory a GPU fetches by itself, while it computes.
        pinned = torch.empty(batch.shape, dtype=torch.uint8, pin_memory=True)
        batch = pinned.copy_(batch)
    return batch.to(device, non_blocking=True)


def _mean(code: Tensor, mirrored: Tensor) -> Tensor:
    """Average the codes of images and mirror images; maps place by place."""
    if mirrored.ndim == 4:
        mirrored = mirrored.flip(-1)
    # Halved first: the sum of two float16 may be too large for one.
    return code / 2 + mirrored / 2


def _in_flight(
    start: Callable[[_Item], _Started],
    items: Iterable[_Item],
    ahead: Callable[[], int],
) -> Iterator[_Started]:
    """Start work on items in order, a few before the first is asked for."""
    started: deque[_Started] = deque()
    for item in items:
        started.append(start(item))
        # Asked anew each time: the number of lanes is known only after the first batch.
        while len(started) > ahead():
            yield started.popleft()
    while started:
        yield started.popleft()
