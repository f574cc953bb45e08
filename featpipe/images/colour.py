"""From the modes of Pillow to RGB by the rules of `decoding.DECODING`.

Lives here: 16-bit and float values, transparency, palettes. What needs many bytes a
pixel is done some rows at a time, so that the largest image takes 12 bytes a pixel.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from PIL import Image

__all__ = ["to_rgb"]

# Rows that are converted at once, where a conversion needs many bytes a pixel.
_BAND = 256


def to_rgb(image: Image.Image, notes: list[str], *, depth: str = "") -> Image.Image:
    """Return the pixels as RGB by the rules of `decoding.DECODING`; add to ``notes``.

    An image that is RGB already comes back itself. ``depth`` is the text of
    ``image.tile`` before loading, which alone tells how wide the stored samples were.
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
    from PIL import Image

    deep = image.mode.startswith("I;16") or image.format == "PPM"
    low, high = (0, 65535) if deep and image.mode != "F" else _range(image)
    grey: Callable[[np.ndarray], np.ndarray]
    if image.mode == "F" or low < 0 or high > 65535:
        notes.append(f"values {low:g} to {high:g} scaled to 0 to 255")
        scale = 255 / (high - low) if high > low else 0.0

        def grey(values: np.ndarray) -> np.ndarray:
            finite = np.nan_to_num(values.astype(np.float64), nan=low, posinf=high)
            return (np.clip(finite, low, high) - low) * scale

    elif deep or high > 255:
        notes.append("16-bit scaled")

        def grey(values: np.ndarray) -> np.ndarray:
            return values.astype(np.uint32) >> 8

    else:

        def grey(values: np.ndarray) -> np.ndarray:
            return values

    hidden = image.info.get("transparency")
    result, hides = Image.new("L", image.size), False
    for top, values in _bands(image):
        band = Image.fromarray(grey(values).astype(np.uint8))
        if isinstance(hidden, int) and bool((values == hidden).any()):
            hides = True
            band.paste(255, mask=Image.fromarray(values == hidden))
        result.paste(band, (0, top))
    if hides:
        notes.append("alpha over white")
    return result.convert("RGB")


def _bands(image: Image.Image) -> Iterator[tuple[int, np.ndarray]]:
    """Yield the values of an image some rows at a time, with the first row's number."""
    for top in range(0, image.height, _BAND):
        box = (0, top, image.width, min(top + _BAND, image.height))
        yield top, np.asarray(image.crop(box))


def _range(image: Image.Image) -> tuple[float, float]:
    """Return the lowest and the highest finite value; 0 and 0 if there is none."""
    low, high = np.inf, -np.inf
    for _, values in _bands(image):
        finite = values[np.isfinite(values)]
        if finite.size:
            low, high = min(low, finite.min()), max(high, finite.max())
    return (float(low), float(high)) if low <= high else (0.0, 0.0)


def _over_white(image: Image.Image, notes: list[str], depth: str) -> Image.Image:
    from PIL import Image

    hidden = image.info.get("transparency")
    if image.mode == "RGB" and isinstance(hidden, tuple) and "16B" in depth:
        # The PNG names a 16-bit colour, of whose pixels only the high bytes are left.
        image = image.copy()
        image.info["transparency"] = tuple(value >> 8 for value in hidden)
    if image.mode == "L" and isinstance(hidden, int):
        # Pillow widens 2- and 4-bit greys to 8 bits, but not the hidden one.
        factor = 85 if "L;2" in depth else 17 if "L;4" in depth else 1
        image = image.copy()
        image.info["transparency"] = min(hidden * factor, 255)
    # In bands: the whole at once would take 20 bytes a pixel and not 8.
    result = Image.new("RGB", image.size)
    hides = False
    for top in range(0, image.height, _BAND):
        bottom = min(top + _BAND, image.height)
        band = image.crop((0, top, image.width, bottom)).convert("RGBA")
        if band.getchannel("A").getextrema() != (255, 255):
            hides = True
            page = Image.new("RGBA", band.size, (255, 255, 255, 255))
            band = Image.alpha_composite(page, band)
        result.paste(band.convert("RGB"), (0, top))
    if hides:
        notes.append("alpha over white")
    return result
