"""Networks as users write them, named as ``own_networks:small``."""

from collections import OrderedDict

import torch
from torch import nn

__all__ = ["Bounded", "Restless", "small", "wide"]


class Block(nn.Module):
    """A residual block with a projected shortcut."""

    def __init__(self, n_in: int, n_out: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(n_in, n_out, 3, stride, 1, bias=False),
            nn.BatchNorm2d(n_out),
            nn.ReLU(inplace=True),
            nn.Conv2d(n_out, n_out, 3, 1, 1, bias=False),
            nn.BatchNorm2d(n_out),
        )
        self.short = nn.Conv2d(n_in, n_out, 1, stride, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.body(x) + self.short(x))


def small(width: int = 8, n_classes: int = 10) -> nn.Module:
    """A residual network for 32×32 images."""
    return nn.Sequential(
        OrderedDict(
            stem=nn.Conv2d(3, width, 3, padding=1),
            block1=Block(width, 2 * width, 2),
            block2=Block(2 * width, 4 * width, 2),
            pool=nn.AdaptiveAvgPool2d(1),
            flat=nn.Flatten(),
            head=nn.Linear(4 * width, n_classes),
        )
    )


def wide() -> nn.Module:
    """A wide convolution, whose weights oneDNN packs by the number of threads."""
    layers = nn.Conv2d(3, 256, 1), nn.Conv2d(256, 1024, 1), nn.ReLU()
    return nn.Sequential(
        *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1024, 2)
    )


class Restless(nn.Module):
    """A network whose control flow asks for values, which no graph records."""

    def __init__(self) -> None:
        super().__init__()
        self.small = small()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if float(x.abs().max()) > 1e6:
            x = x / x.abs().max()
        return self.small(x)


class Bounded(nn.Module):
    """A network with a bound that bounds nothing, as timm's Gemma has."""

    limit: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Conv2d(3, 4, 3)
        self.register_buffer("limit", torch.tensor(torch.inf))
        self.head = nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.minimum(self.body(x), self.limit).mean((2, 3)))
