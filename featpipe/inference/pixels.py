"""From the bytes of an image file to the square of pixels that a network takes.

Exact, every pixel is decoded and resized by Pillow, to the bit as torchvision does
with Pillow images. Scaled, JPEG makes large images smaller by itself, and torch
resizes what is left, three times as fast and one grey level off here and there.
"""

from typing import TYPE_CHECKING

import numpy as np

from featpipe import images

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

    from featpipe.backbones.preprocessing import Preprocessing
    from featpipe.images import Decoded

__all__ = ["pixels_of", "shrunk"]


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
    if _is_torch_to_resize(decoded, preprocessing, exact):
        smaller = _resized(decoded, preprocessing)
        if min(smaller.shape[1:]) < preprocessing.crop:
            return preprocessing.cropped(_as_image(smaller)), decoded.notes
        left, top = preprocessing.corner((smaller.shape[2], smaller.shape[1]))
        side = preprocessing.crop
        square = smaller[:, top : top + side, left : left + side]
        return square.contiguous().numpy(), decoded.notes
    return preprocessing.cropped(_shrunk(decoded, preprocessing)), decoded.notes


def shrunk(
    content: bytes, preprocessing: "Preprocessing", *, exact: bool
) -> tuple["Image.Image", tuple[str, ...]]:
    """Decode and resize one image as `pixels_of` does, without the crop."""
    decoded = images.decode(content, target=_target(preprocessing, exact))
    if _is_torch_to_resize(decoded, preprocessing, exact):
        return _as_image(_resized(decoded, preprocessing)), decoded.notes
    return _shrunk(decoded, preprocessing), decoded.notes


def _as_image(pixels: "Tensor") -> "Image.Image":
    from PIL import Image

    return Image.fromarray(pixels.permute(1, 2, 0).numpy())


def _target(preprocessing: "Preprocessing", exact: bool) -> int | None:
    # Without a resize, the crop is of the image as it is.
    return None if exact else preprocessing.resize


def _is_torch_to_resize(
    decoded: "Decoded", preprocessing: "Preprocessing", exact: bool
) -> bool:
    if exact or preprocessing.interpolation not in ("bilinear", "bicubic"):
        return False
    return preprocessing.resized(decoded.full) != decoded.size


def _shrunk(decoded: "Decoded", preprocessing: "Preprocessing") -> "Image.Image":
    return preprocessing.shrunk(decoded.image, decoded.full, decoded.extent)


def _resized(decoded: "Decoded", preprocessing: "Preprocessing") -> "Tensor":
    """Do what `Preprocessing.shrunk` does, faster: (3, H, W) uint8, channels last."""
    import torch

    pixels = torch.from_numpy(decoded.pixels).permute(2, 0, 1)
    # By factors and not by sizes, which know nothing of the extent; a trace more, since
    # torch rounds what comes out down to whole pixels.
    size = preprocessing.resized(decoded.full)
    ratios = zip(size, decoded.extent, strict=True)
    factors = [to / extent * (1 + 1e-12) for to, extent in ratios]
    return torch.nn.functional.interpolate(
        pixels[None],
        scale_factor=factors[::-1],
        mode=preprocessing.interpolation,
        antialias=True,
    )[0, :3]
