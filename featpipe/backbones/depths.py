"""Parse and name depths, ``NODE[:POOL]``.

`network_graph` runs networks to get the shapes of their nodes; this module gives each
shape a meaning, a pool and a canonical name.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from featpipe.backbones.pooling import (
    POOLS,
    Layout,
    Shape,
    default_pool,
    pools_of,
    stored_shape,
)

__all__ = ["PENULTIMATE", "Depth", "NodeInfo", "name_depth", "parse"]

PENULTIMATE = "penultimate"


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
        """Return the arguments of `pooling.pool` for this depth."""
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
    if colon and how not in POOLS:
        raise ValueError(
            f"depth {spec!r} has the unknown pool {how!r}; choose from "
            f"{', '.join(POOLS)}"
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
    allowed = pools_of(layout)
    if how is not None and how not in allowed:
        remedy = f"choose from {', '.join(allowed)}" if allowed else "leave it out"
        raise ValueError(
            f"depth {f'{node}:{how}'!r}: the output of {node!r} is a {layout.kind} of "
            f"shape {shape}, which does not take the pool {how!r}; {remedy}"
        )
    # The default pool of `penultimate` is left out of its name, as users write it.
    default = default_pool(layout)
    chosen = how or default
    is_implied = chosen is None or (node == PENULTIMATE and chosen == default)
    stored = stored_shape(chosen, shape, layout)
    return Depth(
        spec=node if is_implied else f"{node}:{chosen}",
        node=node,
        pool=chosen,
        width=math.prod(stored),
        shape=stored,
        layout=layout,
    )


def _nearest(node: str, nodes: Sequence[str]) -> list[str]:
    """Return at most ten names: similar ones, `penultimate`, then the outermost."""
    # A typing error has a similar name; whoever guesses needs the outermost nodes.
    near = difflib.get_close_matches(node, nodes, n=5, cutoff=0.5)
    outer = sorted(nodes, key=lambda name: name.count("."))
    return list(dict.fromkeys([*near, PENULTIMATE, *outer]))[:10]
