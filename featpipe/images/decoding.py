"""Decode the bytes of a file to one upright RGB image, by stated rules.

This module has the allowed formats, the limits, and the rules that change pixels
(`DECODING`). It uses no files, labels or networks.

Pillow decodes: other decoders have ended the process on damaged files. None of Pillow's
process-wide settings is used or changed, so that an image is the same in every thread
and program. The first image imports Pillow.
"""

from __future__ import annotations

import io
import math
from functools import lru_cache
from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np

from featpipe.bounds import require_number
from featpipe.errors import one_line
from featpipe.images import plain_jpeg
from featpipe.images.colour import in_range, to_rgb
from featpipe.images.file_limits import require_few_tiles, require_plain_structure
from featpipe.images.frames import is_preview, note_frames
from featpipe.images.imageset import ImageError
from featpipe.images.memory import pixel_view
from featpipe.images.non_images import describe_non_image, unknown
from featpipe.images.orientation import SIDEWAYS, orientation_of, turned
from featpipe.images.png import require_all_rows
from featpipe.images.values import ValueRange, note_unfilled, samples_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from PIL import Image

__all__ = [
    *("DECODING", "MAX_PIXELS", "Decoded", "check_max_pixels", "decode"),
]

MAX_PIXELS = 1024**3 // 4 // 3
"""89,478,485, the size at which Pillow warns; here a larger image is an error. A small
file may declare a huge image, which could end the process that decodes it."""

_LARGEST_LIMIT = 10**11
# The time of decoding grows with the number of rows too.
_MAX_SIDE = 2**20

_PLUGINS = {
    "JPEG": "Jpeg",  # also MPO, which begins as a JPEG
    "PNG": "Png",
    "GIF": "Gif",
    "WEBP": "WebP",
    "BMP": "Bmp",
    "TIFF": "Tiff",
    "AVIF": "Avif",
    "PPM": "Ppm",
    "JPEG2000": "Jpeg2K",
}

# Least size of a scaled JPEG, in multiples of the target. JPEG's own scaling is a
# coarse filter: of 384 photos for 64 px, the codes of two networks had a cosine of at
# least 0.9976 with the exact codes at two to three times the target, of 0.9992 above.
_LEAST_SCALE = 3


DECODING: dict[str, Any] = {
    "version": 1,
    "decoder": "Pillow",
    "formats": [*_PLUGINS, "MPO"],
    "max_pixels": MAX_PIXELS,
    "exif": "upright; orientation 0 is 1; unreadable is not rotated",
    "frames": "first",
    # Cut-out pictures, scans and drawings are made for white paper; on black, dark
    # lines would vanish.
    "alpha": "composited over white (255, 255, 255)",
    "16-bit": "divided by 256, rounded down",
    "32-bit": "kept if within 0..255, as 16-bit if within 0..65535, else as float",
    "float": "lowest finite value to 0, highest to 255; a constant image to 0",
    "cmyk": "Pillow's plain conversion; JPEG inks inverted as Adobe does",
    "icc": "ignored",
    "truncated": "refused",
}
"""The rules of `decode`, for the provenance of codes. ``version`` increases when a
change of the rules changes the pixels of any image."""


class Decoded:
    """An upright RGB image, with notes about its decoding.

    Parameters
    ----------
    picture : PIL.Image.Image or (H, W, 3) uint8
        Of mode RGB.
    notes : tuple of str
        Such as ``"16-bit scaled"`` or ``"first of 12 frames"``.
    full : (width, height)
        Size of the upright image without JPEG's own scaling.

    Examples
    --------
    >>> import io
    >>> import numpy as np
    >>> from PIL import Image
    >>> from featpipe import images
    >>> file = io.BytesIO()
    >>> Image.new("RGB", (40, 30)).save(file, "PNG")
    >>> decoded = images.decode(file.getvalue())
    >>> decoded.size, decoded.pixels.shape[:2], decoded.notes
    ((40, 30), (30, 40), ())
    """

    def __init__(
        self,
        picture: Image.Image | np.ndarray,
        notes: tuple[str, ...],
        full: tuple[int, int],
    ) -> None:
        self._picture = picture
        self.notes = notes
        self.full = full

    @property
    def image(self) -> Image.Image:
        """The image as a Pillow image."""
        from PIL import Image

        picture = self._picture
        return Image.fromarray(picture) if isinstance(picture, np.ndarray) else picture

    @property
    def pixels(self) -> np.ndarray:
        """The pixels: (H, W, 3 or 4) uint8; a fourth channel has no meaning."""
        picture = self._picture
        return picture if isinstance(picture, np.ndarray) else pixel_view(picture)

    @property
    def size(self) -> tuple[int, int]:
        """Width and height."""
        picture = self._picture
        if isinstance(picture, np.ndarray):
            return picture.shape[1], picture.shape[0]
        return picture.size

    @property
    def extent(self) -> tuple[float, float]:
        """Width and height of the scene, in pixels of the image.

        They may be smaller than its size: at half size, JPEG makes 188 rows of 375,
        which show 187.5.
        """
        # JPEG's scales are powers of two, and it rounds sides up. Resizing by the
        # rounded size would move every pixel a little.
        scale = 1 << math.ceil(math.log2(self.full[0] / self.size[0]))
        return self.full[0] / scale, self.full[1] / scale


def check_max_pixels(value: Any) -> int | None:
    """Return the limit of pixels as an int; None means no limit.

    Raises
    ------
    ValueError
        If it is not a whole number from 1 to 1e11.

    Examples
    --------
    >>> check_max_pixels(250_000_000)
    250000000
    """
    if value is None:
        return None
    limit: int = require_number(
        "max_pixels", value, 1, _LARGEST_LIMIT, instead="or None"
    )
    return limit


def decode(
    content: bytes,
    *,
    target: int | None = None,
    value_range: ValueRange = "file",
    max_pixels: int | None = MAX_PIXELS,
) -> Decoded:
    """Decode the first frame of an image file to upright RGB.

    Any bytes give an image or an `ImageError`. The function is thread-safe. Pillow's
    warnings, such as those of odd TIFF tags, follow the filters of the process; if a
    filter turns them into errors, such images fail.

    Parameters
    ----------
    content : bytes
        The whole file. Its format is recognised by its content, and must be in
        ``DECODING["formats"]``.
    target : int, optional
        Length in pixels to which the shorter side will be resized. JPEGs are then
        decoded at 1/2, 1/4 or 1/8 of their size, if both sides stay at least three
        times that long; plain ones by `plain_jpeg`. A JPEG that EXIF rotates is
        decoded at full size unless its sides are multiples of 8. None, the default,
        decodes at full size, by Pillow alone.
    value_range : str or (low, high)
        The values that become black and white in images of more than 8 bits:
        ``"file"``, by the rules of `DECODING`; ``"auto"``, the lowest and the highest
        value of the image; or two values as they are stored. It does not apply to AVIF,
        colour JPEG 2000 and 16-bit inks.
    max_pixels : int, optional
        Width times height of the largest image to decode. None is no limit, except
        Pillow's own of 178,956,970 for WebP and for the tiles of TIFF.

    Returns
    -------
    Decoded

    Raises
    ------
    ImageError
        With stage ``"decode"``, if the format is not allowed, the content is damaged or
        truncated, or the image has more than ``max_pixels``.

    Examples
    --------
    >>> import io
    >>> from PIL import Image
    >>> from featpipe import images
    >>> file = io.BytesIO()
    >>> Image.new("L", (40, 30), 7).save(file, "PNG")
    >>> picture = images.decode(file.getvalue()).image
    >>> picture.mode, picture.size, picture.getpixel((0, 0))
    ('RGB', (40, 30), (7, 7, 7))
    """
    try:
        return _decode(content, target, value_range, max_pixels)
    except ImageError:
        raise
    except Exception as error:
        # Damaged files make Pillow raise OSError, ValueError, SyntaxError, MemoryError,
        # struct.error, NotImplementedError and others.
        raise ImageError("decode", _reason(error)) from error


def _decode(
    content: bytes,
    target: int | None,
    value_range: ValueRange,
    max_pixels: int | None,
) -> Decoded:
    require_plain_structure(content)
    image = _open(content)
    require_few_tiles(image)
    width, height = image.size
    if max(width, height) > _MAX_SIDE:
        raise ImageError(
            "decode",
            f"{width:,} x {height:,} pixels, more than the limit of {_MAX_SIDE:,} on a "
            "side; cut it into pieces",
        )
    if max_pixels is not None and width * height > max_pixels:
        raise ImageError(
            "decode",
            f"{width:,} x {height:,} pixels, more than the limit of {max_pixels:,}; "
            "store a smaller copy, or raise the limit (--max-pixels, in Python "
            "max_pixels)",
        )
    if scales := target is not None and _may_be_scaled(image):
        # libjpeg then leaves out coefficients, and decodes 1/2, 1/4 or 1/8 of the size.
        image.draft(None, (_LEAST_SCALE * target, _LEAST_SCALE * target))
        plain = _plain(content, image, (width, height))
        if plain is not None:
            return plain
    tile = list(image.tile)  # the stored layout, which `load` removes
    # Loaded before EXIF and frames are read, which may decode a PNG: if that failed, a
    # later `load` would return a half-decoded picture without an error.
    image.load()
    require_all_rows(content, image)
    notes: list[str] = []
    # The file may be opened a second time, since loading turned 16 bits into 8.
    samples = samples_of(image, tile, lambda: _open(content), content)
    if samples is None or value_range == "file":
        unfilled: list[str] = []
        note_unfilled(image, samples, unfilled)
        samples = None  # it may hold the picture a second time
        pixels = to_rgb(image, notes, depth=str(tile))
        notes += unfilled
    else:
        pixels = in_range(image, samples, value_range, notes)
    if pixels is image and image.format != "JPEG":
        pixels = image.copy()  # counting frames below may replace those of `image`
    orientation = orientation_of(image, notes)
    pixels = turned(pixels, orientation)
    note_frames(image, notes, len(content))
    if scales:
        full = (height, width) if orientation in SIDEWAYS else (width, height)
        return Decoded(pixels, tuple(notes), full)
    return Decoded(pixels, tuple(notes), pixels.size)


def _may_be_scaled(image: Any) -> bool:
    if image.format not in ("JPEG", "MPO"):
        return False
    # Scaling may leave part of a pixel at the right and the bottom (`Decoded.extent`),
    # which a rotation would move. Photos of cameras have sides that leave none.
    return not any(side % 8 for side in image.size) or orientation_of(image, []) == 1


def _plain(content: bytes, image: Any, full: tuple[int, int]) -> Decoded | None:
    """Return a JPEG decoded without Pillow; None if it needs anything else."""
    notes: list[str] = []
    upright = orientation_of(image, notes) == 1
    if image.format != "JPEG" or image.mode != "RGB" or not upright:
        return None
    pixels = plain_jpeg.decode(content, image.size)
    return None if pixels is None else Decoded(pixels, tuple(notes), full)


@lru_cache(maxsize=1)
def _formats() -> dict[str, tuple[Callable[..., Any], Callable[[bytes], Any] | None]]:
    from PIL import Image

    for plugin in _PLUGINS.values():
        import_module(f"PIL.{plugin}ImagePlugin")
    # AVIF is missing where Pillow was built without it.
    return {name: Image.OPEN[name] for name in _PLUGINS if name in Image.OPEN}


def _open(content: bytes) -> Any:
    """Open an image like `PIL.Image.open`, for the known formats, without warnings.

    `PIL.Image.open` warns of large images and of unknown formats, and the filters of
    `warnings` cannot be set for one thread alone.
    """
    from PIL import Image

    if not content:
        raise ImageError("decode", "empty file (0 bytes)")
    damage = ""
    for name, (factory, accept) in _formats().items():
        # Pillow's `accept` may also return a warning as text.
        if accept is not None and accept(content[:16]) is not True:
            continue
        try:
            image = factory(io.BytesIO(content), "")
        except Image.DecompressionBombError:
            raise
        except Exception as error:
            damage = damage or f"damaged {name}: {_reason(error)}"
            continue
        if is_preview(image):
            raise ImageError("decode", "a raw camera file; convert it to JPEG or PNG")
        return image
    reason = (
        describe_non_image(content) or damage or unknown(content, DECODING["formats"])
    )
    raise ImageError("decode", reason)


def _reason(error: BaseException) -> str:
    """Return why an image cannot be decoded, on one line."""
    if isinstance(error, MemoryError):
        return "not enough memory to decode it"
    return one_line(error)
