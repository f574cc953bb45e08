"""The input of a plan: labels, splits and groups of images, and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

__all__ = ["HasLabels", "LabelledRows", "labelled_rows"]

Column = Sequence[str] | np.ndarray


# A protocol, so that this package need import neither codes nor images.
class HasLabels(Protocol):
    """Labels, splits, groups, class names: `Codes`, `ImageSet` or `LabelledRows`.

    Examples
    --------
    >>> from featpipe import images
    >>> pictures: HasLabels = images.from_arrays(np.zeros((2, 8, 8), np.uint8), [0, 1])
    >>> list(pictures.class_names)
    ['0', '1']
    """

    @property
    def labels(self) -> np.ndarray:
        """Class numbers, (n,) int64; -1 for unlabelled rows."""

    @property
    def splits(self) -> Column:
        """Of each row; ``""`` where there is none."""

    @property
    def groups(self) -> Column:
        """Of each row; ``""`` where there is none."""

    @property
    def class_names(self) -> Sequence[str]:
        """Name of each class number."""


@dataclass(frozen=True, eq=False)
class LabelledRows:
    """The labelled rows of a file or a source.

    Attributes
    ----------
    labels : (n,) int64
        Class numbers.
    splits, groups : (n,) str
        ``""`` where there is none.
    class_names : sequence of str
        Name of each class number.

    Examples
    --------
    >>> splits = ["train"] * 8 + ["test"] * 2
    >>> images = LabelledRows(np.array([0, 1] * 5), splits, [""] * 10, ["a", "b"])
    >>> images.labels.shape
    (10,)
    """

    labels: np.ndarray
    splits: Column
    groups: Column
    class_names: Sequence[str]


def labelled_rows(images: HasLabels) -> tuple[np.ndarray, LabelledRows]:
    """Return the rows that have a label, and their labels, splits and groups.

    Parameters
    ----------
    images : Codes, ImageSet or LabelledRows

    Returns
    -------
    rows : (n,) int64
        Row numbers.
    labelled : LabelledRows

    Examples
    --------
    >>> images = LabelledRows(np.array([0, -1, 1]), [""] * 3, [""] * 3, ["a", "b"])
    >>> rows, labelled = labelled_rows(images)
    >>> rows, labelled.labels
    (array([0, 2]), array([0, 1]))
    """
    labels = np.asarray(images.labels)
    rows = np.flatnonzero(labels >= 0)
    return rows, LabelledRows(
        labels[rows],
        # Objects, since numpy's own text type cuts off trailing zero characters.
        np.asarray(images.splits, object)[rows],
        np.asarray(images.groups, object)[rows],
        images.class_names,
    )
