"""Which images a decoder may do that knows nothing but JPEG, and judges nothing.

Such a decoder was seen to make pictures of damaged files that Pillow refuses. So only
baseline JPEGs are plain, whose tables Pillow has accepted, and whose picture goes on to
its end without a break: what may be damaged then, in the picture itself, makes Pillow
warn, but not refuse.
"""

from typing import Any, NamedTuple

import numpy as np

from featpipe.images.decoding import MAX_PIXELS, opened, orientation_of

__all__ = ["Plain", "plain"]

_BASELINE, _SCAN, _END = 0xC0, 0xDA, 0xD9
# And tables, the distance of restarts, what programs leave, and comments.
_KINDS = {_BASELINE, _SCAN, 0xC4, 0xDB, 0xDD, *range(0xE0, 0xF0), 0xFE}
# Pixels of a side that Pillow's decoder takes.
_LONGEST = 65_500


class Plain(NamedTuple):
    """What a whole, upright, baseline JPEG of luma and two chromas is like.

    Parameters
    ----------
    size : (width, height)
    sampling : (int, int)
        Pixels that share a value of the chromas, from left to right and downwards.
    """

    size: tuple[int, int]
    sampling: tuple[int, int]


def plain(content: bytes) -> Plain | None:
    """Look whether a file is a plain JPEG.

    None of anything else, and of what `decode` would refuse or have notes on.
    """
    try:
        head, size, start = _head(content)
        image, notes = opened(head), list[str]()
        sampling = _sampling(image)
        turned = orientation_of(image, notes) != 1 or notes
        if sampling is None or turned or not _is_whole(content, start):
            return None
        image.load()
    except Exception:
        return None
    fits = min(size) > 0 and max(size) <= _LONGEST and size[0] * size[1] <= MAX_PIXELS
    return Plain(size, sampling) if fits else None


def _sampling(image: Any) -> tuple[int, int] | None:
    """Give what `Plain` says; None if there are not luma and chromas for all."""
    names = bytes(part[0] for part in image.layer)
    # Adobe's programs say 0 where they are red, green and blue; others name them so.
    if image.info.get("adobe_transform", 1) != 1 or names == b"RGB":
        return None
    luma, *chromas = [part[1:3] for part in image.layer]
    if (image.format, image.mode) != ("JPEG", "RGB"):
        return None
    if chromas != [(1, 1), (1, 1)] or max(luma) > 2:
        return None
    return luma


def _head(content: bytes) -> tuple[bytes, tuple[int, int], int]:
    """Take apart what comes before the picture.

    Returns
    -------
    head : bytes
        A file of its own: the same, but of 16 x 16 pixels without data.
    size : (width, height)
    start : int
        Where the picture begins.

    Raises
    ------
    ValueError, IndexError, UnboundLocalError
        At what a baseline JPEG does not have.
    """
    parts, at, kind = [content[:2]], 2, 0
    while kind != _SCAN:
        kind, length = content[at + 1], int.from_bytes(content[at + 2 : at + 4], "big")
        part, at = content[at : at + 2 + length], at + 2 + length
        if part[0] != 0xFF or len(part) != length + 2 or kind not in _KINDS:
            raise ValueError(f"marker {kind:#x} of {length} bytes")
        if kind == _BASELINE:
            height, width = (int.from_bytes(part[k : k + 2], "big") for k in (5, 7))
            part = part[:5] + b"\0\x10\0\x10" + part[9:]
        parts.append(part)
    return b"".join([*parts, b"\xff\xd9"]), (width, height), at


def _is_whole(content: bytes, start: int) -> bool:
    """Say whether one picture begins here, and goes on to its end without a break."""
    there = np.frombuffer(content, np.uint8, offset=start)
    after = there[np.flatnonzero(there[:-1] == 0xFF) + 1]
    marks = after[after != 0]
    ends = np.flatnonzero(marks == _END)
    if not len(ends):
        return False
    restarts = marks[: ends[0]]
    return np.array_equal(restarts, 0xD0 + np.arange(len(restarts)) % 8)
