"""The parts of a plan: the rows of each fit, and the protocol in words."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from featpipe.protocol.folding import Pairs

__all__ = ["Part", "Protocol"]


@dataclass(frozen=True, eq=False)
class Part:
    """One fit: the rows it learns from, the folds that choose C, the rows it judges.

    Attributes
    ----------
    train : (n_train,) int64
        Sorted row numbers.
    held : (n_held,) int64
        Sorted row numbers the fit predicts; none of them is in ``train``.
    selection : list of (fitted, scored)
        Pairs of positions *within* ``train`` that choose C and give the
        cross-validated score; empty where the rows are too few to hold any out.

    Examples
    --------
    >>> pair = np.array([0, 1]), np.array([2, 3])
    >>> part = Part(np.arange(4), np.arange(4, 6), [pair])
    >>> part.train[part.selection[0][1]]
    array([2, 3])
    """

    train: np.ndarray
    held: np.ndarray
    selection: Pairs


@dataclass(frozen=True, eq=False)
class Protocol:
    """The plan of a comparison, the same for every contender.

    Attributes
    ----------
    name : str
        ``"test"``, ``"val"`` or ``"5-fold"``, as in the record.
    final : Part
        The fit whose C, curve and cross-validated score are reported.
    parts : list of Part
        The fits whose predictions are judged: ``final`` alone where rows are held
        out, one for each outer fold where there is no split.
    sides : (n,) int64
        Rows of different sides are never fitted together in some part: the number
        of the split or of the fold; -1 for rows that take no part.
    warnings : list of str
        What a reader of any row must know.
    notes : list of str
        The protocol in words.
    chosen_by_val : bool
        Whether the rows of split ``val`` choose C, instead of folds.
    repeats : list of (fitted, scored)
        Of fewer than `FEW` training images: further folds of the rows of ``final``,
        which choose no C and steady the cross-validated score.

    Examples
    --------
    >>> from featpipe.protocol import LabelledRows, plan
    >>> nothing = [""] * 20
    >>> images = LabelledRows(np.array([0, 1] * 10), nothing, nothing, ["a", "b"])
    >>> protocol = plan(images)
    >>> protocol.name, protocol.nested, len(protocol.parts)
    ('5-fold', True, 5)
    """

    name: str
    final: Part
    parts: list[Part]
    sides: np.ndarray
    warnings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    chosen_by_val: bool = False
    repeats: Pairs = field(default_factory=list)

    @property
    def nested(self) -> bool:
        """Whether there is no split, so that every row is judged by another fit."""
        # With a split, the final fit is also the one that is judged.
        return self.parts[0] is not self.final

    @property
    def judged(self) -> np.ndarray:
        """Sorted row numbers of everything that is judged."""
        return np.sort(np.concatenate([part.held for part in self.parts]))
