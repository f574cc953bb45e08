"""`advise`: decide from a codes file which of cs231n's four cases applies to it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import TYPE_CHECKING

import numpy as np

from featpipe.advice.finetuning import FinetuningEstimate, estimate_lines
from featpipe.advice.lines import Line
from featpipe.advice.transferability import h_score, logme, loo_predictions
from featpipe.codes import Codes, checked, read
from featpipe.comparison import align_files, choose_depths, plain_text
from featpipe.defaults import N_FOLDS
from featpipe.protocol import plan
from featpipe.scores import SIGNIFICANT, mcnemar

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType

__all__ = ["Advice", "DepthScores", "advise"]

LARGE = 200
"""Training images per class, at the median, from which a data set counts as large.

cs231n gives no number, and neither does a paper: this limit is featpipe's own. It lies
between data sets where fixed codes come within a few points of fine-tuning (Pets, 100
images per class) and those where fine-tuning clearly pays (CIFAR-100, 500).
"""

_MOST = 10_000  # images that are scored: a second or two per depth


@dataclass(frozen=True)
class DepthScores:
    """The transferability scores of one depth, computed from training rows alone.

    Attributes
    ----------
    depth : str
        Canonical name.
    width : int
        Numbers per code.
    logme, h_score : float
        Those of `featpipe.advice`, for the codes as they are.
    loo_accuracy : float
        Share of images that `loo_predictions` predicts correctly.

    Examples
    --------
    >>> from featpipe.advice import advise
    >>> advise("flowers.h5").depths[-1].width
    8
    """

    depth: str
    width: int
    logme: float
    h_score: float
    loo_accuracy: float


@dataclass(frozen=True, kw_only=True)
class Advice:
    """The advice for a codes file, and its reasons.

    Printed, it shows the scores and the lines.

    Attributes
    ----------
    file : str
        The codes file.
    depths : list of DepthScores
        In the order of the file.
    depth : str
        The depth to use: that of the highest LogME.
    large : bool
        Whether the median class has at least 200 training images.
    similar : bool or None
        Whether the labels resemble those that the network was trained for: no earlier
        depth predicts them significantly better than the deepest. None with one depth.
    n_train, n_classes, n_per_class, n_held_out : int
        Number of training images, of their classes, of training images in the median
        class, and of images held out.
    lines : list of Line
        The recommendation; each line has its figure and its source.

    Examples
    --------
    >>> from featpipe.advice import advise
    >>> advice = advise("flowers.h5")
    >>> advice.case, advice.depth, advice.n_per_class
    ('small, similar', 'penultimate', 10)
    >>> [scores.depth for scores in advice.depths]
    ['layer3:avg', 'penultimate']
    """

    file: str
    depths: list[DepthScores]
    depth: str
    large: bool
    similar: bool | None
    n_train: int
    n_classes: int
    n_per_class: int
    n_held_out: int
    lines: list[Line] = field(default_factory=list)

    @property
    def best(self) -> DepthScores:
        """The scores of the recommended depth."""
        return next(scores for scores in self.depths if scores.depth == self.depth)

    @property
    def case(self) -> str:
        """The case of cs231n, such as ``"small, similar"``."""
        size = "large" if self.large else "small"
        if self.similar is None:
            return f"{size}, similarity unknown"
        return f"{size}, {'similar' if self.similar else 'different'}"

    def __repr__(self) -> str:
        """Return one line: the case, and the depth to use."""
        return f"<Advice for {self.file}: {self.case}; {self.depth}>"

    def __str__(self) -> str:
        """Return the scores and the lines as plain text, for `print`."""
        return plain_text(self)

    def __rich_console__(
        self, console: Console, options: ConsoleOptions
    ) -> Iterator[RenderableType]:
        """Yield the case, the table of depths and the lines."""
        from rich.padding import Padding
        from rich.table import Table
        from rich.text import Text

        yield Text(f"{self.file}: {self.case}", style="bold")
        table = Table(box=None, padding=(0, 2, 0, 0))
        for header in ("", "depth"):
            table.add_column(header)
        for header in ("width", "LogME", "H-score", "left out %"):
            table.add_column(header, justify="right", no_wrap=True)
        for scores in self.depths:
            is_best = scores.depth == self.depth
            table.add_row(
                "★" if is_best else "",
                Text(scores.depth),
                f"{scores.width:,}",
                f"{scores.logme:.3f}",
                f"{scores.h_score:.2f}",
                f"{100 * scores.loo_accuracy:.1f}",
                style="bold" if is_best else "",
            )
        yield Padding(table, (1, 0))
        yield from self.lines


def advise(
    codes: Codes | str | os.PathLike[str], *, folds: int = N_FOLDS, seed: int = 0
) -> Advice:
    """Recommend a depth and a classifier, and whether to fine-tune, from cached codes.

    No classifier is trained and no held-out label is read. The case is that of
    cs231n's notes [1]_: many or few labels, similar to those the network was trained
    for or different. LogME and the H-score rank the depths; leaving out one image at a
    time estimates the accuracy.

    Parameters
    ----------
    codes : Codes or path
        A codes file with labels.
    folds, seed : int
        As for `featpipe.compare`, which then holds out the same rows.

    Returns
    -------
    Advice

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    CodesError
        If it is no codes file.
    ValueError
        If fewer than two classes have training images.

    References
    ----------
    .. [1] A. Karpathy et al., "Transfer Learning", notes of Stanford's CS231n,
       https://cs231n.github.io/transfer-learning/

    Examples
    --------
    >>> import featpipe
    >>> featpipe.advise("flowers.h5").case
    'small, similar'
    """
    file = checked(codes) if isinstance(codes, Codes) else read(codes)
    labelled, (source,) = align_files([file])
    protocol = plan(labelled, n_folds=folds, seed=seed)
    rows = _sample(labelled.labels, protocol.final.train, seed)
    y = labelled.labels[rows]
    (names,) = choose_depths([source], None)
    # One depth at a time, since the codes of all depths may not fit into memory.
    depths, is_correct = [], {}
    for depth in names:
        X = source.sample(depth, rows).astype(np.float64)
        is_correct[depth] = loo_predictions(X, y) == y
        depths.append(
            DepthScores(
                depth,
                X.shape[1],
                logme(X, y),
                h_score(X, y),
                float(is_correct[depth].mean()),
            )
        )
    # Rounded, so that rounding errors do not decide; of equal depths the narrowest.
    best = max(depths, key=lambda scores: (round(scores.logme, 9), -scores.width))
    sizes = np.unique(labelled.labels[protocol.final.train], return_counts=True)[1]
    # None with a single depth: unknown is neither similar nor different.
    similarity = _similarity(names, is_correct)
    advice = Advice(
        file=os.fspath(file.path),
        depths=depths,
        depth=best.depth,
        large=bool(np.median(sizes) >= LARGE),
        similar=similarity and similarity[0],
        n_train=len(protocol.final.train),
        n_classes=len(sizes),
        n_per_class=int(np.median(sizes)),
        # Without a split, cross-validation judges every image and holds none out for
        # good.
        n_held_out=0 if protocol.nested else len(protocol.judged),
    )
    grouped = bool((labelled.groups != "").any())
    lines = [*_facts(advice, similarity, len(rows), grouped), *_recommended(advice)]
    lines += estimate_lines(
        FinetuningEstimate(
            n_train=advice.n_train,
            n_judged=len(protocol.judged),
            accuracy=best.loo_accuracy,
        ),
        advice.case,
    )
    advice.lines.extend(lines)
    return advice


def _sample(labels: np.ndarray, rows: np.ndarray, seed: int) -> np.ndarray:
    """Draw at most `_MOST` rows, the same share of every class."""
    if len(rows) <= _MOST:
        return rows
    # Shuffled, since neighbouring rows come from one folder and resemble each other.
    order = np.random.default_rng(seed).permutation(rows)
    # The place of each row within its class, as a share; the lowest are drawn.
    place = np.empty(len(order))
    for label in np.unique(labels[order]):
        of_class = np.flatnonzero(labels[order] == label)
        place[of_class] = np.arange(len(of_class)) / len(of_class)
    return np.sort(order[np.argsort(place, kind="stable")[:_MOST]])


def _similarity(
    depths: Sequence[str], is_correct: dict[str, np.ndarray]
) -> tuple[bool, str, float] | None:
    """Compare the best of the earlier depths with the deepest; None with one depth.

    Returns
    -------
    similar : bool
        Whether the earlier depth is not significantly better.
    rival : str
        The best of the earlier depths.
    p_value : float
        That of the exact McNemar test, not corrected for the choice of the rival.
    """
    # The order of the file need not be that of the network.
    deepest = "penultimate" if "penultimate" in depths else depths[-1]
    earlier = [depth for depth in depths if depth != deepest]
    if not earlier:
        return None
    rival = max(earlier, key=lambda depth: is_correct[depth].mean())
    p_value = mcnemar(is_correct[rival], is_correct[deepest])
    is_better = is_correct[rival].mean() > is_correct[deepest].mean()
    # Bonferroni's correction, since these images also chose the rival.
    return not (is_better and p_value * len(earlier) < SIGNIFICANT), rival, p_value


def _facts(
    advice: Advice,
    similarity: tuple[bool, str, float] | None,
    n_scored: int,
    grouped: bool,
) -> Iterator[Line]:
    size = "large" if advice.large else "small"
    yield Line(
        "size",
        f"{advice.n_train:,} training images of {advice.n_classes} classes, "
        f"{advice.n_per_class:,} a class at the median: {size} "
        f"(large from {LARGE} a class)",
        "featpipe's own limit; cs231n gives no number",
    )
    if similarity is None:
        text = (
            "unknown with one depth; extract an earlier one too, with "
            f"`featpipe extract SOURCE -o {advice.file} --depth NODE` (`featpipe "
            "depths NAME` lists nodes), and run `advise` again"
        )
    else:
        similar, rival, p_value = similarity
        verdict = (
            f"no earlier depth beats the deepest; {rival} comes nearest"
            if similar
            else f"{rival} beats the deepest depth"
        )
        text = (
            f"{'similar to' if similar else 'different from'} what the network was "
            f"trained for: {verdict} (p = {p_value:.2g})"
        )
    yield Line("similarity", text, "exact McNemar test on images left out one by one")
    if grouped:
        yield Line(
            "groups",
            "images of one group help to predict each other here, so all figures above "
            "are too high; `advise --check` keeps groups together",
            "leave-one-out assumes independent images",
        )
    if n_scored < advice.n_train:
        yield Line(
            "sample",
            f"the scores come from {n_scored:,} of {advice.n_train:,} training images",
            "drawn by class, seeded",
        )


def _recommended(advice: Advice) -> Iterator[Line]:
    best = advice.best
    yield Line(
        "depth",
        f"{best.depth} (LogME {best.logme:.3f}){_disagreement(advice)}",
        "LogME: You et al. 2021; H-score: Bao et al. 2019, shrunk as by Ibrahim et al. "
        "2022; weighted rank agreement of LogME with fine-tuning is 0.50 to 0.79 (TLL)",
    )
    # With more columns than images a plane separates any labels, so that only C limits
    # the fit.
    if best.width >= advice.n_train:
        why = "fewer images than numbers a code, so the penalty C decides"
    else:
        why = "linear in the codes, C chosen by cross-validation"
    yield Line(
        "classifier",
        f"linear, svm or logistic on frozen codes ({why}); expect about "
        f"{100 * best.loo_accuracy:.1f} % (images left out one by one)",
        "leave-one-out ridge (PRESS): Allen 1974",
    )


def _disagreement(advice: Advice) -> str:
    """Return which other scores prefer another depth than LogME does."""
    if len(advice.depths) == 1:
        return ", the only one in the file"
    others = []
    for name, label in (("h_score", "the H-score"), ("loo_accuracy", "leave-one-out")):
        first = max(advice.depths, key=attrgetter(name))
        if getattr(first, name) > getattr(advice.best, name):
            others.append(f"{label} prefers {first.depth}")
    if not others:
        return "; H-score and leave-one-out agree"
    return f"; the scores disagree: {', '.join(others)}"
