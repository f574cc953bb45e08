"""What a GPU decodes is what processors decode; the CPU stands in for it here."""

import io

import numpy as np
import pytest
import torch
from extracting import run
from PIL import Image

from featpipe.backbones.preprocessing import Preprocessing
from featpipe.extraction import gpujpegs, pixels
from featpipe.extraction.gpujpegs import GPUJpegs
from featpipe.extraction.pixels import pixels_of

CPU = torch.device("cpu")
SQUARE = Preprocessing(resize=96, crop=80)


def saved(width=320, height=240, kind="JPEG", mode="RGB", **options) -> bytes:
    y, x = np.mgrid[0:height, 0:width]
    waves = [127 + 70 * np.sin(x / (7 + k) + y / (9 - k)) for k in range(3)]
    image = Image.fromarray(np.stack(waves, -1).astype(np.uint8)).convert(mode)
    file = io.BytesIO()
    image.save(file, kind, **{"subsampling": "4:4:4"} | options)
    return file.getvalue()


def turned() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return saved(exif=exif)


def thumbnailed() -> bytes:
    """Give a JPEG with another one inside, as cameras make them."""
    small, large = saved(16, 12), saved()
    length = (len(small) + 2).to_bytes(2, "big")
    return large[:2] + b"\xff\xed" + length + small + large[2:]


def oddly_sampled() -> bytes:
    """Give a JPEG whose header looks right, and that no decoder can decode."""
    content = bytearray(saved())
    content[content.index(b"\xff\xc0") + 11] = 0xFF
    return bytes(content)


LEFT = {
    "a PNG": saved(kind="PNG"),
    "a turned one": turned(),
    "a grey one": saved(mode="L"),
    "an ink one": saved(mode="CMYK"),
    "a cut one": saved()[:-100],
    "one without an end": saved()[:-2],
    "one without an end but that of its thumbnail": thumbnailed()[:-2],
    "what is no image": b"no image",
    "what cannot be decoded": oddly_sampled(),
    "a progressive one": saved(progressive=True),
    "one of red, green and blue": saved(keep_rgb=True),
    "a small one": saved(260, 199),
}


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_the_pixels_are_those_of_scaled_decoding(interpolation):
    square = Preprocessing(96, 80, interpolation=interpolation)
    contents = [saved(320, 240), saved(297, 431), saved(400, 270), saved(297, 431)]
    for content, found in zip(
        contents, GPUJpegs(CPU).pixels_of(contents, square), strict=True
    ):
        assert np.array_equal(found, pixels_of(content, square, exact=False)[0])


@pytest.mark.parametrize("content", [thumbnailed(), saved() + b"some more"])
def test_a_whole_jpeg_may_have_one_inside_and_more_behind(content):
    (found,) = GPUJpegs(CPU).pixels_of([content], SQUARE)
    assert np.array_equal(found, pixels_of(content, SQUARE, exact=False)[0])


@pytest.mark.parametrize("subsampling", ["444", "422", "420", "440"])
@pytest.mark.parametrize("size", [(320, 240), (317, 241)])
def test_repeated_chromas_are_smoothed_as_libjpeg_does(subsampling, size, monkeypatch):
    simplejpeg = pytest.importorskip("simplejpeg")

    def repeated(contents, device):
        """Do what nvJPEG does, to the bit as was seen on an H200."""
        arrays = [
            simplejpeg.decode_jpeg(content, "RGB", fastupsample=True)
            for content in contents
        ]
        return [torch.from_numpy(array).permute(2, 0, 1) for array in arrays]

    monkeypatch.setattr(gpujpegs, "_decoded", repeated)
    drawn = np.asarray(Image.open(io.BytesIO(saved(*size))))
    content = simplejpeg.encode_jpeg(drawn, 95, colorsubsampling=subsampling)
    square = Preprocessing(238, 238)
    (found,) = GPUJpegs(CPU).pixels_of([content], square)
    expected, _ = pixels_of(content, square, exact=False)
    difference = np.abs(found.numpy().astype(int) - expected)
    assert difference.mean() < 0.5
    assert difference.max() <= 2
    monkeypatch.setattr(gpujpegs, "_smoothed", lambda pixels, sampling: pixels)
    (rough,) = GPUJpegs(CPU).pixels_of([content], square)
    rough_difference = np.abs(rough.numpy().astype(int) - expected)
    if subsampling != "444":
        assert rough_difference.mean() > 2 * difference.mean()


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_where_numbers_are_not_whole_a_grey_level_is_lost(interpolation, monkeypatch):
    square = Preprocessing(96, 80, interpolation=interpolation)
    expected, _ = pixels_of(saved(), square, exact=False)
    monkeypatch.setattr(pixels, "_has_whole_numbers", lambda kind: False)
    (found,) = GPUJpegs(CPU).pixels_of([saved()], square)
    assert found.dtype == torch.uint8
    assert found.is_contiguous()
    assert np.abs(found.numpy().astype(int) - expected).max() <= 1


@pytest.mark.parametrize("kind", LEFT)
def test_what_is_not_plain_is_left_to_pillow_and_decides_for_no_other(kind):
    plain = saved()
    first, odd, last = GPUJpegs(CPU).pixels_of([plain, LEFT[kind], plain], SQUARE)
    assert odd is None
    expected = pixels_of(plain, SQUARE, exact=False)[0]
    assert np.array_equal(first, expected)
    assert np.array_equal(last, expected)


@pytest.mark.parametrize(
    "square",
    [
        Preprocessing(None, 80),
        Preprocessing(96, 80, interpolation="lanczos"),
        Preprocessing(240, 80),
    ],
)
def test_what_torch_does_not_resize_is_left_to_pillow(square):
    assert GPUJpegs(CPU).pixels_of([saved()], square) == [None]


def test_not_too_many_pixels_at_once(monkeypatch):
    asked = []
    decoded = gpujpegs._decoded

    def counted(contents, device):
        asked.append(len(contents))
        return decoded(contents, device)

    monkeypatch.setattr(gpujpegs, "_decoded", counted)
    monkeypatch.setattr(gpujpegs, "_MOST_PIXELS", 2 * 320 * 240)
    found = GPUJpegs(CPU).pixels_of([saved()] * 5, SQUARE)
    assert asked == [2, 2, 1]
    assert all(each is not None for each in found)


def test_without_memory_for_it_pillow_has_the_word(monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(gpujpegs, "resized", full)
    assert GPUJpegs(CPU).pixels_of([saved()] * 3, SQUARE) == [None] * 3


def test_it_is_used_only_where_it_works(monkeypatch):
    assert gpujpegs.works(CPU)
    assert gpujpegs.for_device(CPU) is None

    def gone(*_):
        raise AttributeError("no such operator")

    monkeypatch.setattr(gpujpegs, "_decoded", gone)
    assert not gpujpegs.works(CPU)

    def dark(contents, device):
        return [torch.zeros(3, 48, 64, dtype=torch.uint8)]

    monkeypatch.setattr(gpujpegs, "_decoded", dark)
    assert not gpujpegs.works(CPU)


@pytest.fixture
def mixed(tmp_path):
    """Give a folder of 70 plain JPEGs and of every odd image."""
    folder = tmp_path / "mixed"
    folder.mkdir()
    for k in range(70):
        (folder / f"{k:02}.jpg").write_bytes(saved(240 + k, 300 - k))
    for k, content in enumerate(LEFT.values()):
        (folder / f"odd{k}.jpg").write_bytes(content)
    return folder


def test_a_file_is_the_same_whoever_decodes(mixed, tmp_path, monkeypatch):
    asked = {"decoding": "scaled", "batch_size": 16, "input_size": 32}
    expected, _ = run(mixed, tmp_path / "one.h5", **asked)
    monkeypatch.setattr(gpujpegs, "for_device", lambda device: GPUJpegs(CPU))
    done = []
    monkeypatch.setattr(
        GPUJpegs,
        "pixels_of",
        lambda self, *given, _do=GPUJpegs.pixels_of: (
            done.append(len(given[0])) or _do(self, *given)
        ),
    )
    found, _ = run(mixed, tmp_path / "other.h5", **asked)
    assert sum(done) == 70 + len(LEFT)
    assert found.paths == expected.paths
    assert found.tables.failures == expected.tables.failures
    assert found.tables.notes == expected.tables.notes
    assert found.provenance == expected.provenance
    one, other = (codes.arrays("penultimate")[0] for codes in (expected, found))
    lengths = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    assert ((one * other).sum(1) / lengths).min() > 0.999
    # And it goes on where it was begun elsewhere.
    (mixed / "new.jpg").write_bytes(saved(250, 250))
    _, tally = run(mixed, tmp_path / "one.h5", **asked)
    assert tally.computed == 1


def test_exact_decoding_asks_no_gpu(mixed, tmp_path, monkeypatch):
    def asked(device):
        raise AssertionError("asked")

    monkeypatch.setattr(gpujpegs, "for_device", asked)
    run(mixed, tmp_path / "one.h5", decoding="exact", batch_size=16, input_size=32)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_decodes_as_pillow_does():
    device = torch.device("cuda")
    assert gpujpegs.works(device)
    contents = [saved(500, 375, quality=92), saved(333, 500), *LEFT.values()]
    found = gpujpegs.for_device(device).pixels_of(contents, SQUARE)
    for content, there in zip(contents[:2], found, strict=False):
        expected, _ = pixels_of(content, SQUARE, exact=True)
        difference = there.cpu().numpy().astype(int) - expected
        assert np.abs(difference).mean() < 1
    assert found[2:] == [None] * len(LEFT)
