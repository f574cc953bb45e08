"""Make the folds that choose C, as scikit-learn does, and check them.

A fold that cannot be fitted raises before any work is done.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import Any

import numpy as np
from sklearn.model_selection import StratifiedKFold, check_cv

from featpipe.classifiers.measures import Labels

__all__ = ["C_WITHOUT_FOLDS", "Split", "in_row_order", "make_folds"]

# Used where no class has two rows, so that none can be held out to choose C.
C_WITHOUT_FOLDS = 1.0

Split = tuple[np.ndarray, np.ndarray]


def make_folds(
    cv: Any, labels: Labels, random_state: int | np.random.RandomState | None
) -> tuple[list[Split], list[str]]:
    """Return the folds that choose C, and warnings about them.

    Parameters
    ----------
    cv : int, splitter, or iterable of (train, held-out)
        As in scikit-learn.
    labels : Labels
    random_state : int, RandomState or None
        Seed of the shuffling, where ``cv`` is a number.

    Returns
    -------
    splits : list of (train, held-out)
        Row numbers; none where no class has two rows.
    warnings : list of str

    Raises
    ------
    ValueError
        If a training part has fewer than two classes, or a held-out part is empty.
    """
    notes: list[str] = []
    if isinstance(cv, int):
        counts = np.bincount(labels.numbers[labels.rows > 0])
        n_folds = min(cv, int(counts.max()))
        small = counts < cv
        if small.any():
            names = ", ".join(map(repr, labels.classes[small][:10].tolist()))
            notes.append(
                f"{np.count_nonzero(small)} class(es) have fewer than {cv} rows "
                f"({names}); some folds have none of theirs"
            )
        if n_folds < 2:
            notes.append(
                "no class has two rows, so C could not be chosen; "
                f"C={C_WITHOUT_FOLDS} was used"
            )
            return [], notes
        cv = StratifiedKFold(n_folds, shuffle=True, random_state=random_state)
    # `check_cv` turns a generator into a list, which can be read again.
    splitter = check_cv(cv, labels.numbers, classifier=True)
    with warnings.catch_warnings():
        # The notes tell it already.
        warnings.filterwarnings("ignore", "The least populated class")
        rows = np.zeros((len(labels.numbers), 1))
        pairs = list(splitter.split(rows, labels.numbers))
    return [_checked_split(pair, labels) for pair in pairs], notes


def _checked_split(pair: Iterable[Any], labels: Labels) -> Split:
    rows = np.arange(len(labels.numbers))
    train, held_out = (rows[np.asarray(part)] for part in pair)
    # A class whose rows all have weight zero cannot be learned.
    kept = train[labels.loss[train] > 0]
    if len(np.unique(labels.numbers[kept])) < 2:
        raise ValueError(
            f"a training part of cv has {len(train)} rows of fewer than two classes; "
            "use fewer folds or stratified ones"
        )
    if not len(held_out):
        raise ValueError("a held-out part of cv is empty; give every split rows")
    return train, held_out


def in_row_order(splits: list[Split], predicted: list[np.ndarray]) -> np.ndarray | None:
    """Return the predictions of all folds in the order of the rows.

    Parameters
    ----------
    splits : list of (train, held-out)
    predicted : list of (n_held_out,) int64

    Returns
    -------
    (n,) int64 or None
        None where a row is held out twice or never, as in shuffled splits.
    """
    n_rows = sum(len(held_out) for _, held_out in splits)
    order = np.concatenate([held_out for _, held_out in splits])
    if n_rows != order.max() + 1 or len(np.unique(order)) != n_rows:
        return None
    numbers = np.empty(n_rows, np.int64)
    numbers[order] = np.concatenate(predicted)
    return numbers
