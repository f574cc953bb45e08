"""Find PNG files whose compressed data has too few rows.

Pillow leaves missing rows black without a warning; libpng, which most programs use,
reports such a file as damaged.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from featpipe.images.imageset import ImageError

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["require_all_rows"]

_SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # per pixel, by the colour type
# Each pass of an interlaced image: its first column and row, and the steps.
_PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4),
           (1, 0, 2, 2), (0, 1, 1, 2))  # fmt: skip
_AT_ONCE = 2**20


def require_all_rows(content: bytes, image: Image) -> None:
    """Raise if the data of a PNG has fewer rows than the file declares.

    To count the data takes half as long as decoding, so it is counted only if rows may
    be missing: if the last row is black, or the image interlaced.

    Parameters
    ----------
    content : bytes
        The whole file.
    image : PIL.Image.Image
        The loaded image, before any conversion.

    Raises
    ------
    ImageError
        With the number of bytes in the data, and that of all rows.
    """
    if image.format != "PNG" or not content.startswith(b"\x89PNG"):
        return
    width, height, bits, colour, _, _, interlaced = struct.unpack_from(
        ">IIBBBBB", content, 16
    )
    if not interlaced and any(image.crop((0, height - 1, width, height)).tobytes()):
        return
    declared = _n_bytes(width, height, bits * _SAMPLES[colour], bool(interlaced))
    inflated = _n_inflated(content, declared)
    if inflated < declared:
        raise ImageError(
            "decode", f"image data ends after {inflated:,} of {declared:,} bytes"
        )


def _n_bytes(width: int, height: int, bits: int, interlaced: bool) -> int:
    """Return the number of bytes of all rows, each with one byte for its filter."""
    n = 0
    for left, top, right, down in _PASSES if interlaced else ((0, 0, 1, 1),):
        columns, rows = -(-(width - left) // right), -(-(height - top) // down)
        if columns > 0 and rows > 0:
            n += rows * (1 + -(-columns * bits // 8))
    return n


def _n_inflated(content: bytes, most: int) -> int:
    """Return the number of bytes that the data inflates to, counted up to ``most``."""
    inflate, n = zlib.decompressobj(), 0
    for piece in _image_data(content):
        rest, n_new = piece, _AT_ONCE
        # In pieces, since `flush` would inflate the gigabytes of a bomb.
        while n < most and not inflate.eof and (rest or n_new == _AT_ONCE):
            n_new = len(inflate.decompress(rest, _AT_ONCE))
            n, rest = n + n_new, inflate.unconsumed_tail
    return n


def _image_data(content: bytes) -> Iterator[bytes]:
    """Yield the contents of the IDAT chunks."""
    at = 8
    while at + 8 <= len(content):
        length, name = struct.unpack_from(">I4s", content, at)
        if name == b"IDAT":
            yield content[at + 8 : at + 8 + length]
        at += 12 + length
