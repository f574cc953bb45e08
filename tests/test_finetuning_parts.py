"""Which weights move: those from the node on, whatever the architecture."""

import numpy as np
import pytest
import torch
from torchvision.ops import StochasticDepth

from featpipe import backbones
from featpipe.backbones import input_depth, trainable_tail, trainable_whole
from featpipe.finetuning.network import Head, Tuned
from featpipe.finetuning.settings import Settings
from featpipe.finetuning.training import Trainer

SIDE = 32
# Backbone: the node to train from, and the layers that run from it on.
PARTS = {
    "tuned_networks:resnet": ("layer4", ("layer4.",)),
    "tuned_networks:vgg": ("classifier.0", ("classifier.0.", "classifier.3.")),
    "tuned_networks:mobilenet": ("features.3", ("features.3.", "features.4.")),
    "tuned_networks:densenet": (
        "features.denseblock2",
        ("features.denseblock2.", "features.norm5."),
    ),
    "tuned_networks:efficientnet": ("features.2", ("features.2.", "features.3.")),
    "tuned_networks:convnext": ("features.3", ("features.3.", "classifier.0.")),
    "tuned_networks:vit": (
        "encoder.layers.encoder_layer_1",
        ("encoder.layers.encoder_layer_1.", "encoder.ln."),
    ),
    "tuned_networks:inception": ("Mixed_7a", ("Mixed_7a.", "Mixed_7c.")),
    "tuned_networks:squeezenet": ("features.12", ("features.12.",)),
    "mini": ("stage4", ("stage4.",)),
}


class Given:
    """Feeds a network what it is given."""

    runs_images = True

    def __init__(self, x):
        self.x = x

    def batches(self, rows, size, draw=None):
        yield rows, self.x[torch.from_numpy(rows)]


def side_of(name):
    return 80 if "inception" in name else SIDE


def step(name, node, *, train=True):
    """Train for a step; give the names of all weights and buffers, and the moved."""
    side = side_of(name)
    backbone = backbones.load(name, weights="none", input_size=side)
    torch.manual_seed(0)
    x = torch.randn(6, 3, side, side)
    codes = backbone.cut(x)[0].numpy()
    labels = np.arange(6) % 2
    network = Tuned(trainable_whole(backbone, node), Head(codes, 2), train=train)
    trainer = Trainer(
        network,
        Given(x),
        labels,
        Settings(clip=0.0, backbone_lr=1.0),
        batch_size=6,
        device=torch.device("cpu"),
    )
    before = {k: v.clone() for k, v in network.trunk.state_dict().items()}
    head = network.head.linear.weight.clone()
    # Dropout would leave some units of a layer without a gradient.
    for module in network.modules():
        if isinstance(module, torch.nn.Dropout | StochasticDepth):
            module.p = 0.0
    trainer.epoch(np.arange(6), (0,), lambda step: 0.01)
    assert not torch.equal(head, network.head.linear.weight)
    own = {f"{prefix}{key}" for key in backbone.needed() for prefix in ("", "network.")}
    state = network.trunk.state_dict()
    every = {key for key in state if key in own}
    moved = {key for key in every if not torch.equal(before[key], state[key])}
    return (*({k.removeprefix("network.") for k in keys} for keys in (every, moved)),)


@pytest.mark.parametrize("name", PARTS, ids=lambda name: name.rpartition(":")[2])
def test_exactly_what_runs_from_the_node_on_learns(name):
    node, layers = PARTS[name]
    every, moved = step(name, node)
    assert moved == {key for key in every if key.startswith(layers)}


@pytest.mark.parametrize("name", PARTS, ids=lambda name: name.rpartition(":")[2])
def test_all_of_it_learns_when_all_is_asked_for(name):
    every, moved = step(name, None)
    assert moved == every


def test_a_head_alone_moves_nothing_of_the_backbone():
    assert step("mini", None, train=False)[1] == set()


def test_control_flow_that_no_graph_records_is_trained_too():
    every, moved = step("own_networks:Restless", "small.block2")
    assert moved == {key for key in every if key.startswith("small.block2.")}


def test_the_frozen_part_runs_without_gradients():
    backbone = backbones.load("tuned_networks:resnet", weights="none", input_size=SIDE)
    part = trainable_whole(backbone, "layer4")
    for name, parameter in part.network.named_parameters():
        parameter.requires_grad_(not part.is_frozen(name))
    with_gradients: dict[str, bool] = {}
    for name, module in part.network.named_modules():
        if name and isinstance(module, torch.nn.Conv2d):
            module.register_forward_hook(
                lambda m, x, y, name=name: with_gradients.update(
                    {name: y.requires_grad}
                )
            )
    part.network(torch.randn(2, 3, SIDE, SIDE))
    learns = {name for name, yes in with_gradients.items() if yes}
    assert learns == {name for name in with_gradients if name.startswith("layer4")}
    assert len(learns) == 3


@pytest.mark.parametrize("name", PARTS, ids=lambda name: name.rpartition(":")[2])
def test_a_tail_fed_with_what_enters_it_gives_the_codes(name):
    node, _ = PARTS[name]
    backbone = backbones.load(name, weights="none", input_size=side_of(name))
    entering = input_depth(backbone, node)
    assert entering is not None
    before = backbones.load(
        name, weights="none", input_size=side_of(name), depths=[entering.spec]
    )
    pixels = torch.randint(0, 256, (3, 3, *[side_of(name)] * 2), dtype=torch.uint8)
    (expected,) = backbone(pixels).values()
    (maps,) = before(pixels).values()
    part = trainable_tail(backbone, node)
    with torch.inference_mode():
        (result,) = part.network(maps.float())
    np.testing.assert_allclose(
        result, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max())
    )


def test_in_the_midst_of_a_residual_block_nothing_can_be_cached():
    backbone = backbones.load("tuned_networks:resnet", weights="none", input_size=SIDE)
    assert input_depth(backbone, "layer4.0.conv2") is None


def test_stochastic_depth_comes_back_in_training():
    backbone = backbones.load(
        "tuned_networks:efficientnet", weights="none", input_size=SIDE
    )
    network = trainable_whole(backbone).network.train()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d | torch.nn.Dropout):
            module.eval()
    x = torch.randn(4, 3, SIDE, SIDE)
    with torch.no_grad():
        draws = [network(x)[0] for _ in range(8)]
    assert any(not torch.equal(draws[0], other) for other in draws[1:])


@pytest.mark.parametrize(
    ("node", "reason"),
    [("layer9", "has no node 'layer9'"), ("fc", "nothing to train from 'fc'")],
)
def test_a_node_that_cannot_be_trained_from_is_refused(node, reason):
    backbone = backbones.load("tuned_networks:resnet", weights="none", input_size=SIDE)
    with pytest.raises(ValueError, match=reason):
        trainable_whole(backbone, node)
