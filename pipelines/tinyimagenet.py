"""Tiny ImageNet for `pretrain_mini`: read the zip, crop and recolour at random."""

import io
import math
import zipfile
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from featpipe.backbones.mini import PREPROCESSING

__all__ = ["augment", "normalise", "read_split"]


def read_split(path: Path, split: str) -> tuple[Tensor, Tensor, list[str]]:
    """Decode one split: images (n, 3, 64, 64) uint8, labels (n,), sorted folders."""
    with zipfile.ZipFile(path) as archive:
        prefix = f"tinyimagenet/{split}/"
        names = sorted(n for n in archive.namelist() if n.startswith(prefix))
        wnids = sorted({name.split("/")[2] for name in names})
        images = np.empty((len(names), 3, 64, 64), np.uint8)
        for row, name in enumerate(names):
            with Image.open(io.BytesIO(archive.read(name))) as image:
                images[row] = np.asarray(image.convert("RGB")).transpose(2, 0, 1)
    labels = [wnids.index(name.split("/")[2]) for name in names]
    return torch.from_numpy(images), torch.tensor(labels), wnids


def normalise(images: Tensor) -> Tensor:
    """Images of 0..1 to the network's scale, in the memory order it is fast with."""
    mean = torch.tensor(PREPROCESSING["mean"], device=images.device).view(3, 1, 1)
    std = torch.tensor(PREPROCESSING["std"], device=images.device).view(3, 1, 1)
    return ((images - mean) / std).contiguous(memory_format=torch.channels_last)


def augment(
    images: Tensor, side_px: int, min_area: float, jitter: float, draw: torch.Generator
) -> Tensor:
    """Crop, mirror and recolour each image at random, in one resampling.

    Crops cover a share of the image from [min_area, 1] at an aspect ratio from
    [3/4, 4/3]; brightness, contrast and saturation change by up to `jitter`. Images
    (n, 3, 64, 64) uint8 become (n, 3, side_px, side_px) float32, normalised.
    """
    n = len(images)

    def uniform(low: float, high: float) -> Tensor:
        return torch.rand(n, generator=draw) * (high - low) + low

    area, aspect = uniform(min_area, 1), uniform(math.log(3 / 4), math.log(4 / 3)).exp()
    width = (area * aspect).sqrt().clamp(max=1)
    height = (area / aspect).sqrt().clamp(max=1)
    theta = torch.zeros(n, 2, 3)
    theta[:, 0, 0] = width * torch.sign(uniform(-1, 1))
    theta[:, 1, 1] = height
    theta[:, 0, 2] = (1 - width) * uniform(-1, 1)
    theta[:, 1, 2] = (1 - height) * uniform(-1, 1)
    scales = [uniform(1 - jitter, 1 + jitter).view(n, 1, 1, 1) for _ in range(3)]

    device = images.device
    shape = [n, 3, side_px, side_px]
    grid = F.affine_grid(theta.to(device), shape, align_corners=False)
    pixels = images.float() / 255
    x = F.grid_sample(pixels, grid, padding_mode="reflection", align_corners=False)
    brightness, contrast, saturation = (scale.to(device) for scale in scales)
    x = x * brightness
    x = torch.lerp(x.mean((1, 2, 3), keepdim=True), x, contrast)
    x = torch.lerp(x.mean(1, keepdim=True), x, saturation)
    return normalise(x.clamp(0, 1))
