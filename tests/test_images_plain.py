"""A plain JPEG is one that any decoder may decode: Pillow refuses none of them."""

import io
import random

import numpy as np
import pytest
from PIL import Image

from featpipe import images
from featpipe.images import plain

BASES = {
    "4:4:4": {"subsampling": "4:4:4"},
    "4:2:2": {"subsampling": "4:2:2"},
    "4:2:0": {"subsampling": "4:2:0"},
    "restarts": {"restart_marker_blocks": 3},
    "optimised": {"optimize": True, "quality": 95},
}
OTHERS = {
    "progressive": {"progressive": True},
    "red, green, blue": {"keep_rgb": True},
}


def saved(size=(45, 34), mode="RGB", kind="JPEG", **options) -> bytes:
    noise = np.random.default_rng(1).integers(0, 255, (*size[::-1], 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).convert(mode).save(file, kind, **options)
    return file.getvalue()


@pytest.mark.parametrize("kind", BASES)
def test_what_is_plain_has_its_size_and_sampling(kind):
    sampling = {"4:4:4": (1, 1), "4:2:2": (2, 1)}.get(kind, (2, 2))
    assert plain(saved(**BASES[kind])) == ((45, 34), sampling)


def test_comments_profiles_and_what_comes_behind_do_not_matter():
    content = saved(comment=b"hello", icc_profile=b"profile", dpi=(300, 300))
    assert plain(content + b"\0\0\0") == ((45, 34), (2, 2))


@pytest.mark.parametrize("kind", OTHERS)
def test_what_decoders_differ_on_is_not_plain(kind):
    assert plain(saved(**OTHERS[kind])) is None


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xd8",
        b"\xff\xd8\xff",
        saved(kind="PNG"),
        saved(mode="L"),
        saved(mode="CMYK"),
    ],
)
def test_what_is_no_jpeg_of_colours_is_not_plain(content):
    assert plain(content) is None


def resized(content: bytes, width: int, height: int) -> bytes:
    """Write another size into the header."""
    at = content.index(b"\xff\xc0") + 5
    size = height.to_bytes(2, "big") + width.to_bytes(2, "big")
    return content[:at] + size + content[at + 4 :]


@pytest.mark.parametrize(
    "size", [(0, 34), (45, 0), (65_501, 34), (45, 65_501), (60_000, 60_000)]
)
def test_impossible_sizes_are_not_plain(size):
    content = resized(saved(), *size)
    assert plain(content) is None
    with pytest.raises(images.ImageError):
        images.decode(content)


@pytest.mark.parametrize("cut", [1, 2, 100])
def test_a_cut_jpeg_is_not_plain(cut):
    assert plain(saved()[:-cut]) is None


def test_a_restart_that_is_missing_or_a_marker_too_many_is_not_plain():
    content = saved(restart_marker_blocks=3)
    first = content.index(b"\xff\xd0")
    assert plain(content[:first] + content[first + 2 :]) is None
    assert plain(content[:first] + b"\xff\xc4\0\2" + content[first:]) is None


def damaged(content: bytes, some: random.Random) -> bytes:
    """Overwrite, leave out or put in some bytes, half of the time in the header."""
    end = len(content) if some.random() < 0.5 else 650
    at = some.randrange(2, end)
    kind = some.randrange(4)
    if kind == 0:
        return content[:at] + content[at + some.randrange(1, 60) :]
    if kind == 1:
        return content[:at] + some.randbytes(some.randrange(1, 60)) + content[at:]
    if kind == 2:
        return content[:at] + b"\xff\xd9"
    result = bytearray(content)
    for _ in range(some.choice((1, 1, 3, 20))):
        result[some.randrange(2, end)] = some.choice((some.randrange(256), 255, 0))
    return bytes(result)


@pytest.mark.parametrize("kind", [*BASES, *OTHERS])
def test_pillow_refuses_no_plain_jpeg_however_damaged(kind):
    some = random.Random(f"plain {kind}")
    content = saved(**(BASES | OTHERS)[kind])
    n_refused = n_plain = 0
    for _ in range(1000):
        file = damaged(content, some)
        is_plain = plain(file)
        n_plain += is_plain is not None
        try:
            decoded = images.decode(file)
        except images.ImageError:
            n_refused += 1
            assert is_plain is None, file.hex()
        else:
            assert is_plain is None or (decoded.size, decoded.notes) == (
                is_plain.size,
                (),
            )
    assert n_refused > 50
    assert n_plain > 50 or kind in OTHERS
