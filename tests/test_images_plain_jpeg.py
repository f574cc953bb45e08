"""Plain JPEGs come out the same, to the bit, whichever decoder takes them."""

import io
import sys
from importlib.util import find_spec

import numpy as np
import pytest
from extracting import run
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from featpipe.images import ImageError, decode, plain_jpeg

with_simplejpeg = pytest.mark.skipif(
    find_spec("simplejpeg") is None, reason="needs simplejpeg"
)

KINDS = {
    "plain": {},
    "progressive": {"progressive": True},
    "whole chroma": {"subsampling": "4:4:4"},
    "half chroma": {"subsampling": "4:2:2"},
    "few bits": {"quality": 8},
    "many bits": {"quality": 98, "optimize": True},
    "restarts": {"restart_marker_blocks": 2},
    "RGB inside": {"keep_rgb": True},
}


def saved(width: int, height: int, mode: str = "RGB", **options: object) -> bytes:
    y, x = np.mgrid[0:height, 0:width]
    waves = [127 + 120 * np.sin(x / (3 + k) + y / (9 - k)) for k in range(3)]
    file = io.BytesIO()
    image = Image.fromarray(np.stack(waves, -1).astype(np.uint8)).convert(mode)
    image.save(file, "JPEG", **options)
    return file.getvalue()


def outcome(content: bytes, target: int | None) -> tuple[object, ...]:
    """Return the pixels and notes, or what is wrong with the image."""
    try:
        decoded = decode(content, target=target)
    except ImageError as error:
        return error.stage, error.reason
    assert decoded.image.size == decoded.size
    assert np.array_equal(decoded.pixels[..., :3], np.asarray(decoded.image))
    return decoded.image.tobytes(), decoded.size, decoded.full, decoded.notes


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [(96, 64), (97, 61), (1, 1), (8, 300)])
def test_the_pixels_are_those_of_pillow(kind, size):
    content = saved(*size, **KINDS[kind])
    # Pillow alone, since nothing may be scaled.
    exact = decode(content)
    expected = exact.image.tobytes(), exact.size, exact.full, exact.notes
    assert outcome(content, max(size)) == expected


@given(
    st.sampled_from(sorted(KINDS)),
    st.integers(1, 400),
    st.integers(1, 400),
    st.integers(1, 40),
)
@settings(max_examples=60, deadline=None)
def test_scaled_pixels_are_those_of_pillow(kind, width, height, target):
    content = saved(width, height, **KINDS[kind])
    decoded = decode(content, target=target)
    image = Image.open(io.BytesIO(content))
    image.draft(None, (3 * target, 3 * target))
    assert np.array_equal(decoded.pixels[..., :3], np.asarray(image))
    assert decoded.full == (width, height)


@with_simplejpeg
@pytest.mark.parametrize("scale", [1, 2, 4, 8])
def test_scaled_jpegs_are_taken(scale):
    decoded = plain_jpeg.decode(saved(301, 222), (-(-301 // scale), -(-222 // scale)))
    assert decoded.shape == (-(-222 // scale), -(-301 // scale), 3)


@with_simplejpeg
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "RGB inside"])
def test_plain_jpegs_are_taken(kind):
    assert plain_jpeg.decode(saved(97, 61, **KINDS[kind]), (97, 61)) is not None


def test_a_size_that_pillow_does_not_know_of_is_left_to_it():
    assert plain_jpeg.decode(saved(97, 61), (61, 97)) is None


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_other_colours_are_left_to_pillow(mode):
    content = saved(97, 61, mode)
    assert outcome(content, 97) == outcome(content, None)


@pytest.mark.parametrize("sampling", [0x11, 0x14, 0x41, 0x44, 0x12, 0x33, 0xFF])
def test_an_odd_sampling_of_chroma_has_the_outcome_it_has_with_pillow(sampling):
    content = bytearray(saved(96, 64, subsampling="4:4:4"))
    frame = content.index(b"\xff\xc0")
    content[frame + 11] = sampling  # of the first of three colours
    assert outcome(bytes(content), 96) == outcome(bytes(content), None)


DAMAGED = [saved(40, 30, **options) for options in KINDS.values()]


@given(st.sampled_from(DAMAGED), st.data())
@settings(max_examples=400, deadline=None)
def test_damage_has_the_same_outcome_as_with_pillow_alone(content, data):
    damaged = bytearray(content)
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(2, len(damaged) - 1))] = data.draw(
            st.integers(0, 255)
        )
    cut = data.draw(st.one_of(st.none(), st.integers(2, len(damaged))))
    # So large a target that nothing is scaled, whatever size the damage makes.
    target = 30_000
    assert outcome(bytes(damaged[:cut]), target) == outcome(bytes(damaged[:cut]), None)


@pytest.fixture
def pillow_alone(monkeypatch):
    """Return what it is to be without simplejpeg."""
    monkeypatch.setitem(sys.modules, "simplejpeg", None)
    plain_jpeg._library.cache_clear()
    yield
    plain_jpeg._library.cache_clear()


@pytest.fixture
def jpegs(tmp_path):
    folder = tmp_path / "jpegs"
    folder.mkdir()
    for k, options in enumerate(KINDS.values()):
        (folder / f"{k}.jpg").write_bytes(saved(90 + k, 120 - k, **options))
    return folder


def test_without_simplejpeg_the_codes_are_the_same(jpegs, tmp_path, request):
    with_it = run(jpegs, tmp_path / "with.h5", decoding="scaled")[0].path.read_bytes()
    request.getfixturevalue("pillow_alone")
    assert plain_jpeg.decode(saved(97, 61), (97, 61)) is None
    without = run(jpegs, tmp_path / "none.h5", decoding="scaled")[0].path.read_bytes()
    assert with_it == without
