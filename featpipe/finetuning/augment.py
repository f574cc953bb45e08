"""Draw random views of a picture: mirrored, cropped, recoloured.

Every function draws from the generator that it is given, so that a view does not depend
on threads, and is the same after a resume. Knows nothing of files or networks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as f

__all__ = ["centre", "view"]

# As in torchvision's RandomResizedCrop, but for the smallest share of the area: the
# 0.08 of ImageNet's recipe is for hundreds of epochs, and often misses the object.
_AREA = (0.35, 1.0)
_LOG_RATIO = math.log(4 / 3)
_COLOUR = 0.3


def view(
    picture: Tensor, side: int, kinds: Sequence[str], rng: np.random.Generator
) -> Tensor:
    """Draw one view of a picture.

    Parameters
    ----------
    picture : (3, H, W) uint8
    side : int
        Side of the returned square, in pixels.
    kinds : sequence of str
        Of ``settings.AUGMENTATIONS``: ``flip`` (left-right), ``vflip`` (upside down),
        ``crop`` (a random part, resized; else the centre), ``colour`` (brightness,
        contrast and saturation, each by a factor from 0.7 to 1.3).
    rng : numpy Generator

    Returns
    -------
    (3, side, side) uint8
    """
    square = _crop(picture, side, rng) if "crop" in kinds else centre(picture, side)
    if "flip" in kinds and rng.random() < 0.5:
        square = square.flip(-1)
    if "vflip" in kinds and rng.random() < 0.5:
        # After the crop, so that a mirrored view is the mirror image of another view.
        square = square.flip(-2)
    if "colour" in kinds:
        # Drawn together, so that a view depends on its seed alone.
        brightness, contrast, saturation = rng.uniform(1 - _COLOUR, 1 + _COLOUR, 3)
        square = f.adjust_brightness(square, float(brightness))
        square = f.adjust_contrast(square, float(contrast))
        square = f.adjust_saturation(square, float(saturation))
    return square


def centre(picture: Tensor, side: int) -> Tensor:
    """Cut the central square as `Preprocessing.apply` does; pad small images in black.

    Parameters
    ----------
    picture : (3, H, W) uint8
    side : int

    Returns
    -------
    (3, side, side) uint8
    """
    height, width = picture.shape[1:]
    if height < side or width < side:
        canvas = torch.zeros(3, max(height, side), max(width, side), dtype=torch.uint8)
        # As `Preprocessing.apply` pads: the odd pixel goes below and to the right.
        top, left = max(side - height, 0) // 2, max(side - width, 0) // 2
        canvas[:, top : top + height, left : left + width] = picture
        picture, (height, width) = canvas, (canvas.shape[1], canvas.shape[2])
    top, left = round((height - side) / 2), round((width - side) / 2)
    return picture[:, top : top + side, left : left + side]


def _crop(picture: Tensor, side: int, rng: np.random.Generator) -> Tensor:
    """Cut a random part of some area and ratio, and resize it to the square."""
    height, width = picture.shape[1:]
    area = height * width * rng.uniform(*_AREA)
    # Uniform in the logarithm: 3/4 is as likely as 4/3.
    ratio = math.exp(rng.uniform(-_LOG_RATIO, _LOG_RATIO))
    # A part larger than the picture is cut down to it.
    w = max(1, min(width, round(math.sqrt(area * ratio))))
    h = max(1, min(height, round(math.sqrt(area / ratio))))
    top, left = rng.integers(height - h + 1), rng.integers(width - w + 1)
    part: Tensor = f.resized_crop(
        picture, int(top), int(left), h, w, [side, side], antialias=True
    )
    return part
