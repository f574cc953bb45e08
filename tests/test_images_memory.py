"""Pixels lent by an image are its pixels, and outlive it."""

import gc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from featpipe.images.memory import pixel_view


def drawn(width: int, height: int) -> np.ndarray:
    values = np.random.default_rng(width * height).integers(0, 256, height * width * 3)
    return values.astype(np.uint8).reshape(height, width, 3)


@given(st.integers(1, 300), st.integers(1, 300))
@settings(max_examples=60, deadline=None)
def test_lent_pixels_are_those_that_pillow_copies_out(width, height):
    expected = drawn(width, height)
    view = pixel_view(Image.fromarray(expected))
    assert view.shape == (height, width, 4)
    assert np.array_equal(view[..., :3], expected)


def test_lent_pixels_outlive_their_image():
    expected = drawn(640, 480)
    image = Image.fromarray(expected)
    view = pixel_view(image)
    image.close()
    del image
    gc.collect()
    # Would lie where the first one lay, had that been given back.
    others = [Image.new("RGB", (640, 480), "white") for _ in range(8)]
    assert np.array_equal(view[..., :3], expected)
    assert len(others) == 8


def test_nothing_is_copied():
    image = Image.new("RGB", (64, 48), "black")
    view = pixel_view(image)
    image.paste("white", (0, 0, 64, 48))
    assert (view[..., :3] == 255).all()


@pytest.mark.parametrize("size", [(2400, 2000), (40_000, 120)])
def test_an_image_in_several_pieces_is_copied(size):
    image = Image.new("RGB", size, (1, 2, 3))
    image.putpixel((size[0] - 1, size[1] - 1), (4, 5, 6))
    view = pixel_view(image)
    assert view.shape == (size[1], size[0], 3)
    assert np.array_equal(view, np.asarray(image))
