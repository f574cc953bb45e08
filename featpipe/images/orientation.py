"""Turn an image by its EXIF orientation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["SIDEWAYS", "orientation_of", "turned", "upright"]

SIDEWAYS = range(5, 9)
"""The EXIF orientations that swap width and height."""


def upright(pixels: Image.Image, source: Any, notes: list[str]) -> Image.Image:
    """Return ``pixels`` turned by the EXIF orientation of ``source``; add ``notes``."""
    return turned(pixels, orientation_of(source, notes))


def orientation_of(source: Any, notes: list[str]) -> int:
    """Return the EXIF orientation, 1 to 8; 1 if there is none, or an invalid one."""
    from PIL.Image import Exif

    # Pillow's `exif_transpose` also rewrites the EXIF, and fails where that cannot be
    # done although the orientation is clear.
    try:
        orientation = source.getexif().get(0x0112, 1)
        if orientation == 1 and (block := source.info.get("exif")):
            # Opening a JPEG ignores damaged EXIF; this raises.
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
    """Return the pixels turned and mirrored by an EXIF orientation, 1 to 8."""
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
