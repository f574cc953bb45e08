"""Pixels, recipes, sources and streams of drawn images, against plain loops."""

import io
import json
import math
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from featpipe.backbones import Preprocessing
from featpipe.inference import Machine, Recipe, Stream, from_items, image_set_of
from featpipe.inference.claims import claim_gpu
from featpipe.inference.pixels import Decoding, decode_resized, pixels_of

quick = settings(deadline=None, max_examples=20)

FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "box": Image.Resampling.BOX,
    "lanczos": Image.Resampling.LANCZOS,
}
SIDES = st.integers(1, 60)


def png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


@st.composite
def pictures(draw, modes=("RGB", "L", "RGBA", "P")):
    """Draw a noisy image of any size and of one of some modes."""
    width, height = draw(SIDES), draw(SIDES)
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    noise = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    image = Image.fromarray(noise)
    mode = draw(st.sampled_from(modes))
    # Opaque, so that alpha changes no colour.
    return image if mode == "RGB" else image.convert(mode)


@st.composite
def squares(draw, filters=tuple(FILTERS)):
    """Draw a preprocessing with a centre crop."""
    crop = draw(st.integers(1, 24))
    resize = draw(st.none() | st.integers(crop, 32))
    return Preprocessing(resize, crop, draw(st.sampled_from(filters)))


def plain_square(image: Image.Image, square: Preprocessing) -> np.ndarray:
    """Resize the shorter side and cut the centre, by Pillow and arithmetic alone."""
    image = image.convert("RGB")
    width, height = image.size
    if square.resize is not None:
        if width <= height:
            size = square.resize, int(square.resize * height / width)
        else:
            size = int(square.resize * width / height), square.resize
        if size != image.size:
            image = image.resize(size, FILTERS[square.interpolation])
    pixels = np.asarray(image)
    for axis in (0, 1):
        lacking = square.crop - pixels.shape[axis]
        if lacking > 0:
            margin = [(0, 0)] * 3
            margin[axis] = lacking // 2, lacking - lacking // 2
            pixels = np.pad(pixels, margin)
    top, left = (round((n - square.crop) / 2) for n in pixels.shape[:2])
    cut = pixels[top : top + square.crop, left : left + square.crop]
    return cut.transpose(2, 0, 1)


@quick
@given(pictures(), squares())
def test_exact_pixels_are_those_of_pillow(image, square):
    pixels, notes = pixels_of(png(image), square, Decoding())
    np.testing.assert_array_equal(pixels, plain_square(image, square))
    assert pixels.dtype == np.uint8
    assert pixels.flags.c_contiguous
    assert notes == ()


@quick
@given(pictures(("RGB", "L")), squares(("bilinear", "bicubic")))
def test_scaled_pixels_differ_from_exact_ones_by_a_rounding(image, square):
    content = png(image)
    scaled, _ = pixels_of(content, square, Decoding(exact=False))
    exact = plain_square(image, square)
    assert scaled.shape == exact.shape
    # Both round after each of the two directions, so that two levels are possible.
    assert np.abs(scaled.astype(int) - exact).max() <= 2
    resized, _ = decode_resized(content, square, Decoding(exact=False))
    expected, _ = decode_resized(content, square, Decoding())
    assert resized.size == expected.size == square.resized(image.size)


@quick
@given(
    st.integers(16, 90),
    st.integers(16, 90),
    st.integers(8, 24),
    st.sampled_from(["bilinear", "bicubic"]),
)
def test_a_scaled_jpeg_shows_the_same_part_of_the_scene(width, height, side, name):
    # A slope from left to right: a shift by a pixel would change all its values.
    slope = np.linspace(0, 255, 4 * width)[None, :, None]
    scene = np.broadcast_to(slope, (4 * height, 4 * width, 3)).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(scene).save(file, "JPEG", quality=98)
    square = Preprocessing(side, side, name)
    exact, _ = pixels_of(file.getvalue(), square, Decoding())
    scaled, _ = pixels_of(file.getvalue(), square, Decoding(exact=False))
    step = 255 / side
    assert np.abs(scaled.astype(float) - exact).mean() < max(1.5, 0.05 * step)


OPTIONS = st.fixed_dictionaries(
    {},
    optional={
        "backbone": st.sampled_from(["mini", "resnet18", "package.net:make"]),
        "weights": st.sampled_from(["DEFAULT", "none"]),
        "value_range": st.sampled_from(["auto", "0:4095", (1.0, 2.0)]),
        "hflip": st.booleans(),
        "seed": st.integers(0, 9),
        "input_size": st.integers(1, 99),
        "resize": st.integers(0, 99),
        "crop": st.integers(1, 99),
        "interpolation": st.sampled_from(["bicubic"]),
        "mean": st.tuples(*[st.floats(0, 1)] * 3),
        "allow_random": st.booleans(),
    },
)
# A file may hold several of these, or "auto" means those of the file.
NOT_REQUESTED = st.fixed_dictionaries(
    {},
    optional={
        "depths": st.sampled_from([("stage1",), ("stage1", "stage2")]),
        "precision": st.sampled_from(["fp32", "bf16"]),
        "decoding": st.sampled_from(["exact", "scaled"]),
        "dtype": st.sampled_from(["float16", "float32"]),
        "max_pixels": st.integers(1, 999),
    },
)


@quick
@given(OPTIONS, OPTIONS, NOT_REQUESTED)
def test_requests_are_equal_exactly_if_what_decides_codes_is(first, second, others):
    recipe, other = Recipe(**first), Recipe(**second)
    request = recipe.request()
    assert json.loads(json.dumps(request)) == json.loads(json.dumps(request))
    names = {*first, *second}
    same = all(getattr(recipe, name) == getattr(other, name) for name in names)
    assert (request == other.request()) == same
    assert Recipe(**first, **others).request() == request


@quick
@given(
    st.sampled_from(["auto", "fp32", "bf16"]),
    st.sampled_from(["auto", "exact", "scaled"]),
    st.sampled_from(["fp32", "bf16"]),
    st.sampled_from(["exact", "scaled"]),
)
def test_auto_takes_what_a_file_has_and_all_else_must_agree(
    wanted, mode, has, has_mode
):
    provenance = {"precision": has, "decoding": {"mode": has_mode}}
    recipe = Recipe("mini", precision=wanted, decoding=mode)
    agrees = wanted in ("auto", has) and mode in ("auto", has_mode)
    assert recipe.agrees(provenance) == agrees
    resolved = recipe.resolve_auto(provenance)
    assert resolved.precision == (has if wanted == "auto" else wanted)
    assert resolved.decoding == (has_mode if mode == "auto" else mode)
    assert resolved.agrees(provenance) == agrees
    assert resolved.resolve_auto(provenance) == resolved
    # Rounding below float32 is larger than what scaled decoding changes.
    exact = {"auto": has == "fp32", "exact": True, "scaled": False}[mode]
    assert recipe.decoding_at(has).exact == exact


@quick
@given(
    st.lists(st.integers(0, 3), min_size=1, max_size=9),
    st.permutations(["dog", "ant", "cat", "bee"]),
    st.data(),
)
def test_a_dataset_of_files_and_its_subset_keep_names_and_order(targets, classes, data):
    samples = [(f"folder/{k}.png", target) for k, target in enumerate(targets)]
    dataset = SimpleNamespace(samples=samples, classes=classes)
    rows = data.draw(st.lists(st.integers(0, len(targets) - 1), min_size=1))
    subset = SimpleNamespace(dataset=dataset, indices=rows)
    for source, chosen in ((dataset, range(len(targets))), (subset, rows)):
        images = image_set_of(source)
        assert images.paths == [samples[k][0] for k in chosen]
        names = [images.class_names[number] for number in images.labels]
        assert names == [classes[targets[k]] for k in chosen]
        assert images.class_names == sorted(set(names))


@quick
@given(st.integers(2, 4), st.integers(1, 9))
def test_workers_take_gpus_in_turn(tmp_path_factory, n_devices, n_workers):
    folder = tmp_path_factory.mktemp("locks")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tempfile.gettempdir", lambda: str(folder))
        taken = []
        for _ in range(n_workers):
            # A lock is that of an open file, so one process can play several.
            claim_gpu.cache_clear()
            taken.append(claim_gpu(n_devices))
            assert claim_gpu(n_devices) == taken[-1]
        claim_gpu.cache_clear()
    counts = Counter(taken)
    assert set(counts) <= set(range(n_devices))
    assert max(counts.values()) == math.ceil(n_workers / n_devices)


DEPTHS = ("stem:avg", "penultimate")


def stream(**changes) -> Stream:
    options = {"weights": "none", "precision": "fp32", "input_size": 16}
    return Stream(Recipe("networks:tiny", **options | changes), Machine("cpu", 3, 2))


@pytest.fixture(scope="module")
def streams() -> dict[str, Stream]:
    """Return streams of one network: of each depth, of both, and rounded."""
    return {
        "stem": stream(depths=DEPTHS[:1]),
        "penultimate": stream(depths=DEPTHS[1:]),
        "both": stream(depths=DEPTHS),
        "rounded": stream(depths=DEPTHS, dtype="float16"),
    }


PHOTOS = np.random.default_rng(1).integers(0, 256, (9, 16, 16, 3), np.uint8)


@settings(deadline=None, max_examples=6)
@given(st.lists(st.integers(-1, 8), min_size=1, max_size=9))
def test_a_stream_gives_every_image_its_code_or_its_failure(streams, chosen):
    items = [b"no image" if k < 0 else png(Image.fromarray(PHOTOS[k])) for k in chosen]
    images = from_items(items)
    codes, failures, positions = {}, {}, []
    for batch in streams["both"].run(images):
        positions += batch.positions.tolist()
        codes |= dict(zip(batch.positions.tolist(), batch.codes, strict=True))
        failures |= dict(batch.failures)
    assert positions == [i for i, k in enumerate(chosen) if k >= 0]
    assert sorted(failures) == [i for i, k in enumerate(chosen) if k < 0]
    for i, failure in failures.items():
        assert (failure.path, failure.stage) == (images.paths[i], "decode")
    # An image has the same code beside any others: only sums are in another order.
    for i, code in codes.items():
        (first,) = (codes[j] for j in [chosen.index(chosen[i])])
        np.testing.assert_allclose(code, first, rtol=1e-5, atol=1e-6)
    if failures:
        first = min(failures)
        with pytest.raises(ValueError, match=f"image {first}: decode: ") as error:
            streams["both"].whole(images)
        several = f"({len(failures)} such images)" in str(error.value)
        assert several == (len(failures) > 1)


def test_codes_of_several_depths_are_those_of_each_side_by_side(streams):
    images = from_items(PHOTOS)
    both = streams["both"].whole(images)
    single = [streams[name].whole(images) for name in ("stem", "penultimate")]
    np.testing.assert_allclose(both, np.concatenate(single, axis=1), atol=1e-6)
    assert both.shape == (len(PHOTOS), streams["both"].width)
    assert both.dtype == np.float32
    rounded = streams["rounded"].whole(images)
    np.testing.assert_array_equal(rounded, both.astype(np.float16).astype(np.float32))


def test_the_mean_of_mirror_images_is_the_code_with_hflip(streams):
    mirrored = np.ascontiguousarray(PHOTOS[:, :, ::-1])
    codes = [streams["both"].whole(from_items(p)) for p in (PHOTOS, mirrored)]
    flipped = stream(depths=DEPTHS, hflip=True).whole(from_items(PHOTOS))
    np.testing.assert_allclose(flipped, np.mean(codes, axis=0), rtol=1e-5, atol=1e-6)
