"""Turn the bytes of an image file into the square of pixels that a network takes.

Exact decoding: Pillow decodes and resizes every pixel, bit for bit as torchvision does
with Pillow images. Scaled decoding: libjpeg decodes large images at a smaller size and
torch resizes them, three times as fast; some pixels differ by one grey level.
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
    """The options by which image files become pixels.

    Parameters
    ----------
    exact : bool
        Whether to decode exactly; see above.
    value_range : str or (low, high)
        As in `images.decode`.
    max_pixels : int, optional
        As in `images.decode`. It changes which images fail, and no pixel.

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
        """Return the options that the ``decoding`` of a provenance has.

        Raises
        ------
        ValueError
            If its value range or its limit of pixels is invalid.
        """
        value_range = parse_value_range(record.get("value_range", "file"))
        max_pixels = images.check_max_pixels(record.get("max_pixels", MAX_PIXELS))
        return cls(record.get("mode") == "exact", value_range, max_pixels)

    def as_record(self) -> dict[str, Any]:
        """Return it for JSON, without options at the value that older files imply."""
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
    """Decode one image, resize it and crop it to the square that the network takes.

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
    # torch resizes in 0.9 ms, Pillow in 2.0 (docs/inside/performance.md); they differ
    # by rounding, which "scaled" allows and "exact" does not.
    if _is_torch_to_resize(decoded, preprocessing, decoding):
        smaller = _resized(decoded, preprocessing)
        # Padding is rare, so Pillow, which is the reference, does it.
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
    """Raise if resizing the shorter side of a narrow image would exceed any memory."""
    width, height = preprocessing.resized(size)
    # An image smaller than the crop is padded to it.
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
    """Resize as `Preprocessing.shrunk`, but faster: (3, H, W) uint8, channels last."""
    import torch

    pixels = torch.from_numpy(decoded.pixels).permute(2, 0, 1)
    # By factors, since sizes would lose the extent; slightly more than the factor,
    # since torch rounds the resulting sizes down.
    size = preprocessing.resized(decoded.full)
    ratios = zip(size, decoded.extent, strict=True)
    factors = [to / extent * (1 + 1e-12) for to, extent in ratios]
    return torch.nn.functional.interpolate(
        pixels[None],
        scale_factor=factors[::-1],
        mode=preprocessing.interpolation,
        antialias=True,
    )[0, :3]
