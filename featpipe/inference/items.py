"""Images handed over one by one: paths, PIL images, arrays, in the order given.

Makes an `ImageSet` of them. Never here: listing folders, which is `images.scan`'s.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from featpipe import images
from featpipe.images import ImageSet
from featpipe.images.folder import FileReader
from featpipe.images.imageset import Reader

__all__ = ["from_items", "image_set_of"]

Source = str | os.PathLike[str] | ImageSet


def image_set_of(source: Source | Iterable[Any]) -> ImageSet:
    """Make an `ImageSet` of whatever a user has: a source, or images one by one.

    Parameters
    ----------
    source : path, str or ImageSet, or a sequence of images
        The first three as `images.scan`; a sequence as `from_items`.
    """
    if isinstance(source, str | os.PathLike | ImageSet):
        return images.scan(source)
    return from_items(source)


def from_items(items: Iterable[Any]) -> ImageSet:
    """Make an `ImageSet` of single images; row i is item i.

    Parameters
    ----------
    items : sequence of path, PIL image or uint8 array
        Kinds may be mixed. Arrays are (height, width), (height, width, 3) in the
        order RGB, or (height, width, 4) with alpha.

    Raises
    ------
    ValueError
        If there is none, or one is nothing of the kind; names its position. A file
        that cannot be read is found out when it is read.
    """
    if isinstance(items, str | bytes | os.PathLike | Mapping):
        raise ValueError(
            f"images={items!r:.80} is one thing; give a list of paths, PIL images or "
            "uint8 arrays"
        )
    if isinstance(items, np.ndarray) and items.dtype.kind in "OUS":
        items = items.ravel()  # a column of paths, as a ColumnTransformer gives it
    items = list(items)
    if not items:
        raise ValueError("no images were given; give at least one")
    names = [_name(item, i) for i, item in enumerate(items)]
    pictures = {
        name: item
        for name, item in zip(names, items, strict=True)
        if not isinstance(item, str | os.PathLike)
    }
    drawn = _drawn(pictures)
    sizes = dict(zip(drawn.paths, drawn.sizes.tolist(), strict=True)) if drawn else {}
    nothing, n = [""] * len(items), len(items)
    return ImageSet(
        source="the images given",
        root="",
        paths=names,
        labels=np.full(n, -1, np.int64),
        class_names=[],
        splits=nothing,
        groups=nothing,
        sizes=np.array([sizes.get(name, 0) for name in names], np.int64),
        mtimes=np.zeros(n, np.int64),
        failures=[],
        n_hidden=0,
        reader=_GivenReader(FileReader(""), drawn.reader if drawn else None, sizes),
    )


@dataclass(frozen=True)
class _GivenReader:
    """Reads pictures from memory and everything else from files."""

    files: Reader
    drawn: Reader | None
    in_memory: Mapping[str, int]

    def read(self, path: str) -> bytes:
        if self.drawn is not None and path in self.in_memory:
            return self.drawn.read(path)
        return self.files.read(path)


def _name(item: Any, i: int) -> str:
    """Name a file by its path, and a picture so that no file has its name."""
    if isinstance(item, str | os.PathLike):
        return os.fsdecode(item)
    if isinstance(item, np.ndarray) or hasattr(item, "getexif"):
        return f"image {i}"
    raise ValueError(
        f"image {i} is {item!r:.60}; give paths, PIL images or uint8 arrays"
    )


def _drawn(pictures: Mapping[str, Any]) -> ImageSet | None:
    if not pictures:
        return None
    return images.from_arrays(list(pictures.values()), paths=list(pictures))
