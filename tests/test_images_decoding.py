import io
import json
import math
import struct
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile, PngImagePlugin, TiffImagePlugin

from featpipe.images import DECODING, ImageError, decode
from featpipe.images.decoding import MAX_PIXELS

RNG = np.random.default_rng(0)


def saved(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def pixels(content: bytes) -> np.ndarray:
    image = decode(content).image
    assert image.mode == "RGB"
    return np.asarray(image)


def notes(content: bytes) -> tuple[str, ...]:
    return decode(content).notes


def photo(width: int = 48, height: int = 32) -> Image.Image:
    """Return a smooth picture, different in every corner."""
    y, x = np.mgrid[0:height, 0:width]
    red, green, blue = 255 * x / width, 255 * y / height, 120 + 100 * np.sin(x / 9)
    return Image.fromarray(np.stack([red, green, blue], -1).astype(np.uint8))


LOSSLESS = {"PNG": {}, "WEBP": {"lossless": True}, "BMP": {}, "TIFF": {}, "PPM": {}}
LOSSY = {"JPEG": {"quality": 95}, "JPEG2000": {}, "AVIF": {"quality": 95}}


@pytest.mark.parametrize("kind", LOSSLESS)
def test_lossless_formats_give_the_pixels_back(kind):
    content = saved(photo(), kind, **LOSSLESS[kind])
    assert np.array_equal(pixels(content), np.asarray(photo()))
    assert notes(content) == ()


@pytest.mark.parametrize("kind", LOSSY)
def test_lossy_formats_give_nearly_the_pixels_back(kind):
    difference = pixels(saved(photo(), kind, **LOSSY[kind])) - np.asarray(
        photo(), float
    )
    assert np.abs(difference).mean() < 3


def test_the_stated_rules_are_json():

    assert json.loads(json.dumps(DECODING)) == DECODING
    assert set(DECODING["formats"]) == {*LOSSLESS, *LOSSY, "GIF", "MPO"}


# What a camera held as EXIF orientation n says stores of an upright picture.
STORED = {
    0: lambda a: a,
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, 1),
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: np.rot90(a, -1),
}


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", STORED)
def test_every_orientation_comes_out_upright(kind, orientation):
    upright = np.asarray(photo())
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](upright)))
    content = saved(stored, kind, exif=exif, **LOSSLESS[kind])
    assert np.array_equal(pixels(content), upright)
    assert notes(content) == ()


def test_an_invalid_or_unreadable_orientation_is_not_rotated_and_noted():
    exif = Image.Exif()
    exif[0x0112] = 9
    content = saved(photo(), "PNG", exif=exif)
    assert notes(content) == ("EXIF orientation invalid, not rotated",)
    assert np.array_equal(pixels(content), np.asarray(photo()))
    broken = saved(photo(), "JPEG", exif=b"Exif\0\0XX*\0\x08\0\0\0" + bytes(20))
    assert notes(broken) == ("EXIF unreadable, not rotated",)


def test_several_frames_give_the_first():
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "lime", "blue")]
    for kind in ("GIF", "PNG", "WEBP", "TIFF", "AVIF"):
        content = saved(frames[0], kind, save_all=True, append_images=frames[1:])
        assert notes(content) == ("first of 3 frames",)
        assert np.abs(pixels(content) - [255.0, 0, 0]).max() < 6
    mpo = saved(photo(), "MPO", save_all=True, append_images=frames)
    assert notes(mpo) == ("first of 4 frames",)
    assert pixels(mpo).shape == (32, 48, 3)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "JPEG2000", "PPM"])
def test_16_bits_are_scaled_and_not_clipped(kind):
    values = np.arange(0, 65536, 64, dtype=np.uint16).reshape(32, 32)
    content = saved(Image.fromarray(values), kind)
    assert np.array_equal(pixels(content)[:, :, 1], values // 256)
    assert notes(content) == ("16-bit scaled",)


def test_big_endian_16_bits_are_scaled():
    values = np.arange(0, 65536, 64, dtype=">u2").reshape(32, 32)
    image = Image.frombytes("I;16B", (32, 32), values.tobytes())
    assert np.array_equal(pixels(saved(image, "TIFF"))[:, :, 0], values // 256)


@pytest.mark.parametrize(
    ("values", "expected", "note"),
    [
        ([0, 7, 255], [0, 7, 255], ()),
        ([0, 256, 65535], [0, 1, 255], ("16-bit scaled",)),
        (
            [0, 10**6, 2 * 10**6],
            [0, 127, 255],
            ("values 0 to 2e+06 scaled to 0 to 255",),
        ),
        ([-5, 0, 5], [0, 127, 255], ("values -5 to 5 scaled to 0 to 255",)),
    ],
)
def test_32_bit_integers_are_scaled_by_their_range(values, expected, note):
    content = saved(Image.fromarray(np.array([values], np.int32)), "TIFF")
    assert pixels(content)[0, :, 0].tolist() == expected
    assert notes(content) == note


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.0, 0.25, 1.0], [0, 63, 255]),
        ([-3.0, 0.0, 3.0], [0, 127, 255]),
        ([np.nan, -1.0, np.inf], [0, 0, 0]),
        ([-np.inf, 2.0, np.inf, 4.0, np.nan], [0, 0, 255, 255, 0]),
        ([7.0, 7.0], [0, 0]),
        ([np.nan, np.nan], [0, 0]),
    ],
)
def test_floats_go_from_their_lowest_to_their_highest(values, expected):
    content = saved(Image.fromarray(np.array([values], np.float32)), "TIFF")
    assert pixels(content)[0, :, 0].tolist() == expected
    assert "scaled to 0 to 255" in notes(content)[0]


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_alpha_is_composited_over_white(mode):
    image = photo().convert(mode)
    alpha = RNG.integers(0, 256, (32, 48), dtype=np.uint8)
    image.putalpha(Image.fromarray(alpha))
    color = np.asarray(image.convert("RGB"), float)
    share = alpha[:, :, None] / 255
    content = saved(image)
    assert np.abs(pixels(content) - (color * share + 255 * (1 - share))).max() <= 1
    assert notes(content) == ("alpha over white",)


def test_opaque_alpha_changes_nothing():
    content = saved(photo().convert("RGBA"))
    assert np.array_equal(pixels(content), np.asarray(photo()))
    assert notes(content) == ()


def png(depth: int, color: int, row: bytes, width: int, **chunks: bytes) -> bytes:
    """Return a PNG of one row, written by hand."""

    def chunk(kind: bytes, body: bytes) -> bytes:

        crc = zlib.crc32(kind + body)
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", crc)

    header = struct.pack(">IIBBBBB", width, 1, depth, color, 0, 0, 0)
    middle = b"".join(chunk(kind.encode(), body) for kind, body in chunks.items())
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + middle
        + chunk(b"IDAT", zlib.compress(b"\0" + row))
        + chunk(b"IEND", b"")
    )


GREYS = [
    (1, b"\x40", 2, b"\0\1", [0, 255]),  # pixels 0 1, hidden 1
    (1, b"\x40", 2, b"\0\0", [255, 255]),
    (2, b"\x1b", 4, b"\0\2", [0, 85, 255, 255]),  # 0 1 2 3, hidden 2
    (4, b"\x05\xaf", 4, b"\0\x0a", [0, 85, 255, 255]),  # 0 5 10 15, hidden 10
    (8, b"\x00\x64\xff", 3, b"\0\x64", [0, 255, 255]),
    (16, b"\0\x50\x12\x34\x12\x35", 3, b"\x12\x34", [0, 255, 18]),
]


@pytest.mark.parametrize(("depth", "row", "width", "hidden", "expected"), GREYS)
def test_the_hidden_grey_of_a_png_becomes_white(depth, row, width, hidden, expected):
    content = png(depth, 0, row, width, tRNS=hidden)
    assert pixels(content)[0, :, 0].tolist() == expected
    assert "alpha over white" in notes(content)


def test_the_hidden_color_of_a_png_becomes_white():
    row, hidden = bytes([9, 8, 7, 1, 2, 3]), bytes([0, 9, 0, 8, 0, 7])
    assert pixels(png(8, 2, row, 2, tRNS=hidden)).tolist() == [[[255] * 3, [1, 2, 3]]]
    row = bytes([9, 99, 8, 88, 7, 77, 1, 0, 2, 0, 3, 0])
    wide = png(16, 2, row, 2, tRNS=row[:6])
    assert pixels(wide).tolist() == [[[255] * 3, [1, 2, 3]]]


def test_palettes_with_and_without_hidden_colors():
    palette = bytes([10, 20, 30, 40, 50, 60])
    plain = png(8, 3, b"\0\1", 2, PLTE=palette)
    assert pixels(plain).tolist() == [[[10, 20, 30], [40, 50, 60]]]
    hidden = png(8, 3, b"\0\1", 2, PLTE=palette, tRNS=b"\0")
    assert pixels(hidden).tolist() == [[[255] * 3, [40, 50, 60]]]


def test_1_bit_is_black_and_white():
    bits = RNG.random((9, 11)) < 0.5
    content = saved(Image.fromarray(bits), "TIFF")
    assert np.array_equal(pixels(content)[:, :, 2], bits * 255)


def test_ycbcr_comes_out_as_its_colors():
    content = saved(photo().convert("YCbCr"), "TIFF")
    try:
        Image.open(io.BytesIO(content)).load()
    except OSError:
        pytest.skip("Pillow 12.3.0 does not read TIFFs of YCbCr")
    assert np.abs(pixels(content) - np.asarray(photo(), float)).max() < 6


def test_lab_and_cmyk_come_out_as_their_colors():
    lab = Image.new("LAB", (4, 4), (136, 128 + 80, 128 + 67))  # sRGB red: 53, 80, 67
    assert np.abs(pixels(saved(lab, "TIFF"))[0, 0] - [255.0, 0, 0]).max() < 12
    cmyk = Image.new("CMYK", (4, 4), (0, 255, 255, 0))
    assert pixels(saved(cmyk, "TIFF"))[0, 0].tolist() == [255, 0, 0]
    assert notes(saved(cmyk, "TIFF")) == ()


def test_cmyk_without_adobe_marker_is_noted():
    content = saved(Image.new("CMYK", (16, 16), (0, 200, 200, 0)), "JPEG")
    marker = content.index(b"\xff\xee")
    length = struct.unpack(">H", content[marker + 2 : marker + 4])[0]
    without = content[:marker] + content[marker + 2 + length :]
    assert notes(content) == ()
    assert notes(without) == ("CMYK without Adobe marker, inks taken as inverted",)
    assert np.array_equal(pixels(content), pixels(without))


@given(st.integers(1, 300), st.integers(1, 300), st.integers(1, 40), st.integers(1, 8))
@settings(max_examples=60, deadline=None)
def test_scaled_decoding_never_goes_below_three_times_the_target(
    width, height, target, turn
):
    exif = Image.Exif()
    exif[0x0112] = turn
    content = saved(photo(width, height), "JPEG", exif=exif)
    whole = decode(content).image.size
    decoded = decode(content, target=target)
    scaled = decoded.image.size
    assert decoded.full == whole
    assert tuple(math.ceil(side) for side in decoded.extent) == scaled
    assert min(scaled) >= min(3 * target, *whole)
    factor = max(whole) / max(scaled)
    if min(whole) >= 6 * target and (turn == 1 or width % 8 == height % 8 == 0):
        assert factor > 1.5
    # Turned like the whole image, up to the rounding of each side.
    assert all(abs(w / factor - s) <= 1 for w, s in zip(whole, scaled, strict=True))


def test_scaled_decoding_is_close_to_the_whole_image_made_smaller():
    content = saved(photo(640, 480), "JPEG", quality=95)
    scaled = decode(content, target=30).image
    assert scaled.size == (160, 120)
    reference = decode(content).image.resize((160, 120), Image.Resampling.BOX)
    difference = np.asarray(scaled, float) - np.asarray(reference, float)
    assert np.abs(difference).mean() < 2
    assert np.array_equal(
        np.asarray(decode(saved(photo()), target=1).image), np.asarray(photo())
    )


def test_the_limit_of_pixels_is_an_error_and_never_a_warning():
    side = int(MAX_PIXELS**0.5) + 1  # Pillow itself would only warn here
    with warnings.catch_warnings(record=True) as caught:
        with pytest.raises(ImageError, match="more than the limit of 89,478,485"):
            decode(b"P5 %d %d 255\n" % (side, side))
        with pytest.raises(ImageError, match="more than the limit"):
            decode(b"P5 99999 99999 255\n")
    assert caught == []


def preview() -> bytes:
    """Make a TIFF that begins with a small copy, as DNG and NEF do."""
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[254], tags[330] = 1, 8
    file = io.BytesIO()
    photo().save(file, "TIFF", tiffinfo=tags)
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", r"empty file \(0 bytes\)"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "git lfs pull"),
        (b"<!DOCTYPE html><html>", "HTML page"),
        (b"\n <HTML><body>404", "HTML page"),
        (b'<?xml version="1.0"?>\n<svg xmlns="x">', "SVG"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "package pillow-heif"),
        (b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic", "package pillow-heif"),
        (b"\0\0\0\x18ftypisom" + bytes(20), "a video"),
        (b"%PDF-1.7\n", "PDF"),
        (bytes(128) + b"DICM" + bytes(9), "a DICOM file"),
        (b"\x93NUMPY\1\0v\0{'descr'", "a NumPy array"),
        (b"\x80\x04K\x01.", "a pickle"),
        (b"\x89HDF\r\n\x1a\n" + bytes(9), "an HDF5 file"),
        (b"II*\0\x10\0\0\0CR\2\0" + bytes(30), "a raw camera file"),
        (b"\0\0\0\x18ftypcrx " + bytes(20), "a raw camera file"),
        (preview(), "a raw camera file"),
        (b"not an image at all", "a text file, not an image of an allowed format"),
        ("schön".encode(), "a text file"),
        (b"\1\2\3\4" * 9, "unknown, not an image of an allowed format .*JPEG, PNG"),
        (bytes(4096), "only zero bytes"),
        (b"\x89PNG\n\x1a\n" + bytes(30), "line ends"),
        (b"\x89PNG\r\n\x1a\n" + bytes(30), "damaged PNG"),
        (b"\xff\xd8\xff\xe0", "damaged JPEG"),
        (saved(photo(), "ICO"), "an icon"),
        (saved(photo(), "EPS"), "PostScript"),
    ],
)
def test_what_is_no_image_is_named(content, reason):
    with pytest.raises(ImageError, match=reason) as caught:
        decode(content)
    assert caught.value.stage == "decode"
    assert "\n" not in caught.value.reason


@pytest.mark.parametrize("kind", [*LOSSLESS, *LOSSY, "GIF"])
def test_a_file_cut_in_half_is_refused(kind):
    noise = Image.fromarray(RNG.integers(0, 256, (64, 64, 3), dtype=np.uint8))
    content = saved(noise, kind)
    with pytest.raises(ImageError):
        decode(content[: len(content) // 2])


SAMPLES = [
    saved(photo(), kind, **options)
    for kind, options in [*LOSSLESS.items(), *LOSSY.items(), ("GIF", {})]
] + [
    saved(photo(), "TIFF", compression="tiff_lzw"),
    saved(photo().quantize(16), "PNG", transparency=3),
    saved(
        photo(),
        "JPEG",
        exif=b"Exif\0\0II*\0\x08\0\0\0\1\0\x12\1\3\0\1\0\0\0\6\0\0\0\0\0\0\0",
    ),
    saved(photo(), "MPO", save_all=True, append_images=[photo()]),
]


def outcome(content: bytes, target: int | None) -> bytes | str:
    """Return the pixels, or what is wrong with the image; let nothing else pass."""
    try:
        image = decode(content, target=target).image
    except ImageError as error:
        return f"{error.stage}: {error.reason}"
    assert image.mode == "RGB"
    return image.tobytes()


@given(st.sampled_from(SAMPLES), st.data())
@settings(max_examples=400, deadline=None)
@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_damage_gives_the_same_image_or_the_same_reason_each_time(sample, data):
    content = bytearray(sample)
    for _ in range(data.draw(st.integers(0, 4))):
        at = data.draw(st.integers(0, len(content) * 8 - 1))
        content[at // 8] ^= 1 << at % 8
    end = data.draw(st.just(len(content)) | st.integers(0, len(content)))
    target = data.draw(st.sampled_from([None, 4]))
    first = outcome(bytes(content[:end]), target)
    assert isinstance(first, bytes) or first.startswith("decode: ")
    assert outcome(bytes(content[:end]), target) == first


@given(st.binary(max_size=200))
@settings(max_examples=100, deadline=None)
def test_arbitrary_bytes_are_an_image_error(content):
    with pytest.raises(ImageError):
        decode(content)


def test_threads_get_the_same_pixels_and_pillow_stays_as_it_was():
    before = (
        Image.MAX_IMAGE_PIXELS,
        ImageFile.LOAD_TRUNCATED_IMAGES,
        PngImagePlugin.MAX_TEXT_CHUNK,
        list(warnings.filters),
    )
    expected = [pixels(sample) for sample in SAMPLES]
    with ThreadPoolExecutor(8) as pool:
        items = list(pool.map(pixels, SAMPLES * 20))
    for k, array in enumerate(items):
        assert np.array_equal(array, expected[k % len(SAMPLES)])
    assert before == (
        Image.MAX_IMAGE_PIXELS,
        ImageFile.LOAD_TRUNCATED_IMAGES,
        PngImagePlugin.MAX_TEXT_CHUNK,
        list(warnings.filters),
    )


def test_out_of_memory_is_a_failure_of_the_image(monkeypatch):
    def full(self):
        raise MemoryError

    monkeypatch.setattr(ImageFile.ImageFile, "load", full)
    with pytest.raises(ImageError, match="not enough memory"):
        decode(saved(photo()))
