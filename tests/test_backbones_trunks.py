"""The image trunks of detection and segmentation networks compute what these do."""

from pathlib import Path

import pytest
import torch
from torchvision import models

from featpipe import backbones
from featpipe.backbones import families, trunks


def whole(name: str) -> torch.nn.Module:
    """Build torchvision's own network with lively batch norms."""
    torch.manual_seed(0)
    network = models.get_model(name, weights=None, weights_backbone=None).eval()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    return network


@pytest.mark.parametrize(
    ("name", "node", "part"),
    [
        ("lraspp_mobilenet_v3_large", "16", lambda n, x: n.backbone(x)["high"]),
        (
            "fasterrcnn_mobilenet_v3_large_320_fpn",
            "16",
            lambda n, x: n.backbone.body(x)["1"],
        ),
    ],
)
def test_a_trunk_gives_the_map_of_the_network(
    name: str, node: str, part, tmp_path: Path
) -> None:
    network = whole(name)
    torch.save({"model": network.state_dict()}, tmp_path / "w.pth")
    trunk = backbones.load(
        name, weights=tmp_path / "w.pth", depths=[node, "penultimate"], input_size=64
    )
    pixels = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    preprocessing = trunk.preprocessing
    mean, std = (
        torch.tensor(x).view(3, 1, 1) for x in (preprocessing.mean, preprocessing.std)
    )
    with torch.no_grad():
        expected = part(network, (pixels / 255 - mean) / std).mean((2, 3))
    result = trunk(pixels)
    torch.testing.assert_close(result[f"{node}:avg"], expected, rtol=1e-3, atol=1e-4)


def test_a_resnet_body_keeps_its_names_and_leaves_the_pyramid_out(
    tmp_path: Path,
) -> None:
    network = whole("fasterrcnn_resnet50_fpn")
    torch.save(network.state_dict(), tmp_path / "w.pth")
    trunk = backbones.load(
        "fasterrcnn_resnet50_fpn",
        weights=tmp_path / "w.pth",
        depths=["layer2"],
        input_size=64,
    )
    # As torchvision builds it for COCO_V1, whose epsilon is 0.
    body = network.backbone.body
    for module in body.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eps = 5e-324  # 0 in float32; torch 2.11 refuses a plain 0
    pixels = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    mean, std = (
        torch.tensor(x).view(3, 1, 1)
        for x in (trunk.preprocessing.mean, trunk.preprocessing.std)
    )
    with torch.no_grad():
        x = (pixels / 255 - mean) / std
        for name in ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2"):
            x = body[name](x)
    result = trunk(pixels)["layer2:avg"]
    torch.testing.assert_close(result, x.mean((2, 3)), rtol=1e-3, atol=1e-4)


def test_preprocessing_is_that_of_the_weights() -> None:
    results = {
        name: families.find(name).entries["COCO_V1"].preprocessing
        for name in ("ssd300_vgg16", "fasterrcnn_mobilenet_v3_large_320_fpn")
    }
    assert results["ssd300_vgg16"].crop == 300
    assert results["ssd300_vgg16"].std == pytest.approx((1 / 255,) * 3)
    assert results["fasterrcnn_mobilenet_v3_large_320_fpn"].crop == 320
    segmentation = families.find("fcn_resnet50")
    assert segmentation.default == "COCO_WITH_VOC_LABELS_V1"
    assert segmentation.entries[segmentation.default].preprocessing.crop == 520


def test_ssd_gives_its_first_stage() -> None:
    with torch.device("meta"):
        trunk = trunks.build(name="ssd300_vgg16")
    # The last of VGG's layers before the first boxes.
    assert [type(layer).__name__ for layer in trunk][-2:] == ["Conv2d", "ReLU"]
    assert trunk[-2].out_channels == 512


def test_depths_of_a_trunk_are_listed() -> None:
    rows = backbones.describe_depths("lraspp_mobilenet_v3_large", input_size=64)
    assert rows[-1].node == "penultimate"
    assert rows[-1].width == 960
