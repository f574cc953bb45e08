"""Recognise single layers: leaves, dropout, and layers that make class scores.

Both `tracing` and `hooking` use these functions.
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

# Layers that may follow the one that makes class scores (in squeezenet ReLU, pool and
# flatten).
AFTER_SCORES = (
    *DROPOUTS,
    *(nn.ReLU, nn.Sigmoid, nn.Softmax, nn.LogSoftmax),
    *(nn.Flatten, nn.AvgPool2d, nn.AdaptiveAvgPool2d),
)


def is_leaf(module: nn.Module) -> bool:
    """Return whether a module is one of torch's own layers, not a container."""
    own = type(module).__module__.startswith(("torch.nn.", "torch.ao.nn."))
    containers = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
    return own and not isinstance(module, containers)


def makes_scores(module: nn.Module) -> bool:
    """Return whether a module can be the last layer: Linear or 1×1 convolution."""
    if isinstance(module, nn.Conv2d):
        return tuple(module.kernel_size) == (1, 1)
    return isinstance(module, nn.Linear)


def is_stochastic_depth(module: nn.Module) -> bool:
    """Return whether a module is torchvision's layer that skips a branch in training.

    It is recognised by its name, since torchvision takes two seconds to import.
    """
    return type(module).__module__ == "torchvision.ops.stochastic_depth"
