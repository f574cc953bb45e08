"""Recognise an image file by its first bytes."""

from __future__ import annotations

import os
import re
from pathlib import Path

__all__ = ["is_image_file"]

# The first bytes of each format that `decoding` reads; for BMP with the four reserved
# bytes, since many texts begin with "BM".
_BEGINNING = re.compile(
    rb"\xff\xd8\xff|\x89PNG\r\n\x1a\n|GIF8[79]a|RIFF....WEBP|II\*\0|MM\0\*"
    rb"|....ftypavi[fs]|\0\0\0\x0cjP  \r\n\x87\n|\xff\x4f\xff\x51"
    rb"|BM....\0\0\0\0|P[1-6]\s+[\d#]",
    re.DOTALL,
)
_LONGEST = 32


def is_image_file(path: str | os.PathLike[str]) -> bool:
    """Return whether a path is a regular file that begins like an image.

    Parameters
    ----------
    path : path
        It need not exist.

    Returns
    -------
    bool

    Examples
    --------
    >>> is_image_file("scores.json")
    False
    """
    path = Path(path)
    try:
        # To read a FIFO would wait.
        if not path.is_file():
            return False
        with path.open("rb") as file:
            return _BEGINNING.match(file.read(_LONGEST)) is not None
    except (OSError, ValueError):
        return False
