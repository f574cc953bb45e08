"""Small networks for the tests, named as ``networks:tiny``."""

from collections import OrderedDict

import torch
from torch import nn

__all__ = ["exploding", "loud", "tiny"]


def tiny() -> nn.Module:
    """Two convolutions, one with batch norm, and a head: milliseconds an image."""
    layers = OrderedDict(
        stem=nn.Conv2d(3, 4, 3, stride=2, padding=1, bias=False),
        norm=nn.BatchNorm2d(4),
        act=nn.ReLU(),
        body=nn.Conv2d(4, 6, 3, stride=2, padding=1),
        late=nn.ReLU(),
        pool=nn.AdaptiveAvgPool2d(1),
        flat=nn.Flatten(),
        head=nn.Linear(6, 3),
    )
    return nn.Sequential(layers)


class _Scaled(nn.Module):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.factor


def loud() -> nn.Module:
    """Codes beyond what float16 holds."""
    network = tiny()
    network.late = nn.Sequential(nn.ReLU(), _Scaled(1e7))
    return network


class _Divided(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        flat = x.flatten(2)
        return x / (flat.amax(2) - flat.amin(2))[..., None, None]


def exploding() -> nn.Module:
    """Codes that are not finite for an image of one grey."""
    return nn.Sequential(_Divided(), tiny())
