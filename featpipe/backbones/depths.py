"""Words for depths: ``NODE[:POOL]``, and what pooling does to a map or to tokens.

Which shape a node gives is looked at elsewhere (`network_graph`); here that shape gets
its meaning, a pool and a canonical name. No network is built or run here.
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
        A map given as (n, H, W, C).
    n_prefix : int
        Tokens before those of the image's patches: class token, registers.
    """

    kind: str
    channels_last: bool = False
    n_prefix: int = 0


@dataclass(frozen=True)
class Depth:
    """A place in the network where codes are taken, and how they are pooled.

    Parameters
    ----------
    spec : str
        Canonical name: ``features:avg``, ``flatten``, ``penultimate``.
    node : str
        Name of the module or graph node.
    pool : str or None
        None for a vector.
    width : int
        Numbers stored per image.
    shape : tuple of int
        Their shape: ``(width,)``; for ``map`` (C, H, W), for tokens kept whole
        (tokens, width).
    layout : Layout
        What the node itself gives.

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
        """Return the arguments of `pool` that belong to this depth."""
        return {
            "how": self.pool,
            "channels_last": self.layout.channels_last,
            "n_prefix": self.layout.n_prefix,
        }


@dataclass(frozen=True)
class NodeInfo:
    """The shape and layout of the output of a node, from a trial run.

    Parameters
    ----------
    shape : tuple of int
        For one image, the batch left out.
    n_parameters : int
        Of the layers that have to run for it.
    cost : int
        Floating-point operations that have to run for it, per probe.
    """

    shape: Shape
    n_parameters: int = 0
    cost: int = 0


def parse(spec: str, nodes: Sequence[str], *, backbone: str) -> tuple[str, str | None]:
    """Split ``NODE[:POOL]`` into a node that exists and a pool that exists.

    Parameters
    ----------
    spec : str
        As the user wrote it.
    nodes : sequence of str
        The nodes there are.
    backbone : str
        Its name, for the message.

    Returns
    -------
    node : str
    pool : str or None
        None where the spec names none.

    Raises
    ------
    ValueError
        If there is no such node or pool; the choices are in the message.
    """
    node, colon, how = spec.partition(":")
    if node == PENULTIMATE and nodes and node not in nodes:
        raise ValueError(
            f"which layer makes the class scores of backbone {backbone!r} cannot be "
            "told, and so not what enters it; name a depth, as --depth "
            f"{nodes[-1]} (`featpipe depths {backbone}` lists all), or call a module "
            f"of the network {PENULTIMATE!r}"
        )
    if node not in nodes:
        choices = ", ".join(_nearest(node, nodes))
        hint = "; one depth at a time, please" if "+" in node else ""
        raise ValueError(
            f"backbone {backbone!r} has no depth {node!r}{hint}; choose from {choices} "
            f"(`featpipe depths {backbone}` lists all)"
        )
    if colon and how not in _ALL_POOLS:
        raise ValueError(
            f"depth {spec!r} asks for the unknown pool {how!r}; choose from "
            f"{', '.join(_ALL_POOLS)}"
        )
    return node, how or None


def name_depth(node: str, how: str | None, shape: Shape, layout: Layout) -> Depth:
    """Return the depth of a node: its pool, canonical name and width.

    Parameters
    ----------
    node : str
    how : str or None
        The requested pool; None takes the default: ``avg`` of maps, ``cls`` of
        tokens that have a class token, ``mean`` of other tokens.
    shape : tuple of int
        What the node gives for one image.
    layout : Layout

    Raises
    ------
    ValueError
        If this kind of output takes no such pool.
    """
    allowed = _POOLS[layout.kind]
    if how is not None and how not in allowed:
        takes = f"choose from {', '.join(allowed)}" if allowed else "leave it away"
        raise ValueError(
            f"depth {f'{node}:{how}'!r}: {node!r} gives a {layout.kind} of shape "
            f"{shape}, which takes no pool {how!r}; {takes}"
        )
    default = _default_pool(layout)
    chosen = how or default
    plain = chosen is None or (node == PENULTIMATE and chosen == default)
    stored = _stored_shape(chosen, shape, layout)
    return Depth(
        spec=node if plain else f"{node}:{chosen}",
        node=node,
        pool=chosen,
        width=math.prod(stored),
        shape=stored,
        layout=layout,
    )


def pool(
    x: Tensor, how: str | None = None, *, channels_last: bool = False, n_prefix: int = 0
) -> Tensor:
    """Turn what a node gives into codes.

    The result never shares memory with ``x``, because the next layer may well
    write into ``x`` (``ReLU(inplace=True)``).

    Parameters
    ----------
    x : (n, width), (n, C, H, W), (n, H, W, C) or (n, tokens, width)
        Any floating type; the arithmetic is float32.
    how : str or None
        ``avg``, ``max``, ``flatten`` or ``gem``, the generalised mean with p = 3 [1]_,
        of a map; ``cls`` (the first token) or ``mean`` (of the patches' tokens);
        ``map`` and ``map32`` keep everything; None takes a vector as it is.
    channels_last : bool
        The map is (n, H, W, C).
    n_prefix : int
        Tokens before those of the patches.

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
        # A view; every pool below makes its own copy.
        x = x.permute(0, 3, 1, 2)
    if how in _WHOLE:
        order = torch.contiguous_format
        # A copy, since the network may overwrite the map in place after this node.
        return x.to(_WHOLE[how], copy=True, memory_format=order)
    if how == "cls":
        return x[:, 0].to(torch.float32, copy=True)
    if how == "mean":
        return x[:, n_prefix:].float().mean(1)
    if how == "avg":
        # Summed in float32: half precision loses digits over thousands of places.
        return x.float().mean((2, 3))
    if how == "max":
        return x.float().amax((2, 3))
    if how == "gem":
        # Clamped as by Radenović et al. (TPAMI 2019): roots need positive numbers.
        cubes = x.float().clamp(min=1e-6).pow(_GEM_POWER)
        return cubes.mean((2, 3)).pow(1 / _GEM_POWER)
    return x.to(torch.float32, copy=True).flatten(1)


def _default_pool(layout: Layout) -> str | None:
    if layout.kind == "tokens":
        # A network without a class token averages its patches (swin, or ViTs with
        # global pooling).
        return "cls" if layout.n_prefix else "mean"
    return "avg" if layout.kind == "map" else None


def _stored_shape(how: str | None, shape: Shape, layout: Layout) -> Shape:
    """Return the shape of what is kept per image."""
    if layout.channels_last:
        # Codes are always channels first, whatever the network does.
        shape = (shape[2], shape[0], shape[1])
    if how in _WHOLE:
        return shape
    if how in (None, "flatten"):
        return (math.prod(shape),)
    return (shape[-1],) if layout.kind == "tokens" else (shape[0],)


def _nearest(node: str, nodes: Sequence[str]) -> list[str]:
    """Return at most ten names: near ones, then `penultimate`, then the outermost."""
    near = difflib.get_close_matches(node, nodes, n=5, cutoff=0.5)
    outer = sorted(nodes, key=lambda name: name.count("."))
    return list(dict.fromkeys([*near, PENULTIMATE, *outer]))[:10]
