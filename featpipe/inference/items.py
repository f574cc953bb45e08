"""Make an `ImageSet` of paths, PIL images and arrays, in their order.

`images.scan` lists folders.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from featpipe import images
from featpipe.images import FileReader, ImageReader, ImageSet, stat_file

__all__ = ["GIVEN", "from_items"]

# Characters of an invalid value that a message shows.
_SHOWN = 60

GIVEN = "the images given"
"""The name of the source of images that are given one by one."""

_CHANNELS = (1, 3, 4)
_FEW_COLUMNS = 16  # of images so narrow that they are rather channels


def from_items(items: Iterable[Any]) -> ImageSet:
    """Make an `ImageSet` of one image, or of several; row i is item i.

    Parameters
    ----------
    items : image, or iterable of images
        An image is a path, a PIL image, the bytes of a file (or a binary file such as
        ``BytesIO``, or a pair (name, bytes)), or a uint8 array: (height, width),
        (height, width, 3) in the order RGB, or (height, width, 4) with alpha. Kinds
        may be mixed. An array of shape (height, width, 1, 3 or 4) is one image; one of
        shape (n, height, width) or (n, height, width, 1, 3 or 4) is n of them.

    Raises
    ------
    ValueError
        If there is none, or one has another type; names its position. Files are not
        read here.

    Examples
    --------
    >>> pictures = from_items([np.zeros((8, 8), np.uint8), ("mine.png", b"...")])
    >>> pictures.paths, pictures.labels.tolist()
    (['image 0', 'mine.png'], [-1, -1])
    """
    items = [_read_open_file(item) for item in _listed(items)]
    if not items:
        raise ValueError("no images were given; give at least one")
    names = [_name(item, i) for i, item in enumerate(items)]
    _refuse_same_names(names, items)
    contents: dict[str, bytes] = {}
    pictures: dict[str, Any] = {}
    for name, item in zip(names, items, strict=True):
        content = _content(item)
        if content is not None:
            contents[name] = content
        elif not isinstance(item, str | os.PathLike):
            pictures[name] = item
    drawn = _drawn(pictures)
    sizes = dict(zip(drawn.paths, drawn.sizes.tolist(), strict=True)) if drawn else {}
    sizes |= {name: len(content) for name, content in contents.items()}
    # Single images have neither class nor split.
    nothing, n = [""] * len(items), len(items)
    here = str(Path.cwd())
    stamps = [(sizes[name], 0) if name in sizes else _stamp(name) for name in names]
    return ImageSet(
        source=GIVEN,
        # Images in memory have no folder.
        root="" if sizes else here,
        paths=names,
        labels=np.full(n, -1, np.int64),
        class_names=[],
        splits=nothing,
        groups=nothing,
        sizes=np.array([size for size, _ in stamps], np.int64),
        mtimes=np.array([mtime for _, mtime in stamps], np.int64),
        failures=[],
        n_hidden=0,
        reader=_GivenReader(
            FileReader(here), drawn.reader if drawn else None, sizes, contents
        ),
    )


def _stamp(path: str) -> tuple[int, int]:
    """Return size and time of a file; zeros where reading it will fail."""
    try:
        status = stat_file(path)
    except (OSError, ValueError):  # ValueError: a NUL in the path
        return 0, 0
    return status.st_size, status.st_mtime_ns


def _refuse_same_names(names: list[str], items: list[Any]) -> None:
    """Raise if two contents have one name: the second would replace the first."""
    if len(set(names)) == len(names):
        return
    at: dict[str, int] = {}
    for i, (name, item) in enumerate(zip(names, items, strict=True)):
        first = at.setdefault(name, i)
        files = (
            isinstance(item, str | os.PathLike),
            isinstance(items[first], str | os.PathLike),
        )
        # The same path twice is the same image, which may be predicted twice.
        if first < i and not all(files):
            raise ValueError(
                f"images {first} and {i} are both called {name!r}; give each a name of "
                "its own"
            )


def _listed(items: Any) -> list[Any]:
    """Return the images one by one; one image is a list of one."""
    # A string is a sequence of characters, a dict one of its keys: both would raise a
    # puzzling error later.
    if isinstance(items, str | Mapping):
        raise ValueError(
            f"images={items!r:.80} is one thing; give a list of paths, PIL images or "
            "uint8 arrays"
        )
    if isinstance(items, set | frozenset):
        raise ValueError(
            f"images={items!r:.60} is a set, which has no order that the answers could "
            "have; give a list, such as sorted(images)"
        )
    if _is_one(items):
        return [items]
    if not isinstance(items, np.ndarray):
        if "path" in getattr(items, "columns", ()):
            items = items["path"]  # a pandas frame
        if not isinstance(items, Iterable):
            raise ValueError(
                f"images={items!r:.60} is no source; give a folder, a table, an "
                "archive, a list of paths, PIL images or uint8 arrays"
            )
        return list(items)
    if items.dtype.kind in "OUS":
        return list(items.ravel())  # a column of paths, as a ColumnTransformer gives it
    if items.ndim == 3 and _may_be_channels(*items.shape[1:]):
        raise ValueError(
            f"an array of shape {items.shape} may be one image of {items.shape[2]} "
            f"channels, or {items.shape[0]} grey images; give one image with 1, 3 or 4 "
            "channels, or the grey ones as images[..., None]"
        )
    if items.ndim == 3 and items.shape[0] in (3, 4):
        warnings.warn(
            f"an array of shape {items.shape} is {items.shape[0]} grey images; if it "
            "is one image with its channels first, give images.transpose(1, 2, 0)",
            UserWarning,
            stacklevel=2,
        )
    if items.ndim == 4 and items.shape[3] not in _CHANNELS:
        turned = items.shape[1] in _CHANNELS
        remedy = "; images.transpose(0, 2, 3, 1) puts the channels last" * turned
        raise ValueError(
            f"images of shape {items.shape} are no batch; give uint8 of shape "
            f"(n, height, width) or (n, height, width, 1, 3 or 4){remedy}"
        )
    return list(items)


def _may_be_channels(height: int, width: int) -> bool:
    """Return whether the last axis of (n, height, width) is too short for a width."""
    return width in (2, 5) or (width <= _FEW_COLUMNS and height >= 8 * width)


def _is_one(items: Any) -> bool:
    """Return whether this is an image itself, and not a sequence of images."""
    if isinstance(items, np.ndarray) and items.dtype.kind not in "OUS":
        last = items.shape[-1] if items.ndim else 0
        return items.ndim < 3 or (items.ndim == 3 and last in _CHANNELS)
    # A PIL image has `getexif`, an open file `read`: this needs no import of Pillow.
    one = isinstance(items, bytes | bytearray | memoryview | os.PathLike)
    return one or hasattr(items, "getexif") or hasattr(items, "read")


def _read_open_file(item: Any) -> Any:
    """Return the bytes of an open file, which can be read only once, or the item."""
    if isinstance(item, tuple) and len(item) == 2:
        return item[0], _read_open_file(item[1])
    if not hasattr(item, "read") or hasattr(item, "getexif"):
        return item
    # `getvalue` of a BytesIO returns all of it, whatever its position.
    content = item.getvalue() if hasattr(item, "getvalue") else item.read()
    return content if isinstance(content, bytes) else item


def _content(item: Any) -> bytes | None:
    """Return the content of a file that is given as bytes, else None."""
    if isinstance(item, tuple) and len(item) == 2:
        item = item[1]
    if isinstance(item, bytes | bytearray | memoryview):
        return bytes(item)
    return None


@dataclass(frozen=True)
class _GivenReader:
    """Read arrays and bytes from memory and everything else from files."""

    files: ImageReader
    drawn: Any  # a reader of arrays
    in_memory: Mapping[str, int]
    contents: Mapping[str, bytes]

    def read(self, path: str) -> bytes:
        if path in self.contents:
            return self.contents[path]
        if self.drawn is not None and path in self.in_memory:
            content: bytes = self.drawn.read(path)
            return content
        return self.files.read(path)

    def only(self, paths: Iterable[str]) -> _GivenReader:
        """Return a reader of these images alone, for another process."""
        names, drawn = set(paths), {*self.in_memory} - {*self.contents}
        return _GivenReader(
            self.files,
            None if self.drawn is None else self.drawn.only(names & {*drawn}),
            {name: self.in_memory[name] for name in names & {*self.in_memory}},
            {name: self.contents[name] for name in names & {*self.contents}},
        )


def _name(item: Any, i: int) -> str:
    """Return the path of a file, or for a picture a name that no file has."""
    if isinstance(item, str | os.PathLike):
        return os.fsdecode(item)
    if isinstance(item, tuple) and len(item) == 2 and isinstance(item[0], str):
        return item[0]
    picture = isinstance(item, np.ndarray) or hasattr(item, "getexif")
    if picture or _content(item) is not None:
        return f"image {i}"
    shown, kind = repr(item), type(item)
    if len(shown) > _SHOWN or "\n" in shown:  # a tensor, say
        shown = f"a {kind.__module__}.{kind.__qualname__}"
    remedy = "; tensor.permute(1, 2, 0).numpy() puts the channels last"
    raise ValueError(
        f"image {i} is {shown}; give paths, PIL images, bytes or uint8 arrays"
        + remedy * hasattr(item, "permute")
    )


def _drawn(pictures: Mapping[str, Any]) -> ImageSet | None:
    if not pictures:
        return None
    return images.from_arrays(list(pictures.values()), paths=list(pictures))
