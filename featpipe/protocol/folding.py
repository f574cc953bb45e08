"""Stratified folds that keep groups together, the same for every contender."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

from featpipe.defaults import N_FOLDS

__all__ = ["Pairs", "folds", "given_groups", "group_numbers"]

Pairs = list[tuple[np.ndarray, np.ndarray]]
"""Folds: pairs of (train, held-out) positions, sorted int64."""


def group_numbers(groups: Sequence[str] | np.ndarray) -> np.ndarray:
    """Return a number for each group; every ``""`` becomes a group of its own.

    Examples
    --------
    >>> group_numbers(["b", "", "a", "b", ""]).tolist()
    [1, 2, 0, 1, 3]
    """
    groups = np.asarray(groups, dtype=object)
    # Images without a group are independent of all others.
    alone = groups == ""
    numbers = np.empty(len(groups), np.int64)
    # As str: an object array of names of different types cannot be sorted.
    names, numbers[~alone] = np.unique(groups[~alone].astype(str), return_inverse=True)
    numbers[alone] = len(names) + np.arange(int(alone.sum()))
    return numbers


def given_groups(groups: Sequence[str] | np.ndarray) -> np.ndarray | None:
    """Return the number of each image's group, or None where no image has one.

    Examples
    --------
    >>> given_groups(["cat7", "", "cat7"]).tolist(), given_groups(["", ""])
    ([0, 1, 0], None)
    """
    named = bool((np.asarray(groups, dtype=object) != "").any())
    return group_numbers(groups) if named else None


def folds(
    labels: np.ndarray,
    groups: Sequence[str] | np.ndarray | None = None,
    *,
    n_folds: int = N_FOLDS,
    seed: int = 0,
) -> Pairs:
    """Cut rows into stratified folds that keep groups together.

    Everything that cross-validates uses these folds, so that two contenders of one
    seed are judged on the same ones.

    Parameters
    ----------
    labels : (n,) int64
        Class numbers.
    groups : (n,) str, optional
        Rows of one group share a fold; ``""`` is a group of its own.
    n_folds : int
        Fewer are made where no class has so many images, or there are not so many
        groups.
    seed : int
        The same seed gives the same folds.

    Returns
    -------
    list of (train, held-out)
        Pairs of sorted row numbers, int64; every row is held out once.

    Raises
    ------
    ValueError
        If there are fewer than two folds to be made.

    Examples
    --------
    >>> pairs = folds(np.array([0, 0, 0, 1, 1, 1]), n_folds=3)
    >>> sorted(np.concatenate([held for _, held in pairs]).tolist())
    [0, 1, 2, 3, 4, 5]
    """
    labels = np.asarray(labels)
    numbers = None if groups is None else given_groups(groups)
    possible = int(np.unique(labels, return_counts=True)[1].max(initial=0))
    # Groups are indivisible, so there can be no more folds than groups.
    if numbers is not None:
        possible = min(possible, len(np.unique(numbers)))
    n = min(n_folds, possible)
    if n < 2:
        unit = "images of one class" if numbers is None else "groups"
        raise ValueError(
            f"cannot make {n_folds} folds of {len(labels)} images; at least two "
            f"folds and two {unit} are needed"
        )
    maker = StratifiedKFold if numbers is None else StratifiedGroupKFold
    with warnings.catch_warnings():
        # The protocol warns of classes smaller than the folds, with their names.
        warnings.filterwarnings("ignore", message="The least populated class")
        cut = maker(n, shuffle=True, random_state=seed)
        pairs = list(cut.split(np.zeros((len(labels), 1)), labels, numbers))
    # StratifiedGroupKFold leaves folds empty where one group holds most images.
    return [(train, held) for train, held in pairs if len(train) and len(held)]
