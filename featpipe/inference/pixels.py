"""From the bytes of an image file to the square of pixels that a network takes.

Exact, every pixel is decoded and resized by Pillow, to the bit as torchvision does
with Pillow images. Scaled, JPEG makes large images smaller by itself, and torch
resizes what is left, three times as fast and one grey level off here and there.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from featpipe import images
from featpipe.images import MAX_PIXELS, ImageError, ValueRange, parse_value_range

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

    from featpipe.backbones import Preprocessing
    from featpipe.images import Decoded

__all__ = ["Decoding", "decode_resized", "pixels_of"]


@dataclass(frozen=True)
class Decoding:
    """How image files become pixels, as far as a user decides it.

    Parameters
    ----------
    exact : bool
        Use every pixel; see above.
    value_range : str or (low, high)
        As in `images.decode`.
    max_pixels : int, optional
        As in `images.decode`. It decides which images fail, and no pixel.

    Examples
    --------
    >>> Decoding.recorded({"mode": "scaled", "value_range": [0, 4095]})
    Decoding(exact=False, value_range=(0.0, 4095.0), max_pixels=89478485)
    """

    exact: bool = True
    value_range: ValueRange = "file"
    max_pixels: int | None = MAX_PIXELS

    @classmethod
    def recorded(cls, record: Mapping[str, Any]) -> "Decoding":
        """Return what the ``decoding`` of a provenance has.

        Raises
        ------
        ValueError
            If its value range is none, or its limit of pixels.
        """
        value_range = parse_value_range(record.get("value_range", "file"))
        max_pixels = images.check_max_pixels(record.get("max_pixels", MAX_PIXELS))
        return cls(record.get("mode") == "exact", value_range, max_pixels)

    def as_record(self) -> dict[str, Any]:
        """Return it as JSON, without what every file had before there was a choice."""
        record: dict[str, Any] = {"mode": "exact" if self.exact else "scaled"}
        if self.value_range != "file":
            is_text = isinstance(self.value_range, str)
            record["value_range"] = (
                self.value_range if is_text else list(self.value_range)
            )
        if self.max_pixels != MAX_PIXELS:
            record["max_pixels"] = self.max_pixels
        return record


def pixels_of(
    content: bytes, preprocessing: "Preprocessing", decoding: Decoding
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Decode one image, and make it as large as the network wants it.

    Parameters
    ----------
    content : bytes
        The whole file.
    preprocessing : Preprocessing
    decoding : Decoding

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
    decoded = _decoded(content, preprocessing, decoding)
    # torch's resize takes 0.9 ms where Pillow's takes 2.0 (docs/inside/performance.md);
    # it differs by rounding, which "scaled" allows and "exact" does not.
    if _is_torch_to_resize(decoded, preprocessing, decoding):
        smaller = _resized(decoded, preprocessing)
        # Padding is rare, and Pillow's way of it is the reference.
        if min(smaller.shape[1:]) < preprocessing.crop:
            return preprocessing.cropped(_as_image(smaller)), decoded.notes
        left, top = preprocessing.corner((smaller.shape[2], smaller.shape[1]))
        side = preprocessing.crop
        square = smaller[:, top : top + side, left : left + side]
        return square.contiguous().numpy(), decoded.notes
    return preprocessing.cropped(_shrunk(decoded, preprocessing)), decoded.notes


def decode_resized(
    content: bytes, preprocessing: "Preprocessing", decoding: Decoding
) -> tuple["Image.Image", tuple[str, ...]]:
    """Decode and resize one image as `pixels_of` does, without the crop.

    Examples
    --------
    >>> from featpipe.backbones import Preprocessing
    >>> wide = images.from_arrays(np.zeros((1, 20, 40), np.uint8)).read(0)
    >>> square = Preprocessing(10, 8, "bilinear", True, (0.5,) * 3, (0.5,) * 3)
    >>> decode_resized(wide, square, Decoding())[0].size  # width and height
    (20, 10)
    """
    decoded = _decoded(content, preprocessing, decoding)
    if _is_torch_to_resize(decoded, preprocessing, decoding):
        return _as_image(_resized(decoded, preprocessing)), decoded.notes
    return _shrunk(decoded, preprocessing), decoded.notes


def _as_image(pixels: "Tensor") -> "Image.Image":
    from PIL import Image

    return Image.fromarray(pixels.permute(1, 2, 0).numpy())


def _decoded(
    content: bytes, preprocessing: "Preprocessing", decoding: Decoding
) -> "Decoded":
    # Without a resize, the crop is of the image as it is.
    target = None if decoding.exact else preprocessing.resize
    decoded = images.decode(
        content,
        target=target,
        value_range=decoding.value_range,
        max_pixels=decoding.max_pixels,
    )
    _require_small_when_resized(decoded.full, preprocessing)
    return decoded


def _require_small_when_resized(
    size: tuple[int, int], preprocessing: "Preprocessing"
) -> None:
    """Raise if a narrow image would grow beyond every memory with its shorter side."""
    width, height = preprocessing.resized(size)
    # What is smaller than the crop is filled up to it.
    side = preprocessing.crop
    n = max(width, side) * max(height, side)
    if n > MAX_PIXELS and n > size[0] * size[1]:
        raise ImageError(
            "decode",
            f"{size[0]:,} x {size[1]:,} pixels are too narrow: resized, they would be "
            f"{n:,} pixels, more than {MAX_PIXELS:,}; cut it into pieces",
        )


def _is_torch_to_resize(
    decoded: "Decoded", preprocessing: "Preprocessing", decoding: Decoding
) -> bool:
    if decoding.exact or preprocessing.interpolation not in ("bilinear", "bicubic"):
        return False
    # Already of the right size: nothing to resize.
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
