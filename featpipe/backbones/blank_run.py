"""A run of a traced network on blank images, for the shapes and the costs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils.flop_counter import FlopCounterMode

from featpipe.backbones.depths import Shape

__all__ = ["BlankRun"]

# Two images: a node whose first axis is not the batch gives itself away.
_N_PROBE = 2

# Up to so many parameters and pixels a side, blank images really run: torch computes
# shapes alone in Python, and first imports its compiler, which takes two seconds.
_FEW_PARAMETERS, _SMALL_SIDE = 5_000_000, 256


class BlankRun(fx.Interpreter):
    """Runs a graph on blank images, noting the shape and the cost of each node.

    Parameters
    ----------
    module : fx.GraphModule
        Takes images (n, 3, H, W) float32.
    costs : bool
        Count the operations of each node as well, which takes longer.

    Attributes
    ----------
    shapes : dict of fx.Node to tuple of int
        What each node gives, without the number of images in front. Nodes that give
        no tensor of one row an image are not there.
    costs : dict of fx.Node to int
        Floating-point operations, of all images.
    """

    def __init__(self, module: fx.GraphModule, *, costs: bool = False) -> None:
        super().__init__(module)
        self.shapes: dict[fx.Node, Shape] = {}
        self.costs: dict[fx.Node, int] = {}
        self._counter = FlopCounterMode(display=False) if costs else None

    def run_blank(self, height: int, width: int) -> None:
        """Run on the meta device, which computes shapes only, or on the processor."""
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
            # Tensors made inside forward, operations without a meta kernel: the real
            # run then also says what is truly wrong.
            except Exception:
                walk(blank)

    def run_node(self, n: fx.Node) -> Any:
        """Run a node as fx does, and note its shape and its cost."""
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
    """Return whether it has few parameters, and numbers in them."""
    parameters = list(network.parameters())
    return not any(each.is_meta for each in parameters) and (
        sum(each.numel() for each in parameters) <= _FEW_PARAMETERS
    )


class _AsModule(nn.Module):
    """An interpreter as a module, so that its weights can be stood in for."""

    def __init__(self, walk: BlankRun) -> None:
        super().__init__()
        self.module = walk.module
        self._run = walk.run

    def forward(self, images: Tensor) -> Any:
        return self._run(images)
