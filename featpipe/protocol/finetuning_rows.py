"""Which training rows choose the learning rate and the epoch of a fine-tuning.

The rows held out are those of `plan`. Labels of held-out rows are not used here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from featpipe.defaults import N_FOLDS
from featpipe.protocol.folding import Pairs, group_numbers
from featpipe.protocol.labelled import HasLabels, labelled_rows
from featpipe.protocol.planning import plan

__all__ = ["TuningRows", "describe_rows", "tuning_rows", "unseen_classes"]


class TuningRows(NamedTuple):
    """Sorted row numbers, int64 each.

    Attributes
    ----------
    train : (n_train,)
        All rows that may be learned from: ``fit`` and ``select`` together.
    fit : (n_fit,)
        Rows learned from while rate and epoch are chosen.
    select : (n_select,)
        Rows that choose them.
    held : (n_held,)
        Rows that judge.
    protocol : str
        As in the score record.
    folds : list of (train, held-out)
        Pairs of positions within ``train`` that choose a classifier's C, as
        `featpipe.compare` has them.

    Examples
    --------
    >>> from featpipe.protocol import LabelledRows, tuning_rows
    >>> splits = ["train"] * 8 + ["val"] * 2
    >>> images = LabelledRows(np.array([0, 1] * 5), splits, [""] * 10, ["a", "b"])
    >>> rows = tuning_rows(images, n_folds=2)
    >>> rows.train.shape, rows.select.shape, rows.held.tolist()
    ((8,), (4,), [8, 9])
    """

    train: np.ndarray
    fit: np.ndarray
    select: np.ndarray
    held: np.ndarray
    protocol: str
    folds: Pairs


def tuning_rows(
    images: HasLabels, *, n_folds: int = N_FOLDS, seed: int = 0
) -> TuningRows:
    """Divide the labelled images for one fine-tuning, by the plan of `compare`.

    ``test`` rows are held out, else ``val`` rows, else the first of the plan's outer
    folds. With ``train``, ``val`` and ``test``, ``val`` chooses; otherwise the first of
    the plan's folds of the training rows does. A class of which nothing would be left
    to learn from is not among those that choose.

    Parameters
    ----------
    images : Codes, ImageSet or LabelledRows
        Unlabelled rows take no part.
    n_folds, seed
        As for `plan`.

    Raises
    ------
    ValueError
        As `plan`, or if no training image can be spared to choose.

    Examples
    --------
    >>> from featpipe.protocol import LabelledRows
    >>> splits = ["train"] * 8 + ["val"] * 2
    >>> images = LabelledRows(np.array([0, 1] * 5), splits, [""] * 10, ["a", "b"])
    >>> rows = tuning_rows(images, n_folds=2)
    >>> len(rows.fit) + len(rows.select) == len(rows.train)
    True
    """
    rows, labelled = labelled_rows(images)
    protocol = plan(labelled, n_folds=n_folds, seed=seed)
    # One training run is affordable, so of the folds of `compare` only the first is
    # held out. Its score can then be compared with those of the table on the same
    # images.
    part = protocol.parts[0]
    if protocol.chosen_by_val:
        fit, select = part.selection[0]
    else:
        labels, groups = labelled.labels[part.train], np.asarray(labelled.groups)
        # One fold: choosing by all of them would be five trainings.
        select = _spared(labels, groups[part.train], part.selection)
        fit = np.setdiff1d(np.arange(len(part.train)), select)
    train = rows[part.train]
    return TuningRows(
        train, train[fit], train[select], rows[part.held], protocol.name, part.selection
    )


def _spared(labels: np.ndarray, groups: np.ndarray, selection: Pairs) -> np.ndarray:
    """Return the training rows of the first fold, less the last of any class."""
    chosen = selection[0][1] if selection else np.empty(0, np.int64)
    numbers = group_numbers(groups)
    taken = np.isin(np.arange(len(labels)), chosen)
    for label in np.unique(labels):
        if taken[labels == label].all():
            # Whole groups go back, so that none is on both sides.
            taken &= ~np.isin(numbers, numbers[labels == label])
    if not taken.any():
        raise ValueError(
            f"the {len(labels)} training images are too few to spare one that chooses "
            "the learning rate and the epoch; give some class at least 2 images (of "
            "different groups, where there are groups)"
        )
    return np.flatnonzero(taken)


def describe_rows(rows: TuningRows, *, refit: bool) -> Iterator[str]:
    """Yield sentences on which images train, choose and judge.

    Examples
    --------
    >>> from featpipe.protocol import LabelledRows, tuning_rows
    >>> splits = ["train"] * 8 + ["val"] * 2
    >>> images = LabelledRows(np.array([0, 1] * 5), splits, [""] * 10, ["a", "b"])
    >>> rows = tuning_rows(images, n_folds=2)
    >>> print(next(describe_rows(rows, refit=False))[:23])
    8 images to learn from:
    """
    again = "; then trained anew on all of them" if refit else ""
    yield (
        f"{len(rows.train)} images to learn from: the learning rate and the epoch are "
        f"chosen on {len(rows.select)} of them{again}; {len(rows.held)} are held out "
        "and choose nothing"
    )
    if rows.protocol.endswith("-fold"):
        yield (
            "no split was given: the images held out are the first of the folds that "
            "compare makes with this seed"
        )


def unseen_classes(
    class_names: Sequence[str], learned: np.ndarray, judged: np.ndarray
) -> Iterator[str]:
    """Yield a warning where classes are judged that were never learned.

    Examples
    --------
    >>> list(unseen_classes(["a", "b"], np.array([0]), np.array([0, 1])))
    ["no training images of class 'b': the held-out images of it count as wrong"]
    """
    lacking = np.setdiff1d(judged, learned)
    if len(lacking):
        # Ten: thousands of names would hide the sentence around them.
        names = ", ".join(repr(class_names[k]) for k in lacking[:10])
        yield (
            f"no training images of class {names}: the held-out images of it count as "
            "wrong"
        )
