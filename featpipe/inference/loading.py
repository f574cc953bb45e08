"""Read, digest, decode and resize images, one after another, into the caller's memory.

Threads and worker processes both do this. Imports torch only for scaled decoding.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from featpipe.images import ImageError, ImageSet
from featpipe.inference import pixels

if TYPE_CHECKING:
    from featpipe.backbones import Preprocessing

__all__ = ["KnownDigests", "Loaded", "LoadedPiece", "load", "time_loading"]

# Images of a sample at most, and seconds after which it ends.
_SAMPLE, _SECONDS = 48, 2.0


class Loaded(NamedTuple):
    """The result of loading one image.

    Attributes
    ----------
    sha256 : bytes
        Of its content; empty if it could not be read.
    has_pixels : bool
        Whether its row of the memory holds its pixels.
    notes : tuple of str
        As `images.decode`.
    error : ImageError, optional
        The reason why it has no pixels; None if its digest is known.
    """

    sha256: bytes = b""
    has_pixels: bool = False
    notes: tuple[str, ...] = ()
    error: ImageError | None = None


@dataclass
class LoadedPiece:
    """Some images that were loaded one after another, and the seconds that it took."""

    images: list[Loaded] = field(default_factory=list)
    read_seconds: float = 0.0
    decode_seconds: float = 0.0


class KnownDigests:
    """The digests of images whose codes exist, in a form small enough to send.

    Parameters
    ----------
    digests : iterable of bytes
        SHA-256, of which 8 bytes are kept. Two of a billion images agree in them with a
        probability of 3 %, which the caller notices.

    Examples
    --------
    >>> known = KnownDigests([bytes(32)])
    >>> bytes(32) in known, bytes([1] * 32) in known
    (True, False)
    """

    def __init__(self, digests: Iterable[bytes] = ()) -> None:
        # Eight bytes a digest: 8 MB for a million images, sent to every process.
        prefixes = b"".join(digest[:8] for digest in digests)
        self._sorted = np.sort(np.frombuffer(prefixes, "<u8"))

    def __contains__(self, sha256: bytes) -> bool:
        """Return whether an image with this digest is known."""
        prefix = np.frombuffer(sha256, "<u8", 1)
        at = int(np.searchsorted(self._sorted, prefix)[0])
        return at < len(self._sorted) and bool(self._sorted[at] == prefix[0])


def load(
    reads: Iterable[Callable[[], bytes]],
    rows: Callable[[], np.ndarray],
    preprocessing: Callable[[], Preprocessing],
    known: KnownDigests,
    decoding: pixels.Decoding,
) -> LoadedPiece:
    """Load some images, each into its own row.

    Parameters
    ----------
    reads : iterable of callable
        One for each image; returns the whole file, or raises `ImageError`.
    rows : callable
        Returns the memory, (n, 3, S, S) uint8; called only for an image with pixels.
    preprocessing : callable
        Returns the `Preprocessing`; called only for an image that is decoded.
    known : KnownDigests
        Images that are only read, and not decoded.
    decoding : Decoding
    """
    piece = LoadedPiece()
    for k, read in enumerate(reads):
        sha256, start = b"", time.perf_counter()
        between = start
        try:
            content = read()
            sha256 = hashlib.sha256(content).digest()
            between = time.perf_counter()
            # The code of this content exists.
            if sha256 in known:
                loaded = Loaded(sha256)
            else:
                square, notes = pixels.pixels_of(content, preprocessing(), decoding)
                rows()[k] = square
                loaded = Loaded(sha256, True, notes)
        except ImageError as error:
            loaded = Loaded(sha256, error=error)
        piece.images.append(loaded)
        end = time.perf_counter()
        # Without a digest reading has failed, so all seconds were spent reading.
        between = between if sha256 else end
        piece.read_seconds += between - start
        piece.decode_seconds += end - between
    return piece


def time_loading(
    image_set: ImageSet,
    positions: np.ndarray,
    preprocessing: Preprocessing,
    decoding: pixels.Decoding,
) -> tuple[float, float]:
    """Measure the seconds that reading and decoding an image take one processor.

    Parameters
    ----------
    image_set : ImageSet
    positions : (n,) int64
        Images of which a sample is loaded, for two seconds at most.
    preprocessing : Preprocessing
    decoding : Decoding

    Returns
    -------
    read, decode : float

    Examples
    --------
    >>> from featpipe import backbones, images
    >>> square = backbones.load("mini").preprocessing
    >>> pictures = images.scan("flowers")
    >>> seconds = time_loading(pictures, np.arange(9), square, pixels.Decoding())
    >>> len(seconds), min(seconds) > 0
    (2, True)
    """
    square = np.empty((1, 3, preprocessing.crop, preprocessing.crop), np.uint8)
    at = np.unique(np.linspace(0, len(positions) - 1, _SAMPLE).astype(int))
    # At random, since the first of the list may be of one class. Seeded, so that two
    # plans of a folder measure the same images.
    order = np.random.default_rng(0).permutation(positions[at])
    read = decode = 0.0
    n, begin = 0, time.perf_counter()
    for i in order.tolist():
        piece = load(
            [partial(image_set.read, i)],
            lambda: square,
            lambda: preprocessing,
            KnownDigests(),
            decoding,
        )
        # The first one also imports packages.
        if n or len(order) == 1:
            read += piece.read_seconds
            decode += piece.decode_seconds
        n += 1
        if time.perf_counter() - begin > _SECONDS:
            break
    # Without the first image, whose time was not added.
    counted = max(n - 1, 1)
    return read / counted, decode / counted
