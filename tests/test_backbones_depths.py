"""Names of backbones and depths, shapes, pools and the table of depths."""

import sys

import pytest
import torch
from torchvision import models

from featpipe import backbones
from featpipe.backbones.pooling import pool

VIT = (
    "torchvision.models:VisionTransformer?image_size=32&patch_size=8&num_layers=1"
    "&num_heads=2&hidden_dim=16&mlp_dim=32"
)
SWIN = (
    "torchvision.models:SwinTransformer?patch_size=[4,4]&embed_dim=16&depths=[2,2]"
    "&num_heads=[2,2]&window_size=[4,4]"
)
OWN = """
import torch
from torch import nn

class Small(nn.Module):
    def __init__(self, width=8, head=True, pretrained=None):
        super().__init__()
        self.trunk = nn.Sequential(nn.Conv2d(3, width, 3), nn.ReLU(inplace=True))
        self.head = nn.Linear(width, 5) if head else nn.Identity()

    def forward(self, x, mask=None, temperature=1.0):
        x = self.trunk(x)
        if mask is not None:
            x = x * mask
        return self.head(x.mean((2, 3))) / temperature

class Overwriting(Small):
    def forward(self, x):
        x = self.trunk[0](x)
        self.trunk[1](x)  # works in place, its result thrown away
        return self.head(x.mean((2, 3)))

class Deciding(Small):
    # Recorded from stand-ins, which are no tensors, the graph would be wrong.
    def forward(self, x):
        x = self.trunk(x)
        if isinstance(x, torch.Tensor):
            x = x * 2
        return self.head(x.mean((2, 3)))

class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(3, 6, 3, 2, 1), nn.ReLU())
        self.decoder = nn.ConvTranspose2d(6, 3, 2, 2)

    def forward(self, x):
        return self.decoder(self.encoder(x))

def broken():
    raise KeyError("nothing here")

def number():
    return 3
"""


@pytest.fixture(autouse=True)
def _own(tmp_path, monkeypatch):
    (tmp_path / "small_nets.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    yield
    sys.modules.pop("small_nets", None)


def depths_of(name, *specs, side=64):
    backbone = backbones.load(
        name, weights="none", depths=specs or ["penultimate"], input_size=side
    )
    return backbone.depths


def noise(side):
    generator = torch.Generator().manual_seed(0)
    shape = (2, 3, side, side)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)


def test_names_are_the_classification_networks_and_mini():
    names = backbones.names()
    assert names == sorted(names)
    assert {"mini", "resnet50", "vit_b_16", "swin_v2_s", "maxvit_t"} <= set(names)
    for other in ("fasterrcnn_resnet50_fpn", "deeplabv3_resnet50", "r3d_18"):
        assert other not in names
    assert not any("quantized" in name for name in names)


def test_catalogue_has_a_row_for_every_name():
    rows = {row.name: row for row in backbones.catalogue()}
    assert [*rows] == backbones.names()
    assert rows["resnet50"].default == "IMAGENET1K_V1"
    assert rows["resnet50"].n_parameters == 25_557_032
    assert "worse fixed codes" in rows["resnet50"].note
    assert rows["resnet18"].note == ""
    assert rows["mini"].input_size == 64


@pytest.mark.parametrize(
    ("name", "width"),
    [
        *(("resnet18", 512), ("squeezenet1_0", 512), ("vgg19_bn", 4096)),
        *(("alexnet", 4096), ("vit_b_16", 768), ("swin_v2_t", 768), ("mini", 384)),
        *(("convnext_base", 1024), ("regnet_y_128gf", 7392)),
        *(("mobilenet_v2", 1280), ("inception_v3", 2048), ("shufflenet_v2_x0_5", 1024)),
    ],
)
def test_penultimate_is_what_enters_the_last_layer(name, width):
    rows = {row.node: row for row in backbones.describe_depths(name)}
    assert rows["penultimate"].width == width
    assert rows["penultimate"].spec == "penultimate"


def test_table_counts_parameters_and_cost_up_to_the_node():
    rows = {row.node: row for row in backbones.describe_depths("resnet18")}
    network = models.get_model("resnet18", weights=None)
    trunk = [network.conv1, network.bn1, network.layer1, network.layer2]
    expected = sum(p.numel() for part in trunk for p in part.parameters())
    assert rows["layer2"].n_parameters == expected
    assert rows["layer2"].shape == (128, 28, 28)
    # By hand: 2 * 64 * 3 * 49 * 112**2 of 3,628,146,688 operations in all, the count
    # published with the weights doubled, for a product and a sum are two.
    stem = 2 * 64 * 3 * 49 * 112**2
    whole = 2 * models.ResNet18_Weights.DEFAULT.meta["_ops"] * 1e9
    assert rows["conv1"].cost_share == pytest.approx(stem / whole, rel=1e-2)
    assert rows["fc"].cost_share == 1
    assert rows["fc"].n_parameters == 11_689_512
    shares = [row.cost_share for row in rows.values()]
    assert shares == sorted(shares)


def test_table_names_can_be_asked_for():
    rows = backbones.describe_depths("googlenet", input_size=64, every=True)
    assert len(rows) > len(backbones.describe_depths("googlenet", input_size=64))
    specs = [row.spec for row in rows]
    depths = depths_of("googlenet", *specs)
    assert [depth.spec for depth in depths] == list(dict.fromkeys(specs))
    assert [d.width for d in depths] == [row.width for row in rows]


def test_canonical_names_and_widths_of_pools():
    specs = ["layer1", "layer1:avg", "layer1:max", "layer1:flatten", "layer1:map"]
    depths = depths_of("resnet18", *specs, "flatten", "penultimate")
    assert [(d.spec, d.width, d.shape) for d in depths] == [
        ("layer1:avg", 64, (64,)),
        ("layer1:max", 64, (64,)),
        ("layer1:flatten", 64 * 16 * 16, (64 * 16 * 16,)),
        ("layer1:map", 64 * 16 * 16, (64, 16, 16)),
        ("flatten", 512, (512,)),
        ("penultimate", 512, (512,)),
    ]


def test_channel_order_is_looked_at():
    # Three equal axes, 16 x 16 x 16, tell nothing by themselves.
    swin = depths_of(SWIN, "features.1", "permute", "features.1:map")
    assert [d.layout.channels_last for d in swin] == [True, False, True]
    assert [d.width for d in swin] == [16, 32, 16**3]
    cube = depths_of("resnet18", "layer1", side=256)[0]
    assert (cube.shape, cube.layout.channels_last) == ((64,), False)
    assert depths_of(SWIN, "features.2:map")[0].shape == (32, 8, 8)


def test_tokens_have_a_class_token_only_where_there_is_one():
    specs = ["encoder", "encoder:mean", "permute", "encoder:map", "encoder:flatten"]
    depths = depths_of(VIT, *specs, side=32)
    assert [d.spec for d in depths] == [
        *("encoder:cls", "encoder:mean", "permute:mean"),
        *("encoder:map", "encoder:flatten"),
    ]
    assert depths[3].shape == (17, 16)
    backbone = backbones.load(VIT, depths=specs, input_size=32)
    codes = backbone(noise(32))
    tokens = codes["encoder:flatten"].reshape(2, 17, 16)
    torch.testing.assert_close(codes["encoder:cls"], tokens[:, 0])
    torch.testing.assert_close(codes["encoder:mean"], tokens[:, 1:].mean(1))


def test_pools_equal_their_formulas():
    maps = torch.rand(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    last = maps.permute(0, 2, 3, 1)
    rows = maps.reshape(2, 3, 20).double()
    expected = {
        "avg": rows.mean(2),
        "max": rows.amax(2),
        "gem": (rows**3).mean(2) ** (1 / 3),
        "flatten": rows.reshape(2, 60),
    }
    for how, codes in expected.items():
        for x, channels_last in ((maps, False), (last, True)):
            result = pool(x, how, channels_last=channels_last)
            torch.testing.assert_close(result, codes.float())
    kept = pool(last, "map", channels_last=True)
    assert kept.dtype == torch.float16
    torch.testing.assert_close(kept, maps.half())


def test_codes_never_share_memory_with_the_map():
    for x, how in ((torch.ones(2, 3), None), (torch.ones(2, 3, 2, 2), "flatten")):
        codes = pool(x, how)
        x.zero_()
        assert (codes == 1).all()


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("layer9", r"no depth 'layer9'; choose from layer\d.*penultimate.*conv1"),
        ("layer1+layer2", "one depth at a time"),
        ("layer1:mode", "unknown pool 'mode'; choose from avg, max, gem"),
        ("layer1:cls", r"is a map .* choose from avg, max, gem, flatten, map"),
        ("flatten:avg", "is a vector .* leave it out"),
    ],
)
def test_unknown_depths_say_what_there_is(spec, message):
    with pytest.raises(ValueError, match=message) as caught:
        depths_of("resnet18", spec)
    choices = str(caught.value).split("choose from ")[-1].split(" (`")[0]
    assert len(choices.split(", ")) <= 10


def test_no_depth_at_all_is_refused():
    with pytest.raises(ValueError, match="no depth was given"):
        backbones.load("mini", weights="none", depths=[])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet5", "unknown backbone 'resnet5'; did you mean resnet50"),
        ("small_nets:broken", r"could not be built \(KeyError: 'nothing here'\)"),
        ("small_nets:number", "returned 3, not an nn.Module"),
        ("small_nets:absent", "has no attribute 'absent'"),
        ("no_such_package:net", "No module named 'no_such_package'"),
        ("small_nets:Small?depth=3", "unexpected keyword argument 'depth'"),
    ],
)
def test_unknown_backbones_are_one_sentence(name, message):
    with pytest.raises(ValueError, match=message) as caught:
        backbones.load(name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("name", "side"), [("inception_v3", 32), (VIT, 64)])
def test_size_a_network_cannot_take_is_one_sentence(name, side):
    with pytest.raises(ValueError, match=f"cannot take images of {side}x{side} px"):
        depths_of(name, side=side)


def test_own_callable_takes_arguments_in_its_name():
    name = "small_nets:Small?width=12&pretrained=false"
    assert depths_of(name, "trunk")[0].width == 12
    assert depths_of(name)[0].width == 12


def test_trunk_without_a_head_gives_its_output():
    assert depths_of("small_nets:Small?head=false")[0].width == 8
    assert depths_of("small_nets:Encoder", "encoder:map")[0].shape == (6, 32, 32)


@pytest.mark.parametrize("name", ["Overwriting", "Deciding", "Small"])
def test_unusual_networks_compute_what_they_compute(name):
    backbone = backbones.load(f"small_nets:{name}", input_size=32)
    network = backbone.network
    taken = []
    network.head.register_forward_pre_hook(lambda module, args: taken.append(args[0]))
    network(backbone.normalised(noise(32)))
    torch.testing.assert_close(backbone(noise(32))["penultimate"], taken[0])


def test_timm_says_which_extra_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install featpipe\[timm\]"):
        backbones.load("timm:resnet10t")
