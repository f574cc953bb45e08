"""Choose one of two ways to take outputs of nodes, and define their interface.

`tracing` records the graph, so that nothing beyond the deepest depth is computed
and batch norm can be folded; `hooking` watches a real pass, for networks whose
control flow cannot be recorded. Names of backbones and weights never come in here.
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
    """The nodes of a network in eval mode, what they give, and cutting it there."""

    network: nn.Module
    nodes: tuple[str, ...]

    def keys(self, nodes: Iterable[str]) -> set[str]:
        """Return the state-dict keys of the layers that these nodes need."""

    def before(self, node: str) -> set[str]:
        """Return the names of the layers and parameters used before a node.

        Before anything inside it, if it is a module.
        """

    def input_node(self, node: str, stops: Sequence[Depth]) -> str | None:
        """Name of the node whose output is all that a node and what follows needs.

        None where there is no such node, or its input is unclear.
        """

    def tail(self, node: str, stops: Sequence[Depth]) -> nn.Module:
        """Return a module from the output of the input node to a tuple of codes.

        Only where there is an input node.
        """

    def look(
        self, nodes: Iterable[str], height: int, width: int, *, costs: bool = False
    ) -> dict[str, NodeInfo]:
        """Run the network on blank images and note what these nodes give.

        Nodes that give no tensor with the batch in front are left out.
        """

    def cut(self, stops: Sequence[Depth]) -> nn.Module:
        """Return a module that gives a tuple of codes and runs nothing beyond."""


def outline(network: nn.Module, *, side: int, trusted: bool = False) -> NetworkGraph:
    """Find the nodes of a network in eval mode.

    Parameters
    ----------
    network : nn.Module
        In eval mode.
    side : int
        Pixels of a square image it takes.
    trusted : bool
        Skip the check that the recorded graph computes what the network computes:
        recording takes a branch of the Python code once and for all.
    """
    try:
        traced = Traced(network)
    # A forward in Python may fail in any way when it is fed stand-ins for tensors.
    except Exception:
        return Hooked(network, side=side)
    # torchvision's networks are known to trace faithfully; yours is compared with
    # itself.
    if trusted:
        return traced
    if _same_scores(network, traced.whole(), side):
        traced.drop_class_scores(side)
        return traced
    return Hooked(network, side=side)


def _same_scores(network: nn.Module, recorded: nn.Module, side: int) -> bool:
    """Return whether both give the same on two unlike images, one of them loud."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(2, 3, side, side, generator=generator)
    # Another scale: a branch on the size of the values would show.
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
    """Return all tensors of an output, in order, however it is wrapped."""
    if isinstance(output, Tensor):
        return [output]
    if isinstance(output, dict):
        output = list(output.values())
    if isinstance(output, list | tuple):
        return [tensor for item in output for tensor in _tensors(item)]
    return []
