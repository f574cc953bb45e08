"""Networks of timm against timm itself: its codes, its evaluation transform."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from featpipe import backbones
from featpipe.backbones import Preprocessing

timm = pytest.importorskip(
    "timm", reason="timm is an extra: pip install featpipe[timm]"
)
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:timm")

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
from check_timm import distance  # noqa: E402


@pytest.mark.parametrize(
    "name",
    [
        "deit_tiny_distilled_patch16_224",  # two heads, averaged
        "levit_128s",  # likewise, with batch norm in them
        "mixer_s16_224",  # no pretrained entry
        "test_vit",
        "test_nfnet",
        "test_efficientnet",
        "mobilenetv3_small_100",  # a layer between pool and classifier
        "lcnet_035",
        "mambaout_femto",
    ],
)
def test_penultimate_is_timms_own_under_timms_own_transform(tmp_path, name):
    assert distance(name, tmp_path) < 1e-5


@pytest.mark.parametrize("size", [(301, 420), (420, 300), (64, 97), (200, 200)])
@pytest.mark.parametrize("mode", ["center", "squash", "border"])
def test_crop_modes_equal_timms_to_the_last_bit(size, mode):
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (*size, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    mean, std = (0.485, 0.456, 0.406), (0.2, 0.3, 0.4)
    transform = timm.data.create_transform(
        input_size=(3, 96, 96),
        crop_pct=0.9,
        crop_mode=mode,
        interpolation="bicubic",
        mean=mean,
        std=std,
    )
    ours = Preprocessing(106, 96, "bicubic", mean=mean, std=std, crop_mode=mode)
    scaled = torch.from_numpy(ours.apply(image)).float() / 255
    scale = torch.tensor(std).view(3, 1, 1)
    value = (scaled - torch.tensor(mean).view(3, 1, 1)) / scale
    assert torch.allclose(value, transform(image), atol=1e-6)
    assert Preprocessing.from_dict(ours.as_dict()) == ours


def test_a_network_with_weights_takes_its_own_entry(monkeypatch):
    create = timm.create_model

    def with_marked_weights(name, pretrained=False):
        network = create(name, pretrained=False)
        if pretrained:
            torch.nn.init.constant_(next(network.parameters()), 2.0)
        return network

    monkeypatch.setattr(timm, "create_model", with_marked_weights)
    backbone = backbones.load("timm:test_resnet")
    assert backbone.weights == "DEFAULT"
    state = backbone.network.state_dict()
    assert any(bool((tensor == 2).all()) for tensor in state.values())
    assert backbones.load("timm:test_resnet", weights="none").weights == "none"


def test_an_unknown_network_is_answered_with_near_names():
    with pytest.raises(ValueError, match="timm has no network 'resnt18'; did you mean"):
        backbones.load("timm:resnt18")
