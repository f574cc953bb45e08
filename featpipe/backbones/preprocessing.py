"""Resize and crop an upright RGB image to the square that a network takes.

The functions work on Pillow images, in any thread, and do not need torch. The backbone
normalises the pixels, on the device.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from numbers import Real
from typing import Any

import numpy as np
from PIL import Image

from featpipe.bounds import require_number

__all__ = ["IMAGENET_MEAN", "IMAGENET_STD", "Preprocessing"]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

# By torchvision's names, which weights entries use.
_FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "nearest-exact": Image.Resampling.NEAREST,
    "box": Image.Resampling.BOX,
    "bilinear": Image.Resampling.BILINEAR,
    "hamming": Image.Resampling.HAMMING,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


# Networks that take pixels from 0 to 255 have a std of 1/255.
_MIN_STD = 1 / 256
_MAX_SIDE = 8192
_CROP_MODES = ("center", "squash", "border")


@dataclass(frozen=True)
class Preprocessing:
    """The steps from an image to the input of a network.

    Parameters
    ----------
    resize : int or None
        Length of the shorter side after resizing, in pixels; None: no resizing.
    crop : int
        Side in pixels of the square cut from the centre.
    interpolation : str
        ``bilinear``, ``bicubic``, ``nearest``, ``box``, ``hamming`` or ``lanczos``.
    antialias : bool
        Always True: Pillow widens its filter when it shrinks an image.
    mean, std : (3,) float
        Per channel, in units of the 0 to 1 range. The backbone applies them.
    crop_mode : str
        ``center``; or, for some networks of timm, ``squash`` (both sides are resized to
        ``resize``) or ``border`` (the longer side is resized to ``resize``, and the
        mean fills the rest of the square).

    Raises
    ------
    ValueError
        If a size is not positive, the crop is larger than the shorter side, the
        filter is unknown, or ``mean`` and ``std`` are not usable.

    Examples
    --------
    >>> square = Preprocessing(resize=256, crop=224)
    >>> square.apply(Image.new("RGB", (640, 480))).shape
    (3, 224, 224)
    """

    resize: int | None
    crop: int
    interpolation: str = "bilinear"
    antialias: bool = True
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    crop_mode: str = "center"

    def __post_init__(self) -> None:
        object.__setattr__(self, "mean", _three("mean", self.mean))
        object.__setattr__(self, "std", _three("std", self.std))
        if self.crop < 1 or (self.resize is not None and self.resize < 1):
            raise ValueError(
                f"resize={self.resize!r} and crop={self.crop!r} must be at least 1 px"
            )
        if self.resize is not None and self.crop > self.resize:
            raise ValueError(
                f"crop={self.crop} is larger than the shorter side after "
                f"resize={self.resize}; give a resize of at least {self.crop} too"
            )
        if self.interpolation not in _FILTERS:
            raise ValueError(
                f"unknown interpolation {self.interpolation!r}; choose from "
                f"{', '.join(_FILTERS)}"
            )
        if max(self.crop, self.resize or 0) > _MAX_SIDE:
            raise ValueError(
                f"resize={self.resize!r} and crop={self.crop!r} must be at most "
                f"{_MAX_SIDE:,} px"
            )
        _require_plausible("mean", self.mean, 0, 1)
        _require_plausible("std", self.std, _MIN_STD, 1)
        if self.crop_mode not in _CROP_MODES:
            raise ValueError(
                f"unknown crop mode {self.crop_mode!r}; choose from "
                f"{', '.join(_CROP_MODES)}"
            )
        if not self.antialias:
            raise ValueError("antialias=False: Pillow always widens its filter")

    def apply(self, image: Image.Image) -> np.ndarray:
        """Resize and crop one image, exactly as torchvision does with Pillow images.

        Parameters
        ----------
        image : PIL.Image.Image
            Upright; modes other than RGB are converted.

        Returns
        -------
        (3, crop, crop) uint8
            Channels first, contiguous and writable, not normalised. An image that is
            smaller than the crop (``resize=None``) is centred on black, or on the mean
            with ``crop_mode="border"``.
        """
        return self.cropped(self.shrunk(image))

    def cropped(self, image: Image.Image) -> np.ndarray:
        """Crop one resized RGB image as `apply` does."""
        image = self._centred(image)
        # Always a copy, since Pillow's memory is read-only.
        return np.asarray(image).transpose(2, 0, 1).copy()

    def shrunk(
        self,
        image: Image.Image,
        full: tuple[int, int] | None = None,
        extent: tuple[float, float] | None = None,
    ) -> Image.Image:
        """Resize one image to RGB as `apply` does, without the crop.

        For an image that JPEG has scaled, ``full`` is its full size, and ``extent`` the
        size of the scene in its present pixels; see `images.Decoded`.
        """
        if image.mode != "RGB":
            image = image.convert("RGB")
        size = self.resized(full or image.size)
        # Some filters blur even with the same size.
        if size == image.size:
            return image
        box = (0, 0, *(extent or image.size))
        return image.resize(size, _FILTERS[self.interpolation], box)

    def resized(self, size: tuple[int, int]) -> tuple[int, int]:
        """Return width and height of an image after resizing, before the crop."""
        if self.resize is None:
            return size
        if self.crop_mode == "squash":
            return self.resize, self.resize
        if self.crop_mode == "border":
            ratio = max(size) / self.resize
            return max(round(size[0] / ratio), 1), max(round(size[1] / ratio), 1)
        return _resized(size, self.resize)

    def corner(self, size: tuple[int, int]) -> tuple[int, int]:
        """Return left and top of the crop, in an image not smaller than it."""
        return round((size[0] - self.crop) / 2), round((size[1] - self.crop) / 2)

    def _centred(self, image: Image.Image) -> Image.Image:
        """Return the central square; an odd pixel of margin is right or bottom."""
        (width, height), side = image.size, self.crop
        if width < side or height < side:
            canvas = Image.new(
                "RGB", (max(width, side), max(height, side)), self._margin
            )
            canvas.paste(image, (max(side - width, 0) // 2, max(side - height, 0) // 2))
            image = canvas
        # Python rounds halves to even, and so does torchvision's centre crop.
        left, top = self.corner(image.size)
        return image.crop((left, top, left + side, top + side))

    @property
    def _margin(self) -> tuple[int, int, int]:
        if self.crop_mode != "border":
            return 0, 0, 0
        # Pixels of the mean become zero when the backbone normalises them.
        red, green, blue = (round(255 * value) for value in self.mean)
        return red, green, blue

    def scaled(self, input_size: int) -> Preprocessing:
        """Return the preprocessing for another crop, with the resize in proportion."""
        if self.resize is None:
            return replace(self, crop=input_size)
        # In proportion, such as 256 to 224, so that the crop shows the same part.
        resize = max(input_size, round(self.resize * input_size / self.crop))
        return replace(self, resize=resize, crop=input_size)

    def overridden(
        self,
        *,
        input_size: int | None = None,
        resize: int | None = None,
        crop: int | None = None,
        mean: Sequence[float] | float | None = None,
        std: Sequence[float] | float | None = None,
        interpolation: str | None = None,
    ) -> Preprocessing:
        """Return a copy with some fields replaced; None keeps a field.

        ``input_size`` first scales both resize and crop; ``resize=0`` means no
        resizing.
        """
        if input_size is not None:
            require_number("input_size", input_size, 1, _MAX_SIDE)
        base = self if input_size is None else self.scaled(input_size)
        options = {
            "resize": resize,
            "crop": crop,
            "mean": mean,
            "std": std,
            "interpolation": interpolation,
        }
        changes: dict[str, Any] = {k: v for k, v in options.items() if v is not None}
        if resize == 0:
            changes["resize"] = None
        return replace(base, **changes)

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as a dict for JSON, which :meth:`from_dict` reads."""
        fields = asdict(self)
        # Older files have no crop mode, and must have the same fingerprint.
        if self.crop_mode == "center":
            del fields["crop_mode"]
        return fields | {"mean": list(self.mean), "std": list(self.std)}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Preprocessing:
        """Return the preprocessing of a dict of :meth:`as_dict`."""
        names = set(cls.__dataclass_fields__)
        if {*fields, "crop_mode"} != names:
            raise ValueError(
                f"a preprocessing has the fields {sorted(names)}, not {sorted(fields)}"
            )
        return cls(**fields)


def _require_plausible(
    name: str, values: Sequence[float], low: float, high: float
) -> None:
    """Raise if numbers cannot be those of pixels from 0 to 1."""
    if low <= min(values) and max(values) <= high:
        return
    remedy = "; divide by 255" if max(values) > high else ""
    raise ValueError(
        f"{name}={tuple(values)} must be from {low:.4g} to {high:g}, for pixels from 0 "
        f"to 1{remedy}"
    )


def _three(name: str, values: Sequence[float] | float) -> tuple[float, ...]:
    """Return a number for each channel; a single number counts for all three."""
    numbers = (values,) if isinstance(values, int | float) else tuple(values)
    plain = all(isinstance(x, Real) and not isinstance(x, bool) for x in numbers)
    if len(numbers) not in (1, 3) or not plain or not np.isfinite(numbers).all():
        raise ValueError(f"{name}={values!r:.60} must be one finite number or three")
    return tuple(float(x) for x in numbers) * (3 // len(numbers))


def _resized(size: tuple[int, int], shorter: int) -> tuple[int, int]:
    """Return width and height for a shorter side; the longer one is rounded down."""
    width, height = size
    # As torchvision computes it; rounding to nearest would move some crops by a pixel.
    if width <= height:
        return shorter, int(shorter * height / width)
    return int(shorter * width / height), shorter
