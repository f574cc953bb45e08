"""List the backbones, and the depths of one of them.

Nothing is downloaded, and torchvision's networks are built without weights.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from featpipe.backbones import families
from featpipe.backbones.architecture import Architecture
from featpipe.backbones.depths import PENULTIMATE, name_depth
from featpipe.backbones.loading import layouts_of, outlined, preprocessing_of
from featpipe.backbones.network_graph import NetworkGraph
from featpipe.backbones.pooling import Shape
from featpipe.backbones.weights import choose

__all__ = ["BackboneRow", "DepthRow", "catalogue", "describe_depths"]

_NOTE = (
    "IMAGENET1K_V2 weights (label smoothing, mixup) classify better but give worse "
    "fixed codes (Kornblith et al. 2021)"
)


class BackboneRow(NamedTuple):
    """One backbone of the catalogue.

    ``accuracy`` is the top-1 accuracy of the default entry on ImageNet in percent, None
    if unknown; ``n_parameters`` includes the head; ``input_size`` is in pixels.

    Examples
    --------
    >>> from featpipe.backbones import catalogue
    >>> row = next(row for row in catalogue() if row.name == "resnet18")
    >>> row.default, row.input_size, row.n_parameters
    ('IMAGENET1K_V1', 224, 11689512)
    """

    name: str
    weights: tuple[str, ...]
    default: str
    input_size: int
    n_parameters: int
    accuracy: float | None
    note: str


class DepthRow(NamedTuple):
    """One depth of a backbone.

    ``shape`` is that of the node's output for one image. ``spec`` is its canonical name
    with the default pool, and ``width`` the width of its codes. ``n_parameters`` and
    ``cost_share`` (0 to 1, of the floating-point operations of a whole forward pass)
    count all layers that the node needs, itself included.

    Examples
    --------
    >>> from featpipe.backbones import describe_depths
    >>> row = describe_depths("mini")[-1]
    >>> row.spec, row.shape, row.width
    ('head', (200,), 200)
    """

    node: str
    shape: Shape
    width: int
    n_parameters: int
    cost_share: float
    spec: str


def catalogue() -> list[BackboneRow]:
    """List the networks that need no extra package, by name.

    Examples
    --------
    >>> [row.default for row in catalogue() if row.name == "resnet50"]
    ['IMAGENET1K_V1']
    """
    return [_backbone_row(families.find(name)) for name in families.names()]


def describe_depths(
    name: str, *, input_size: int | None = None, every: bool = False
) -> list[DepthRow]:
    """List the depths of a backbone, cheapest first.

    Parameters
    ----------
    name : str
        As for `load`.
    input_size : int or None
        Side of the crop in pixels; None is that of the weights.
    every : bool
        Whether to list all nodes, also those inside blocks and single operations. If
        not, only the outer modules are listed.

    Returns
    -------
    list of DepthRow

    Raises
    ------
    ValueError
        If the name is unknown or the network cannot take this input size.

    Examples
    --------
    >>> [row.width for row in describe_depths("resnet18") if row.node == "layer3"]
    [256]
    """
    architecture = families.find(name)
    # Shapes depend on the input size, which the preprocessing of the weights sets.
    chosen = choose(architecture, None)
    side = preprocessing_of(architecture, chosen, input_size).crop
    outline = outlined(architecture, _unfilled(architecture), side)
    seen = outline.look(outline.nodes, side, side, costs=True)
    layouts = layouts_of(outline, seen, side)
    # 1 for a network without counted operations, whose shares are then 0.
    whole = max((s.cost for s in seen.values()), default=0) or 1
    shown = layouts if every else _outer(outline)
    rows = []
    for node in layouts:
        if node in shown:
            depth = name_depth(node, None, seen[node].shape, layouts[node])
            share = seen[node].cost / whole
            row = (seen[node].shape, depth.width, seen[node].n_parameters, share)
            rows.append(DepthRow(node, *row, depth.spec))
    return sorted(rows, key=lambda row: row.cost_share)


def _backbone_row(architecture: Architecture) -> BackboneRow:
    assert architecture.default is not None
    entry = architecture.entries[architecture.default]
    # Of the two, the better classifier has the worse codes.
    both = {"IMAGENET1K_V1", "IMAGENET1K_V2"} <= architecture.entries.keys()
    return BackboneRow(
        name=architecture.name,
        weights=tuple(architecture.entries),
        default=entry.name,
        input_size=entry.preprocessing.crop,
        n_parameters=entry.n_parameters or _n_parameters(architecture),
        accuracy=entry.accuracy,
        note=_NOTE if both else "",
    )


def _n_parameters(architecture: Architecture) -> int:
    return sum(p.numel() for p in _unfilled(architecture).parameters())


def _unfilled(architecture: Architecture) -> nn.Module:
    """Build a network in eval mode; a trusted one without weights."""
    # Other networks may compute with their weights while they are built.
    with _NoWeights() if architecture.trusted else nullcontext():
        return architecture.build(None).eval()


class _NoWeights(TorchFunctionMode):
    """Puts the weights of layers on the meta device, where they take no memory.

    `torch.device("meta")` would also put small tensors there, with which regnet
    computes its widths.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        # Layers allocate weights by torch.empty, and buffers by other functions.
        device = {"device": "meta"} if func is torch.empty else {}
        return func(*args, **(kwargs or {}) | device)


def _outer(outline: NetworkGraph) -> set[str]:
    """Return the outer modules: the children of the network, and those of containers.

    Modules that hold a chain of blocks, such as the encoder of a vit, are containers
    too.
    """
    # Not a module in most networks, but the depth that most people need.
    shown = {PENULTIMATE}
    opened = {""}
    for name, module in outline.network.named_modules():
        if not name or name.rpartition(".")[0] not in opened:
            continue
        shown.add(name)
        # An encoder would be one row; users choose from its blocks.
        chain = any(
            _is_container(child) and len(list(child.children())) > 2
            for child in module.children()
        )
        if _is_container(module) or ("." not in name and chain):
            opened.add(name)
    return shown


def _is_container(module: nn.Module) -> bool:
    return type(module) in (nn.Sequential, nn.ModuleList, nn.ModuleDict)
