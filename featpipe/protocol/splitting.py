"""Divide rows into training and judging by the splits that came with the images."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

__all__ = ["SplitRows", "learned_splits", "split_rows"]

NAMES = ("train", "val", "test")


class SplitRows(NamedTuple):
    """Sorted row numbers, int64, by the part they have.

    Attributes
    ----------
    train : (n_train,)
        Rows of split ``train``.
    choose : (n_choose,)
        Rows of ``val`` where ``test`` exists too: they choose C, learning rate and
        epoch, and are then learned from.
    held : (n_held,)
        Rows of ``test``, or of ``val`` where there is no ``test``: they judge.
    name : str
        The split of ``held``, ``"test"`` or ``"val"``.
    without : (n_without,)
        Rows of no split; they take no part.

    Examples
    --------
    >>> from featpipe.protocol import split_rows
    >>> rows = split_rows(np.array(["train", "train", "test"]))
    >>> rows.train.tolist(), rows.held.tolist(), rows.name
    ([0, 1], [2], 'test')
    """

    train: np.ndarray
    choose: np.ndarray
    held: np.ndarray
    name: str
    without: np.ndarray


def split_rows(splits: np.ndarray) -> SplitRows | None:
    """Return the rows of each part, or None where all rows have one name.

    Parameters
    ----------
    splits : (n,) str
        ``"train"``, ``"val"``, ``"test"``, or ``""`` for none.

    Raises
    ------
    ValueError
        If the names leave open what to learn from and what to judge on: several, but
        no ``train``, or only ``train`` beside rows without a split.

    Examples
    --------
    >>> rows = split_rows(np.array(["train", "train", "val"]))
    >>> rows.train.tolist(), rows.held.tolist(), rows.name
    ([0, 1], [2], 'val')
    """
    splits = np.asarray(splits)
    rows_of = {name: np.flatnonzero(splits == name) for name in ("", *NAMES)}
    present = [name for name in NAMES if len(rows_of[name])]
    # Rows without a split count as a part of their own: with one named split beside
    # them the intention is unclear, and that is refused below.
    n_without = len(rows_of[""])
    if len(present) + bool(n_without) < 2:
        return None
    if "train" not in present or present == ["train"]:
        counts = [f"{len(rows_of[name]):,} have the split {name!r}" for name in present]
        counts += [f"{n_without:,} have none"] * bool(n_without)
        raise ValueError(
            f"of the labelled images {' and '.join(counts)}; learning and judging need "
            "'train' and one of 'val' and 'test', or no splits at all"
        )
    # Where there is no test split, val is held out and chooses nothing.
    name = "test" if "test" in present else "val"
    # Where val judges, it cannot choose as well.
    choose = rows_of["val"] if name == "test" else rows_of["val"][:0]
    return SplitRows(rows_of["train"], choose, rows_of[name], name, rows_of[""])


def learned_splits(splits: Iterable[str]) -> tuple[str, ...]:
    """Return the names of the splits that a model fitted by them has learned from.

    Empty where the names do not decide it: a single name, or no ``train``.

    Examples
    --------
    >>> learned_splits(["test", "train", "val", "val"])
    ('train', 'val')
    """
    try:
        rows = split_rows(np.array(sorted(set(splits)), object))
    except ValueError:
        return ()
    if rows is None:
        return ()
    return ("train", "val") if len(rows.choose) else ("train",)
