"""Define the graph of a network, and choose how to get it.

`tracing` records the graph, so that layers after the deepest depth can be left out, and
batch norm can be folded. `hooking` takes outputs from a real pass, for networks whose
control flow cannot be recorded.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from featpipe.backbones.depths import Depth, NodeInfo
from featpipe.backbones.hooking import Hooked
from featpipe.backbones.tracing import Traced

__all__ = ["NetworkGraph", "outline"]


class NetworkGraph(Protocol):
    """The nodes of a network in eval mode, and the networks cut at them."""

    network: nn.Module
    nodes: tuple[str, ...]

    def keys(self, nodes: Iterable[str]) -> set[str]:
        """Return the state-dict keys of the layers that these nodes need."""

    def before(self, node: str) -> set[str]:
        """Return the names of the layers and parameters that are used before a node.

        For a module, that is before any layer inside it.
        """

    def input_node(self, node: str, stops: Sequence[Depth]) -> str | None:
        """Return the node whose output is all that a node and the nodes after it need.

        None if there is no such node, or it is not known.
        """

    def tail(self, node: str, stops: Sequence[Depth]) -> nn.Module:
        """Return the module from the output of the input node to a tuple of codes.

        There must be an input node.
        """

    def look(
        self, nodes: Iterable[str], height: int, width: int, *, costs: bool = False
    ) -> dict[str, NodeInfo]:
        """Run the network on two images and return the shapes and costs of nodes.

        Nodes whose output is no tensor with the batch as first axis are left out.
        """

    def cut(self, stops: Sequence[Depth]) -> nn.Module:
        """Return a module that computes a tuple of codes, and nothing after them."""


def outline(network: nn.Module, *, side: int, trusted: bool = False) -> NetworkGraph:
    """Return the graph of a network.

    Parameters
    ----------
    network : nn.Module
        In eval mode.
    side : int
        Side of a square image that it takes, in pixels.
    trusted : bool
        Whether to skip the check that the recorded graph computes the same as the
        network. It may not, since only one branch of the Python code is recorded.
    """
    try:
        traced = Traced(network)
    # The forward may raise any error when it gets proxies for tensors.
    except Exception:
        return Hooked(network, side=side)
    if trusted:
        return traced
    if _same_scores(network, traced.whole(), side):
        # Only untrusted networks may average heads or scale scores.
        traced.drop_class_scores(side)
        return traced
    return Hooked(network, side=side)


def _same_scores(network: nn.Module, recorded: nn.Module, side: int) -> bool:
    """Return whether both networks compute the same for two different images."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(2, 3, side, side, generator=generator)
    # Another scale, which shows a branch on the size of the values.
    images[1] *= 3
    with torch.inference_mode():
        try:
            expected = _tensors(network(images.clone()))
            scores = _tensors(recorded(images))
        except Exception:
            return False
    return len(expected) == len(scores) and all(
        a.shape == b.shape and torch.allclose(a, b, rtol=1e-4, atol=1e-5)
        for a, b in zip(expected, scores, strict=True)
    )


def _tensors(output: object) -> list[Tensor]:
    """Return all tensors of a nested output, in order."""
    if isinstance(output, Tensor):
        return [output]
    if isinstance(output, dict):
        output = list(output.values())
    if isinstance(output, list | tuple):
        return [tensor for item in output for tensor in _tensors(item)]
    return []
