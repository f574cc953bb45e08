"""Turn an image by its EXIF orientation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["SIDEWAYS", "orientation_of", "turned", "upright"]

SIDEWAYS = range(5, 9)
"""The EXIF orientations that exchange width and height."""


def upright(pixels: Image.Image, source: Any, notes: list[str]) -> Image.Image:
    """Turn ``pixels`` by the EXIF orientation of ``source``; add to ``notes``."""
    return turned(pixels, orientation_of(source, notes))


def orientation_of(source: Any, notes: list[str]) -> int:
    """Return the EXIF orientation, 1 to 8; 1 where there is none that makes sense."""
    from PIL.Image import Exif

    # Not ImageOps.exif_transpose: it also writes the EXIF anew, and fails where that
    # cannot be done although the orientation is clear.
    try:
        orientation = source.getexif().get(0x0112, 1)
        if orientation == 1 and (block := source.info.get("exif")):
            # Opening a JPEG may have met the damage before, and forgotten it.
            Exif().load(block)
    except Exception:
        notes.append("EXIF unreadable, not rotated")
        return 1
    if orientation in range(1, 9):
        return int(orientation)
    if orientation != 0:
        notes.append("EXIF orientation invalid, not rotated")
    return 1


def turned(pixels: Image.Image, orientation: int) -> Image.Image:
    """Return the pixels turned and mirrored as an EXIF orientation, 1 to 8, means."""
    from PIL.Image import Transpose

    turns = {
        2: Transpose.FLIP_LEFT_RIGHT,
        3: Transpose.ROTATE_180,
        4: Transpose.FLIP_TOP_BOTTOM,
        5: Transpose.TRANSPOSE,
        6: Transpose.ROTATE_270,
        7: Transpose.TRANSVERSE,
        8: Transpose.ROTATE_90,
    }
    return pixels if orientation == 1 else pixels.transpose(turns[orientation])
