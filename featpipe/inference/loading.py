"""Image files to rows of pixels: what a thread or a worker process does to a piece.

Reads, digests, decodes and resizes, one image after another, into memory that the
caller lends. Imports no torch unless images are decoded scaled.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from featpipe.images import ImageError
from featpipe.inference import pixels

if TYPE_CHECKING:
    from featpipe.backbones import Preprocessing

__all__ = ["KnownDigests", "Loaded", "LoadedPiece", "load"]


class Loaded(NamedTuple):
    """What became of one image.

    Parameters
    ----------
    sha256 : bytes
        Of its content; empty if it could not be read.
    has_pixels : bool
        Whether its row of the memory holds it.
    notes : tuple of str
        As `images.decode`.
    error : ImageError, optional
        Why it has no pixels; None too if it was known.
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
    """The digests of images whose codes exist, small enough for every process.

    Parameters
    ----------
    digests : iterable of bytes
        SHA-256, of which 8 bytes are kept: that two of a billion images agree in them
        has a chance of 3 %, and the caller notices.

    Examples
    --------
    >>> known = KnownDigests([bytes(32)])
    >>> bytes(32) in known, bytes([1] * 32) in known
    (True, False)
    """

    def __init__(self, digests: Iterable[bytes] = ()) -> None:
        # Eight bytes a digest: 8 MB for a million images, sent to every process. A
        # chance match is caught by the caller, who has the whole digest.
        prefixes = b"".join(digest[:8] for digest in digests)
        self._sorted = np.sort(np.frombuffer(prefixes, "<u8"))

    def __contains__(self, sha256: bytes) -> bool:
        """Return whether an image with this digest is known."""
        wanted = np.frombuffer(sha256, "<u8", 1)
        at = int(np.searchsorted(self._sorted, wanted)[0])
        return at < len(self._sorted) and bool(self._sorted[at] == wanted[0])


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
        One an image; returns the whole file, or raises `ImageError`.
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
            # Reading is enough: the codes of this content exist.
            if sha256 in known:
                found = Loaded(sha256)
            else:
                square, notes = pixels.pixels_of(content, preprocessing(), decoding)
                rows()[k] = square
                found = Loaded(sha256, True, notes)
        except ImageError as error:
            found = Loaded(sha256, error=error)
        piece.images.append(found)
        end = time.perf_counter()
        # Without a digest reading has failed, so all the time was reading.
        between = between if sha256 else end
        piece.read_seconds += between - start
        piece.decode_seconds += end - between
    return piece
