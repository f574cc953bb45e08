"""A fused network computes what the network does, however its layers are joined."""

import copy
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import fx, nn
from torch.backends import mkldnn

from featpipe import backbones
from featpipe.backbones import fusing, network
from featpipe.backbones.fusing import FusedConvolution, can_fuse, fuse

pytestmark = pytest.mark.skipif(
    not can_fuse(torch.float32), reason="this processor or torch has no such kernels"
)


class Joined(nn.Module):
    """Every way in which a convolution, a sum and an activation may stand together."""

    def __init__(self, conv: dict, activation: nn.Module, way: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.conv = nn.Conv2d(8, 8, **conv)
        self.other = nn.Conv2d(8, 8, **conv)
        self.activation = activation
        self.inplace = nn.ReLU(inplace=True)
        self.way = way

    def forward(self, x):
        x = self.first(x)
        return getattr(self, self.way)(x)

    def alone(self, x):
        return self.activation(self.conv(x))

    def summed(self, x):
        return self.activation(self.conv(x) + self.other(x))

    def into_itself(self, x):
        maps = self.conv(x)
        maps += self.other(x)
        return self.inplace(maps)

    def into_the_other(self, x):
        other = self.other(x)
        kept = other[:, :1]
        other.add_(self.conv(x))
        return other, kept

    def twice(self, x):
        maps = self.conv(x)
        return maps + maps

    def broadcast(self, x):
        return torch.relu(self.conv(x).mean((2, 3), keepdim=True) + self.other(x))

    def with_a_number(self, x):
        return self.activation(self.conv(x) + 0.5)

    def written_between(self, x):
        maps = self.conv(x)
        after = self.inplace(x)
        return maps + after.mean(), after

    def only_for_its_effect(self, x):
        maps = self.conv(x)
        torch.relu_(maps)
        return maps * 2

    def used_twice(self, x):
        maps = self.conv(x)
        return self.activation(maps), maps


WAYS = [name for name in vars(Joined) if not name.startswith("_") and name != "forward"]
CONVOLUTIONS = st.fixed_dictionaries(
    {
        "kernel_size": st.sampled_from([1, 3, (1, 3)]),
        "stride": st.sampled_from([1, 2, (2, 1)]),
        "padding": st.sampled_from([0, 1, (2, 0), "valid"]),
        "dilation": st.sampled_from([1, 2]),
        "groups": st.sampled_from([1, 2, 8]),
        "bias": st.booleans(),
        "padding_mode": st.sampled_from(["zeros", "zeros", "reflect"]),
    }
)
ACTIVATIONS = st.sampled_from(
    [
        *(nn.ReLU(), nn.ReLU(inplace=True), nn.ReLU6(), nn.SiLU(), nn.Hardswish()),
        *(nn.LeakyReLU(0.3), nn.GELU(), nn.GELU("tanh"), nn.Tanh(), nn.Identity()),
    ]
)


def n_fused(module: nn.Module) -> int:
    return sum(isinstance(each, FusedConvolution) for each in module.modules())


@pytest.mark.parametrize("way", WAYS)
@given(CONVOLUTIONS, ACTIVATIONS, st.booleans())
@settings(max_examples=25, deadline=None)
def test_however_layers_are_joined_the_numbers_stay(way, conv, activation, last):
    joined = Joined(conv, activation, way).eval()
    order = torch.channels_last if last else torch.contiguous_format
    x = torch.randn(2, 3, 9, 12).contiguous(memory_format=order)
    recorded = fx.symbolic_trace(joined)
    fused = copy.deepcopy(recorded)
    fuse(fused)
    with torch.inference_mode():
        result, expected = fused(x), recorded(x)
    torch.testing.assert_close(result, expected, rtol=1e-4, atol=1e-5)


def test_sums_and_activations_go_into_the_convolutions():
    plain = backbones.load("resnet18", weights="none", input_size=64)
    fast = plain.to("cpu")._cut
    assert n_fused(plain._cut) == 0
    assert n_fused(fast) == 20
    left = {type(module) for module in fast.modules() if not [*module.children()]}
    assert left == {FusedConvolution, nn.MaxPool2d, nn.AdaptiveAvgPool2d}
    targets = [node.target for node in fast.graph.nodes if node.op == "call_function"]
    assert not set(targets) & set(fusing._SUMS)


@pytest.mark.parametrize("name", ["mini", "mobilenet_v2", "squeezenet1_1"])
def test_fused_networks_give_the_codes_of_plain_ones(name):
    plain = backbones.load(name, weights="none", input_size=64)
    images = torch.randint(0, 255, (3, 3, 64, 64), dtype=torch.uint8)
    fast, half = plain.to("cpu"), plain.to("cpu", "bf16")
    assert n_fused(fast._cut) > 10
    (expected,), (result,) = plain(images).values(), fast(images).values()
    torch.testing.assert_close(result, expected, rtol=1e-4, atol=1e-5)
    (rough,) = half(images).values()
    assert torch.cosine_similarity(rough, expected).min() > 0.999


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", ["mini", "mobilenet_v2"])
def test_a_fused_backbone_can_be_copied_and_pickled(name, precision):
    fast = backbones.load(name, weights="none", input_size=64).to("cpu", precision)
    images = torch.randint(0, 255, (2, 3, 64, 64), dtype=torch.uint8)
    (expected,) = fast(images).values()
    for again in (copy.deepcopy(fast), pickle.loads(pickle.dumps(fast))):
        assert n_fused(again._cut) == n_fused(fast._cut) > 10
        assert torch.equal(*again(images).values(), expected)


def test_numbers_do_not_depend_on_the_batch_that_came_first():
    plain = backbones.load("resnet18", weights="none", input_size=64)
    images = torch.randint(0, 255, (5, 3, 64, 64), dtype=torch.uint8)
    one, two = plain.to("cpu"), plain.to("cpu")
    two(images[:1])
    two(images[:, :, :40, :40])
    assert torch.equal(one(images)["penultimate"], two(images)["penultimate"])


def test_a_network_that_may_make_nan_keeps_its_activations():
    layers = [nn.LogSoftmax(1), nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 4, 1)]
    recorded = fx.symbolic_trace(nn.Sequential(*layers))
    x = torch.full((1, 3, 5, 5), torch.nan)
    fuse(recorded)
    assert n_fused(recorded) == 2
    assert recorded(x).isnan().all()
    broken = nn.Sequential(*layers[1:])
    with torch.no_grad():
        broken[0].weight[0] = torch.inf
    recorded = fx.symbolic_trace(broken)
    fuse(recorded)
    assert recorded(torch.zeros(1, 3, 5, 5)).isnan().any()


def test_without_the_kernels_nothing_is_fused(monkeypatch):
    monkeypatch.setattr(torch.ops.mkldnn, "_convolution_pointwise", None)
    assert not can_fuse.__wrapped__(torch.float32)
    monkeypatch.setattr(network, "can_fuse", lambda dtype: False)
    plain = backbones.load("resnet18", weights="none", input_size=64)
    assert n_fused(plain.to("cpu")._cut) == 0


def test_weights_are_packed_for_the_size_that_comes(capfd):
    # Else each pass would reorder them, which takes longer than some convolutions.
    plain = backbones.load("resnet50", weights="none", input_size=96)
    images = torch.randint(0, 255, (2, 3, 96, 96), dtype=torch.uint8)
    ways = {"told": plain.to("cpu"), "not told": plain.to("cpu", fused=False)}
    fuse(ways["not told"]._cut)
    n_reorders = {}
    for name, way in ways.items():
        way(images)
        capfd.readouterr()
        with mkldnn.verbose(mkldnn.VERBOSE_ON):
            way(images)
        n_reorders[name] = capfd.readouterr().out.count(",reorder,")
    assert n_reorders["told"] == 0
    assert n_reorders["not told"] > 0
