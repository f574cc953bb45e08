"""The bundled network `mini`, and its weights.

`mini` is a residual CNN of 1.27 M parameters, so that featpipe runs without a download.
``pipelines/pretrain_mini.py`` trained it on 200 ImageNet classes at 64×64 pixels;
``docs/reference/mini.md`` is its model card.
"""

from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn

__all__ = ["PREPROCESSING", "WEIGHTS_PATH", "Mini", "load_weights"]

WEIGHTS_PATH = Path(__file__).with_name("mini.safetensors")

# That of training and scoring: the shorter side to `resize`, then a centre crop,
# antialiased. Mean and std are ImageNet's, for RGB from 0 to 1.
PREPROCESSING = {
    "resize": 64,
    "crop": 64,
    "interpolation": "bilinear",
    "antialias": True,
    "mean": (0.485, 0.456, 0.406),
    "std": (0.229, 0.224, 0.225),
}


class Residual(nn.Module):
    """A residual block: ``relu(body(x) + shortcut(x))``.

    Parameters
    ----------
    n_in
        Channels of the input.
    steps
        ``(channels, kernel side)`` of each convolution of the body, in order.
    stride
        Stride of the body's first 3×3 convolution, 1 or 2.
    """

    def __init__(
        self, n_in: int, steps: list[tuple[int, int]], stride: int = 1
    ) -> None:
        super().__init__()
        n_out = steps[-1][0]
        layers: list[nn.Module] = []
        n, left = n_in, stride
        for width, side in steps:
            step = left if side == 3 else 1
            left = left // step
            layers += [*_convolution(n, width, side, step), nn.ReLU()]
            n = width
        self.body = nn.Sequential(*layers[:-1])
        # Averaged first, since a strided 1×1 convolution would drop pixels.
        pool = [nn.AvgPool2d(3, stride, padding=1)] if stride > 1 else []
        change = _convolution(n_in, n_out, 1) if n_in != n_out else []
        self.shortcut = nn.Sequential(*pool, *change)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, n_in, H, W) to (n, n_out, ceil(H / stride), ceil(W / stride))."""
        maps: Tensor = self.relu(self.body(x) + self.shortcut(x))
        return maps


class Mini(nn.Module):
    """The bundled network, from images to class scores.

    It has only plain 3×3 and 1×1 convolutions, batch norm and ReLU, so that batch norm
    folds into the convolutions, and every kernel has a fast bfloat16 form. For an input
    of 64×64:

    ========  ==============  ===================================
    child     maps            layers
    ========  ==============  ===================================
    stem      32 × 32 × 32    one 3×3 convolution, stride 2
    stage1    32 × 32 × 32    one basic block
    stage2    64 × 16 × 16    two basic blocks
    stage3    128 × 8 × 8     two basic blocks
    stage4    384 × 8 × 8     two bottlenecks (384, 128, 128, 384)
    pool      384 × 1 × 1     the mean over positions
    flatten   384             the code of ``penultimate``
    head      n_classes       the class scores
    ========  ==============  ===================================

    Parameters
    ----------
    n_classes
        Scores per image; 200, the classes of Tiny ImageNet, for the bundled weights.
    """

    def __init__(self, n_classes: int = 200) -> None:
        super().__init__()
        neck = [(128, 1), (128, 3), (384, 1)]
        self.stem = nn.Sequential(*_convolution(3, 32, 3, stride=2), nn.ReLU())
        self.stage1 = nn.Sequential(Residual(32, [(32, 3)] * 2))
        self.stage2 = nn.Sequential(
            Residual(32, [(64, 3)] * 2, stride=2), Residual(64, [(64, 3)] * 2)
        )
        self.stage3 = nn.Sequential(
            Residual(64, [(128, 3)] * 2, stride=2), Residual(128, [(128, 3)] * 2)
        )
        self.stage4 = nn.Sequential(Residual(128, neck), Residual(384, neck))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.head = nn.Linear(384, n_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return class scores (n, n_classes) of (n, 3, H, W), H and W at least 32."""
        x = self.stage1(self.stem(images))
        x = self.stage4(self.stage3(self.stage2(x)))
        scores: Tensor = self.head(self.flatten(self.pool(x)))
        return scores


def load_weights() -> dict[str, Tensor]:
    """Return the bundled weights, as a state dict of `Mini`.

    Returns
    -------
    dict of str to Tensor
        On the CPU, in float32; batch norm's counters are int64.

    Raises
    ------
    FileNotFoundError
        If the package was installed without its weights file.
    """
    if not WEIGHTS_PATH.is_file():
        raise FileNotFoundError(
            f"the weights of mini are not at {str(WEIGHTS_PATH)!r}; install featpipe "
            "with its package data, or make them with pipelines/pretrain_mini.py"
        )
    stored = safetensors.torch.load_file(WEIGHTS_PATH)
    return {
        # They are stored as float16, to keep the package small.
        name: tensor.to(torch.float32) if tensor.is_floating_point() else tensor
        for name, tensor in stored.items()
    }


def _convolution(n_in: int, n_out: int, side: int, stride: int = 1) -> list[nn.Module]:
    """Return a convolution that divides the size by ``stride``, and a batch norm."""
    return [
        nn.Conv2d(n_in, n_out, side, stride, padding=side // 2, bias=False),
        nn.BatchNorm2d(n_out),
    ]
