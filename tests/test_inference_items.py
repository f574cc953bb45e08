"""One image is one image, whatever form it comes in; a batch is a batch."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from featpipe.backbones import Preprocessing
from featpipe.images import decode
from featpipe.inference import from_items, image_set_of

PHOTO = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)


def png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def pixels(images) -> list[np.ndarray]:
    read = (images.read(i) for i in range(len(images)))
    return [np.asarray(decode(content).image) for content in read]


@pytest.fixture
def path(tmp_path) -> Path:
    (tmp_path / "x.png").write_bytes(png(PHOTO))
    return tmp_path / "x.png"


KINDS = {
    "array": lambda path: PHOTO,
    "pil": lambda path: Image.fromarray(PHOTO),
    "bytes": lambda path: png(PHOTO),
    "BytesIO": lambda path: io.BytesIO(png(PHOTO)),
    "read once": lambda path: io.BufferedReader(io.BytesIO(png(PHOTO))),
    "path": lambda path: path,
    "str": str,
}


@pytest.mark.parametrize("kind", [*KINDS])
@pytest.mark.parametrize("listed", [False, True])
def test_one_image_is_one_image(path, kind, listed):
    item = KINDS[kind](path)
    (result,) = pixels(image_set_of([item] if listed else item))
    np.testing.assert_array_equal(result, PHOTO)


@pytest.mark.parametrize(
    ("shape", "n"),
    [
        ((20, 30), 1),
        ((20, 30, 1), 1),
        ((20, 30, 3), 1),
        ((20, 30, 4), 1),
        ((5, 20, 30), 5),
        ((5, 20, 30, 1), 5),
        ((5, 20, 30, 3), 5),
        ((5, 20, 30, 4), 5),
    ],
)
def test_the_shape_of_an_array_says_how_many_images_it_is(shape, n):
    images = from_items(np.zeros(shape, np.uint8))
    assert len(images) == n
    assert {result.shape for result in pixels(images)} == {(20, 30, 3)}


def test_channels_first_is_refused_with_the_remedy():
    with pytest.raises(ValueError, match=r"transpose\(0, 2, 3, 1\)"):
        from_items(np.zeros((5, 3, 20, 30), np.uint8))


def test_three_grey_images_may_be_one_photo_with_its_channels_first():
    with pytest.warns(UserWarning, match=r"3 grey images; .*transpose\(1, 2, 0\)"):
        assert len(from_items(np.zeros((3, 20, 30), np.uint8))) == 3


def test_pairs_of_name_and_bytes_keep_their_names():
    images = from_items((f"photo {i}", png(PHOTO)) for i in range(3))
    assert images.paths == ["photo 0", "photo 1", "photo 2"]
    assert len(pixels(images)) == 3


def test_a_frame_is_its_column_of_paths(path):
    pandas = pytest.importorskip("pandas", reason="pandas is an extra")
    frame = pandas.DataFrame({"label": ["a"], "path": [str(path)]})
    assert from_items(frame).paths == from_items(frame["path"]).paths == [str(path)]


@pytest.mark.parametrize(
    ("name", "value"),
    [("mean", (123.7, 116.3, 103.5)), ("std", (58.4, 57.1, 57.4)), ("mean", 1.01)],
)
def test_numbers_on_the_scale_of_255_are_refused_with_the_remedy(name, value):
    with pytest.raises(ValueError, match=f"{name}=.*divide by 255"):
        Preprocessing(256, 224).overridden(**{name: value})


@pytest.mark.parametrize(
    "odd", [{"std": 1e-9}, {"std": 0.0}, {"mean": -0.5}, {"crop": 9000, "resize": 9000}]
)
def test_other_numbers_that_cannot_be_are_refused(odd):
    with pytest.raises(ValueError, match="must be"):
        Preprocessing(256, 224).overridden(**odd)


@pytest.mark.parametrize(
    ("items", "message"),
    [
        ({"b.png", "a.png"}, "is a set, which has no order"),
        (np.zeros((40, 50, 2), np.uint8), "one image of 2 channels, or 40 grey"),
        (np.zeros((99, 200, 12), np.uint8), "one image of 12 channels, or 99 grey"),
        (np.zeros((9, 9, 3)), r"by \(255 \* image\)\.round"),
        (np.ma.masked_less(PHOTO, 9), "image 0 has masked pixels; fill them"),
    ],
    ids=["set", "two channels", "many channels", "floats", "masked"],
)
def test_what_could_be_taken_wrongly_is_refused_with_the_remedy(items, message):
    with pytest.raises(ValueError, match=message):
        image_set_of(items)
