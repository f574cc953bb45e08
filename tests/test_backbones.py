"""Codes of a backbone against a plain loop: torchvision's preprocessing, one image at
a time, the whole network, unfused, one hook.
"""

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision import models

from featpipe import backbones
from featpipe.backbones import network as network_room

PHOTOS = Path(__file__).parents[2] / "shared" / "data" / "hymenoptera" / "val"
SQUEEZENET = (
    Path(__file__).parents[2] / "shared" / "weights" / "squeezenet1_0-imagenet.pth"
)

# Relative, per image: folding and channels last reorder float32 sums, no more.
TOLERANCE = 1e-4

OWN = """
import torch
from torch import nn
from torchvision.models import ConvNeXt, DenseNet, MaxVit, SwinTransformer
from torchvision.models import VisionTransformer
from torchvision.models.convnext import CNBlockConfig

class Wandering(nn.Module):
    # Which convolution runs is asked of the pixels: no graph can record it.
    def __init__(self, width=8):
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, width, 3, 2), nn.BatchNorm2d(width), nn.ReLU(inplace=True)
        )
        self.light, self.dark = nn.Conv2d(width, width, 3), nn.Conv2d(width, width, 1)
        self.norm = nn.BatchNorm2d(width)
        self.drop, self.fc = nn.Dropout(0.5), nn.Linear(width, 5)

    def forward(self, x):
        light = bool(x.abs().max() > 0)
        x = self.stem(x)
        for _ in range(2):
            x = self.light(x) if light else self.dark(x)
            x = torch.relu_(self.norm(x))
        return self.fc(self.drop(x.mean((2, 3))))

def convnext():
    stages = [CNBlockConfig(8, 16, 1), CNBlockConfig(16, None, 2)]
    return ConvNeXt(stages, num_classes=5)

def densenet():
    return DenseNet(8, (2, 3), 16, num_classes=5)

def vit():
    return VisionTransformer(32, 8, 2, 2, 16, 32, num_classes=5)

def swin():
    return SwinTransformer([4, 4], 16, [2, 2], [2, 2], [4, 4], num_classes=5)

def maxvit():
    return MaxVit((64, 64), 8, 4, [8, 16], [1, 1], 4, 0.0, num_classes=5)
"""

FAMILIES = {
    "resnet18": ("layer2", "layer4.0.conv1", "bn1"),
    "squeezenet1_0": ("features.0", "features"),
    "mobilenet_v3_small": ("features.0.0", "features.5", "classifier.0"),
    "mnasnet0_5": ("layers.3", "layers.9"),
    "shufflenet_v2_x0_5": ("stage2", "stage3.1"),
    "efficientnet_b0": ("features.3", "features.8.1"),
    "regnet_y_400mf": ("trunk_output.block2",),
    "googlenet": ("inception3a", "inception4b.branch2.0.bn"),
    "inception_v3": ("Mixed_5b", "Mixed_6e.branch1x1"),
}
OWN_FAMILIES = {
    "convnext": ("features.1", "features.3"),
    "densenet": ("features.denseblock1", "features.norm5", "features"),
    "vit": ("encoder", "encoder.layers.encoder_layer_0", "conv_proj"),
    "swin": ("features.1", "features.2", "norm"),
    "maxvit": ("stem", "blocks.0"),
    "Wandering": ("stem", "stem.0", "norm"),
}
SIDES = {"inception_v3": 96, "vit": 32, "maxvit": 64}


@pytest.fixture
def own(tmp_path, monkeypatch):
    """Put the networks above into the current folder; give their import path."""
    name = f"own_{hashlib.sha256(str(tmp_path).encode()).hexdigest()[:8]}"
    (tmp_path / f"{name}.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    return name


def drawn(n: int = 2, seed: int = 0) -> list[Image.Image]:
    """Smooth, colourful images of unlike shapes."""
    generator = np.random.default_rng(seed)
    sizes = [(90, 130), (140, 100), (120, 120), (97, 211)]
    return [
        Image.fromarray(
            generator.integers(0, 256, (6, 6, 3), dtype=np.uint8), mode="RGB"
        ).resize(sizes[i % 4], Image.Resampling.BICUBIC)
        for i in range(n)
    ]


def batch(backbone: backbones.Backbone, images: list[Image.Image]) -> Tensor:
    arrays = [backbone.preprocessing.apply(image) for image in images]
    return torch.from_numpy(np.stack(arrays))


def make_lively(network: nn.Module) -> None:
    """Return batch norm statistics that folding has to get right."""
    generator = torch.Generator().manual_seed(3)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor, low, high in (
                (module.running_mean, -0.3, 0.3),
                (module.running_var, 0.5, 2.0),
                (module.weight.data, 0.5, 1.5),
                (module.bias.data, -0.3, 0.3),
            ):
                tensor.uniform_(low, high, generator=generator)


def plain_code(network: nn.Module, node: str, image: Tensor, n_scores: int) -> Tensor:
    """Take one code by one hook from one image, averaged where it is a map."""
    taken: list[Tensor] = []
    if node == "penultimate":
        head = [
            module
            for module in network.modules()
            if getattr(module, "out_features", getattr(module, "out_channels", 0))
            == n_scores
        ][-1]
        hook = head.register_forward_pre_hook(
            lambda module, args: taken.append(args[0].clone())
        )
    else:
        hook = network.get_submodule(node).register_forward_hook(
            lambda module, args, output: taken.append(output.clone())
        )
    with torch.no_grad():
        network(image)
    hook.remove()
    x = taken[0]
    if x.ndim == 3:
        return x[0, 0]
    if x.ndim == 4:
        return x[0].mean((0, 1)) if x.shape[1] == x.shape[2] else x[0].mean((1, 2))
    return x[0]


def assert_close(result: Tensor, expected: Tensor) -> None:
    error = (result - expected).norm(dim=1) / expected.norm(dim=1)
    assert error.max() < TOLERANCE


@pytest.mark.parametrize("name", FAMILIES)
def test_codes_equal_a_plain_loop(name, tmp_path):
    arguments = {}
    if name in ("inception_v3", "googlenet"):
        arguments = {"transform_input": True, "aux_logits": True, "init_weights": False}
    network = models.get_model(name, weights=None, **arguments).eval()
    make_lively(network)
    torch.save(network.state_dict(), tmp_path / "weights")
    side = SIDES.get(name, 64)
    backbone = backbones.load(
        name,
        weights=tmp_path / "weights",
        depths=[*FAMILIES[name], "penultimate"],
        input_size=side,
    )
    transform = models.get_model_weights(name).DEFAULT.transforms()
    scale = side / transform.crop_size[0]
    transform.resize_size = [round(transform.resize_size[0] * scale)]
    transform.crop_size = [side]
    images = drawn()
    codes = backbone(batch(backbone, images))
    for depth in backbone.depths:
        expected = [
            plain_code(network, depth.node, transform(image)[None], 1000)
            for image in images
        ]
        assert codes[depth.spec].shape == (2, depth.width)
        assert_close(codes[depth.spec], torch.stack(expected))


@pytest.mark.parametrize("name", OWN_FAMILIES)
def test_codes_of_your_own_network_equal_a_plain_loop(name, own):
    side = SIDES.get(name, 64)
    backbone = backbones.load(
        f"{own}:{name}", depths=[*OWN_FAMILIES[name], "penultimate"], input_size=side
    )
    network = backbone.network
    images = batch(backbone, drawn())
    codes = backbone(images)
    mean, std = (
        torch.tensor(x).view(3, 1, 1)
        for x in (backbone.preprocessing.mean, backbone.preprocessing.std)
    )
    normal = (images / 255 - mean) / std
    # The control flow sees a batch, so that the reference is one batch here too.
    parts = [normal] if name == "Wandering" else normal.split(1)
    for depth in backbone.depths:
        if name == "Wandering":
            expected = plain_batch(network, depth.node, parts[0])
        else:
            expected = torch.stack(
                [plain_code(network, depth.node, x, 5) for x in parts]
            )
        assert_close(codes[depth.spec], expected)


def plain_batch(network: nn.Module, node: str, images: Tensor) -> Tensor:
    taken: list[Tensor] = []
    module = network.fc if node == "penultimate" else network.get_submodule(node)
    with module.register_forward_hook(
        lambda module, args, output: taken.append(
            (args[0] if node == "penultimate" else output).clone()
        )
    ):
        network(images)
    return taken[0].mean((2, 3)) if taken[0].ndim == 4 else taken[0]


@pytest.mark.skipif(
    not SQUEEZENET.is_file(), reason=f"{SQUEEZENET} is missing; see CONTRIBUTING.md"
)
@pytest.mark.skipif(
    not PHOTOS.is_dir(), reason=f"{PHOTOS} is missing; see CONTRIBUTING.md"
)
def test_real_weights_on_real_photos_equal_a_plain_loop():
    backbone = backbones.load(
        "squeezenet1_0",
        weights=SQUEEZENET,
        depths=["features", "features.7", "penultimate"],
    )
    network = models.squeezenet1_0()
    network.load_state_dict(torch.load(SQUEEZENET, weights_only=True))
    network.eval()
    transform = models.SqueezeNet1_0_Weights.IMAGENET1K_V1.transforms()
    paths = sorted(PHOTOS.rglob("*.jpg"))[::80]
    images = [Image.open(path).convert("RGB") for path in paths]
    codes = backbone(batch(backbone, images))
    assert [*codes] == ["features:avg", "features.7:avg", "penultimate"]
    for depth in backbone.depths:
        expected = [
            plain_code(network, depth.node, transform(image)[None], 1000)
            for image in images
        ]
        assert_close(codes[depth.spec], torch.stack(expected))


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", "mini"])
def test_code_does_not_depend_on_its_batch_mates(name):
    backbone = backbones.load(name, weights="none", input_size=64)
    images = batch(backbone, drawn(4))
    together = backbone(images)["penultimate"]
    alone = torch.cat([backbone(image[None])["penultimate"] for image in images])
    backwards = backbone(images.flip(0))["penultimate"].flip(0)
    assert_close(together, alone)
    assert_close(together, backwards)


@pytest.mark.parametrize("name", ["resnet18", "own"])
def test_weights_and_buffers_keep_their_bytes(name, own):
    backbone = backbones.load(
        f"{own}:Wandering" if name == "own" else name, weights="none", input_size=64
    )
    modules = (backbone.network, backbone._cut)
    before = [state_bytes(module) for module in modules]
    for _ in range(2):
        backbone(batch(backbone, drawn()))
    assert [state_bytes(module) for module in modules] == before
    for module in modules:
        assert not any(p.requires_grad for p in module.parameters())
        assert not any(m.training for m in module.modules())


def state_bytes(module: nn.Module) -> dict[str, bytes]:
    state = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    return {name: x.detach().numpy().tobytes() for name, x in state.items()}


def test_code_is_taken_before_an_in_place_layer_overwrites_it():
    backbone = backbones.load(
        "resnet18", weights="none", depths=["bn1", "relu"], input_size=64
    )
    codes = backbone(batch(backbone, drawn()))
    assert (codes["bn1:avg"] < 0).any()
    assert (codes["relu:avg"] >= 0).all()


def test_several_depths_in_one_pass_equal_each_alone():
    specs = ["layer1", "layer3:max", "layer1:gem", "penultimate"]
    arguments = {"weights": "none", "input_size": 64}
    backbone = backbones.load("resnet18", depths=specs, **arguments)
    images = batch(backbone, drawn())
    together = backbone(images)
    assert [*together] == ["layer1:avg", "layer3:max", "layer1:gem", "penultimate"]
    for spec, codes in together.items():
        alone = backbones.load("resnet18", depths=[spec], **arguments)(images)[spec]
        assert_close(codes, alone)


def test_nothing_runs_beyond_the_deepest_depth(own):
    backbone = backbones.load(
        "resnet18", weights="none", depths=["layer2", "layer1"], input_size=64
    )
    names = {name.partition(".")[0] for name, _ in backbone._cut.named_modules()}
    assert names == {"", "conv1", "relu", "maxpool", "layer1", "layer2"}

    hooked = backbones.load(f"{own}:Wandering", depths=["stem"], input_size=32)
    ran: list[str] = []
    hooked._cut.network.norm.register_forward_hook(lambda *_: ran.append("norm"))
    hooked(batch(hooked, drawn()))
    assert ran == []


def test_lower_precision_stays_close_and_gives_float32():
    backbone = backbones.load(
        "resnet18", weights="none", depths=["layer4", "layer4:map"], input_size=64
    )
    images = batch(backbone, drawn())
    exact, rough = backbone(images), backbone.to("cpu", "bf16")(images)
    assert rough["layer4:avg"].dtype == torch.float32
    assert rough["layer4:map"].dtype == torch.float16
    cosine = nn.functional.cosine_similarity(exact["layer4:avg"], rough["layer4:avg"])
    assert cosine.min() > 0.999
    assert torch.equal(exact["layer4:avg"], backbone(images)["layer4:avg"])


def test_float32_is_no_tf32_while_any_thread_computes_and_as_before_after():
    conv = torch.backends.cudnn.conv
    before = conv.fp32_precision
    cuda = torch.device("cuda")
    first, second = (network_room._arithmetic(cuda, "fp32") for _ in range(2))
    with first:
        second.__enter__()
        assert conv.fp32_precision == "ieee"
    assert conv.fp32_precision == "ieee"
    second.__exit__(None, None, None)
    assert conv.fp32_precision == before


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_codes_equal_cpu_codes():
    backbone = backbones.load("resnet18", weights="none", input_size=64)
    images = batch(backbone, drawn(4))
    expected = backbone(images)["penultimate"]
    assert_close(backbone.to("cuda")(images)["penultimate"].cpu(), expected)


def test_wrong_images_and_precision_are_refused():
    backbone = backbones.load("squeezenet1_1", weights="none", input_size=64)
    with pytest.raises(ValueError, match="must be uint8 of shape"):
        backbone(torch.zeros(1, 3, 64, 64))
    with pytest.raises(ValueError, match="choose from fp32, bf16, fp16"):
        backbone.to("cpu", "int8")


def test_fingerprint_holds_what_changes_the_numbers():
    first = backbones.load("squeezenet1_1", weights="none", input_size=64)
    other_depth = backbones.load(
        "squeezenet1_1", weights="none", depths=["features.3"], input_size=64
    )
    assert first.fingerprint() == other_depth.fingerprint()
    assert first.fingerprint() == first.to("cpu", "bf16").fingerprint()
    for change in ({"seed": 1}, {"mean": 0.5}, {"input_size": 96}):
        other = backbones.load(
            "squeezenet1_1", **{"weights": "none", "input_size": 64} | change
        )
        assert other.fingerprint() != first.fingerprint()
