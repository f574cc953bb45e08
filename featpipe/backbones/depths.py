"""Parse and name depths, ``NODE[:POOL]``, and pool maps and tokens.

`network_graph` runs networks to get the shapes of their nodes; this module gives each
shape a meaning, a pool and a canonical name.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

__all__ = [
    *("PENULTIMATE", "Depth", "Layout", "NodeInfo", "Shape"),
    *("name_depth", "parse", "pool"),
]

PENULTIMATE = "penultimate"
Shape = tuple[int, ...]

_POOLS = {
    "vector": (),
    "map": ("avg", "max", "gem", "flatten", "map", "map32"),
    "tokens": ("cls", "mean", "flatten", "map", "map32"),
}
_ALL_POOLS = tuple(dict.fromkeys(how for pools in _POOLS.values() for how in pools))
# `map` has half precision, since maps are up to a thousand times larger than codes.
_WHOLE = {"map": torch.float16, "map32": torch.float32}
_GEM_POWER = 3.0


@dataclass(frozen=True)
class Layout:
    """The layout of the output of a node.

    Parameters
    ----------
    kind : str
        ``vector`` (n, width), ``map`` (n, C, H, W) or ``tokens`` (n, tokens, width).
    channels_last : bool
        Whether a map is (n, H, W, C).
    n_prefix : int
        Number of tokens before those of the patches, such as a class token.
    """

    kind: str
    channels_last: bool = False
    n_prefix: int = 0


@dataclass(frozen=True)
class Depth:
    """A node of a network whose output gives codes, and the pool that makes them.

    Parameters
    ----------
    spec : str
        Canonical name: ``features:avg``, ``flatten``, ``penultimate``.
    node : str
        Name of the module or graph node.
    pool : str or None
        None for a vector.
    width : int
        Numbers per code.
    shape : tuple of int
        Shape of a code: ``(width,)``; (C, H, W) for a map, (tokens, width) for tokens
        that are not pooled.
    layout : Layout
        That of the node's output.

    Examples
    --------
    >>> from featpipe import backbones
    >>> depth = backbones.load("mini", depths=("stage3",)).depths[0]
    >>> depth.spec, depth.pool, depth.width, depth.shape
    ('stage3:avg', 'avg', 128, (128,))
    """

    spec: str
    node: str
    pool: str | None
    width: int
    shape: Shape
    layout: Layout

    def pooling(self) -> dict[str, Any]:
        """Return the arguments of `pool` for this depth."""
        return {
            "how": self.pool,
            "channels_last": self.layout.channels_last,
            "n_prefix": self.layout.n_prefix,
        }


@dataclass(frozen=True)
class NodeInfo:
    """The shape and cost of the output of a node, from a trial run.

    Parameters
    ----------
    shape : tuple of int
        For one image.
    n_parameters : int
        Number of parameters of all layers that the node needs, itself included.
    cost : int
        Floating-point operations of all these layers, for the images of the trial.
    """

    shape: Shape
    n_parameters: int = 0
    cost: int = 0


def parse(spec: str, nodes: Sequence[str], *, backbone: str) -> tuple[str, str | None]:
    """Split ``NODE[:POOL]`` into a node and a pool; raise if one does not exist.

    Parameters
    ----------
    spec : str
        As the user wrote it.
    nodes : sequence of str
        The nodes of the network.
    backbone : str
        Its name, for the message.

    Returns
    -------
    node : str
    pool : str or None
        None if the spec has no pool.

    Raises
    ------
    ValueError
        If there is no such node or pool; the message has the choices.
    """
    node, colon, how = spec.partition(":")
    # The general message below would suggest `penultimate` itself.
    if node == PENULTIMATE and nodes and node not in nodes:
        raise ValueError(
            f"featpipe cannot tell which layer of backbone {backbone!r} computes the "
            f"class scores, so it has no depth {PENULTIMATE!r}; name a depth, such as "
            f"--depth {nodes[-1]} (`featpipe depths {backbone}` lists all), or call a "
            f"module of the network {PENULTIMATE!r}"
        )
    if node not in nodes:
        choices = ", ".join(_nearest(node, nodes))
        hint = "; give one depth at a time" if "+" in node else ""
        raise ValueError(
            f"backbone {backbone!r} has no depth {node!r}{hint}; choose from {choices} "
            f"(`featpipe depths {backbone}` lists all)"
        )
    if colon and how not in _ALL_POOLS:
        raise ValueError(
            f"depth {spec!r} has the unknown pool {how!r}; choose from "
            f"{', '.join(_ALL_POOLS)}"
        )
    return node, how or None


def name_depth(node: str, how: str | None, shape: Shape, layout: Layout) -> Depth:
    """Return the depth of a node: its pool, canonical name and width.

    Parameters
    ----------
    node : str
    how : str or None
        The requested pool. None is the default: ``avg`` for maps, ``cls`` for tokens
        with a class token, ``mean`` for other tokens.
    shape : tuple of int
        That of the node's output for one image.
    layout : Layout

    Returns
    -------
    Depth

    Raises
    ------
    ValueError
        If this kind of output does not take the pool.
    """
    allowed = _POOLS[layout.kind]
    if how is not None and how not in allowed:
        remedy = f"choose from {', '.join(allowed)}" if allowed else "leave it out"
        raise ValueError(
            f"depth {f'{node}:{how}'!r}: the output of {node!r} is a {layout.kind} of "
            f"shape {shape}, which does not take the pool {how!r}; {remedy}"
        )
    # The default pool of `penultimate` is left out of its name, as users write it.
    default = _default_pool(layout)
    chosen = how or default
    is_implied = chosen is None or (node == PENULTIMATE and chosen == default)
    stored = _stored_shape(chosen, shape, layout)
    return Depth(
        spec=node if is_implied else f"{node}:{chosen}",
        node=node,
        pool=chosen,
        width=math.prod(stored),
        shape=stored,
        layout=layout,
    )


def pool(
    x: Tensor, how: str | None = None, *, channels_last: bool = False, n_prefix: int = 0
) -> Tensor:
    """Turn the output of a node into codes.

    The result never shares memory with ``x``, since the next layer may write into
    ``x``, as ``ReLU(inplace=True)`` does.

    Parameters
    ----------
    x : (n, width), (n, C, H, W), (n, H, W, C) or (n, tokens, width)
        Of any floating type; computed in float32.
    how : str or None
        For maps ``avg``, ``max``, ``flatten`` or ``gem``, the generalised mean with
        p = 3 [1]_; for tokens ``cls`` (the first token), ``mean`` (of the patches) or
        ``flatten``; ``map`` and ``map32`` keep all numbers. None for a vector.
    channels_last : bool
        Whether a map is (n, H, W, C).
    n_prefix : int
        Number of tokens before those of the patches.

    Returns
    -------
    (n, width) float32, or for ``map`` (n, C, H, W) or (n, tokens, width) float16, for
        ``map32`` the same in float32.
        ``flatten`` is channel-major, whatever the order in ``x``.

    References
    ----------
    .. [1] F. Radenović, G. Tolias and O. Chum, "Fine-tuning CNN Image Retrieval
       with No Human Annotation", TPAMI 2018. arXiv:1711.02512.

    Examples
    --------
    >>> maps = torch.arange(8.0).reshape(1, 2, 2, 2)
    >>> pool(maps, "avg").tolist()
    [[1.5, 5.5]]
    """
    if channels_last:
        # A view, which every pool below copies.
        x = x.permute(0, 3, 1, 2)
    if how in _WHOLE:
        order = torch.contiguous_format
        return x.to(_WHOLE[how], copy=True, memory_format=order)
    if how == "cls":
        return x[:, 0].to(torch.float32, copy=True)
    if how == "mean":
        return x[:, n_prefix:].float().mean(1)
    if how == "avg":
        # In float32, since sums of thousands of numbers lose digits in half precision.
        return x.float().mean((2, 3))
    if how == "max":
        return x.float().amax((2, 3))
    if how == "gem":
        # Clamped as in the paper, since roots need positive numbers.
        cubes = x.float().clamp(min=1e-6).pow(_GEM_POWER)
        return cubes.mean((2, 3)).pow(1 / _GEM_POWER)
    return x.to(torch.float32, copy=True).flatten(1)


def _default_pool(layout: Layout) -> str | None:
    if layout.kind == "tokens":
        # Networks without a class token (swin, some ViTs) average the patches.
        return "cls" if layout.n_prefix else "mean"
    return "avg" if layout.kind == "map" else None


def _stored_shape(how: str | None, shape: Shape, layout: Layout) -> Shape:
    """Return the shape of the code of one image."""
    if layout.channels_last:
        # Codes are always channels first.
        shape = (shape[2], shape[0], shape[1])
    if how in _WHOLE:
        return shape
    if how in (None, "flatten"):
        return (math.prod(shape),)
    return (shape[-1],) if layout.kind == "tokens" else (shape[0],)


def _nearest(node: str, nodes: Sequence[str]) -> list[str]:
    """Return at most ten names: similar ones, `penultimate`, then the outermost."""
    # A typing error has a similar name; whoever guesses needs the outermost nodes.
    near = difflib.get_close_matches(node, nodes, n=5, cutoff=0.5)
    outer = sorted(nodes, key=lambda name: name.count("."))
    return list(dict.fromkeys([*near, PENULTIMATE, *outer]))[:10]
