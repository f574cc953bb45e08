"""`advise`: which of cs231n's four cases a codes file is, decided from the file."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
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

cs231n gives no number, and no paper draws a line: this is featpipe's own. It lies
between the data sets on which fixed codes come within a few points of fine-tuning
(Pets: 100 a class) and those where fine-tuning clearly pays (CIFAR-100: 500).
"""

_MOST = 10_000  # images the scores look at: a second or two a depth


@dataclass(frozen=True)
class DepthScores:
    """The transferability scores of one depth, from training rows alone.

    Attributes
    ----------
    depth : str
        Canonical name.
    width : int
        Numbers per code.
    logme, h_score : float
        As in `featpipe.advice`, on the codes as they are.
    loo_accuracy : float
        Share of images that the ridge regression of maximum evidence predicts when
        fitted on all the others.

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
    """The advice for some images, and its reasons.

    Printing it shows the scores and the lines.

    Attributes
    ----------
    file : str
        The codes file.
    depths : list of DepthScores
        In the order of the file.
    depth : str
        The depth to use: the highest LogME.
    large : bool
        Whether a class has at least 200 training images, at the median.
    similar : bool or None
        Whether the labels are like what the network was trained for: no earlier depth
        predicts them better than the deepest by a paired test. None with one depth.
    n_train, n_classes, n_per_class, n_held_out : int
        Training images, their classes, the median per class, and images held out.
    lines : list of Line
        The recommendation, each line with its figure and its source.

    Examples
    --------
    >>> from featpipe.advice import advise
    >>> advice = advise("flowers.h5")
    >>> advice.case, advice.depth, advice.n_per_class
    ('small, similar', 'penultimate', 10)
    >>> [each.depth for each in advice.depths]
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
    def case(self) -> str:
        """The case of cs231n, as ``"small, similar"``; without one depth more, half."""
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
        for each in self.depths:
            chosen = each.depth == self.depth
            table.add_row(
                "★" if chosen else "",
                Text(each.depth),
                f"{each.width:,}",
                f"{each.logme:.3f}",
                f"{each.h_score:.2f}",
                f"{100 * each.loo_accuracy:.1f}",
                style="bold" if chosen else "",
            )
        yield Padding(table, (1, 0))
        yield from self.lines


def advise(
    codes: Codes | str | os.PathLike[str], *, folds: int = N_FOLDS, seed: int = 0
) -> Advice:
    """Advise from cached codes: depth, classifier, and whether to fine-tune.

    No classifier is trained and no held-out label is read. The case is that of
    cs231n's notes [1]_: many or few labels, similar to what the network was trained
    for or different. LogME and the H-score rank the depths; the images left out one
    at a time say how many would be predicted.

    Parameters
    ----------
    codes : Codes or path
        A codes file with labels.
    folds, seed : int
        As for `featpipe.compare`, so that the same rows are held out.

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
        If there are not two classes with training images.

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
    # One depth at a time in memory: codes of all of them may not fit.
    scores, left_out = [], {}
    for depth in names:
        X = source.sample(depth, rows).astype(np.float64)
        left_out[depth] = loo_predictions(X, y) == y
        scores.append(
            DepthScores(
                depth,
                X.shape[1],
                logme(X, y),
                h_score(X, y),
                float(left_out[depth].mean()),
            )
        )
    # Rounded, so that the order does not hang on the last bits of one machine; of equal
    # depths the narrower one.
    best = max(scores, key=lambda each: (round(each.logme, 9), -each.width))
    sizes = np.unique(labelled.labels[protocol.final.train], return_counts=True)[1]
    similarity = _similarity(names, left_out)
    advice = Advice(
        file=os.fspath(file.path),
        depths=scores,
        depth=best.depth,
        large=bool(np.median(sizes) >= LARGE),
        # None with a single depth: unknown is neither similar nor different.
        similar=similarity and similarity[0],
        n_train=len(protocol.final.train),
        n_classes=len(sizes),
        n_per_class=int(np.median(sizes)),
        # Without a split nothing is held out for good: every image is judged by
        # cross-validation.
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
    """Draw at most `_MOST` rows, of every class the same share."""
    if len(rows) <= _MOST:
        return rows
    # Rows of one folder resemble each other: the first ones would be a biased sample.
    order = np.random.default_rng(seed).permutation(rows)
    # Each row's place within its class, as a share: the lowest are taken.
    place = np.empty(len(order))
    for label in np.unique(labels[order]):
        of_class = np.flatnonzero(labels[order] == label)
        place[of_class] = np.arange(len(of_class)) / len(of_class)
    return np.sort(order[np.argsort(place, kind="stable")[:_MOST]])


def _similarity(
    depths: Sequence[str], left_out: dict[str, np.ndarray]
) -> tuple[bool, str, float] | None:
    """Return whether an earlier depth predicts better than the deepest.

    Returns
    -------
    similar : bool
    rival : str
        The best of the earlier depths.
    p_value : float
        Exact McNemar test of the two on the images left out; not corrected for the
        choice of the rival.
    """
    # Depths come in the order of extraction, which need not be that of the
    # network.
    deepest = "penultimate" if "penultimate" in depths else depths[-1]
    earlier = [depth for depth in depths if depth != deepest]
    if not earlier:
        return None
    rival = max(earlier, key=lambda depth: left_out[depth].mean())
    p_value = mcnemar(left_out[rival], left_out[deepest])
    better = left_out[rival].mean() > left_out[deepest].mean()
    # Bonferroni: the best of several earlier depths was picked by these very images.
    return not (better and p_value * len(earlier) < SIGNIFICANT), rival, p_value


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
        "featpipe's own line; cs231n gives no number",
    )
    if similarity is None:
        text = (
            "unknown with one depth; extract an earlier one too, as "
            f"`featpipe extract SOURCE -o {advice.file} --depth NODE` (`featpipe "
            "depths NAME` lists nodes), and ask again"
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
            "flatter; `advise --check` keeps groups together",
            "leave-one-out takes images as independent",
        )
    if n_scored < advice.n_train:
        yield Line(
            "sample",
            f"the scores come from {n_scored:,} of {advice.n_train:,} training images",
            "drawn by class, seeded",
        )


def _recommended(advice: Advice) -> Iterator[Line]:
    best = {each.depth: each for each in advice.depths}[advice.depth]
    yield Line(
        "depth",
        f"{best.depth} (LogME {best.logme:.3f}){_disagreement(advice)}",
        "LogME: You et al. 2021; H-score: Bao et al. 2019, shrunk as by Ibrahim et al. "
        "2022; weighted rank agreement of LogME with fine-tuning is 0.50 to 0.79 (TLL)",
    )
    # More columns than images: they can be separated in any way, and only C keeps the
    # fit honest.
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
    """Name the scores whose first choice is another depth than LogME's."""
    best = {each.depth: each for each in advice.depths}[advice.depth]
    others = []
    for name, words in (("h_score", "the H-score"), ("loo_accuracy", "leave-one-out")):
        first = max(advice.depths, key=lambda each: getattr(each, name))
        if getattr(first, name) > getattr(best, name):
            others.append(f"{words} prefers {first.depth}")
    if len(advice.depths) == 1:
        return ", the only one in the file"
    return f"; the scores disagree: {', '.join(others)}" if others else (
        "; H-score and leave-one-out agree"
    )  # fmt: skip
