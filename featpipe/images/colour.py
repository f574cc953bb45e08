"""Convert the modes of Pillow to RGB by the rules of `decoding.DECODING`.

The rules concern 16-bit and float values, transparency and palettes. Conversions that
need many bytes per pixel take some rows at a time, so that the largest image takes 12
bytes per pixel.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np

from featpipe.images.values import Samples, ValueRange, bands, boxes, extremes

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["in_range", "to_rgb"]

# Smaller shares of values outside the requested range are not noted.
_NOTED = 0.01

_Rows = Iterator[tuple[int, np.ndarray]]
_Grey = Callable[[np.ndarray], np.ndarray]


def to_rgb(image: Image.Image, notes: list[str], *, depth: str = "") -> Image.Image:
    """Return the pixels as RGB by the rules of `decoding.DECODING`; add to ``notes``.

    An RGB image is returned as it is. ``depth`` is ``image.tile`` before loading as
    text; only there are the bits of a stored sample.
    """
    mode = image.mode
    if mode == "F" or mode.startswith("I"):
        return _from_numbers(image, notes)
    if image.has_transparency_data:
        return _over_white(image, notes, depth)
    if mode == "CMYK" and image.format == "JPEG" and "adobe" not in image.info:
        notes.append("CMYK without Adobe marker, inks taken as inverted")
    return image if mode == "RGB" else image.convert("RGB")


def _from_numbers(image: Image.Image, notes: list[str]) -> Image.Image:
    """Apply the rules for 16 bits, 32 bits and floats."""
    # 16 bits are scaled by their whole range, not by the values of the image, so that
    # the images of a series stay comparable.
    deep = image.mode.startswith("I;16") or image.format == "PPM"
    low, high = (0, 65535) if deep and image.mode != "F" else extremes(bands(image))
    if image.mode == "F" or low < 0 or high > 65535:
        notes.append(f"values {low:g} to {high:g} scaled to 0 to 255")
        return _painted(image, bands(image), _stretch(low, high), notes)
    # Masks and screenshots are often stored as 32-bit files with 8-bit values.
    if not deep and high <= 255:
        return _painted(image, bands(image), lambda values: values, notes)
    notes.append("16-bit scaled")
    return _painted(image, bands(image), lambda v: v.astype(np.uint32) >> 8, notes)


def in_range(
    image: Image.Image, samples: Samples, value_range: ValueRange, notes: list[str]
) -> Image.Image:
    """Return an image of more than 8 bits as RGB by a value range; add to ``notes``.

    Parameters
    ----------
    image : PIL.Image.Image
        A loaded image.
    samples : Samples
        Its values.
    value_range : ValueRange
        ``"auto"``, or the values that become black and white.
    notes : list of str
    """
    if isinstance(value_range, str):
        low, high = extremes(samples.bands())
        notes.append(f"values {low:g} to {high:g} scaled to 0 to 255")
    else:
        low, high = value_range
        notes.append(f"values {low:g} to {high:g} scaled to 0 to 255")
        # A few hot pixels are normal; a larger share suggests a wrong range.
        share = _share_outside(samples.bands(), low, high)
        if share >= _NOTED:
            notes.append(f"{100 * share:.0f} % of the values lie outside")
    rows = samples.bands()
    return _painted(image, rows, _stretch(low, high), notes, alpha=samples.alpha)


def _stretch(low: float, high: float) -> _Grey:
    """Return a function that scales ``low`` to 0 and ``high`` to 255."""
    # 0 for a constant image, which becomes black.
    scale = 255 / (high - low) if high > low else 0.0

    def grey(values: np.ndarray) -> np.ndarray:
        scaled = np.nan_to_num(
            values.astype(np.float64), copy=False, nan=low, posinf=high
        )
        np.clip(scaled, low, high, out=scaled)
        scaled -= low
        scaled *= scale
        return scaled

    return grey


def _share_outside(rows: _Rows, low: float, high: float) -> float:
    outside = total = 0
    for _, values in rows:
        outside += int(np.count_nonzero((values < low) | (values > high)))
        total += values.size
    return outside / max(total, 1)


def _painted(
    image: Image.Image,
    rows: _Rows,
    grey: _Grey,
    notes: list[str],
    *,
    alpha: bool = False,
) -> Image.Image:
    """Return values as grey RGB, over white where the image is transparent."""
    from PIL import Image

    hidden = image.info.get("transparency")
    result, hides = Image.new("RGB", image.size), False
    for top, values in rows:
        band = Image.fromarray(grey(values).astype(np.uint8)).convert("RGB")
        if alpha:
            box = (0, top, image.width, top + band.height)
            band.putalpha(image.crop(box).getchannel("A"))
            band, transparent = _on_white(band)
            hides |= transparent
        elif isinstance(hidden, int | tuple):
            mask = values == hidden
            # A transparent colour needs a match in all three channels.
            mask = mask.all(axis=-1) if mask.ndim == 3 else mask
            if mask.any():
                hides = True
                band.paste((255, 255, 255), mask=Image.fromarray(mask))
        result.paste(band, (0, top))
    if hides:
        notes.append("alpha over white")
    return result


def _over_white(image: Image.Image, notes: list[str], depth: str) -> Image.Image:
    from PIL import Image

    hidden = image.info.get("transparency")
    if image.mode == "RGB" and isinstance(hidden, tuple) and "16B" in depth:
        # The transparent colour has 16 bits; Pillow's pixels are the high bytes alone.
        image = image.copy()
        image.info["transparency"] = tuple(value >> 8 for value in hidden)
    if image.mode == "L" and isinstance(hidden, int):
        # Pillow widens pixels of 2 and 4 bits to 8, but not the transparent grey.
        factor = 85 if "L;2" in depth else 17 if "L;4" in depth else 1
        image = image.copy()
        image.info["transparency"] = min(hidden * factor, 255)
    # In bands, since the whole image at once would take 20 bytes per pixel, not 8.
    result = Image.new("RGB", image.size)
    hides = False
    for box in boxes(image):
        band, transparent = _on_white(image.crop(box).convert("RGBA"))
        hides |= transparent
        result.paste(band, box[:2])
    if hides:
        notes.append("alpha over white")
    return result


def _on_white(band: Image.Image) -> tuple[Image.Image, bool]:
    """Return RGBA as RGB over white, and whether any of it is transparent."""
    from PIL import Image

    if band.getchannel("A").getextrema() == (255, 255):
        return band.convert("RGB"), False
    page = Image.new("RGBA", band.size, (255, 255, 255, 255))
    return Image.alpha_composite(page, band).convert("RGB"), True
