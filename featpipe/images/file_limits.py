"""Limit what an image file may hold beside its pixels.

Pillow reads some of it byte by byte, or copies all of it for every piece, so that a few
megabytes take minutes. No normal image comes near these limits.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from featpipe.images.imageset import ImageError

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["require_few_tiles", "require_plain_structure"]

_MOST_SEGMENTS = 4096
_MOST_EXIF = 16 * 2**20  # bytes
_MOST_TILES = 2**17
_MOST_COMMENTS = 1000
_LONGEST_PPM_HEADER = 2**16
# Each byte matches in one way only, or matching a long header would take minutes.
_BETWEEN = rb"(?:\s|#[^\r\n]*[\r\n])+"
_PPM_HEADER = re.compile(rb"P\d(?:%b\d+){2}" % _BETWEEN)
_START_OF_SCAN, _APP1 = 0xDA, 0xE1
_WITHOUT_LENGTH = (0x01, *range(0xD0, 0xDA))


def require_plain_structure(content: bytes) -> None:
    """Raise if Pillow would take minutes to find the pixels of a JPEG or PPM.

    Parameters
    ----------
    content : bytes
        The whole file, of any format.

    Raises
    ------
    ImageError
        With the limit that the file exceeds.

    Examples
    --------
    >>> require_plain_structure(bytes.fromhex("ffd8" + 9000 * "fffe0002"))
    Traceback (most recent call last):
        ...
    featpipe.images.imageset.ImageError: more than 4,096 segments before the pixels
    """
    if content.startswith(b"\xff\xd8"):
        _require_plain_jpeg(content)
    elif content[:1] == b"P" and content[1:2] in b"123456":
        _require_plain_ppm(content)


def require_few_tiles(image: Image) -> None:
    """Raise if an image is stored in so many pieces that decoding takes too long."""
    n = len(getattr(image, "tile", ()))
    if n > _MOST_TILES:
        raise ImageError(
            "decode",
            f"stored in {n:,} pieces, more than {_MOST_TILES:,}; save it again",
        )


def _require_plain_jpeg(content: bytes) -> None:
    at, n_segments, n_exif = 2, 0, 0
    while at + 1 < len(content) and content[at + 1] != _START_OF_SCAN:
        marker = content[at + 1] if content[at] == 0xFF else 0
        if marker in (0, 0xFF):  # not a marker; Pillow goes on with the next byte
            at += 1
        elif marker in _WITHOUT_LENGTH:
            at += 2
        else:
            length = int.from_bytes(content[at + 2 : at + 4])
            n_exif += length * (marker == _APP1)
            at += 2 + length
        n_segments += 1
        if n_segments > _MOST_SEGMENTS:
            raise ImageError(
                "decode", f"more than {_MOST_SEGMENTS:,} segments before the pixels"
            )
        if n_exif > _MOST_EXIF:
            raise ImageError(
                "decode", f"more than {_MOST_EXIF // 2**20} MiB of EXIF and XMP"
            )


def _require_plain_ppm(content: bytes) -> None:
    # Formats of text may have a comment between any two numbers.
    if content[1:2] in b"123" and content.count(b"#") > _MOST_COMMENTS:
        raise ImageError("decode", f"more than {_MOST_COMMENTS:,} comments")
    start = content[:_LONGEST_PPM_HEADER]
    if len(content) > len(start) and _PPM_HEADER.match(start) is None:
        raise ImageError(
            "decode", f"no size within the first {_LONGEST_PPM_HEADER:,} bytes"
        )
