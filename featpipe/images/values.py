"""Read the stored values of images of more than 8 bits, and their value range.

The value range is the pair of values that become black and white. Pillow keeps only the
high bytes of 16-bit colours; a second pass reads the low bytes where they are needed.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from numbers import Real
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from PIL import Image

__all__ = [
    *("Samples", "ValueRange", "bands", "boxes", "describe_values", "extremes"),
    *("note_unfilled", "parse_value_range", "samples_of", "unfilled"),
]

ValueRange = str | tuple[float, float]
"""``"file"``, ``"auto"``, or the values that become black and white."""

# Pixels that are converted at once: a conversion may need 80 bytes for each.
_AT_ONCE = 2**17
_MOST = 65535
# Pillow's names for stored 16-bit colours, with the byte of a sample that it keeps.
_COLOURS = re.compile(r"(RGB|RGBA|RGBX);16([LBN])$")
_SCALED = "scaled to 0 to 255"
_OUTSIDE = re.compile(r"(\d+) % of the values lie outside$")
_NOTE = re.compile(r"(?:brightest value|values ([\d,]+) to) ([\d,]+) of ([\d,]+)$")


def parse_value_range(value: object) -> ValueRange:
    """Return a value range as `decode` takes it.

    Parameters
    ----------
    value : str or sequence of two numbers
        ``"file"``: from 0 to the highest value that the bits can hold. ``"auto"``: from
        the lowest to the highest value of each image. ``"LO:HI"`` or ``(LO, HI)``:
        these values, for all images.

    Returns
    -------
    str or (low, high)

    Raises
    ------
    ValueError
        If it is none of these, not finite, or LO is not below HI.

    Examples
    --------
    >>> parse_value_range("0:4095"), parse_value_range("auto")
    ((0.0, 4095.0), 'auto')
    """
    # Stays empty for every other type, and then has no two numbers.
    parts: Sequence[Any] = ()
    if isinstance(value, str):
        if value in ("file", "auto"):
            return value
        parts = value.split(":")
    elif isinstance(value, Sequence | np.ndarray):
        parts = list(value)
    try:
        low, high = (_number(part) for part in parts)
    except (TypeError, ValueError):
        low, high = 0.0, 0.0
    # A nan fails the first comparison; an infinite range has no scale.
    if not low < high or not math.isfinite(high - low):
        raise ValueError(
            f"the value range is {value!r}; use LO:HI (LO below HI, such as 0:4095 for "
            "images of 12 bits), auto, or file"
        )
    return low, high


def _number(part: object) -> float:
    # To Python, True is a number.
    if isinstance(part, bool) or not isinstance(part, str | Real):
        raise TypeError
    return float(part)


@dataclass(frozen=True)
class Samples:
    """The stored values of an image of more than 8 bits.

    Parameters
    ----------
    bands : callable
        Yields some rows at a time: the number of the first, and (n, W) or (n, W, 3).
    highest : float
        The highest value that the bits can hold; infinity for floats and 32 bits.
    alpha : bool
        Whether the loaded image has an opacity of its own, in its channel A.
    """

    bands: Callable[[], Iterator[tuple[int, np.ndarray]]]
    highest: float
    alpha: bool = False


def samples_of(
    image: Image.Image, tile: Sequence[Any], reopen: Callable[[], Any], content: bytes
) -> Samples | None:
    """Return the stored values of an image; None if they have no more than 8 bits.

    Parameters
    ----------
    image : PIL.Image.Image
        A loaded image.
    tile : sequence
        ``image.tile`` before loading, which tells how samples are stored.
    reopen : callable
        Opens the same image again, without loading it.
    content : bytes
        The file.

    Returns
    -------
    Samples or None
        None also for 16-bit inks, and for 16-bit colours multiplied by their opacity.
    """
    mode = image.mode
    if mode == "F" or mode.startswith("I"):
        return _of_numbers(image, tile, content)
    stored = _rawmode(tile)
    if image.format == "PPM" and tile and tile[0][0].startswith("ppm"):
        most = _ppm_highest(tile)
        wide = cache(lambda: _ppm_as_numbers(reopen()))
        return None if most < 256 else Samples(lambda: _ppm_bands(wide(), most), most)
    if match := _COLOURS.match(stored):
        kept = "L" if sys.byteorder == "little" else "B"
        kept = kept if match[2] == "N" else match[2]
        # Pillow keeps one byte of each sample. With the other byte order it keeps the
        # other one; the two together are the 16 bits.
        other = match[1] + ";16" + ("B" if kept == "L" else "L")
        alpha = image.mode == "RGBA"
        low = cache(lambda: _reread(reopen(), other))
        return Samples(lambda: _two_bytes(image, low()), _MOST, alpha)
    if stored == "LA;16B":
        # Four bytes, two of grey and two of opacity, read as if they were RGBA.
        bytes_ = cache(lambda: _reread(reopen(), "RGBA"))
        return Samples(lambda: _grey_bytes(bytes_()), _MOST, alpha=True)
    return None


def _rawmode(tile: Sequence[Any]) -> str:
    """Return Pillow's name of the stored layout; "" if the tiles have several."""
    # Tiles of different layouts have no common second reading.
    args = {t[3] if isinstance(t[3], str) else str(t[3][0]) for t in tile if t[3]}
    return args.pop() if len(args) == 1 else ""


def _reread(image: Any, rawmode: str) -> Image.Image:
    """Load an image as if its bytes had another layout."""
    image.tile = [
        tile._replace(
            args=rawmode if isinstance(tile.args, str) else (rawmode, *tile.args[1:])
        )
        for tile in image.tile
    ]
    # Pillow would refuse four bytes per pixel for an image of mode LA.
    if rawmode == "RGBA":
        image._mode = "RGBA"
    image.load()
    loaded: Image.Image = image
    return loaded


def _two_bytes(high: Any, low: Any) -> Iterator[tuple[int, np.ndarray]]:
    for (top, first), (_, second) in zip(bands(high), bands(low), strict=True):
        yield top, first[..., :3].astype(np.uint16) << 8 | second[..., :3]


def _grey_bytes(image: Any) -> Iterator[tuple[int, np.ndarray]]:
    """Yield 16-bit greys, whose two bytes were read as red and green."""
    for top, rows in bands(image):
        yield top, rows[..., 0].astype(np.uint16) << 8 | rows[..., 1]


def _ppm_highest(tile: Sequence[Any]) -> int:
    """Return the highest value that a PPM declares; 65535 if Pillow drops it."""
    args = tile[0][3]
    last = args if isinstance(args, int | str) else args[-1]
    return last if isinstance(last, int) else _MOST


def _ppm_as_numbers(image: Any) -> Image.Image:
    """Load the colours of a PPM as three greys per pixel, which keep 16 bits."""
    width, height = image.size
    image._mode, image._size = "I", (3 * width, height)
    image.tile = [t._replace(extents=(0, 0, 3 * width, height)) for t in image.tile]
    image.load()
    loaded: Image.Image = image
    return loaded


def _ppm_bands(image: Image.Image, most: int) -> Iterator[tuple[int, np.ndarray]]:
    for top, rows in bands(image):
        yield top, _unscaled(rows, most).reshape(len(rows), -1, 3)


def _unscaled(rows: np.ndarray, most: int) -> np.ndarray:
    """Return the stored values of a PPM, which Pillow scales to 16 bits."""
    return np.rint(rows * (most / _MOST))


def _of_numbers(image: Any, tile: Sequence[Any], content: bytes) -> Samples:
    if image.format == "PPM" and image.mode != "F":
        most = _ppm_highest(tile)
        return Samples(
            lambda: ((top, _unscaled(rows, most)) for top, rows in bands(image)), most
        )
    if image.format == "JPEG2000":
        # Pillow shifts values up to 16 bits: those of 12 bits become multiples of 16.
        shift = 16 - _jpeg2000_bits(content)
        return Samples(
            lambda: ((top, rows >> shift) for top, rows in bands(image)), _MOST >> shift
        )
    deep = image.mode.startswith("I;16")
    return Samples(lambda: bands(image), _MOST if deep else math.inf)


def _jpeg2000_bits(content: bytes) -> int:
    """Return the bits per sample that the SIZ marker of the codestream declares."""
    at = content.find(b"\xff\x4f\xff\x51")
    bits = (content[at + 42 : at + 43] or b"\x0f")[0] % 128 + 1 if at >= 0 else 16
    return min(max(bits, 1), 16)


def boxes(image: Any) -> Iterator[tuple[int, int, int, int]]:
    """Yield left, top, right and bottom of some rows at a time."""
    n_rows = max(1, _AT_ONCE // image.width)
    for top in range(0, image.height, n_rows):
        yield 0, top, image.width, min(top + n_rows, image.height)


def bands(image: Any) -> Iterator[tuple[int, np.ndarray]]:
    """Yield some rows of values at a time, with the number of the first row."""
    for box in boxes(image):
        yield box[1], np.asarray(image.crop(box))


def extremes(rows: Iterable[tuple[int, np.ndarray]]) -> tuple[float, float]:
    """Return the lowest and the highest finite value; 0 and 0 if none is finite."""
    low, high = np.inf, -np.inf
    for _, values in rows:
        finite = values[np.isfinite(values)]
        if finite.size:
            low, high = min(low, finite.min()), max(high, finite.max())
    return (float(low), float(high)) if low <= high else (0.0, 0.0)


def unfilled(low: float, high: float, highest: float) -> str:
    """Return a note if values leave much of their range unused; else "".

    Parameters
    ----------
    low, high : float
        The lowest and the highest value of an image.
    highest : float
        The highest value that its bits can hold.

    Examples
    --------
    >>> unfilled(0, 4080, 65535)
    'brightest value 4,080 of 65,535'
    """
    # At least one of its bits is unused.
    if 2 * high <= highest:
        return f"brightest value {high:,.0f} of {highest:,.0f}"
    # Two bits or more are unused: contrast suffers visibly.
    if low < high and 4 * (high - low) <= highest:
        return f"values {low:,.0f} to {high:,.0f} of {highest:,.0f}"
    return ""


def note_unfilled(image: Any, samples: Samples | None, notes: list[str]) -> None:
    """Add to ``notes`` if values of up to 16 bits leave much of their range unused.

    Parameters
    ----------
    image : PIL.Image.Image
        A loaded image.
    samples : Samples or None
        Its values, from `samples_of`.
    notes : list of str
    """
    if samples is None or image.mode == "F" or _fills(image):
        return
    low, high = extremes(samples.bands())
    highest = samples.highest
    if highest == math.inf:  # 32 bits, whose values up to 65535 are read as 16 bits
        if not (low >= 0 and 255 < high <= _MOST):
            return
        highest = _MOST
    notes += filter(None, [unfilled(low, high, highest)])


def _fills(image: Any) -> bool:
    """Return whether the high bytes alone show that colours fill their range."""
    if image.mode not in ("RGB", "RGBA"):
        return False
    pairs = image.getextrema()[:3]
    low, high = min(pair[0] for pair in pairs), max(pair[1] for pair in pairs)
    return bool(high > 128 and high - low > 66)


def describe_values(notes: Iterable[str], value_range: ValueRange = "file") -> str:
    """Return a sentence about images of more than 8 bits that do not fit their range.

    Parameters
    ----------
    notes : iterable of str
        The notes of all images, from `images.decode`.
    value_range : str or (low, high)
        The value range that they were decoded with.

    Returns
    -------
    str
        Empty if there is nothing to report.

    Examples
    --------
    >>> print(describe_values(["brightest value 4,080 of 65,535", "16-bit scaled"]))
    1 image of more than 8 bits does not fill its range (brightest value 4,080 of \
65,535) and loses contrast; value range 0:4095 (--value-range) keeps it, auto \
stretches each image by itself
    """
    notes = list(notes)
    if value_range != "file":
        return _describe_range(notes, value_range)
    matches = [match for match in map(_NOTE.match, notes) if match]
    if not matches:
        return ""
    values = [[_plain(text) for text in match.groups("0")] for match in matches]
    lows, highs, limits = zip(*values, strict=True)
    low, high, highest = min(lows), max(highs), max(limits)
    what = f"brightest value {high:,} of {highest:,}"
    if low > 0:
        what = f"values {low:,} to {high:,} of {highest:,}"
    else:
        high = 2 ** next((bits for bits in (10, 12, 14) if high < 2**bits), 15) - 1
    n = len(matches)
    one = n == 1
    return (
        f"{n:,} image{'s' * (not one)} of more than 8 bits "
        f"{'does not fill its' if one else 'do not fill their'} range ({what}) and "
        f"{'loses' if one else 'lose'} contrast; value range {low}:{high} "
        "(--value-range) keeps it, auto stretches each image by itself"
    )


def _describe_range(notes: list[str], value_range: ValueRange) -> str:
    if not any(note.endswith(_SCALED) for note in notes):
        return "no image has more than 8 bits, so the value range changed nothing"
    shares = [int(match[1]) for match in map(_OUTSIDE.match, notes) if match]
    if not shares or isinstance(value_range, str):
        return ""
    low, high = value_range
    one = len(shares) == 1
    return (
        f"{len(shares):,} image{'s' * (not one)} {'has' if one else 'have'} values "
        f"outside {low:g} to {high:g}, up to {max(shares)} % of them, which become "
        "black or white; a wider value range keeps them"
    )


def _plain(text: str) -> int:
    return int(text.replace(",", ""))
