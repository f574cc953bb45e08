"""Copy the part of a backbone that is to be trained.

The network of a `Backbone` is frozen, folded and shared. These copies have plain layers
and their own weights; `finetuning` trains them.
"""

from __future__ import annotations

import copy
import difflib
from collections.abc import Iterable
from dataclasses import dataclass

from torch import nn

from featpipe.backbones.depths import Depth, name_depth
from featpipe.backbones.hooking import Hooked
from featpipe.backbones.loading import layouts_of
from featpipe.backbones.network import Backbone

__all__ = [
    "TrainablePart",
    "input_depth",
    "node_names",
    "trainable_tail",
    "trainable_whole",
]


@dataclass(frozen=True, eq=False)
class TrainablePart:
    """A copy of a backbone, or of its last part, that can be trained.

    Parameters
    ----------
    network : nn.Module
        Turns normalised images, or the input of the part, into a tuple of codes, one
        for each depth. In eval mode, without gradients, on the CPU.
    prefix : str
        Prefix of the names in its state dict, before those of the backbone.
    frozen : set of str
        Names of the layers and parameters that run before the part to train.
    channels_last : bool
        Whether it takes maps as (n, H, W, C); a codes file has them as (n, C, H, W).

    Examples
    --------
    >>> part = TrainablePart(nn.Flatten(), "network.", frozenset({"layer1"}))
    >>> part.is_frozen("network.layer1.0.weight"), part.is_frozen("network.layer2")
    (True, False)
    """

    network: nn.Module
    prefix: str
    frozen: frozenset[str]
    channels_last: bool = False

    def is_frozen(self, name: str) -> bool:
        """Return whether a layer or parameter of `network` is not to be trained."""
        # With hooks the whole network is one level deeper in the module.
        own = name.removeprefix(self.prefix)
        return any(own == f or own.startswith(f"{f}.") for f in self.frozen)


def node_names(backbone: Backbone) -> tuple[str, ...]:
    """Return the names of the nodes of a network, in the order in which they end.

    Examples
    --------
    >>> from featpipe import backbones
    >>> node_names(backbones.load("mini"))[:4]
    ('stem.0', 'stem.1', 'stem.2', 'stem')
    """
    return backbone._outline.nodes


def trainable_whole(backbone: Backbone, node: str | None = None) -> TrainablePart:
    """Copy the network up to its depths, to train it from a node on.

    Parameters
    ----------
    backbone : Backbone
    node : str, optional
        Layers before it are frozen. Default: no layer is frozen.

    Returns
    -------
    TrainablePart

    Raises
    ------
    ValueError
        If there is no such node, or no parameter from it to the depths.

    Examples
    --------
    >>> from featpipe import backbones
    >>> part = trainable_whole(backbones.load("mini"), "stage4")
    >>> part.is_frozen("stage3.0.body.0.weight"), part.is_frozen("stage4.0.relu")
    (True, False)
    """
    outline = backbone._outline
    frozen: Iterable[str] = ()
    if node is not None:
        _require_node(backbone, node)
        frozen = outline.before(node)
    # A copy, since the backbone may be in use elsewhere.
    cut = copy.deepcopy(outline.cut(backbone.depths))
    prefix = "network." if isinstance(outline, Hooked) else ""
    part = TrainablePart(cut, prefix, frozenset(frozen))
    # Layers after the depths do not count, since they get no gradient.
    # A parameter that no depth needs gets no gradient, so it does not count.
    keys = {prefix + key for key in backbone.needed()}
    if not any(not part.is_frozen(n) for n, _ in cut.named_parameters() if n in keys):
        raise ValueError(
            f"there is nothing to train from {node!r} to the depth "
            f"{backbone.depths[0].spec!r} of {backbone.name!r}; choose an earlier node "
            f"(`featpipe depths {backbone.name}` lists them), or train the head alone"
        )
    return part


def input_depth(backbone: Backbone, node: str, how: str = "map32") -> Depth | None:
    """Return the depth whose codes are all that a node and the nodes after it need.

    Parameters
    ----------
    backbone : Backbone
    node : str
    how : str
        ``map`` in float16 or ``map32`` in float32; not used for a vector.

    Returns
    -------
    Depth or None
        ``NODE:map32`` without pooling, or ``NODE`` for a vector. None if a node needs
        several outputs, such as one inside a residual block, or if the network cannot
        be recorded.

    Examples
    --------
    >>> from featpipe import backbones
    >>> depth = input_depth(backbones.load("mini"), "stage4")
    >>> depth.spec, depth.shape
    ('stage3:map32', (128, 8, 8))
    """
    _require_node(backbone, node)
    outline, side = backbone._outline, backbone.preprocessing.crop
    # Inside a residual block two tensors enter, and a file holds one.
    name = outline.input_node(node, backbone.depths)
    if name is None:
        return None
    # At the size of the backbone, on which the shape of a map depends.
    seen = outline.look([name], side, side)
    layout = layouts_of(outline, seen, side).get(name)
    if layout is None:
        return None
    pool = None if layout.kind == "vector" else how
    return name_depth(name, pool, seen[name].shape, layout)


def trainable_tail(backbone: Backbone, node: str) -> TrainablePart:
    """Copy the network from a node to the depths; its input is that of `input_depth`.

    Examples
    --------
    >>> import torch
    >>> from featpipe import backbones
    >>> backbone = backbones.load("mini")
    >>> part = trainable_tail(backbone, "stage4")
    >>> maps = torch.zeros(2, *input_depth(backbone, "stage4").shape)
    >>> [tuple(codes.shape) for codes in part.network(maps)]
    [(2, 384)]
    """
    entering = input_depth(backbone, node)
    assert entering is not None
    network = copy.deepcopy(backbone._outline.tail(node, backbone.depths))
    return TrainablePart(network, "", frozenset(), entering.layout.channels_last)


def _require_node(backbone: Backbone, node: str) -> None:
    if node not in node_names(backbone):
        near = difflib.get_close_matches(node, node_names(backbone), n=5, cutoff=0.3)
        raise ValueError(
            f"backbone {backbone.name!r} has no node {node!r} to train from; choose "
            f"from {', '.join(near) or 'those'} that `featpipe depths {backbone.name}` "
            "lists"
        )
