"""Which images train, which choose, and which judge once at the end.

The rows held out are those of `compare`; the rows that choose the learning rate and
the epoch are a part of the training rows. Labels of held-out rows never come in here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from featpipe import scores
from featpipe.codes import Codes
from featpipe.images import ImageSet

__all__ = ["Pairs", "Rows", "divide", "told", "unseen"]

Pairs = list[tuple[np.ndarray, np.ndarray]]


class Rows(NamedTuple):
    """Sorted row numbers of a codes file, int64 each.

    Parameters
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
    """

    train: np.ndarray
    fit: np.ndarray
    select: np.ndarray
    held: np.ndarray
    protocol: str
    folds: Pairs


def divide(images: Codes | ImageSet, *, n_folds: int = 5, seed: int = 0) -> Rows:
    """Divide the labelled images of a codes file or a source.

    ``test`` rows are held out, else ``val`` rows, else the first of `compare`'s folds
    of this seed. With ``train``, ``val`` and ``test``, ``val`` chooses; otherwise the
    first of the folds of the training rows does, stratified, groups kept together. A
    class of which nothing would be left to learn from is not among those that choose.

    Raises
    ------
    ValueError
        If there are not two classes to learn, or no image can be spared to choose.
    """
    labels, splits = np.asarray(images.labels), np.asarray(images.splits)
    groups = np.asarray(images.groups, object)
    where = {
        name: np.flatnonzero((labels >= 0) & (splits == name))
        for name in ("", "train", "val", "test")
    }
    given = [name for name, rows in where.items() if len(rows)]
    if len(given) < 2:
        every = np.flatnonzero(labels >= 0)
        _require_two_classes(labels[every], "labelled")
        outer = scores.folds(labels[every], groups[every], n_folds=n_folds, seed=seed)
        train, held = (every[part] for part in outer[0])
        return _choosing(
            labels, groups, train, held, f"{len(outer)}-fold", n_folds, seed
        )
    name = "test" if "test" in given else "val"
    if "train" not in given or name not in given:
        raise ValueError(
            f"the labelled images have the splits {[n for n in given if n]}, and "
            f"{len(where[''])} have none; training needs 'train' and one of 'val' and "
            "'test', or no splits at all"
        )
    train, held = where["train"], where[name]
    if name == "val" or not len(where["val"]):
        return _choosing(labels, groups, train, held, name, n_folds, seed)
    _require_two_classes(labels[train], "training")
    both = np.sort(np.concatenate([train, where["val"]]))
    pair = np.searchsorted(both, train), np.searchsorted(both, where["val"])
    return Rows(both, train, where["val"], held, name, [pair])


def _choosing(
    labels: np.ndarray,
    groups: np.ndarray,
    train: np.ndarray,
    held: np.ndarray,
    protocol: str,
    n_folds: int,
    seed: int,
) -> Rows:
    """Take the first fold of the training rows to choose by."""
    labels, groups = labels[train], groups[train]
    _require_two_classes(labels, "training")
    try:
        pairs = scores.folds(labels, groups, n_folds=n_folds, seed=seed)
    except ValueError:
        pairs = []
    pairs = [pair for pair in pairs if len(np.unique(labels[pair[0]])) > 1]
    chosen = _with_every_class(labels, groups, pairs[0][1]) if pairs else train[:0]
    if not len(chosen):
        raise ValueError(
            f"the {len(train)} training images are too few to spare one that chooses "
            "the learning rate and the epoch; give some class at least 2 images (of "
            "different groups, where there are groups)"
        )
    fit = np.setdiff1d(np.arange(len(train)), chosen)
    return Rows(train, train[fit], train[chosen], held, protocol, pairs)


def _with_every_class(
    labels: np.ndarray, groups: np.ndarray, chosen: np.ndarray
) -> np.ndarray:
    """Give back to the others what they lack of a class, whole groups at a time."""
    numbers = scores.group_numbers(groups)
    taken = np.isin(np.arange(len(labels)), chosen)
    for label in np.unique(labels):
        if taken[labels == label].all():
            taken &= ~np.isin(numbers, numbers[labels == label])
    return np.flatnonzero(taken)


def _require_two_classes(labels: np.ndarray, kind: str) -> None:
    n_classes = len(np.unique(labels))
    if n_classes < 2:
        raise ValueError(
            f"the {len(labels)} {kind} images are of {n_classes} class; training needs "
            "images of at least two classes"
        )


def told(rows: Rows, *, refit: bool) -> Iterator[str]:
    """Say in words which images do what."""
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


def unseen(
    class_names: Sequence[str], learned: np.ndarray, judged: np.ndarray
) -> Iterator[str]:
    """Warn of classes that were judged and never learned."""
    lacking = np.setdiff1d(judged, learned)
    if len(lacking):
        names = ", ".join(repr(class_names[k]) for k in lacking[:10])
        yield (
            f"no training images of class {names}: the held-out images of it count as "
            "wrong"
        )
