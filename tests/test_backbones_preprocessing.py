"""Resize and crop against torchvision's own transforms, to the last bit."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision import models
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as F
from torchvision.transforms._presets import ImageClassification

from featpipe import backbones
from featpipe.backbones import Preprocessing

sizes = st.integers(1, 70)


def noise(width: int, height: int) -> Image.Image:
    generator = np.random.default_rng(width * 1000 + height)
    pixels = generator.integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels, mode="RGB")


@settings(max_examples=60, deadline=None)
@given(
    width=sizes,
    height=sizes,
    crop=st.integers(1, 40),
    more=st.integers(0, 9),
    interpolation=st.sampled_from(["bilinear", "bicubic", "nearest", "lanczos"]),
)
def test_apply_equals_torchvision_to_the_last_bit(
    width, height, crop, more, interpolation
):
    image = noise(width, height)
    mode = InterpolationMode(interpolation)
    ours = Preprocessing(crop + more, crop, interpolation).apply(image)
    resized = F.resize(image, [crop + more], interpolation=mode)
    theirs = F.pil_to_tensor(F.center_crop(resized, [crop]))
    assert ours.dtype == np.uint8
    assert ours.flags.c_contiguous
    assert ours.flags.writeable
    np.testing.assert_array_equal(ours, theirs.numpy())


@settings(max_examples=40, deadline=None)
@given(width=sizes, height=sizes, crop=st.integers(1, 70))
def test_image_smaller_than_the_crop_is_centred_on_black(width, height, crop):
    image = noise(width, height)
    ours = Preprocessing(None, crop).apply(image)
    theirs = F.pil_to_tensor(F.center_crop(image, [crop]))
    np.testing.assert_array_equal(ours, theirs.numpy())


@pytest.mark.parametrize("name", ["efficientnet_b1", "swin_t", "efficientnet_v2_l"])
def test_input_is_that_of_the_weights_own_transforms(name):
    transform = models.get_model_weights(name).DEFAULT.transforms()
    assert isinstance(transform, ImageClassification)
    backbone = backbones.load("squeezenet1_1", weights="none", input_size=64)
    preprocessing = backbones.loading.preprocessing_of(
        backbones.families.find(name),
        backbones.weights.choose(backbones.families.find(name), "DEFAULT"),
        None,
    )
    image = noise(333, 500)
    pixels = torch.from_numpy(preprocessing.apply(image))[None]
    object.__setattr__(backbone, "preprocessing", preprocessing)
    torch.testing.assert_close(
        backbone.normalised(pixels)[0], transform(image), rtol=1e-6, atol=1e-6
    )


def test_input_size_scales_resize_and_crop_alike():
    entry = Preprocessing(resize=232, crop=224)
    assert entry.scaled(112) == Preprocessing(resize=116, crop=112)
    assert entry.scaled(448).resize == 464
    assert Preprocessing(None, 224).scaled(99) == Preprocessing(None, 99)


def test_network_without_entries_takes_exactly_the_input_size():
    own = "torchvision.models:squeezenet1_1"
    assert backbones.load(own).preprocessing == Preprocessing(224, 224)
    assert backbones.load(own, input_size=96).preprocessing == Preprocessing(96, 96)


def test_overrides_replace_what_the_weights_say():
    preprocessing = backbones.load(
        "squeezenet1_1",
        weights="none",
        input_size=64,
        resize=80,
        crop=72,
        mean=0.5,
        std=[0.25, 0.5, 1],
        interpolation="bicubic",
    ).preprocessing
    assert preprocessing == Preprocessing(
        80, 72, "bicubic", mean=(0.5, 0.5, 0.5), std=(0.25, 0.5, 1.0)
    )
    assert Preprocessing(256, 224).overridden(resize=0).resize is None


def test_grey_and_transparent_images_become_rgb():
    for mode in ("L", "RGBA", "P", "CMYK"):
        assert Preprocessing(8, 8).apply(Image.new(mode, (9, 12))).shape == (3, 8, 8)


def test_dict_survives_json():
    preprocessing = Preprocessing(80, 72, "bicubic", mean=(0.5, 0.4, 0.3))
    text = json.dumps(preprocessing.as_dict())
    assert Preprocessing.from_dict(json.loads(text)) == preprocessing
    with pytest.raises(ValueError, match="has the fields"):
        Preprocessing.from_dict({"crop": 3})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"crop": 0}, "at least 1 px"),
        ({"crop": 300}, "give a resize of at least 300"),
        ({"interpolation": "cubic"}, "unknown interpolation 'cubic'; choose from"),
        ({"std": (1, 0, 1)}, r"std=\(1.0, 0.0, 1.0\) must be from 0.003906 to 1"),
        ({"mean": (1, 2)}, "one finite number or three"),
        ({"mean": float("nan")}, "one finite number or three"),
        ({"antialias": False}, "Pillow always"),
    ],
)
def test_unusable_preprocessing_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        Preprocessing(**{"resize": 256, "crop": 224} | fields)


def test_input_size_must_be_positive():
    with pytest.raises(
        ValueError, match="input_size=0 has to be a whole number from 1"
    ):
        backbones.load("resnet18", weights="none", input_size=0)
