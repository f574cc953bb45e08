"""Small pictures from the source of a codes file, on one sheet."""

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

_MOST_BYTES = 4_500_000  # a third more as base64: leaves the page below 10 MB
_SIDES = ((1500, 96), (math.inf, 64))  # up to how many pictures, pixels a side
_QUALITIES = (80, 60, 40, 25, 10)
_PROBE_LINES = 6  # of pictures, by which the size of the sheet is judged
_PROBE_ERROR = 1.4  # how much more those lines may take than their share of the sheet
_THREADS = 4


@dataclass(frozen=True, eq=False)
class Sheet:
    """Pictures side by side in one WebP image.

    Attributes
    ----------
    webp : bytes
        The image; empty where there is no picture.
    side : int
        Pixels of a picture, square.
    columns : int
        Pictures in a line.
    place : dict of int to int
        Number on the sheet of each row that has a picture, line by line.
    missing : dict of int to str
        Why a row has none.
    """

    webp: bytes = b""
    side: int = 64
    columns: int = 1
    place: dict[int, int] = field(default_factory=dict)
    missing: dict[int, str] = field(default_factory=dict)

    @property
    def lines(self) -> int:
        """Lines of pictures."""
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
    """Read pictures of some rows from where the codes came from.

    A picture is shown only if its bytes are still those that gave the code.

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
        made = dict(zip(distinct, pool.map(picture, distinct), strict=True))
    pictures = {row: p for row, p in made.items() if isinstance(p, Image.Image)}
    missing = {row: p for row, p in made.items() if isinstance(p, str)}
    if not pictures:
        return Sheet(missing=missing)
    columns = math.ceil(math.sqrt(len(pictures)))
    lines = math.ceil(len(pictures) / columns)
    image = Image.new("RGB", (columns * side, lines * side), "white")
    for number, each in enumerate(pictures.values()):
        image.paste(each, (number % columns * side, number // columns * side))
    place = {row: number for number, row in enumerate(pictures)}
    return Sheet(_webp(image, side), side, columns, place, missing)


def _reader(codes: Codes) -> Callable[[int], bytes]:
    """Return what reads the bytes of a row."""
    root = Path(codes.images_root)
    if root.is_dir():
        # Whoever wrote the file may have named a device or a FIFO in it.
        reader = FileReader(str(root))
        return lambda row: reader.read(codes.paths[row])
    if not codes.images_root or codes.images_root == "arrays:":
        raise ValueError("the codes file does not name a source of its images")
    source = scan(codes.images_root)
    at = {path: i for i, path in enumerate(source.paths)}

    def read(row: int) -> bytes:
        path = codes.paths[row]
        if path not in at:
            raise ImageError("read", "not in the source any more")
        return source.read(at[path])

    return read


def _thumbnail(
    codes: Codes, row: int, read: Callable[[int], bytes], side: int
) -> Image.Image:
    content = read(row)
    digest = codes.sha256[row].tobytes()
    if any(digest) and hashlib.sha256(content).digest() != digest:
        raise ImageError("read", "has changed since its code was computed")
    # As the network saw it: 12 bits of 16 would else be shown nearly black.
    record = codes.provenance.get("decoding") or {}
    value_range = parse_value_range(record.get("value_range", "file"))
    max_pixels = check_max_pixels(record.get("max_pixels", MAX_PIXELS))
    image = decode(
        content, target=side, value_range=value_range, max_pixels=max_pixels
    ).image
    # Small pictures keep their pixels' edges; large ones are shrunk smoothly.
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
    """Encode at the best quality that keeps the page small.

    A large sheet takes seconds: a few of its lines tell the quality to begin with.
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
    """Return lines spread over the sheet, and how often they go into it."""
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
