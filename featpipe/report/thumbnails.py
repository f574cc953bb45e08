"""Put small pictures of images, read from their source, on one sheet."""

from __future__ import annotations

import base64
import hashlib
import io
import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from featpipe.codes import Codes
from featpipe.images import (
    MAX_PIXELS,
    FileReader,
    ImageError,
    check_max_pixels,
    decode,
    parse_value_range,
    scan,
)

__all__ = ["Sheet", "make_sheet"]

_MOST_BYTES = 4_500_000  # 6 MB as base64, which keeps the page below 10 MB
_SIDES = ((1500, 96), (math.inf, 64))  # most pictures, and their side in pixels
_QUALITIES = (80, 60, 40, 25, 10)
_PROBE_LINES = 6  # lines of pictures that estimate the size of the sheet
_PROBE_ERROR = 1.4  # how far that estimate may be too large
_THREADS = 4


@dataclass(frozen=True, eq=False)
class Sheet:
    """Pictures side by side in one WebP image.

    Attributes
    ----------
    webp : bytes
        The image; empty where there is no picture.
    side : int
        Side of a picture in pixels; pictures are square.
    columns : int
        Pictures in a line.
    place : dict of int to int
        Number of the picture of each row, counted line by line.
    missing : dict of int to str
        Why a row has no picture.
    """

    webp: bytes = b""
    side: int = 64
    columns: int = 1
    place: dict[int, int] = field(default_factory=dict)
    missing: dict[int, str] = field(default_factory=dict)

    @property
    def lines(self) -> int:
        """Number of lines of pictures."""
        return math.ceil(len(self.place) / self.columns) if self.place else 0

    @property
    def url(self) -> str:
        """The sheet as a data URI."""
        return f"data:image/webp;base64,{base64.b64encode(self.webp).decode()}"

    def position(self, row: int) -> tuple[int, int] | None:
        """Return the column and line of a row's picture; None if it has none."""
        place = self.place.get(row)
        return None if place is None else (place % self.columns, place // self.columns)


def make_sheet(codes: Codes, rows: Sequence[int] | np.ndarray) -> Sheet:
    """Read pictures of some rows from the source of the codes.

    A picture is left out if its file has changed since the code was computed.

    Parameters
    ----------
    codes : Codes
    rows : sequence of int
        Rows of the file; each is read once.

    Returns
    -------
    Sheet
    """
    distinct = list(dict.fromkeys(int(row) for row in rows))
    side = next(side for most, side in _SIDES if len(distinct) <= most)
    try:
        read = _reader(codes)
    except (OSError, ValueError, ImportError) as error:
        return Sheet(missing=dict.fromkeys(distinct, str(error)))

    def picture(row: int) -> Image.Image | str:
        try:
            return _thumbnail(codes, row, read, side)
        except (OSError, ValueError, KeyError) as error:
            return str(error) or type(error).__name__

    with ThreadPoolExecutor(_THREADS) as pool:
        results = dict(zip(distinct, pool.map(picture, distinct), strict=True))
    pictures = {row: p for row, p in results.items() if isinstance(p, Image.Image)}
    missing = {row: p for row, p in results.items() if isinstance(p, str)}
    if not pictures:
        return Sheet(missing=missing)
    columns = math.ceil(math.sqrt(len(pictures)))
    lines = math.ceil(len(pictures) / columns)
    image = Image.new("RGB", (columns * side, lines * side), "white")
    for number, thumbnail in enumerate(pictures.values()):
        image.paste(thumbnail, (number % columns * side, number // columns * side))
    place = {row: number for number, row in enumerate(pictures)}
    return Sheet(_webp(image, side), side, columns, place, missing)


def _reader(codes: Codes) -> Callable[[int], bytes]:
    """Return a function that reads the bytes of the image of a row."""
    root = Path(codes.images_root)
    if root.is_dir():
        # `FileReader` refuses a device or a FIFO that a path in the file may name.
        reader = FileReader(str(root))
        return lambda row: reader.read(codes.paths[row])
    if not codes.images_root or codes.images_root == "arrays:":
        raise ValueError("the codes file does not name a source of its images")
    source = scan(codes.images_root)
    at = {path: i for i, path in enumerate(source.paths)}

    def read(row: int) -> bytes:
        path = codes.paths[row]
        if path not in at:
            raise ImageError("read", "no longer in the source")
        return source.read(at[path])

    return read


def _thumbnail(
    codes: Codes, row: int, read: Callable[[int], bytes], side: int
) -> Image.Image:
    content = read(row)
    digest = codes.sha256[row].tobytes()
    if any(digest) and hashlib.sha256(content).digest() != digest:
        raise ImageError("read", "has changed since its code was computed")
    # With the value range of the extraction: 12 of 16 bits are else nearly black.
    record = codes.provenance.get("decoding") or {}
    value_range = parse_value_range(record.get("value_range", "file"))
    max_pixels = check_max_pixels(record.get("max_pixels", MAX_PIXELS))
    image = decode(
        content, target=side, value_range=value_range, max_pixels=max_pixels
    ).image
    # Small pictures are enlarged by whole pixels, which keeps them sharp.
    if max(image.size) < side:
        return _enlarged(image, side)
    return ImageOps.pad(image, (side, side), Image.Resampling.LANCZOS, color="white")


def _enlarged(image: Image.Image, side: int) -> Image.Image:
    times = side // max(image.size)
    size = image.width * times, image.height * times
    large = image.resize(size, Image.Resampling.NEAREST)
    enlarged = Image.new("RGB", (side, side), "white")
    enlarged.paste(large, ((side - size[0]) // 2, (side - size[1]) // 2))
    return enlarged


def _webp(image: Image.Image, side: int) -> bytes:
    """Return the sheet as WebP, at the best quality that keeps the page small.

    To encode a large sheet takes seconds, so a few of its lines choose the first
    quality to try.
    """
    probe, times = _probe(image, side)
    most = _MOST_BYTES * _PROBE_ERROR
    likely = [q for q in _QUALITIES if times * len(_encode(probe, q)) <= most]
    first = _QUALITIES.index(likely[0]) if likely else len(_QUALITIES) - 1
    for quality in _QUALITIES[first:]:
        content = _encode(image, quality)
        if len(content) <= _MOST_BYTES:
            break
    return content


def _probe(image: Image.Image, side: int) -> tuple[Image.Image, float]:
    """Return lines spread over the sheet, and the sheet's size in units of them."""
    n = image.height // side
    lines = np.unique(np.linspace(0, n - 1, _PROBE_LINES).round().astype(int))
    probe = Image.new("RGB", (image.width, len(lines) * side))
    for k, line in enumerate(lines.tolist()):
        box = (0, line * side, image.width, (line + 1) * side)
        probe.paste(image.crop(box), (0, k * side))
    return probe, n / len(lines)


def _encode(image: Image.Image, quality: int) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=quality, method=4)
    return buffer.getvalue()
