"""The list of images of one source: `ImageSet`, `Failure` and `ImageError`.

The modules of the sources make the lists, and `decoding` reads the bytes.
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
"""The largest file that is read as an image. The largest image that decoding allows has
716 MB as plain 16-bit RGBA, so a larger file is a video, or an attack."""


class Failure(NamedTuple):
    """An input that has no code: its path, the stage of the error, and the reason.

    Examples
    --------
    >>> Failure("train/rose/07.jpg", "decode", "truncated file")
    Failure(path='train/rose/07.jpg', stage='decode', reason='truncated file')
    """

    path: str
    stage: str
    reason: str


class ImageError(ValueError):
    """An image cannot be read or decoded.

    Attributes
    ----------
    stage : str
        ``"read"`` or ``"decode"``.
    reason : str
        One line, the same for the same bytes. The caller adds the path, and makes a
        `Failure`.

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
        # Both are in `args`, so that the error can be pickled.
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
    """One image of a source; `ImageSet` has the same fields as columns.

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


# Compared by identity, since `==` of two arrays has no single answer.
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
        The place that `paths` are relative to: an absolute folder, the absolute path of
        an archive, the ``torchvision:`` text, or ``"arrays:"``.
    paths : list of str
        Separated by ``/``, and absolute where a table has absolute paths. Bytes that
        are not UTF-8 are those of `os.fsdecode`; `os.fsencode` returns them.
    labels : (n,) int64
        Indices into `class_names`, -1 without a label.
    class_names : list of str
        Sorted.
    splits : list of str
        ``""``, ``"train"``, ``"val"`` or ``"test"``.
    groups : list of str
        ``""`` without a group.
    sizes : (n,) int64
        Bytes; 0 if unknown.
    mtimes : (n,) int64
        Modification times in nanoseconds since 1970; members of an archive have that of
        the archive. 0 if unknown: then only the content shows whether an image changed.
    failures : list of Failure
        Inputs that could not be listed, with stage ``"scan"``; `take` keeps them all.
    n_hidden : int
        Number of files and folders whose name begins with a dot; a hidden folder counts
        once.
    n_set_aside : int
        Number of files and folders of systems, and of known non-images; see
        `is_set_aside`.

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
        """Return one line: the source, and the number of images and classes."""
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
            # Names of folders may hold markup.
            "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>"
            for row in rows
        )
        return (
            f"<table><caption>{html.escape(repr(self)[1:-1])}</caption>{lines}</table>"
        )

    def read(self, i: int) -> bytes:
        """Return the bytes of image ``i``; several threads may read at once.

        Raises
        ------
        ImageError
            With stage ``"read"``, if the image no longer exists, may not be read, is
            not a regular file, or is larger than `MAX_BYTES`.
        """
        # By the size of the scan; the reader checks the size of the file again.
        if self.sizes[i] > MAX_BYTES:
            raise ImageError("read", too_large(int(self.sizes[i])))
        return self.reader.read(self.paths[i])

    def take(self, indices: Iterable[int] | np.ndarray) -> ImageSet:
        """Return the set of these images, in the order of ``indices``.

        `class_names`, `failures` and `n_hidden` stay as they are.
        """
        # Failures stay, since a choice of rows must not hide them.
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
        """Return these images without data of the others, to send to another process.

        `take` keeps the failures, and the reader of all arrays or members.
        """
        # A reader of arrays, or of an archive, would send all its content along.
        taken = self.take(indices)
        only = getattr(self.reader, "only", None)
        reader = self.reader if only is None else only(taken.paths)
        return replace(taken, failures=[], reader=reader)

    def without_labels(self) -> ImageSet:
        """Return the same images without labels, splits and class names."""
        labels = np.full(len(self), -1, dtype=np.int64)
        splits = [""] * len(self)
        return replace(self, labels=labels, class_names=[], splits=splits)

    def first(self, limit: int) -> ImageSet:
        """Return ``limit`` images, spread evenly over classes and splits.

        Every split of every class gives its first image, then its second, and so on.
        The images keep their sorted order. Nothing is random.

        Raises
        ------
        ValueError
            If ``limit`` is not a whole number of at least one.
        """
        require_number("limit", limit, 1, 10**12, instead="or None")
        if limit >= len(self):
            return self
        # The first paths alone would all be of one class.
        cells: dict[tuple[bool, int, str], int] = {}
        turns = []
        for label, split in zip(self.labels.tolist(), self.splits, strict=True):
            cell = (label < 0, label, _SPLIT_ORDER[split])  # unlabelled ones last
            turns.append((cells.get(cell, 0), cell))
            cells[cell] = cells.get(cell, 0) + 1
        order = sorted(range(len(self)), key=turns.__getitem__)
        return self.take(sorted(order[:limit]))


# By the alphabet, test would come before train.
_SPLIT_ORDER = {"train": "0", "val": "1", "test": "2", "": "3"}


def too_large(size: int) -> str:
    """Return the reason why a file of ``size`` bytes is not read."""
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
    """Return rows as an `ImageSet`, sorted by path, with numbered classes.

    Raises
    ------
    ValueError
        If there is no row. If a name is not ASCII and Python does not read file names
        as UTF-8, since other systems could not use the files written.

    Examples
    --------
    >>> from featpipe import images
    >>> rows = [ImageRow("rose/00.png", "rose"), ImageRow("daisy/00.png", "daisy")]
    >>> reader = images.FileReader("flowers/train")
    >>> pictures = build_image_set("flowers", "flowers/train", rows, reader)
    >>> pictures.paths, pictures.labels.tolist(), pictures.class_names
    (['daisy/00.png', 'rose/00.png'], [0, 1], ['daisy', 'rose'])
    """
    # By bytes, since the order must not depend on the locale.
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
    """Raise if Python does not read a name as it would with UTF-8."""
    encoding = sys.getfilesystemencoding()
    if encoding.lower().replace("-", "") == "utf8":
        return
    for name in names:
        if not name.isascii():
            # Elsewhere the same bytes would be another name, which no row has.
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
        return (
            f"{message}: {len(failures)} could not be listed, the first {path!r} "
            f"({reason}); check these paths, or give another folder, table or archive"
        )
    if n_hidden or n_set_aside:
        message += (
            f": only {n_hidden} hidden names (with a leading dot) and {n_set_aside} "
            "names of systems or of no images"
        )
    return message + "; give a folder, table or archive that has images"
