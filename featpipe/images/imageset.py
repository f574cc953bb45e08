"""The list of images of one source, and how the bytes of each are read.

Lives here: `ImageSet`, what could not be listed (`Failure`), the one error of an image
(`ImageError`). Never here: where lists come from, and what the bytes mean.
"""

from __future__ import annotations

import html
import os
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple, Protocol

import numpy as np

from featpipe.bounds import require_number

__all__ = [
    "MAX_BYTES",
    "Failure",
    "ImageError",
    "ImageReader",
    "ImageRow",
    "ImageSet",
    "build_image_set",
]

MAX_BYTES = 2**30
"""The largest file taken for an image. The largest picture that decoding allows has
716 MB as plain 16-bit RGBA, so that what is larger is a video, or an attack."""


class Failure(NamedTuple):
    """An input that gave no code: where, at what stage, and why in one line.

    Examples
    --------
    >>> Failure("train/rose/07.jpg", "decode", "truncated file")
    Failure(path='train/rose/07.jpg', stage='decode', reason='truncated file')
    """

    path: str
    stage: str
    reason: str


class ImageError(ValueError):
    """One image cannot be read or decoded.

    Attributes
    ----------
    stage : str
        ``"read"`` or ``"decode"``.
    reason : str
        One line, the same every time for the same bytes, without the path (the caller
        knows it and makes a `Failure` of both).

    Examples
    --------
    >>> from featpipe import images
    >>> try:
    ...     images.decode(b"")
    ... except images.ImageError as error:
    ...     print(error.stage, "|", error.reason)
    decode | empty file (0 bytes)
    """

    def __init__(self, stage: str, reason: str) -> None:
        # Both go to `args`, or the error could not travel between processes.
        super().__init__(stage, reason)
        self.stage = stage
        self.reason = reason

    def __str__(self) -> str:
        return self.reason


class ImageReader(Protocol):
    r"""A reader of the bytes of paths; safe in threads, picklable for processes.

    Examples
    --------
    >>> from featpipe import images
    >>> reader: ImageReader = images.from_arrays(np.zeros((1, 2, 3), np.uint8)).reader
    >>> reader.read("000000")[:11]
    b'P5\n3 2\n255\n'
    """

    def read(self, path: str) -> bytes:
        """Return the content, or raise `ImageError` of stage ``"read"``."""
        ...


class ImageRow(NamedTuple):
    """One image as a source finds it; `ImageSet` holds the same by columns.

    Examples
    --------
    >>> ImageRow("train/rose/07.jpg", label="rose", split="train").group
    ''
    """

    path: str
    label: str = ""
    split: str = ""
    group: str = ""
    size: int = 0
    mtime: int = 0


@dataclass(frozen=True, eq=False)
class ImageSet:
    """The images of a source, with labels, splits and groups.

    Image ``i`` is row ``i`` of every column, sorted by the bytes of its path, so that
    the order depends neither on the file system nor on the language of the user.

    Attributes
    ----------
    source : str
        As the user gave it.
    root : str
        What `paths` are relative to: an absolute folder, the absolute path of an
        archive, the ``torchvision:`` text, or ``"arrays:"``.
    paths : list of str
        Separated by ``/``; bytes that are no UTF-8 come as `os.fsdecode` gives them,
        and `os.fsencode` gives them back. Absolute where they are absolute in a table.
    labels : (n,) int64
        Numbers into `class_names`, -1 where unlabelled.
    class_names : list of str
        Sorted.
    splits : list of str
        ``""``, ``"train"``, ``"val"`` or ``"test"``.
    groups : list of str
        ``""`` where there is none.
    sizes : (n,) int64
        Bytes; 0 where the source does not know.
    mtimes : (n,) int64
        Nanoseconds since 1970, that of the whole file for the members of an archive.
        0 where the source has none: then only the content tells whether an image
        changed.
    failures : list of Failure
        What could not be listed, stage ``"scan"``; `take` keeps them all.
    n_hidden : int
        Files and folders whose name begins with a dot; a hidden folder counts once.
    n_set_aside : int
        Files and folders of systems, and known non-images; see `is_set_aside`.

    Examples
    --------
    >>> from featpipe import images
    >>> pictures = images.from_arrays(np.zeros((4, 8, 8), np.uint8), [1, 0, 1, -1])
    >>> pictures.labels.tolist(), pictures.class_names, pictures.take([3, 0]).paths
    ([1, 0, 1, -1], ['0', '1'], ['000003', '000000'])
    """

    source: str
    root: str
    paths: list[str]
    labels: np.ndarray
    class_names: list[str]
    splits: list[str]
    groups: list[str]
    sizes: np.ndarray
    mtimes: np.ndarray
    failures: list[Failure]
    n_hidden: int
    reader: ImageReader = field(repr=False)
    n_set_aside: int = 0

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.paths)

    def __repr__(self) -> str:
        """Return one line: how many images there are, and where; no list of paths."""
        failed = f", {len(self.failures):,} failures" * bool(self.failures)
        return (
            f"<ImageSet {self.source}: {len(self):,} images in "
            f"{len(self.class_names):,} classes{failed}>"
        )

    def _repr_html_(self) -> str:
        """Return the images of each class and split as a table for a notebook."""
        splits = sorted(set(self.splits))
        counts = Counter(zip(self.labels.tolist(), self.splits, strict=True))
        rows = [["class", *(split or "images" for split in splits)]]
        rows += [
            [name, *(f"{counts[k, split]:,}" for split in splits)]
            for k, name in [*enumerate(self.class_names), (-1, "unlabelled")]
            if any(counts[k, split] for split in splits)
        ]
        lines = "".join(
            "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>"
            for row in rows
        )
        return (
            f"<table><caption>{html.escape(repr(self)[1:-1])}</caption>{lines}</table>"
        )

    def read(self, i: int) -> bytes:
        """Return the bytes of image ``i``; several threads may do so at once.

        Raises
        ------
        ImageError
            Of stage ``"read"``, if the image has gone, may not be read, is no regular
            file any more, or is larger than `MAX_BYTES`.
        """
        # Before it is opened, by the size of the scan; `read` checks again what it
        # gets.
        if self.sizes[i] > MAX_BYTES:
            raise ImageError("read", too_large(int(self.sizes[i])))
        return self.reader.read(self.paths[i])

    def take(self, indices: Iterable[int] | np.ndarray) -> ImageSet:
        """Return the set of these images only, in the order given.

        Class names, and with them the meaning of labels, stay; so do `failures` and
        `n_hidden`, which belong to the scan.
        """
        rows = np.asarray(list(indices), dtype=np.int64)
        return replace(
            self,
            paths=[self.paths[i] for i in rows],
            labels=self.labels[rows],
            splits=[self.splits[i] for i in rows],
            groups=[self.groups[i] for i in rows],
            sizes=self.sizes[rows],
            mtimes=self.mtimes[rows],
        )

    def detached(self, indices: Iterable[int] | np.ndarray) -> ImageSet:
        """Return these images in the order given, with nothing of the others.

        For another process: `take` keeps the failures of the scan, and a reader that
        knows where every member of an archive lies.
        """
        some = self.take(indices)
        # A reader of arrays or of an archive would otherwise travel with all its
        # content.
        only = getattr(self.reader, "only", None)
        reader = self.reader if only is None else only(some.paths)
        return replace(some, failures=[], reader=reader)

    def without_labels(self) -> ImageSet:
        """Return the same images with no label, split or class name."""
        nothing = [""] * len(self)
        labels = np.full(len(self), -1, dtype=np.int64)
        return replace(self, labels=labels, class_names=[], splits=nothing)

    def first(self, limit: int) -> ImageSet:
        """Return ``limit`` images, spread evenly over classes and splits.

        The first ``limit`` paths would be of one class. Instead every class (and in it
        every split) gives its first image, then every one its second, and so on; those
        taken keep the sorted order. No chance is involved.

        Raises
        ------
        ValueError
            If ``limit`` is no whole number of at least one.
        """
        require_number("limit", limit, 1, 10**12, instead="or None")
        if limit >= len(self):
            return self
        cells: dict[tuple[bool, int, str], int] = {}
        turns = []
        for label, split in zip(self.labels.tolist(), self.splits, strict=True):
            cell = (label < 0, label, _SPLIT_ORDER[split])  # unlabelled ones last
            # Sorting by turn first deals the images out class by class, like cards.
            turns.append((cells.get(cell, 0), cell))
            cells[cell] = cells.get(cell, 0) + 1
        order = sorted(range(len(self)), key=turns.__getitem__)
        # Back in the order of the source.
        return self.take(sorted(order[:limit]))


_SPLIT_ORDER = {"train": "0", "val": "1", "test": "2", "": "3"}


def too_large(size: int) -> str:
    """Return the reason why a file of this size is not read."""
    return f"{size:,} bytes, more than the {MAX_BYTES:,} that an image file may have"


def build_image_set(
    source: str,
    root: str,
    rows: Sequence[ImageRow],
    reader: ImageReader,
    *,
    failures: Iterable[Failure] = (),
    n_hidden: int = 0,
    n_set_aside: int = 0,
) -> ImageSet:
    """Sort rows into an `ImageSet` and number the classes.

    Raises
    ------
    ValueError
        If there is no row: the sentence says what was found instead. If names are not
        ASCII and Python does not read file names as UTF-8: files written so could not
        be used elsewhere.

    Examples
    --------
    >>> from featpipe import images
    >>> rows = [ImageRow("rose/00.png", "rose"), ImageRow("daisy/00.png", "daisy")]
    >>> reader = images.FileReader("flowers/train")
    >>> pictures = build_image_set("flowers", "flowers/train", rows, reader)
    >>> pictures.paths, pictures.labels.tolist(), pictures.class_names
    (['daisy/00.png', 'rose/00.png'], [0, 1], ['daisy', 'rose'])
    """
    # By bytes: the order must not depend on the locale, and names need not be UTF-8.
    failures = sorted(failures, key=lambda failure: os.fsencode(failure.path))
    if not rows:
        raise ValueError(_no_images(source, failures, n_hidden, n_set_aside))
    _require_readable_names([root, *(row.path for row in rows)])
    rows = sorted(rows, key=lambda row: os.fsencode(row.path))
    class_names = sorted({row.label for row in rows} - {""})
    numbers = {name: k for k, name in enumerate(class_names)} | {"": -1}
    return ImageSet(
        source=source,
        root=root,
        paths=[row.path for row in rows],
        labels=np.array([numbers[row.label] for row in rows], dtype=np.int64),
        class_names=class_names,
        splits=[row.split for row in rows],
        groups=[row.group for row in rows],
        sizes=np.array([row.size for row in rows], dtype=np.int64),
        mtimes=np.array([row.mtime for row in rows], dtype=np.int64),
        failures=failures,
        n_hidden=n_hidden,
        reader=reader,
        n_set_aside=n_set_aside,
    )


def _require_readable_names(names: Iterable[str]) -> None:
    """Raise where a name is not what it would be to a Python with UTF-8."""
    encoding = sys.getfilesystemencoding()
    if encoding.lower().replace("-", "") == "utf8":
        return
    for name in names:
        if not name.isascii():
            raise ValueError(
                f"{name!a:.200} is not ASCII, and this Python reads file names as "
                f"{encoding}; set PYTHONUTF8=1 in the environment, or a locale of UTF-8"
            )


def _no_images(
    source: str, failures: Sequence[Failure], n_hidden: int, n_set_aside: int
) -> str:
    message = f"no image in {source!r}"
    if failures:
        path, _, reason = failures[0]
        message += (
            f": {len(failures)} could not be listed, the first {path!r} ({reason})"
        )
    elif n_hidden or n_set_aside:
        message += (
            f": only {n_hidden} hidden names (with a leading dot) and {n_set_aside} "
            "names of systems or of no images"
        )
    return message + "; give a folder, table or archive that has images"
