"""The images of a comparison: the labelled rows that all codes files share."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from featpipe.codes import Codes, CodesError, CodesView
from featpipe.protocol import LabelledRows

__all__ = ["Labelled", "Source", "align_files", "choose_depths", "take"]


@dataclass(frozen=True, eq=False)
class Labelled(LabelledRows):
    """The images that take part, in the order of the first file.

    Attributes
    ----------
    labels, splits, groups, class_names
        As `LabelledRows`.
    paths : list of str
        Relative paths, n of them.
    digests : (n, 32) uint8
        SHA-256 of each image file.
    n_unlabelled : int
        Images of the first file that take no part because they have no label.
    """

    class_names: list[str]
    splits: np.ndarray
    groups: np.ndarray
    paths: list[str]
    digests: np.ndarray
    n_unlabelled: int


@dataclass(frozen=True, eq=False)
class Source:
    """One codes file, and its row of each image that takes part.

    Attributes
    ----------
    codes : Codes
        The open file.
    rows : (n,) int64
        Its row of each image of `Labelled`.
    """

    codes: Codes
    rows: np.ndarray

    @property
    def name(self) -> str:
        """The file's path as it was given."""
        return os.fspath(self.codes.path)

    def arrays(self, depth: str) -> np.ndarray:
        """Read the codes of the images that take part, (n, width) float32."""
        parts = depth.split("+")
        if len(parts) == 1:
            # float16 is for storage only: fits sum in float32 at least.
            return self.codes.take(depth, self.rows).astype(np.float32, copy=False)
        # Filled in place: concatenating would hold all parts twice.
        X = np.empty((len(self.rows), self.codes.width(depth)), np.float32)
        column = 0
        for part in parts:
            width = self.codes.width(part)
            X[:, column : column + width] = self.codes.take(part, self.rows)
            column += width
        return X

    def view(self, depth: str) -> CodesView:
        """Return the codes of the images that take part, to be read in blocks."""
        return CodesView(self.codes, depth, self.rows)

    def sample(self, depth: str, images: np.ndarray) -> np.ndarray:
        """Read the codes of some of the images that take part, at one depth."""
        return self.codes.take(depth, self.rows[images]).astype(np.float32, copy=False)


def take(array: Any, rows: np.ndarray) -> Any:
    """Return rows of an array or view; adjacent rows of an array as a slice.

    Files are sorted by path, so a split is usually one run of rows, and a slice saves
    a copy of hundreds of megabytes.
    """
    # A view reads nothing by being indexed, so it needs no slice.
    if isinstance(array, CodesView):
        return array[rows]
    if len(rows) and np.array_equal(rows, np.arange(rows[0], rows[0] + len(rows))):
        return array[rows[0] : rows[0] + len(rows)]
    copied: np.ndarray = array[rows]
    return copied


def align_files(files: Sequence[Codes]) -> tuple[Labelled, list[Source]]:
    """Find the labelled images of the files, which must be the same in all.

    Raises
    ------
    CodesError
        If two files differ in an image, its content, label, split or group; the
        message names an example.
    ValueError
        If no image has a label.

    Examples
    --------
    >>> import featpipe
    >>> labelled, (source,) = align_files([featpipe.read("flowers.h5")])
    >>> labelled.labels.shape, source.arrays("penultimate").shape
    ((42,), (42, 8))
    """
    paths = [file.path.resolve() for file in files]
    for file, path in zip(files, paths, strict=True):
        if paths.count(path) > 1:
            raise ValueError(f"{file.path} is given twice; give each file once")
    first = _labelled(files[0])
    if not len(first.labels):
        raise ValueError(
            f"not one image in {os.fspath(files[0].path)!r} has a label; name folders "
            "after classes, or give a CSV with the columns path,label"
        )
    sources = [Source(files[0], np.flatnonzero(files[0].labels >= 0))]
    for other in files[1:]:
        order = _match(first, _labelled(other), files[0], other)
        sources.append(Source(other, np.flatnonzero(other.labels >= 0)[order]))
    return first, sources


def _labelled(codes: Codes) -> Labelled:
    labels = np.asarray(codes.labels, np.int64)
    rows = np.flatnonzero(labels >= 0)
    return Labelled(
        paths=[codes.paths[row] for row in rows],
        labels=labels[rows],
        class_names=list(codes.class_names),
        splits=np.array(codes.tables.splits, object)[rows],
        groups=np.array(codes.tables.groups, object)[rows],
        digests=np.asarray(codes.sha256)[rows],
        n_unlabelled=len(labels) - len(rows),
    )


def _match(first: Labelled, other: Labelled, a: Codes, b: Codes) -> np.ndarray:
    """Return the position in ``other`` of each image of ``first``."""
    position = {path: i for i, path in enumerate(other.paths)}
    here, there = os.fspath(a.path), os.fspath(b.path)
    first_paths = set(first.paths)
    # By path, since content may repeat.
    lacking = [path for path in first.paths if path not in position]
    surplus = [path for path in other.paths if path not in first_paths]
    if lacking or surplus:
        example = (lacking or surplus)[0]
        has, lacks = (here, there) if lacking else (there, here)
        raise CodesError(
            f"the files hold different images: {example!r} is labelled in {has!r} but "
            f"not in {lacks!r} ({len(lacking) + len(surplus)} such images); extract "
            "both from the same folder"
        )
    order = np.array([position[path] for path in first.paths], dtype=np.int64)
    names, other_names = (np.array(x.class_names, object) for x in (first, other))
    for what, mine, theirs in (
        # A file of the same name with other pixels would pair codes of different
        # images.
        ("content", first.digests, other.digests[order]),
        ("label", names[first.labels], other_names[other.labels[order]]),
        ("split", first.splits, other.splits[order]),
        ("group", first.groups, other.groups[order]),
    ):
        differ = np.atleast_2d((mine != theirs).T).any(axis=0)
        if differ.any():
            raise CodesError(
                f"{first.paths[int(differ.argmax())]!r} has another {what} in "
                f"{there!r} than in {here!r}; extract both from the same folder"
            )
    return order


def choose_depths(
    sources: Sequence[Source], specs: Sequence[str] | None
) -> list[list[str]]:
    """Choose the depths to compare in each file, by their canonical names.

    Parameters
    ----------
    sources : sequence of Source
        The open files.
    specs : sequence of str or None
        Depths as a user writes them, ``a+b`` for a concatenation; None for every
        depth but maps, each alone. Of several files only one needs to have a depth.

    Raises
    ------
    CodesError
        If a depth is in no file.
    ValueError
        If a depth is a map, which only fine-tuning can use.

    Examples
    --------
    >>> import featpipe
    >>> _, sources = align_files([featpipe.read("flowers.h5")])
    >>> choose_depths(sources, ["layer3"])
    [['layer3:avg']]
    """
    if specs is None:
        chosen = [[d for d in s.codes.depths if not _is_map(s, d)] for s in sources]
    else:
        names_in = [[_canonical(s.codes, spec) for s in sources] for spec in specs]
        for spec, names in zip(specs, names_in, strict=True):
            if not any(names):
                sources[0].codes.width(spec)  # raises, naming the choices
        chosen = [
            list(dict.fromkeys(name for names in names_in if (name := names[k])))
            for k in range(len(sources))
        ]
    maps = [
        depth
        for source, depths in zip(sources, chosen, strict=True)
        for depth in depths
        if any(_is_map(source, part) for part in depth.split("+"))
    ]
    if maps or not any(chosen):
        raise ValueError(
            f"{maps[0] if maps else sources[0].name!r} holds maps, which only finetune "
            "can use; compare a pooled depth such as 'NODE:avg'"
        )
    return chosen


def _is_map(source: Source, depth: str) -> bool:
    return len(source.codes.shapes[depth]) > 2


def _canonical(codes: Codes, spec: str) -> str | None:
    """Return the file's own name of a depth or concatenation; None if it has none."""
    try:
        return "+".join(codes.spec(part) for part in spec.split("+"))
    except CodesError:
        return None
