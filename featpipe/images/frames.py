"""Counting the frames of a file, of which the first is decoded."""

from __future__ import annotations

from typing import Any

__all__ = ["is_preview", "note_frames"]

# Counting stops here, and a GIF of more bytes than this is not counted.
_MOST_FRAMES = 100


_LONG_GIF = 2**24

# Tags of TIFF: what kind of image a page is, and where further images lie.
_SUBFILE_TYPE, _SUB_IFDS = 254, 330


def is_preview(source: Any) -> bool:
    """Return whether the first page of a TIFF is a small copy of an image behind it.

    Raw files of cameras (DNG, NEF, ARW) are TIFFs that begin so.
    """
    if source.format != "TIFF":
        return False
    tags = source.tag_v2
    return _SUB_IFDS in tags and bool(tags.get(_SUBFILE_TYPE, 0) & 1)


def note_frames(source: Any, notes: list[str], size: int) -> None:
    """Add to ``notes`` how many frames a file of ``size`` bytes has, if several."""
    if source.format == "GIF" and size > _LONG_GIF:
        mebibytes = _LONG_GIF >> 20
        notes.append(f"first frame; of a GIF over {mebibytes} MiB none are counted")
        return
    try:
        n_frames = _n_frames(source)
    except Exception:
        notes.append("first frame, number of frames unreadable")
        return
    if n_frames is None:
        notes.append(f"first of more than {_MOST_FRAMES} frames")
    elif n_frames > 1:
        notes.append(f"first of {n_frames} frames")


def _n_frames(source: Any) -> int | None:
    """Count the frames; None if there are too many to count them in good time.

    Pillow reads a TIFF page by page, 20,000 of them in 11 seconds; a GIF frame by
    frame, faster; the other formats tell the number.
    """
    if source.format == "TIFF":
        for k in range(1, _MOST_FRAMES + 1):
            try:
                source.seek(k)
            except EOFError:
                return k
        return None
    return int(getattr(source, "n_frames", 1))
