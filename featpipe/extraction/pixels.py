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
    image, notes = shrunk(content, preprocessing, exact=exact)
    return preprocessing.cropped(image), notes


def shrunk(
    content: bytes, preprocessing: "Preprocessing", *, exact: bool
) -> tuple["Image.Image", tuple[str, ...]]:
    """Decode and resize one image as `pixels_of` does, without the crop."""
    # Without a resize, the crop is of the image as it is.
    decoded = images.decode(content, target=None if exact else preprocessing.resize)
    image, notes, full = decoded
    if exact or preprocessing.interpolation not in ("bilinear", "bicubic"):
        return preprocessing.shrunk(image, full, decoded.extent), notes
    return _resized(decoded, preprocessing), notes


def _resized(decoded: "Decoded", preprocessing: "Preprocessing") -> "Image.Image":
    """Do what `Preprocessing.shrunk` does, faster."""
    import torch
    from PIL import Image

    size = preprocessing.resized(decoded.full)
    if size == decoded.image.size:
        return decoded.image
    pixels = torch.from_numpy(np.array(decoded.image)).permute(2, 0, 1)
    # By factors and not by sizes, which know nothing of the extent; a trace more, since
    # torch rounds what comes out down to whole pixels.
    ratios = zip(size, decoded.extent, strict=True)
    factors = [to / extent * (1 + 1e-12) for to, extent in ratios]
    smaller = torch.nn.functional.interpolate(
        pixels[None],
        scale_factor=factors[::-1],
        mode=preprocessing.interpolation,
        antialias=True,
    )
    return Image.fromarray(smaller[0].permute(1, 2, 0).numpy())
