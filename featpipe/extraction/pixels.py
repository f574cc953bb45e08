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

    from featpipe.backbones.preprocessing import Preprocessing

__all__ = ["pixels_of"]


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
    if exact:
        image, notes = images.decode(content)
    else:
        target = preprocessing.resize or preprocessing.crop
        image, notes = images.decode(content, target=target)
        image = _resized(image, preprocessing)
    return preprocessing.apply(image), notes


def _resized(image: "Image.Image", preprocessing: "Preprocessing") -> "Image.Image":
    """Do what `Preprocessing.apply` would do first, faster where torch can."""
    size = preprocessing.resized(image.size)
    if size == image.size or preprocessing.interpolation not in ("bilinear", "bicubic"):
        return image
    import torch
    from PIL import Image

    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    smaller = torch.nn.functional.interpolate(
        pixels[None], size[::-1], mode=preprocessing.interpolation, antialias=True
    )
    return Image.fromarray(smaller[0].permute(1, 2, 0).numpy())
