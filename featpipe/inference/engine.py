"""Images through the network: threads read and decode, lanes compute, all in order.

Knows nothing of files that hold codes; what it gives is arrays and failures.
"""

import hashlib
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np

from featpipe.images import ImageError, ImageSet
from featpipe.inference.decoders import Decoders
from featpipe.inference.lanes import InferenceWorkers
from featpipe.inference.progress import Progress

if TYPE_CHECKING:
    from torch import Tensor

    from featpipe.backbones import Backbone

__all__ = ["Batch", "Engine", "LoadedImage"]

# Images that may be in decoding, or wait decoded for the network.
_AHEAD = 128

_Item = TypeVar("_Item")
_Started = TypeVar("_Started")


class LoadedImage(NamedTuple):
    """One image on its way to the network, or what became of it instead.

    Parameters
    ----------
    position : int
        In the `ImageSet`.
    sha256 : bytes
        Of its content; empty if it could not be read.
    content : bytes, optional
        As long as it is not decoded.
    pixels : (3, S, S) uint8, optional
        As long as it has not gone through the network.
    known : optional
        What the caller's ``known`` returned: its code exists already.
    failure : ImageError, optional
        Why it gives no code.
    notes : tuple of str
        As `images.decode`.
    """

    position: int
    sha256: bytes
    content: bytes | None = None
    pixels: np.ndarray | None = None
    known: Any = None
    failure: ImageError | None = None
    notes: tuple[str, ...] = ()


class Batch(NamedTuple):
    """Images that were read together, and the codes of those that went through.

    Parameters
    ----------
    images : list of LoadedImage
        In the order asked for, their pixels dropped.
    fresh : list of int
        Positions of the images that went through the network.
    codes : dict of SPEC to (len(fresh), width) float32
        Maps: (n, C, H, W) float16. Empty if none did.
    """

    images: list[LoadedImage]
    fresh: list[int]
    codes: dict[str, np.ndarray]


class Engine:
    """Reads, decodes and runs images, a batch at a time.

    Parameters
    ----------
    image_set : ImageSet
    batch_size : int
        Images of a batch, at most.
    backbones : callable
        Gives one `Backbone` for every lane, on its device; called when the first image
        needs it.
    exact : bool
        Decode every pixel; see `pixels`.
    hflip : bool
        Average image and mirror image.
    workers : int
        Threads that read and decode.
    progress : Progress
        Told the time.
    """

    def __init__(
        self,
        image_set: ImageSet,
        batch_size: int,
        backbones: Callable[[], Sequence["Backbone"]],
        *,
        exact: bool,
        hflip: bool,
        workers: int,
        progress: Progress,
    ) -> None:
        self._images = image_set
        self._batch_size = batch_size
        self._backbones = backbones
        self._hflip = hflip
        self._progress = progress
        self._workers = workers
        self._decoders = Decoders(workers, exact=exact)
        self._lanes: InferenceWorkers | None = None
        self._at_most = batch_size

    def batches(
        self,
        groups: Iterable[Sequence[int]],
        known: Callable[[int, bytes], Any],
    ) -> Generator[Batch, None, None]:
        """Read, decode and compute groups of images, several at a time, in order.

        Parameters
        ----------
        groups : iterable of sequence of int
            Positions; those of a group go through the network together.
        known : callable
            Told position and content digest. Returns None for an image to compute, and
            anything else for one whose code exists; raises `ImageError` for one that
            must not be computed.

        Yields
        ------
        Batch
            One a group.
        """
        self._progress.begin()
        self._progress.threads |= {"read": self._workers, "decode": self._workers}
        threads = ThreadPoolExecutor(self._workers, thread_name_prefix="decode")

        def decode(group: Sequence[int]) -> list[Future[list[LoadedImage]]]:
            size = self._decoders.at_once
            pieces = [group[k : k + size] for k in range(0, len(group), size)]
            return [threads.submit(self._prepare, piece, known) for piece in pieces]

        ahead = max(2, -(-_AHEAD // self._batch_size))
        try:
            decoding = _in_flight(decode, groups, lambda: ahead)
            computing = _in_flight(self._send, decoding, lambda: 2 * self._n_lanes)
            for images_, codes in computing:
                yield _received(images_, codes)
        finally:
            threads.shutdown(wait=False, cancel_futures=True)
            self._decoders.close()
            if self._lanes is not None:
                self._lanes.close()
                self._lanes = None

    @property
    def _n_lanes(self) -> int:
        return 1 if self._lanes is None else len(self._lanes)

    def _prepare(
        self, piece: Sequence[int], known: Callable[[int, bytes], Any]
    ) -> list[LoadedImage]:
        """Read some images, and decode those that are not known."""
        with self._progress.timing("read"):
            found = [self._read(i, known) for i in piece]
        at = [k for k, image in enumerate(found) if image.content is not None]
        contents = [image.content for image in found if image.content is not None]
        if not contents:
            return found
        preprocessing = self._backbones()[0].preprocessing
        with self._progress.timing("decode"):
            outcomes = self._decoders.pixels_of(contents, preprocessing)
        for k, outcome in zip(at, outcomes, strict=True):
            image = found[k]._replace(content=None)
            if isinstance(outcome, ImageError):
                found[k] = image._replace(failure=outcome)
            else:
                pixels, notes = outcome
                found[k] = image._replace(pixels=pixels, notes=notes)
        return found

    def _read(self, i: int, known: Callable[[int, bytes], Any]) -> LoadedImage:
        sha256 = b""
        try:
            content = self._images.read(i)
            sha256 = hashlib.sha256(content).digest()
            row = known(i, sha256)
        except ImageError as error:
            return LoadedImage(i, sha256, failure=error)
        if row is not None:
            return LoadedImage(i, sha256, known=row)
        return LoadedImage(i, sha256, content)

    def _send(
        self, decoding: list[Future[list[LoadedImage]]]
    ) -> tuple[list[LoadedImage], Future[dict[str, np.ndarray]] | None]:
        """Send decoded images through the network; None if there are none."""
        group = [image for future in decoding for image in future.result()]
        pixels = [image.pixels for image in group if image.pixels is not None]
        if not pixels:
            return group, None
        if self._lanes is None:
            self._lanes = InferenceWorkers(self._backbones(), self.run)
            self._progress.threads["network"] = len(self._lanes)
        return group, self._lanes.submit(pixels)

    def run(
        self, backbone: "Backbone", pixels: Sequence[np.ndarray]
    ) -> dict[str, np.ndarray]:
        """Compute the codes of one batch.

        Parameters
        ----------
        backbone : Backbone
        pixels : sequence of n (3, S, S) uint8

        Returns
        -------
        dict of SPEC to (n, width) float32
            Maps: (n, C, H, W) float16.
        """
        pieces: list[dict[str, np.ndarray]] = []
        waiting = list(pixels)
        with self._progress.timing("network"):
            while waiting:
                now = waiting[: self._at_most]
                piece = self._forward(backbone, now)
                if piece is None:
                    self._halve(backbone, len(now))
                else:
                    pieces.append(piece)
                    del waiting[: len(now)]
        specs = pieces[0]
        return {s: np.concatenate([piece[s] for piece in pieces]) for s in specs}

    def _forward(
        self, backbone: "Backbone", pixels: Sequence[np.ndarray]
    ) -> dict[str, np.ndarray] | None:
        """Compute some images at once; None if the memory does not suffice for them."""
        import torch

        try:
            batch = stacked(pixels, backbone)
            found = backbone(batch)
            if self._hflip:
                mirrored = backbone(batch.flip(-1))
                found = {s: _mean(found[s], mirrored[s]) for s in found}
            return {spec: code.cpu().numpy() for spec, code in found.items()}
        except torch.OutOfMemoryError:
            if len(pixels) == 1:
                raise
            return None

    def _halve(self, backbone: "Backbone", tried: int) -> None:
        """Send half as many images through the network at once from here on."""
        self._at_most = min(self._at_most, tried // 2)
        self._progress.add_message(
            f"out of memory on {backbone.device}: batches are halved, to {tried // 2}"
        )


def stacked(pixels: Sequence[np.ndarray], backbone: "Backbone") -> "Tensor":
    """Put images side by side on the device of a backbone."""
    import torch

    device = torch.device(backbone.device)
    batch = torch.empty(
        (len(pixels), *pixels[0].shape),
        dtype=torch.uint8,
        # From pinned memory a GPU fetches by itself, while it computes.
        pin_memory=device.type == "cuda",
    )
    # Not numpy, which was measured to take up to three times as long beside threads
    # that are busy.
    torch.stack([torch.from_numpy(each) for each in pixels], out=batch)
    return batch.to(device, non_blocking=True)


def _mean(code: "Tensor", mirrored: "Tensor") -> "Tensor":
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
        while len(started) > ahead():
            yield started.popleft()
    while started:
        yield started.popleft()


def _received(
    group: list[LoadedImage], codes: Future[dict[str, np.ndarray]] | None
) -> Batch:
    fresh = [image.position for image in group if image.pixels is not None]
    return Batch(
        # Their pixels are not needed any more, and a slice may be long.
        [image._replace(pixels=None) for image in group],
        fresh,
        {} if codes is None else codes.result(),
    )
