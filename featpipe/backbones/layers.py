"""Recognise single layers: leaves, dropout, the layer that makes class scores.

Facts about torch's own layers, shared by the two ways of seeing into a network.
"""

from __future__ import annotations

from torch import nn

__all__ = [
    "AFTER_SCORES",
    "DROPOUTS",
    "is_leaf",
    "is_stochastic_depth",
    "makes_scores",
]

DROPOUTS = (nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.AlphaDropout)

# What may lie between the layer that makes class scores and the output
# (squeezenet: convolution, ReLU, pool, flatten).
AFTER_SCORES = (
    *DROPOUTS,
    *(nn.ReLU, nn.Sigmoid, nn.Softmax, nn.LogSoftmax),
    *(nn.Flatten, nn.AvgPool2d, nn.AdaptiveAvgPool2d),
)


def is_leaf(module: nn.Module) -> bool:
    """Return whether it is one of torch's own layers, not a container."""
    own = type(module).__module__.startswith(("torch.nn.", "torch.ao.nn."))
    containers = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
    return own and not isinstance(module, containers)


def makes_scores(module: nn.Module) -> bool:
    """Return whether it can be the last layer: a Linear or a 1×1 convolution."""
    if isinstance(module, nn.Conv2d):
        return tuple(module.kernel_size) == (1, 1)
    return isinstance(module, nn.Linear)


def is_stochastic_depth(module: nn.Module) -> bool:
    """Return whether it is torchvision's layer that skips a branch in training.

    By its name: torchvision takes two seconds to import, and networks of others do
    without.
    """
    return type(module).__module__ == "torchvision.ops.stochastic_depth"
