"""Images of more than 8 bits: what they hold, and what becomes black and white."""

import io
import struct
import zlib
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from featpipe.images import (
    ImageError,
    decode,
    describe_values,
    from_arrays,
    parse_value_range,
)

RNG = np.random.default_rng(0)
SHAPE = (13, 17)


def twelve_bits(*channels: int) -> np.ndarray:
    return RNG.integers(0, 4081, (*SHAPE, *channels)).astype(np.uint16)


def png(values: np.ndarray, **chunks: bytes) -> bytes:
    """Return a 16-bit PNG, written by hand: grey, grey and alpha, RGB or RGBA."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        crc = zlib.crc32(kind + body)
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", crc)

    height, width = values.shape[:2]
    colour = {2: 0, 3: {2: 4, 3: 2, 4: 6}.get(values.shape[-1])}[values.ndim]
    header = struct.pack(">IIBBBBB", width, height, 16, colour, 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    return b"".join(
        [
            b"\x89PNG\r\n\x1a\n",
            chunk(b"IHDR", header),
            *(chunk(kind.encode(), body) for kind, body in chunks.items()),
            chunk(b"IDAT", zlib.compress(rows)),
            chunk(b"IEND", b""),
        ]
    )


def tiff(values: np.ndarray, order: str = "<", bits: int = 16) -> bytes:
    """Return an uncompressed TIFF, written by hand: grey or RGB."""
    height, width = values.shape[:2]
    n = 1 if values.ndim == 2 else values.shape[2]
    if bits == 12:
        flat = np.concatenate([values, np.zeros((height, width % 2), int)], axis=1)
        one, two = flat[:, ::2].astype(int), flat[:, 1::2].astype(int)
        packed = [one >> 4, (one & 15) << 4 | two >> 8, two & 255]
        rows = np.stack(packed, -1).reshape(height, -1)
        body = rows[:, : -(-width * 12 // 8)].astype(np.uint8).tobytes()
    else:
        body = values.astype(f"{order}u2").tobytes()
    tags = [
        (256, width),
        (257, height),
        (258, bits),
        (259, 1),
        (262, 1 if n == 1 else 2),
        (273, 8 + 2 + 12 * 10 + 4 + 6),
        (277, n),
        (278, height),
        (279, len(body)),
        (339, 1),
    ]
    at = 8 + 2 + 12 * len(tags) + 4
    file = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HI", 42, 8)
    file += struct.pack(f"{order}H", len(tags))
    for tag, value in tags:
        if tag == 258 and n == 3:
            file += struct.pack(f"{order}HHII", tag, 3, 3, at)
        else:
            file += struct.pack(f"{order}HHII", tag, 4, 1, value)
    file += struct.pack(f"{order}I", 0) + struct.pack(f"{order}3H", bits, bits, bits)
    return file + body


def ppm(values: np.ndarray, highest: int = 65535, *, plain: bool = False) -> bytes:
    height, width = values.shape[:2]
    kind = {2: b"5", 3: b"6"}[values.ndim]
    kind = {b"5": b"2", b"6": b"3"}[kind] if plain else kind
    body = values.astype(">u2").tobytes()
    if plain:
        body = " ".join(map(str, values.ravel())).encode()
    return b"P%b\n%d %d\n%d\n" % (kind, width, height, highest) + body


def saved(values: np.ndarray, kind: str, **options) -> bytes:
    file = io.BytesIO()
    Image.fromarray(values).save(file, kind, **options)
    return file.getvalue()


def stretched(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Take low to 0 and high to 255, number by number."""
    grey = [
        int((min(max(v, low), high) - low) * (255 / (high - low)))
        for v in values.ravel().tolist()
    ]
    return np.array(grey).reshape(values.shape)


def as_rgb(grey: np.ndarray) -> np.ndarray:
    return grey if grey.ndim == 3 else np.repeat(grey[..., None], 3, axis=2)


GREY, COLOUR = twelve_bits(), twelve_bits(3)
FILES = {
    "PNG": (png(GREY), GREY),
    "PNG RGB": (png(COLOUR), COLOUR),
    "TIFF": (tiff(GREY), GREY),
    "TIFF big-endian": (tiff(GREY, ">"), GREY),
    "TIFF RGB": (tiff(COLOUR), COLOUR),
    "TIFF RGB big-endian": (tiff(COLOUR, ">"), COLOUR),
    "TIFF deflated": (saved(GREY, "TIFF", compression="tiff_adobe_deflate"), GREY),
    "TIFF 12 bits": (tiff(GREY, bits=12), GREY),
    "TIFF 32 bits": (saved(GREY.astype(np.int32), "TIFF"), GREY),
    "PGM": (ppm(GREY), GREY),
    "PPM": (ppm(COLOUR), COLOUR),
    "PGM plain": (ppm(GREY, plain=True), GREY),
    "PPM plain": (ppm(COLOUR, plain=True), COLOUR),
    "JPEG 2000": (saved(GREY, "JPEG2000", irreversible=False), GREY),
}


@pytest.mark.parametrize("kind", FILES)
def test_a_range_takes_stored_values_to_0_and_255(kind):
    content, values = FILES[kind]
    decoded = decode(content, value_range=(100.0, 4000.0))
    expected = as_rgb(stretched(values, 100, 4000))
    assert np.array_equal(np.asarray(decoded.image), expected)
    outside = ((values < 100) | (values > 4000)).mean()
    assert decoded.notes == (
        "values 100 to 4000 scaled to 0 to 255",
        f"{100 * outside:.0f} % of the values lie outside",
    )


@pytest.mark.parametrize("kind", FILES)
def test_auto_takes_the_lowest_to_0_and_the_highest_to_255(kind):
    content, values = FILES[kind]
    decoded = decode(content, value_range="auto")
    expected = as_rgb(stretched(values, values.min(), values.max()))
    assert np.array_equal(np.asarray(decoded.image), expected)


@pytest.mark.parametrize("kind", FILES)
def test_values_that_do_not_fill_their_range_are_noted(kind):
    content, values = FILES[kind]
    decoded = decode(content)
    is_ppm = kind.startswith("PPM")  # whose colours Pillow scales, and rounds
    grey = np.rint(values / 65535 * 255) if is_ppm else values >> 8
    assert np.array_equal(np.asarray(decoded.image), as_rgb(grey))
    assert f"brightest value {values.max():,} of 65,535" in decoded.notes


@pytest.mark.parametrize("write", [png, tiff, ppm])
@pytest.mark.parametrize("channels", [(), (3,)])
def test_values_that_fill_their_range_are_not_noted(write, channels):
    values = RNG.integers(0, 65536, (*SHAPE, *channels)).astype(np.uint16)
    assert not describe_values(decode(write(values)).notes)


def test_a_narrow_stretch_of_values_is_noted():
    values = RNG.integers(31768, 35769, SHAPE).astype(np.uint16)
    values.flat[:2] = 31768, 35768
    notes = decode(png(values)).notes
    assert "values 31,768 to 35,768 of 65,535" in notes
    assert "value range 31768:35768" in describe_values(notes)


def test_a_pgm_that_says_its_highest_value_fills_it():
    values = np.arange(4096, dtype=np.uint16).reshape(64, 64)
    content = ppm(values, 4095)
    assert not describe_values(decode(content).notes)
    pixels = decode(content, value_range=(0.0, 4095.0)).image
    assert np.array_equal(np.asarray(pixels), as_rgb(stretched(values, 0, 4095)))


def test_opacity_is_not_stretched():
    values = twelve_bits(4)
    values[..., 3] = 65535
    values[0, :, 3] = 0
    decoded = decode(png(values), value_range=(0.0, 4095.0))
    expected = stretched(values[..., :3], 0, 4095)
    expected[0] = 255
    assert np.array_equal(np.asarray(decoded.image), expected)
    assert "alpha over white" in decoded.notes
    greys = values[..., [0, 3]]
    decoded = decode(png(greys), value_range=(0.0, 4095.0))
    expected = as_rgb(stretched(greys[..., 0], 0, 4095))
    expected[0] = 255
    assert np.array_equal(np.asarray(decoded.image), expected)


@pytest.mark.parametrize("values", [GREY, COLOUR])
def test_a_hidden_value_is_compared_in_all_its_bits(values):
    hidden = values[3, 5]
    decoded = decode(
        png(values, tRNS=np.array([hidden]).astype(">u2").tobytes()),
        value_range=(0.0, 4095.0),
    )
    expected = as_rgb(stretched(values, 0, 4095))
    same = values == hidden
    expected[same if values.ndim == 2 else same.all(-1)] = 255
    assert np.array_equal(np.asarray(decoded.image), expected)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP", "JPEG", "WEBP"])
@pytest.mark.parametrize("value_range", ["auto", (100.0, 120.0)])
def test_images_of_8_bits_are_left_alone(kind, value_range):
    content = saved(RNG.integers(90, 140, (16, 16, 3)).astype(np.uint8), kind)
    decoded, before = decode(content, value_range=value_range), decode(content)
    assert np.array_equal(np.asarray(decoded.image), np.asarray(before.image))
    assert decoded.notes == before.notes == ()


def test_floats_take_the_range_too():
    values = RNG.normal(size=SHAPE).astype(np.float32)
    values[0, 0], values[1, 1] = np.nan, np.inf
    decoded = decode(saved(values, "TIFF"), value_range=(-1.0, 1.0))
    filled = np.where(np.isnan(values), -1, values).astype(float)
    expected = as_rgb(stretched(filled, -1, 1))
    assert np.array_equal(np.asarray(decoded.image), expected)


def test_pictures_in_memory_keep_their_bits():
    for values in (GREY, GREY.astype(np.int32), GREY.astype(np.float32)):
        content = from_arrays([Image.fromarray(values)]).read(0)
        pixels = decode(content, value_range=(0.0, 4095.0)).image
        assert np.array_equal(np.asarray(pixels), as_rgb(stretched(GREY, 0, 4095)))


def test_values_of_several_bands_of_rows_are_one_image():
    values = RNG.integers(0, 4096, (600, 3)).astype(np.uint16)
    pixels = decode(png(values), value_range="auto").image
    expected = as_rgb(stretched(values, values.min(), values.max()))
    assert np.array_equal(np.asarray(pixels), expected)


@pytest.mark.parametrize(
    "value_range", ["0:4095", "0 : 4095", (0, 4095), [0.0, 4095.0], np.array([0, 4095])]
)
def test_a_range_is_understood_as_text_and_as_numbers(value_range):
    assert parse_value_range(value_range) == (0.0, 4095.0)


@pytest.mark.parametrize(
    "value_range",
    [
        *("", "12", "0:", "a:b", "5:5", "9:1", "0:nan", "0:inf", "0:1:2", "AUTO "),
        *(None, 3, (1,), ("auto", "file"), (True, 4095), {"0": 1}, "-1e308:1e308"),
    ],
)
def test_what_is_no_range_is_refused(value_range):
    with pytest.raises(ValueError, match="use LO:HI"):
        parse_value_range(value_range)


@given(st.text(max_size=9))
def test_any_text_is_a_range_or_refused_in_one_sentence(text):
    with suppress(ValueError):
        result = parse_value_range(text)
        assert result in ("file", "auto") or result[0] < result[1]


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from([png(GREY), png(COLOUR), tiff(COLOUR), ppm(COLOUR), ppm(GREY)]),
    st.integers(0, 10**6),
    st.integers(0, 255),
)
def test_damage_is_a_failure_under_any_range(content, at, byte):
    damaged = bytearray(content)
    damaged[at % len(content)] = byte
    outcomes = set()
    for value_range in ("file", "auto", (0.0, 4095.0)):
        try:
            outcomes.add(decode(bytes(damaged), value_range=value_range).size)
        except ImageError as error:
            outcomes.add(str(error))
    assert len(outcomes) == 1


def test_the_sentence_counts_and_names_a_range():
    notes = ["brightest value 4,080 of 65,535", "16-bit scaled"] * 2
    notes += ["brightest value 900 of 65,535"]
    assert describe_values(notes) == (
        "3 images of more than 8 bits do not fill their range (brightest value 4,080 "
        "of 65,535) and lose contrast; value range 0:4095 (--value-range) keeps it, "
        "auto stretches each image by itself"
    )
    assert describe_values(["first of 3 frames"]) == ""


def test_a_range_that_changes_nothing_or_cuts_much_is_told():
    eight = decode(saved(RNG.integers(0, 255, (9, 9)).astype(np.uint8), "PNG")).notes
    text = "no image has more than 8 bits, so the value range changed nothing"
    assert describe_values(eight, (0.0, 255.0)) == text
    assert describe_values(eight, "auto") == text
    notes = decode(png(GREY), value_range=(0.0, 255.0)).notes
    share = 100 * (GREY > 255).mean()
    assert describe_values([*notes, *notes], (0.0, 255.0)) == (
        f"2 images have values outside 0 to 255, up to {share:.0f} % of them, which "
        "become black or white; a wider value range keeps them"
    )
    assert describe_values(decode(png(GREY), value_range="auto").notes, "auto") == ""
