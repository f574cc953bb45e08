"""A backbone parted for training: what stays frozen, and what learns.

The frozen, folded network of a `Backbone` is for extraction; here are plain copies of
its layers, with weights of their own, that may learn. How they learn is no matter here.
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
    """A copy of a backbone, or of its last part, that may learn.

    Parameters
    ----------
    network : nn.Module
        Normalised images, or what enters the part, to a tuple of codes, one for each
        depth of the backbone. In eval mode, without gradients, on the CPU.
    prefix : str
        What comes before the backbone's own names in its state dict.
    frozen : set of str
        Layers and parameters, by the backbone's names, that run before the part that
        is to learn.
    channels_last : bool
        Maps enter as (n, H, W, C), while a codes file has them as (n, C, H, W).

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
        """Return whether a layer or parameter of `network` stays as it is."""
        # Through hooks the whole network is a part of the module, one level deeper.
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
    """Copy the network up to its depths, to learn from a node on.

    Parameters
    ----------
    backbone : Backbone
    node : str, optional
        What runs before it is frozen; default nothing.

    Raises
    ------
    ValueError
        If there is no such node, or nothing from it to the depths can learn.

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
    # A copy: the backbone stays frozen, and may be in use elsewhere.
    cut = copy.deepcopy(outline.cut(backbone.depths))
    prefix = "network." if isinstance(outline, Hooked) else ""
    part = TrainablePart(cut, prefix, frozenset(frozen))
    # Layers behind the depth do not count: they never learn anything.
    keys = {prefix + key for key in backbone.needed()}
    if not any(not part.is_frozen(n) for n, _ in cut.named_parameters() if n in keys):
        raise ValueError(
            f"there is nothing to train from {node!r} to the depth "
            f"{backbone.depths[0].spec!r} of {backbone.name!r}; choose an earlier node "
            f"(`featpipe depths {backbone.name}` lists them), or train the head alone"
        )
    return part


def input_depth(backbone: Backbone, node: str, how: str = "map32") -> Depth | None:
    """Return the depth whose codes are all that a node and what follows needs.

    Parameters
    ----------
    backbone : Backbone
    node : str
    how : str
        ``map`` in float16 or ``map32`` in float32, where it is no vector.

    Returns
    -------
    Depth or None
        It keeps what is there whole: ``NODE:map32``, or ``NODE`` for a vector. None
        where several outputs enter, as in the midst of a residual block, or the
        network's control flow cannot be recorded.

    Examples
    --------
    >>> from featpipe import backbones
    >>> depth = input_depth(backbones.load("mini"), "stage4")
    >>> depth.spec, depth.shape
    ('stage3:map32', (128, 8, 8))
    """
    _require_node(backbone, node)
    outline, side = backbone._outline, backbone.preprocessing.crop
    name = outline.input_node(node, backbone.depths)
    # A residual block has two entrances in its midst; a file holds one map.
    if name is None:
        return None
    seen = outline.look([name], side, side)
    layout = layouts_of(outline, seen, side).get(name)
    if layout is None:
        return None
    # A vector is kept as it is: there is nothing to pool.
    kept = None if layout.kind == "vector" else how
    return name_depth(name, kept, seen[name].shape, layout)


def trainable_tail(backbone: Backbone, node: str) -> TrainablePart:
    """Copy the network from a node to the depths; takes what `input_depth` names.

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
