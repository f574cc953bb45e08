"""Files that would take Pillow minutes are failures at once; honest ones are not."""

import io
import struct
import time
import tracemalloc
import zlib

import pytest
from PIL import Image

from featpipe.backbones import Preprocessing
from featpipe.images import ImageError, decode
from featpipe.inference.pixels import Decoding, pixels_of


def saved(kind: str) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (16, 12), (200, 30, 90)).save(file, kind)
    return file.getvalue()


JPEG = saved("JPEG")
EXIF = b"\xff\xe1\xff\xffExif\0\0" + bytes(65527)


def jpeg(*segments: bytes) -> bytes:
    return JPEG[:2] + b"".join(segments) + JPEG[2:]


def tiff(n_rows: int) -> bytes:
    """Return a TIFF of one pixel a row, each row in a strip of its own."""
    tags = [(256, 3, 1, 1), (257, 4, 1, n_rows), (258, 3, 1, 8), (259, 3, 1, 1)]
    tags += [(262, 3, 1, 1), (273, 4, n_rows, 122), (277, 3, 1, 1), (278, 3, 1, 1)]
    tags += [(279, 4, n_rows, 122 + 4 * n_rows)]
    start = b"II*\0" + struct.pack("<IH", 8, len(tags))
    start += b"".join(struct.pack("<HHII", *tag) for tag in tags) + bytes(4)
    return start + struct.pack("<I", 1) * 2 * n_rows


def png(width: int, height: int, **changes) -> bytes:
    """Return a grey PNG; ``rows`` of other data, or of another kind."""

    def chunk(name: bytes, content: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(name + content))
        return struct.pack(">I", len(content)) + name + content + check

    rows = zlib.compress(changes.get("rows", (b"\0" + bytes(width)) * height))
    kind = changes.get("bits", 8), changes.get("colour", 0)
    head = struct.pack(">IIBBBBB", width, height, *kind, 0, 0, "interlaced" in changes)
    chunks = chunk(b"IHDR", head) + chunk(b"PLTE", bytes(6)) * (kind[1] == 3)
    half = len(rows) // 2
    chunks += chunk(b"IDAT", rows[:half]) + chunk(b"IDAT", rows[half:])
    return b"\x89PNG\r\n\x1a\n" + chunks + chunk(b"IEND", b"")


TOO_MUCH = {
    "comments": (jpeg(5000 * b"\xff\xfe\0\2"), "4,096 segments"),
    "fill bytes": (jpeg(5000 * b"\xff"), "4,096 segments"),
    "EXIF": (jpeg(257 * EXIF), "16 MiB of EXIF"),
    "a plain PPM of comments": (b"P3\n2 2\n255\n" + 2000 * b"#\n", "1,000 comments"),
    "a PPM with a long comment": (
        b"P6\n#" + 70_000 * b"x" + b"\n1 1\n255\n\1\2\3",
        "no size within",
    ),
    "strips": (tiff(2**17 + 1), "131,073 pieces"),
    "a side": (png(1, 2**20 + 1), "1,048,576 on a side"),
}


@pytest.mark.parametrize("what", TOO_MUCH)
def test_too_much_beside_the_pixels_is_a_failure_at_once(what):
    content, sentence = TOO_MUCH[what]
    start = time.process_time()
    with pytest.raises(ImageError, match=sentence):
        decode(content)
    assert time.process_time() - start < 2


ENOUGH = {
    "comments": jpeg(4000 * b"\xff\xfe\0\2"),
    "EXIF": jpeg(60 * EXIF),
    "fill bytes": jpeg(4000 * b"\xff"),
    "a PPM with comments": b"P6 # one\n#two\n 1\t1\n#three\n255\n" + bytes(3),
    "a large PPM": b"P6\n200 200\n255\n" + bytes(120_000),
    "a PBM": b"P4\n800 800\n" + bytes(80_000),
    "strips": tiff(500),
}


@pytest.mark.parametrize("what", ENOUGH)
def test_what_an_honest_file_may_hold_is_decoded(what):
    decode(ENOUGH[what])


@pytest.mark.parametrize("exact", [True, False])
def test_a_narrow_image_that_would_grow_beyond_memory_is_a_failure(exact):
    content = png(1, 400_000)
    with pytest.raises(ImageError, match="1 x 400,000 pixels are too narrow"):
        pixels_of(content, Preprocessing(64, 64), Decoding(exact))
    with pytest.raises(ImageError, match="too narrow"):
        pixels_of(content, Preprocessing(None, 256), Decoding(exact))
    square, _ = pixels_of(png(1, 4000), Preprocessing(8, 8), Decoding(exact))
    assert square.shape == (3, 8, 8)


# Bits of a sample, colour type, and the bytes of a row of nine pixels.
KINDS = [
    (1, 0, 2),
    (8, 0, 9),
    (16, 0, 18),
    (8, 2, 27),
    (4, 3, 5),
    (8, 4, 18),
    (16, 6, 72),
]


@pytest.mark.parametrize(("bits", "colour", "n"), KINDS)
@pytest.mark.parametrize("value", [0, 1])
def test_a_png_whose_data_ends_before_its_rows_is_a_failure(bits, colour, n, value):
    row = b"\0" + (0x11 * value).to_bytes() * n
    kind = {"bits": bits, "colour": colour}
    decode(png(9, 20, rows=20 * row, **kind))
    for missing in (1, n, 19 * n):
        data = (20 * row)[: -missing or None]
        with pytest.raises(ImageError, match=r"ends after|truncated"):
            decode(png(9, 20, rows=data, **kind))


def test_what_a_png_holds_beyond_its_rows_is_not_inflated():
    bomb = png(9, 20, rows=bytes(2**26))
    decode(bomb)
    tracemalloc.start()
    try:
        decode(bomb)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 2**23


@pytest.mark.parametrize(("width", "height"), [(1, 1), (2, 3), (5, 5), (8, 8), (9, 17)])
def test_an_interlaced_png_needs_all_its_passes(width, height):
    # The seven passes, counted on a plane of pixels.
    steps = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4),
             (1, 0, 2, 2), (0, 1, 1, 2)]  # fmt: skip
    data = b""
    for left, top, right, down in steps:
        columns = len(range(left, width, right))
        for _ in range(top, height, down):
            data += (b"\0" + b"\x80" * columns) if columns else b""
    whole = png(width, height, rows=data, interlaced=True)
    assert decode(whole).image.getextrema() == ((128, 128),) * 3
    for missing in (1, len(data) // 2):
        with pytest.raises(ImageError, match=r"ends after|truncated"):
            decode(
                png(width, height, rows=data[: len(data) - missing], interlaced=True)
            )
