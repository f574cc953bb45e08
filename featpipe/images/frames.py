"""Count the frames of a file; only the first is decoded."""

from __future__ import annotations

from typing import Any

__all__ = ["is_preview", "note_frames"]

# More frames than these are not counted, nor those of a GIF of more bytes.
_MOST_FRAMES = 100
_LONG_GIF = 2**24

# Tags of TIFF: the kind of image that a page is, and the places of further images.
_SUBFILE_TYPE, _SUB_IFDS = 254, 330


def is_preview(source: Any) -> bool:
    """Return whether the first page of a TIFF is a preview of an image behind it.

    That is so in raw files of cameras (DNG, NEF, ARW).
    """
    if source.format != "TIFF":
        return False
    tags = source.tag_v2
    return _SUB_IFDS in tags and bool(tags.get(_SUBFILE_TYPE, 0) & 1)


def note_frames(source: Any, notes: list[str], size: int) -> None:
    """Add the number of frames of a file of ``size`` bytes to ``notes``, if above 1."""
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
    """Return the number of frames; None if it would take too long to count them.

    Pillow reads a TIFF page by page, 20,000 of them in 11 seconds, and a GIF frame by
    frame, which is faster. The other formats store the number.
    """
    if source.format == "TIFF":
        for k in range(1, _MOST_FRAMES + 1):
            try:
                source.seek(k)
            except EOFError:
                return k
        return None
    return int(getattr(source, "n_frames", 1))
