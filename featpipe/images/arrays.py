"""List pictures in memory: arrays and PIL images.

`ImageSet.read` returns bytes, and equal pictures must have the same bytes. So pictures
become binary PPM or PGM: pixels behind a short header, without loss and without a
compressor, whose output would change from version to version.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from featpipe.errors import one_line
from featpipe.images.colour import to_rgb
from featpipe.images.imageset import ImageError, ImageRow, ImageSet, build_image_set
from featpipe.images.labelling import class_names_of, splits_from
from featpipe.images.orientation import upright

__all__ = ["check_picture", "encode_picture", "from_arrays"]


def from_arrays(
    images: Sequence[Any] | np.ndarray,
    labels: Sequence[Any] | np.ndarray | None = None,
    *,
    splits: Sequence[str] | None = None,
    groups: Sequence[str] | None = None,
    paths: Sequence[str] | None = None,
) -> ImageSet:
    """Make an `ImageSet` of pictures in memory.

    Parameters
    ----------
    images : sequence of arrays or PIL images
        uint8 (height, width), (height, width, 1), (height, width, 3) in the order RGB,
        or (height, width, 4) with alpha; also one (n, height, width, channels) array.
        They are not copied. PIL images are converted by the rules of `DECODING`.
    labels : (n,), optional
        Class names or numbers. ``""``, None and -1 mean no label. Numbers get leading
        zeros, so that the sorted class names are in the order of the numbers.
    splits : (n,) of str, optional
        ``"train"``, ``"val"`` or ``"test"``, or another spelling of these.
    groups : (n,) of str, optional
        Images of one group stay on the same side of every split.
    paths : (n,) of str, optional
        Names, each different, by which the set is sorted. Default: ``"000000"``,
        ``"000001"``, and so on.

    Returns
    -------
    ImageSet

    Raises
    ------
    ValueError
        If there is no image, lengths differ, an array has another shape or dtype, two
        paths are the same, or a split has an unknown name.

    Examples
    --------
    >>> from featpipe import images
    >>> pixels = np.zeros((12, 8, 8, 3), np.uint8)
    >>> pictures = images.from_arrays(pixels, labels=range(12), splits=["train"] * 12)
    >>> pictures.class_names[:3], pictures.sizes[0]
    (['00', '01', '02'], np.int64(192))
    """
    n = len(images)
    width = max(6, len(str(n - 1)))
    # With leading zeros, so that the order of names is that of the arrays.
    names = [f"{i:0{width}d}" for i in range(n)] if paths is None else list(paths)
    columns = {
        "labels": [""] * n if labels is None else class_names_of(labels),
        "splits": [""] * n if splits is None else splits_from(splits),
        "groups": [""] * n if groups is None else [str(group) for group in groups],
        "paths": names,
    }
    for column, values in columns.items():
        if len(values) != n:
            raise ValueError(f"{len(values)} {column} for {n} images; give one each")
    if len(set(names)) < n:
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(
            f"path {twice!r} comes twice in paths; give each image its own"
        )
    # Encoded only when they are read, since copies would double the memory.
    pictures = [check_picture(image, i) for i, image in enumerate(images)]
    rows = [
        ImageRow(name, label, split, group, size)
        for name, label, split, group, size in zip(
            names,
            columns["labels"],
            columns["splits"],
            columns["groups"],
            map(_n_bytes, pictures),
            strict=True,
        )
    ]
    reader = _ArrayReader(dict(zip(names, pictures, strict=True)))
    return build_image_set("arrays", "arrays:", rows, reader)


@dataclass(frozen=True)
class _ArrayReader:
    pictures: Mapping[str, Any]

    def read(self, path: str) -> bytes:
        try:
            return encode_picture(self.pictures[path])
        except Exception as error:  # Pillow may load an opened file only now
            raise ImageError("read", one_line(error)) from error

    def only(self, paths: Iterable[str]) -> _ArrayReader:
        """Return a reader of these pictures alone, to send to another process."""
        return _ArrayReader({path: self.pictures[path] for path in paths})


def check_picture(image: Any, i: int) -> Any:
    """Return an image to be read later; raise if it is not a usable picture."""
    if not isinstance(image, np.ndarray):
        if hasattr(image, "getexif"):
            return image
        raise ValueError(
            f"image {i} is {type(image).__name__}; give uint8 arrays or PIL images"
        )
    # Many libraries give grey images an axis of one channel.
    if image.ndim == 3 and image.shape[2] == 1:
        image = image[:, :, 0]
    shaped = image.ndim == 2 or (image.ndim == 3 and image.shape[2] in (3, 4))
    if image.dtype != np.uint8 or not shaped or 0 in image.shape:
        raise ValueError(
            f"image {i} is {image.dtype} of shape {image.shape}; give uint8 of shape "
            "(height, width), (height, width, 3) or (height, width, 4)"
            + "; convert values from 0 to 1 by (255 * image).round().astype('uint8')"
            * (image.dtype.kind == "f")
        )
    if np.ma.is_masked(image):
        raise ValueError(
            f"image {i} has masked pixels; fill them, with image.filled(255)"
        )
    return image


def _n_bytes(picture: Any) -> int:
    if isinstance(picture, np.ndarray):
        return picture.size
    n_values: int = picture.width * picture.height * len(picture.getbands())
    return n_values


def encode_picture(picture: Any) -> bytes:
    """Return a picture as binary PGM (grey of 8 or 16 bits), PPM (RGB) or TIFF."""
    if _is_deep(picture):
        return _encoded_deep(picture)
    if not isinstance(picture, np.ndarray) or picture.shape[2:] == (4,):
        picture = _flat(picture)
    height, width = picture.shape[:2]
    magic = b"P5" if picture.ndim == 2 else b"P6"
    content: bytes = magic + b"\n%d %d\n255\n" % (width, height) + picture.tobytes()
    return content


def _is_deep(picture: Any) -> bool:
    mode = getattr(picture, "mode", "")
    return mode in ("I;16", "I;16B", "I", "F") and "transparency" not in picture.info


def _encoded_deep(picture: Any) -> bytes:
    """Return a picture of more than 8 bits with all its bits, for `decode` to scale."""
    # An error of reading an opened file comes here, as one of this image.
    picture.load()
    picture = upright(picture, picture, [])
    if picture.mode in ("I", "F"):
        file = io.BytesIO()
        picture.save(file, "TIFF")
        return file.getvalue()
    # PGM holds 16 bits big-endian.
    # The highest value of the bits and not of the picture, so that a series has one
    # scale.
    header = b"P5\n%d %d\n65535\n" % picture.size
    return header + np.asarray(picture).astype(">u2").tobytes()


def _flat(picture: Any) -> np.ndarray:
    from PIL import Image

    if isinstance(picture, np.ndarray):
        picture = Image.fromarray(picture)
    picture.load()
    pixels = picture if picture.mode == "L" else to_rgb(picture, [])
    return np.asarray(upright(pixels, picture, []))
