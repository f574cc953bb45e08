"""Make an `ImageSet` of any source in Python: a path, a list, a frame, a dataset.

Labels, splits and groups are taken over where the source has them. `images.scan` lists
folders and tables.
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from featpipe import images
from featpipe.images import ImageSet, class_names_of, is_image_name, splits_from
from featpipe.inference.items import from_items

__all__ = ["Source", "image_set_of", "require_different_paths"]

Source = str | os.PathLike[str] | ImageSet | Iterable[Any]
"""What `image_set_of` takes."""


class _Listing(NamedTuple):
    """Single images, and their labels, splits and groups; None where there are none."""

    items: Any
    labels: Sequence[Any] | None = None
    splits: Sequence[Any] | None = None
    groups: Sequence[Any] | None = None


def image_set_of(
    source: Source,
    *,
    unlabelled: bool = False,
    limit: int | None = None,
    ignore: Callable[[str], bool] | None = None,
) -> ImageSet:
    """Make an `ImageSet` of a source, or of single images.

    Parameters
    ----------
    source : path, str or ImageSet, or images
        - The first three as `images.scan`, or the path of one image file.
        - A pandas frame with the columns ``path[,label][,split][,group]``, as a CSV
          has them; others are ignored. A Series of paths.
        - A torchvision ``ImageFolder`` (or another dataset of image files with
          ``samples`` and ``classes``), or a ``Subset`` of one. The files are read as
          they are: its transforms are not used.
        - Everything else as `from_items`: a list of paths, PIL images or arrays, a
          generator of pairs (name, bytes).

        Only images of a source given by its path are sorted.
    unlabelled, limit, ignore
        As `images.scan`.

    Returns
    -------
    ImageSet

    Raises
    ------
    ValueError
        If there is no image, an item has another type, or a split has an unknown name.

    Examples
    --------
    >>> len(image_set_of("flowers")), len(image_set_of(np.zeros((5, 8, 8), np.uint8)))
    (42, 5)
    """
    if isinstance(source, str | os.PathLike) and _is_image_file(source):
        source = from_items([source])
    elif not isinstance(source, str | os.PathLike | ImageSet):
        source = _with_facts(_listing_of(source))
    return images.scan(source, unlabelled=unlabelled, limit=limit, ignore=ignore)


def require_different_paths(image_set: ImageSet) -> ImageSet:
    """Return the images; raise if one is listed twice, as it cannot have two rows.

    Examples
    --------
    >>> require_different_paths(from_items(["a.png", "a.png"]))
    Traceback (most recent call last):
        ...
    ValueError: images 0 and 1 are both 'a.png'; list each image once
    """
    first: dict[str, int] = {}
    for i, path in enumerate(image_set.paths):
        if first.setdefault(path, i) < i:
            raise ValueError(
                f"images {first[path]} and {i} are both {path!r}; list each image once"
            )
    return image_set


def _is_image_file(source: str | os.PathLike[str]) -> bool:
    return is_image_name(os.fspath(source)) and Path(source).is_file()


def _listing_of(source: Any) -> _Listing:
    """Return the images of a frame or dataset with their labels, else the source."""
    columns = getattr(source, "columns", None)
    # By its attributes, not its type: pandas is an extra that may not be installed.
    if columns is not None and hasattr(source, "iloc"):
        return _of_frame(source)
    indices = None
    # By its attributes: importing torch for its Subset would take seconds.
    if hasattr(source, "dataset") and hasattr(source, "indices"):  # a Subset
        indices, source = list(source.indices), source.dataset
    samples = getattr(source, "samples", None)
    if samples is not None and hasattr(source, "classes"):
        chosen = samples if indices is None else [samples[i] for i in indices]
        labels = [source.classes[target] for _, target in chosen]
        return _Listing([path for path, _ in chosen], labels)
    if indices is not None:
        raise ValueError(
            f"a Subset of {type(source).__name__} names no image files; give a Subset "
            "of an ImageFolder, or a list of images"
        )
    return _Listing(source)


def _of_frame(frame: Any) -> _Listing:
    # As in the header of a CSV, capitals and spaces make no difference.
    names = [str(name).strip().casefold() for name in frame.columns]
    if twice := [name for name in images.COLUMNS if names.count(name) > 1]:
        raise ValueError(f"the frame has two columns {twice[0]!r}; keep one")
    named = dict(zip(names, frame.columns, strict=True))
    if "path" not in named:
        have = ", ".join(map(str, list(frame.columns)[:10]))
        raise ValueError(
            f"the frame has no column 'path' but {have}; rename the one that has the "
            "paths of the images, as path, label, split, group"
        )

    others = [name for name in named if name not in images.COLUMNS]
    splits = [
        name
        for name in others
        if all(images.is_split(str(value)) for value in frame[named[name]].unique()[:9])
    ]
    for warning in images.describe_unread(list(named), splits):
        warnings.warn(f"the frame {warning}", UserWarning, stacklevel=2)

    def column(name: str) -> list[Any] | None:
        return frame[named[name]].tolist() if name in named else None

    return _Listing(column("path"), column("label"), column("split"), column("group"))


def _with_facts(listing: _Listing) -> ImageSet:
    image_set = from_items(listing.items)
    nothing = [None] * len(image_set)
    labels = [_plain(label) for label in listing.labels or nothing]
    names = class_names_of(-1 if label is None else label for label in labels)
    # Sorted as those of a folder, so that the same classes have the same numbers.
    class_names = sorted({*names} - {""})
    numbers = {name: k for k, name in enumerate(class_names)} | {"": -1}
    splits = [str(_plain(split) or "") for split in listing.splits or nothing]
    groups = [_plain(group) for group in listing.groups or nothing]
    listed = replace(
        image_set,
        labels=np.array([numbers[name] for name in names], np.int64),
        class_names=class_names,
        splits=splits_from(splits),
        groups=["" if group is None else str(group) for group in groups],
    )
    images.check_classes(listed)
    return listed


def _plain(value: Any) -> Any:
    """Return a cell of a frame as a Python value; None where it is missing."""
    if value is None or type(value).__name__ in ("NAType", "NaTType"):
        return None
    if isinstance(value, float) and math.isnan(value):
        return None
    value = value.item() if hasattr(value, "item") else value
    if isinstance(value, bool):
        return str(value)
    # pandas turns whole numbers with a missing value into floats.
    return int(value) if isinstance(value, float) and value.is_integer() else value
