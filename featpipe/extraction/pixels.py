"""From the bytes of an image file to the square of pixels that a network takes.

Exact, every pixel is decoded and resized by Pillow, to the bit as torchvision does
with Pillow images. Scaled, JPEG makes large images smaller by itself, and torch
resizes what is left, three times as fast and one grey level off here and there.
"""

from typing import TYPE_CHECKING, Union

import numpy as np

from featpipe import images

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

    from featpipe.backbones.preprocessing import Preprocessing
    from featpipe.images import Decoded

__all__ = [
    "Pixels",
    "cropped",
    "is_for_torch",
    "pixels_of",
    "resized",
    "shrunk",
    "whole",
]

Pixels = Union[np.ndarray, "Tensor"]
"""(3, S, S) uint8 of one image: an array here, or a tensor on a GPU."""


def pixels_of(
    content: bytes, preprocessing: "Preprocessing", *, exact: bool
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Decode one image, and make it as large as the network wants it.

    Parameters
    ----------
    content : bytes
        The whole file.
    preprocessing : Preprocessing
    exact : bool
        Use every pixel; see above.

    Returns
    -------
    pixels : (3, S, S) uint8
    notes : tuple of str
        As `images.decode`.

    Raises
    ------
    ImageError
        If it cannot be decoded.
    """
    decoded = images.decode(content, target=_target(preprocessing, exact))
    if _is_for_torch(decoded, preprocessing, exact):
        square = cropped(_resized(decoded, preprocessing), preprocessing)
        return square.contiguous().numpy(), decoded.notes
    return preprocessing.cropped(_shrunk(decoded, preprocessing)), decoded.notes


def shrunk(
    content: bytes, preprocessing: "Preprocessing", *, exact: bool
) -> tuple["Image.Image", tuple[str, ...]]:
    """Decode and resize one image as `pixels_of` does, without the crop."""
    decoded = images.decode(content, target=_target(preprocessing, exact))
    if _is_for_torch(decoded, preprocessing, exact):
        from PIL import Image

        smaller = _resized(decoded, preprocessing)
        return Image.fromarray(smaller.permute(1, 2, 0).numpy()), decoded.notes
    return _shrunk(decoded, preprocessing), decoded.notes


def _target(preprocessing: "Preprocessing", exact: bool) -> int | None:
    # Without a resize, the crop is of the image as it is.
    return None if exact else preprocessing.resize


def _is_for_torch(
    decoded: "Decoded", preprocessing: "Preprocessing", exact: bool
) -> bool:
    return not exact and is_for_torch(decoded.full, decoded.size, preprocessing)


def _shrunk(decoded: "Decoded", preprocessing: "Preprocessing") -> "Image.Image":
    return preprocessing.shrunk(decoded.image, decoded.full, decoded.extent)


def _resized(decoded: "Decoded", preprocessing: "Preprocessing") -> "Tensor":
    import torch

    pixels = torch.from_numpy(decoded.pixels).permute(2, 0, 1)
    return resized(pixels[None], decoded.full, decoded.extent, preprocessing)[0]


def is_for_torch(
    full: tuple[int, int], size: tuple[int, int], preprocessing: "Preprocessing"
) -> bool:
    """Say whether `resized` is to do, and can do, what `Preprocessing.shrunk` does.

    Parameters
    ----------
    full, size : (width, height)
        Of the whole image, and as it was decoded.
    preprocessing : Preprocessing
    """
    if preprocessing.interpolation not in ("bilinear", "bicubic"):
        return False
    return preprocessing.resized(full) != size


def resized(
    pixels: "Tensor",
    full: tuple[int, int],
    extent: tuple[float, float],
    preprocessing: "Preprocessing",
) -> "Tensor":
    """Do what `Preprocessing.shrunk` does, faster, and on any device.

    Parameters
    ----------
    pixels : (n, 3 or 4, H, W) uint8
        Images of one size.
    full, extent : (width, height)
        As of `images.Decoded`.
    preprocessing : Preprocessing

    Returns
    -------
    (n, 3, h, w) uint8 or float32
        What is not whole yet, `whole` makes so.
    """
    import torch

    # By factors and not by sizes, which know nothing of the extent; a trace more, since
    # torch rounds what comes out down to whole pixels.
    size = preprocessing.resized(full)
    ratios = zip(size, extent, strict=True)
    factors = [to / part * (1 + 1e-12) for to, part in ratios]
    on_cpu = _has_whole_numbers(pixels.device.type)
    return torch.nn.functional.interpolate(
        pixels if on_cpu else pixels.float(),
        scale_factor=factors[::-1],
        mode=preprocessing.interpolation,
        antialias=True,
    )[:, :3]


def _has_whole_numbers(kind: str) -> bool:
    """Say whether torch resizes uint8 on a kind of device."""
    return kind == "cpu"


def whole(pixels: "Tensor") -> "Tensor":
    """Round pixels of any shape to uint8."""
    import torch

    if pixels.dtype == torch.uint8:
        return pixels
    return pixels.round().clamp_(0, 255).to(torch.uint8)


def cropped(pixels: "Tensor", preprocessing: "Preprocessing") -> "Tensor":
    """Cut the central square out of (..., H, W) that is not smaller; a view."""
    left, top = preprocessing.corner((pixels.shape[-1], pixels.shape[-2]))
    side = preprocessing.crop
    return pixels[..., top : top + side, left : left + side]
