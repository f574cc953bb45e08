"""Which images a decoder may do that knows nothing but JPEG."""

from featpipe.images.decoding import MAX_PIXELS, opened, orientation_of

__all__ = ["plain_size"]

_END = b"\xff\xd9"


def plain_size(content: bytes) -> tuple[int, int] | None:
    """Width and height of a whole, upright JPEG of three colours.

    None of anything else, and of what `decode` would refuse or have notes on.
    """
    notes: list[str] = []
    try:
        image = opened(content)
        plain = image.format == "JPEG" and image.mode == "RGB"
        upright = orientation_of(image, notes) == 1 and not notes
        # Pillow has read up to the picture itself, behind any thumbnail's end.
        whole = plain and _END in content[image.fp.tell() :]
    except Exception:
        return None
    width, height = image.size
    return (
        (width, height) if whole and upright and width * height <= MAX_PIXELS else None
    )
