"""Run a traced network on blank images, to get its shapes and costs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils.flop_counter import FlopCounterMode

from featpipe.backbones.pooling import Shape

__all__ = ["BlankRun"]

# With two images, an output whose first axis is not the batch can be recognised.
_N_PROBE = 2

# Networks and images up to this size really run: to compute shapes alone, torch first
# imports its compiler, which takes two seconds.
_FEW_PARAMETERS, _SMALL_SIDE = 5_000_000, 256


class BlankRun(fx.Interpreter):
    """A run of a graph on blank images that records the shape and cost of each node.

    Parameters
    ----------
    module : fx.GraphModule
        Takes images (n, 3, H, W) float32.
    costs : bool
        Whether to count the operations of each node, which takes longer.

    Attributes
    ----------
    shapes : dict of fx.Node to tuple of int
        Shape of the output of each node for one image. Nodes whose output has no row
        for each image are left out.
    costs : dict of fx.Node to int
        Floating-point operations for all images of the run.
    """

    def __init__(self, module: fx.GraphModule, *, costs: bool = False) -> None:
        super().__init__(module)
        self.shapes: dict[fx.Node, Shape] = {}
        self.costs: dict[fx.Node, int] = {}
        self._counter = FlopCounterMode(display=False) if costs else None

    def run_blank(self, height: int, width: int) -> None:
        """Run on the meta device, which only computes shapes, or on the processor."""
        walk = _AsModule(self)
        small = _is_small(walk) and max(height, width) <= _SMALL_SIDE
        device = torch.device("cpu" if small else "meta")
        state = {
            name: tensor.to(device, copy=True)
            for name, tensor in (*walk.named_parameters(), *walk.named_buffers())
        }
        blank = torch.zeros(_N_PROBE, 3, height, width)
        with torch.no_grad():
            try:
                torch.func.functional_call(walk, state, (blank.to(device),))
            # The forward may make tensors, or use operations that the meta device
            # lacks. If a real run fails too, its error is the one to show.
            except Exception:
                walk(blank)

    def run_node(self, n: fx.Node) -> Any:
        """Run a node as fx does, and record its shape and its cost."""
        if self._counter is None:
            output = super().run_node(n)
        else:
            with self._counter:
                output = super().run_node(n)
            self.costs[n] = self._counter.get_total_flops()
        if isinstance(output, Tensor) and output.shape[:1] == (_N_PROBE,):
            self.shapes[n] = tuple(output.shape[1:])
        return output


def _is_small(network: nn.Module) -> bool:
    """Return whether a network has few parameters, none of them on the meta device."""
    parameters = list(network.parameters())
    return not any(parameter.is_meta for parameter in parameters) and (
        sum(parameter.numel() for parameter in parameters) <= _FEW_PARAMETERS
    )


class _AsModule(nn.Module):
    """An interpreter as a module, whose weights `functional_call` can replace."""

    def __init__(self, walk: BlankRun) -> None:
        super().__init__()
        self.module = walk.module
        self._run = walk.run

    def forward(self, images: Tensor) -> Any:
        return self._run(images)
