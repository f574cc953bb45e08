"""The plan of a comparison: which rows train, choose and judge, fold by fold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real

import numpy as np

from featpipe.bounds import require_number, require_seed
from featpipe.defaults import N_FOLDS
from featpipe.protocol.folding import Pairs, folds, group_numbers
from featpipe.protocol.labelled import HasLabels, LabelledRows
from featpipe.protocol.parts import Part, Protocol
from featpipe.protocol.splitting import SplitRows, split_rows
from featpipe.protocol.wording import (
    FEW,
    count,
    describe_few,
    describe_selection,
)

__all__ = ["FEW", "LabelledRows", "Part", "Protocol", "plan", "resolve_C"]

_REPEATS = 4  # beside the folds that choose C


def plan(
    images: HasLabels,
    *,
    n_folds: int = N_FOLDS,
    test_size: float | None = None,
    seed: int = 0,
) -> Protocol:
    """Decide which rows train, choose C and judge.

    ``test`` rows are held out, or ``val`` rows where there is no ``test``. C is
    chosen by stratified folds of the training rows, or on ``val`` where ``train``,
    ``val`` and ``test`` all exist; the model is then refitted on ``train`` and
    ``val`` together. Without a split every row is judged once by stratified folds,
    each of which chooses C inside its own training part (nested cross-validation
    [1]_); ``test_size`` cuts one stratified test part instead.

    Parameters
    ----------
    images : LabelledRows, or anything with their attributes
        All of them labelled; `labelled_rows` leaves out the others. Groups are kept
        together wherever this function cuts; a split that was given is taken as it
        is, and groups that it divides are named in the notes.
    n_folds : int
        Folds, outer and inner.
    test_size : float, optional
        Share of the rows to hold out where there is no split; with groups, the
        nearest share 1/k or 1 - 1/k.
    seed : int
        The same seed gives the same plan.

    Raises
    ------
    ValueError
        If there is nothing to learn (one class, too few images), the splits lack a
        ``train``, or ``test_size`` is invalid.

    References
    ----------
    .. [1] S. Varma and R. Simon, "Bias in error estimation when using
       cross-validation for model selection", BMC Bioinformatics 7, 2006.

    Examples
    --------
    >>> splits = ["train"] * 8 + ["test"] * 2
    >>> images = LabelledRows(np.array([0, 1] * 5), splits, [""] * 10, ["a", "b"])
    >>> protocol = plan(images, n_folds=2)
    >>> protocol.name, protocol.final.train.shape, protocol.judged.tolist()
    ('test', (8,), [8, 9])
    """
    require_number("folds", n_folds, 2, 1000)
    require_seed(seed)
    labels, splits = images.labels, np.asarray(images.splits, object)
    cut = _Splitter(
        labels,
        np.asarray(images.groups, object),
        list(images.class_names),
        n_folds,
        seed,
    )
    # Before the splits are looked at, so that the message is about the images and not
    # about a split.
    cut.refuse_one_class(np.arange(len(labels)), "labelled")
    rows = split_rows(splits)
    if rows is not None:
        if test_size is not None:
            present = [name for name in ("train", "val", "test") if name in splits]
            raise ValueError(
                f"test_size={test_size!r} would cut a test part, but the images have "
                f"the splits {present} already; leave test_size out"
            )
        return _by_split(cut, rows)
    if test_size is not None:
        return _by_cut(cut, test_size)
    return _by_folds(cut, str(splits[0]))


@dataclass(frozen=True, eq=False)
class _Splitter:
    """The rows to be cut, and the options that all ways of cutting use."""

    labels: np.ndarray
    groups: np.ndarray
    class_names: list[str]
    n_folds: int
    seed: int

    @property
    def grouped(self) -> bool:
        return bool((self.groups != "").any())

    @property
    def unit(self) -> str:
        return "groups" if self.grouped else "images"

    def refuse_one_class(self, rows: np.ndarray, kind: str) -> None:
        present = np.unique(self.labels[rows])
        if len(present) < 2:
            have = f"there are no {kind} images"
            if len(present):
                only = self.class_names[present[0]]
                have = f"the {len(rows)} {kind} images are all of class {only!r}"
            raise ValueError(
                f"{have}; a classifier needs images of at least two classes to learn "
                "from"
            )

    def folds(self, rows: np.ndarray, seed: int | None = None) -> Pairs:
        return folds(
            self.labels[rows],
            self.groups[rows],
            n_folds=self.n_folds,
            seed=self.seed if seed is None else seed,
        )

    def repeats(self, rows: np.ndarray) -> Pairs:
        """Return further folds of few training rows, by other seeds."""
        if len(rows) >= FEW:
            return []
        # 7919 is a prime: neighbouring seeds of the user (0, 1, 2) do not share
        # repeats. 2**32 is the range of numpy's seeds.
        seeds = [(self.seed + 7919 * k) % 2**32 for k in range(1, _REPEATS + 1)]
        return [pair for seed in seeds for pair in self.selection(rows, seed)]

    def selection(self, rows: np.ndarray, seed: int | None = None) -> Pairs:
        """Cut training rows into folds that choose C; each must learn two classes.

        Return none where the rows are too few: some classifiers choose nothing.
        """
        try:
            pairs = self.folds(rows, seed)
        except ValueError:
            pairs = []
        labels = self.labels[rows]
        return [pair for pair in pairs if len(np.unique(labels[pair[0]])) > 1]

    def part(self, train: np.ndarray, held: np.ndarray) -> Part:
        self.refuse_one_class(train, "training")
        return Part(train, held, self.selection(train))


def resolve_C(
    part: Part, C: float | str = "auto", Cs: Sequence[float] | np.ndarray | None = None
) -> float | str:
    """Return the C to fit a part with; ``"auto"`` where its selection chooses.

    Where the rows are too few for that, a C that was given is taken, or the only one
    of ``Cs``.

    Raises
    ------
    ValueError
        If there is a choice to make and nothing to choose by.

    Examples
    --------
    >>> part = Part(np.arange(2), np.arange(2, 3), [])
    >>> resolve_C(part, 0.1), resolve_C(part, "auto", [1.0])
    (0.1, 1.0)
    """
    if C != "auto" or part.selection:
        return C
    if Cs is not None and len(Cs) == 1:
        return float(Cs[0])
    raise ValueError(
        f"the {len(part.train)} training images are too few to choose C by "
        "cross-validation, which needs two classes with at least 2 images each (of "
        "different groups, where there are groups); give a single C, or compare 'knn' "
        "and 'nearest-mean', which choose nothing"
    )


def _by_split(cut: _Splitter, rows: SplitRows) -> Protocol:
    train, held, name = rows.train, rows.held, rows.name
    cut.refuse_one_class(train, "training")
    sides = np.full(len(cut.labels), -1)
    sides[train] = 0
    sides[rows.choose] = 1
    sides[held] = 2
    if len(rows.choose):
        # The final fit learns from both; `searchsorted` gives the positions of each
        # within it.
        both = np.sort(np.concatenate([train, rows.choose]))
        pair = np.searchsorted(both, train), np.searchsorted(both, rows.choose)
        part = Part(both, held, [pair])
        how = (
            f"{count(train)} of split 'train' and {count(rows.choose)} of split "
            f"'val' to learn from: C is chosen on 'val', then refitted on both"
        )
    else:
        part = cut.part(train, held)
        choice = describe_selection(part)
        how = f"{count(train)} of split 'train' to learn from: {choice}"
    notes = [f"{how}; {count(held)} of split {name!r} are held out and choose nothing"]
    if len(rows.without):
        notes.append(
            f"{len(rows.without)} labelled images without a split take no part"
        )
    notes += _parted_groups(cut, sides)
    return Protocol(
        name,
        part,
        [part],
        sides,
        _unbalanced(cut, part),
        [*notes, *describe_few(part)],
        chosen_by_val=bool(len(rows.choose)),
        # With a val split the score that ranks is that of val, which cannot be
        # repeated.
        repeats=[] if len(rows.choose) else cut.repeats(part.train),
    )


def _by_cut(cut: _Splitter, test_size: float) -> Protocol:
    if not (isinstance(test_size, Real) and 0 < test_size < 1):
        raise ValueError(
            f"test_size={test_size!r} is not a share between 0 and 1; give 0.2 to hold "
            "out a fifth of the images"
        )
    held = _held_groups(cut, test_size) if cut.grouped else _held_rows(cut, test_size)
    train = np.setdiff1d(np.arange(len(cut.labels)), held)
    if not len(held):
        raise ValueError(
            f"test_size={test_size!r} of {len(cut.labels)} images holds out none; "
            "give a larger share, or leave it out for cross-validation"
        )
    part = cut.part(train, held)
    sides = np.isin(np.arange(len(cut.labels)), held).astype(np.int64)
    note = (
        f"no split was given: {count(held)} ({len(held) / len(sides):.0%}) are cut "
        f"off, held out and choose nothing; {count(train)} to learn from: "
        f"{describe_selection(part)}"
    )
    return Protocol(
        "test",
        part,
        [part],
        sides,
        _unbalanced(cut, part),
        [note, *describe_few(part)],
        repeats=cut.repeats(part.train),
    )


def _held_rows(cut: _Splitter, share: float) -> np.ndarray:
    """Draw a share of every class; a class of one image stays in training."""
    rng = np.random.default_rng(cut.seed)
    held = []
    for label in np.unique(cut.labels):
        # Class by class, so that the shares of the classes stay what they are.
        rows = rng.permutation(np.flatnonzero(cut.labels == label))
        held.append(rows[: min(round(share * len(rows)), len(rows) - 1)])
    return np.sort(np.concatenate(held))


def _held_groups(cut: _Splitter, share: float) -> np.ndarray:
    """Hold out one stratified fold of groups, or all folds but one."""
    # Groups cannot be divided, so the share is that of one fold in n, or of all but
    # one.
    n = round(1 / min(share, 1 - share))
    train, held = folds(cut.labels, cut.groups, n_folds=n, seed=cut.seed)[0]
    return held if share <= 0.5 else train


def _by_folds(cut: _Splitter, split: str) -> Protocol:
    everything = np.arange(len(cut.labels))
    try:
        pairs = cut.folds(everything)
    except ValueError as err:
        raise ValueError(
            f"the {len(everything)} labelled images are too few to hold any out for "
            f"judging; give at least two classes 2 {cut.unit} each"
        ) from err
    final = Part(everything, everything[:0], cut.selection(everything))
    parts = [_inside(cut, pairs, i) for i in range(len(pairs))]
    sides = np.empty(len(everything), np.int64)
    for side, part in enumerate(parts):
        sides[part.held] = side
    why = f"every image is of split {split!r}" if split else "no split was given"
    note = (
        f"{why}: {count(everything)} are each predicted by one of {len(parts)} models "
        f"that never saw them; C is chosen inside each training part (nested "
        f"cross-validation). The C, its curve and cv shown are those of all images"
    )
    warnings = _small_classes(cut, everything, len(parts))
    return Protocol(
        f"{len(parts)}-fold",
        final,
        parts,
        sides,
        warnings,
        [note, *describe_few(final)],
        repeats=cut.repeats(everything),
    )


def _inside(cut: _Splitter, pairs: Pairs, i: int) -> Part:
    """Return the part that never sees fold i: the other folds choose its C.

    Part i without fold j has the rows of part j without fold i, so one fit serves
    both: half as many fits as with folds of its own.
    """
    train, held = pairs[i]
    cut.refuse_one_class(train, "training")
    others = [pairs[j][1] for j in range(len(pairs)) if j != i]
    selection = [
        (
            np.flatnonzero(~np.isin(train, other)),
            np.searchsorted(train, other),
        )
        for other in others
    ]
    learned = [len(np.unique(cut.labels[train[fitted]])) for fitted, _ in selection]
    # Where an inner fit would see a single class, the part gets folds of its own.
    if min(learned) < 2:
        return cut.part(train, held)
    return Part(train, held, selection)


def _names(cut: _Splitter, numbers: np.ndarray) -> str:
    names = [repr(cut.class_names[number]) for number in numbers[:10]]
    return ", ".join(names) + f" and {len(numbers) - 10} more" * (len(numbers) > 10)


def _unbalanced(cut: _Splitter, part: Part) -> list[str]:
    """Return which classes are missing on one side, or too small for the folds."""
    learned = np.unique(cut.labels[part.train])
    judged = np.unique(cut.labels[part.held])
    warnings = []
    if len(unseen := np.setdiff1d(judged, learned)):
        warnings.append(
            f"no training images of class {_names(cut, unseen)}: the held-out images "
            "of it count as wrong"
        )
    if len(unjudged := np.setdiff1d(learned, judged)):
        warnings.append(
            f"no held-out images of class {_names(cut, unjudged)}: not judged"
        )
    if len(part.selection) > 1:
        # Not `cut.n_folds`: there are fewer folds where no class has as many rows.
        warnings += _small_classes(cut, part.train, len(part.selection))
    return warnings


def _small_classes(cut: _Splitter, rows: np.ndarray, n_folds: int) -> list[str]:
    labels, numbers = cut.labels[rows], group_numbers(cut.groups[rows])
    present = np.unique(labels)
    sizes = np.array([len(np.unique(numbers[labels == label])) for label in present])
    small = sizes < n_folds
    if not small.any():
        return []
    names, counts = _names(cut, present[small]), ", ".join(map(str, sizes[small][:10]))
    many = small.sum() > 1
    subject = f"classes {names} have" if many else f"class {names} has"
    return [
        f"{subject} fewer training {cut.unit} ({counts}) than the {n_folds} folds: "
        f"some folds lack {'them' if many else 'it'}"
    ]


def _parted_groups(cut: _Splitter, sides: np.ndarray) -> list[str]:
    """Return which groups a given split has images of on both sides."""
    rows = np.flatnonzero((sides >= 0) & (cut.groups != ""))
    names, numbers = np.unique(cut.groups[rows].astype(str), return_inverse=True)
    # One line for each pair of group and side: a group that appears twice is on both.
    of_side = np.unique(np.column_stack([numbers, sides[rows]]), axis=0)[:, 0]
    parted = names[np.bincount(of_side, minlength=len(names)) > 1].tolist()
    if not parted:
        return []
    return [
        f"groups divided by the given split: {len(parted)}, such as {parted[0]!r}; the "
        "held-out scores may flatter"
    ]
