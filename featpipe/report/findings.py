"""Compute everything that a report shows; `plots` and `page` draw it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

from featpipe.codes import Codes, CodesError
from featpipe.comparison import (
    LearningCurve,
    NearDuplicate,
    duplicate_threshold,
    find_duplicates,
    learning_curve,
)
from featpipe.defaults import N_FOLDS
from featpipe.report.doubtful import Doubtful, doubtful_labels
from featpipe.report.out_of_sample import out_of_sample
from featpipe.report.projection import project, sample_rows
from featpipe.scores import Score

__all__ = ["ClassScore", "Findings", "Map", "examine", "examine_unlabelled"]

# Numbers in the codes times classes. Above the first the learning curve has fewer
# draws; above the second there are fewer folds too, and `linear` takes the place of
# `logistic`, since it has a closed form.
_MANY = 20_000_000
_VERY_MANY = 1_000_000_000
_MOST_CLUSTERS = 10


@dataclass(frozen=True)
class ClassScore:
    """The scores of the recommended row for one class.

    Attributes
    ----------
    name : str
    n : int
        Number of judged images.
    precision, recall, f1 : float

    Examples
    --------
    >>> ClassScore("rose", 12, precision=0.9, recall=0.75, f1=0.82).n
    12
    """

    name: str
    n: int
    precision: float
    recall: float
    f1: float


@dataclass(frozen=True, eq=False)
class Map:
    """Codes of sampled images on a plane.

    Attributes
    ----------
    rows : (n_points,) int64
        Rows of the codes file.
    points : (n_points, 2) float64
    method, depth : str
        Name of the projection, and depth of the codes.
    clusters : (n_points,) int64 or None
        K-means clusters, where there are no labels.

    Examples
    --------
    >>> embedding = Map(np.arange(5), np.zeros((5, 2)), "t-SNE", "penultimate")
    >>> embedding.points.shape
    (5, 2)
    """

    rows: np.ndarray
    points: np.ndarray
    method: str
    depth: str
    clusters: np.ndarray | None = None


@dataclass(frozen=True, eq=False)
class Findings:
    """Facts about the labelled images, from their codes and scores.

    Arrays run over ``rows``, the labelled images.

    Attributes
    ----------
    codes : Codes
        The file of the recommended row.
    scores : list of Score
        The recommended row first.
    depth : str
        The depth of the codes that are used.
    rows : (n,) int64
        Rows of the codes file.
    labels : (n,) int64
        Class numbers.
    judged : (n,) bool
        Whether the scores judge the image.
    predicted : (n,) int64
        Class numbers that the recommended row predicts; where it does not judge, those
        of `out_of_sample`.
    probabilities : (n, n_classes) float64
        Those of `out_of_sample`.
    classifier : str
        The classifier of the probabilities: ``"logistic"``, or ``"linear"`` for very
        many codes.
    doubtful : Doubtful
    curve : LearningCurve
    near_duplicates : list of NearDuplicate
        From `featpipe.comparison.find_duplicates`, by position in ``rows``.
    map : Map

    Examples
    --------
    >>> from featpipe.report import make_report
    >>> findings = make_report("flowers.h5", "flowers.json").findings
    >>> findings.probabilities.shape, findings.confusion.shape
    ((42, 3), (3, 3))
    """

    codes: Codes
    scores: list[Score]
    depth: str
    rows: np.ndarray
    labels: np.ndarray
    judged: np.ndarray
    predicted: np.ndarray
    probabilities: np.ndarray
    classifier: str
    doubtful: Doubtful
    curve: LearningCurve
    near_duplicates: list[NearDuplicate]
    map: Map

    @property
    def recommended(self) -> Score:
        """The row that all plots show."""
        return self.scores[0]

    @property
    def class_names(self) -> list[str]:
        """The class names, by class number."""
        return self.codes.class_names

    @property
    def confidence(self) -> np.ndarray:
        """(n,) float64: probability of the predicted class."""
        confidence: np.ndarray = self.probabilities[
            np.arange(len(self.rows)), self.predicted
        ]
        return confidence

    @property
    def mistakes(self) -> np.ndarray:
        """Judged images that are predicted wrongly, the most confident first."""
        wrong = np.flatnonzero(self.judged & (self.predicted != self.labels))
        return wrong[np.argsort(-self.confidence[wrong], kind="stable")]

    @property
    def least_certain(self) -> np.ndarray:
        """Judged images, those whose two likeliest classes are nearest first."""
        judged = np.flatnonzero(self.judged)
        top = np.sort(self.probabilities[judged], axis=1)[:, -2:]
        return judged[np.argsort(top[:, 1] - top[:, 0], kind="stable")]

    @property
    def confusion(self) -> np.ndarray:
        """(n_classes, n_classes) int64: judged images by label and prediction."""
        numbers = np.arange(len(self.class_names))
        counts: np.ndarray = confusion_matrix(
            self.labels[self.judged], self.predicted[self.judged], labels=numbers
        )
        return counts

    @property
    def class_scores(self) -> list[ClassScore]:
        """The scores of every judged class, the worst F1 first."""
        labels, predicted = self.labels[self.judged], self.predicted[self.judged]
        present = np.unique(labels)
        columns = precision_recall_fscore_support(
            labels, predicted, labels=present, zero_division=0
        )
        scores = [
            ClassScore(self.class_names[c], int(n), float(p), float(r), float(f))
            for c, p, r, f, n in zip(present, *columns, strict=True)
        ]
        return sorted(scores, key=lambda score: score.f1)


def examine(files: Sequence[Codes], scores: Sequence[Score], seed: int = 0) -> Findings:
    """Compute everything a report shows about labelled images.

    Parameters
    ----------
    files : sequence of Codes
        The files that the scores are about.
    scores : sequence of Score
        In the order of `featpipe.compare`.
    seed : int
        Seed of the folds, of the sample on the map, and of its layout.

    Returns
    -------
    Findings

    Raises
    ------
    ValueError
        If the scores were judged on images that the files do not have.
    """
    # All plots are about the recommended row, and so about its file.
    codes = _file_of(files, scores[0])
    depth = _depth(codes, scores)
    rows, judged, predicted = _align(codes, scores[0])
    labels = codes.labels[rows]
    X = codes.arrays(depth)[0][rows]
    very_large = _is_very_large(X, labels)
    classifier = "linear" if very_large else "logistic"
    probabilities = out_of_sample(
        X,
        labels,
        judged,
        classifier=classifier,
        C=_C_of(classifier, depth, scores),
        groups=codes.groups[rows],
        n_folds=3 if very_large else N_FOLDS,
        seed=seed,
    )
    # The record has no prediction of training images; a fit without them has.
    predicted = np.where(judged, predicted, probabilities.argmax(axis=1))
    # A sample, since t-SNE takes half a minute for 5,000 images.
    shown = sample_rows(len(rows), seed=seed)
    points, method = project(X[shown], seed=seed)
    return Findings(
        codes=codes,
        scores=list(scores),
        depth=depth,
        rows=rows,
        labels=labels,
        judged=judged,
        predicted=predicted,
        probabilities=probabilities,
        classifier=classifier,
        doubtful=doubtful_labels(probabilities, labels),
        curve=_curve(
            X, labels, judged, classifier, _C_of(classifier, depth, scores), seed
        ),
        near_duplicates=_near_duplicates(X, codes, rows, judged),
        map=Map(rows[shown], points, method, depth),
    )


def examine_unlabelled(codes: Codes, *, seed: int = 0) -> Map:
    """Return a map of images without labels, clustered by k-means."""
    from sklearn.cluster import KMeans

    depth = _deepest(codes)
    rows = sample_rows(len(codes), seed=seed)
    X = codes.take(depth, rows).astype(np.float32)
    points, method = project(X, seed=seed)
    # At least five images per cluster on average, or each image would be a cluster.
    n = max(1, min(_MOST_CLUSTERS, len(rows) // 5))
    clusters = KMeans(n, n_init=3, random_state=seed).fit_predict(X)
    return Map(rows, points, method, depth, clusters)


def _file_of(files: Sequence[Codes], score: Score) -> Codes:
    named = [f for f in files if os.fspath(f.path) == score.codes]
    # The record may have been made in another folder.
    # Whole paths differ when a record has been moved with its codes.
    by_name = [f for f in files if f.path.name == os.path.basename(score.codes)]  # noqa: PTH119
    return (named or by_name or list(files))[0]


def _deepest(codes: Codes) -> str:
    vectors = [d for d in codes.depths if len(codes.shapes[d]) == 2]
    if not vectors:
        raise ValueError(
            f"{codes.path} holds maps only; extract a pooled depth to it, as "
            "--depth NODE:avg"
        )
    return "penultimate" if "penultimate" in vectors else vectors[-1]


def _depth(codes: Codes, scores: Sequence[Score]) -> str:
    """Return the depth of the recommended row; the deepest if it has several."""
    depth = scores[0].depth
    try:
        codes.width(depth)
    except CodesError:
        return _deepest(codes)
    return depth


def _C_of(classifier: str, depth: str, scores: Sequence[Score]) -> float | None:
    """Return the C that was chosen for a classifier on a depth; None if none was."""
    for score in scores:
        if score.classifier == classifier and score.depth == depth:
            return score.C
    return None


def _is_very_large(X: np.ndarray, labels: np.ndarray) -> bool:
    return X.size * (int(labels.max()) + 1) > _VERY_MANY


def _align(codes: Codes, score: Score) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the labelled rows, which of them are judged, and their predictions."""
    number = {name: i for i, name in enumerate(codes.class_names)}
    at = {path: i for i, path in enumerate(codes.paths)}
    unknown = [path for path in score.test_paths if path not in at]
    extra = sorted(set(score.test_predicted) - set(number))
    if unknown or extra or not score.test_paths:
        what = unknown[0] if unknown else extra[0] if extra else "no image"
        raise ValueError(
            f"the scores judge {what!r}, which {codes.path} does not have; give the "
            "scores that `compare --json` wrote for this file"
        )
    predicted = np.full(len(codes), -1)
    for path, name in zip(score.test_paths, score.test_predicted, strict=True):
        predicted[at[path]] = number[name]
    is_judged = predicted >= 0
    split = codes.splits != ""
    # If some images have a split, those without one are not used.
    learned = split if split.any() and is_judged[split].any() else ~split | split
    rows = np.flatnonzero((codes.labels >= 0) & (is_judged | learned))
    return rows, is_judged[rows], predicted[rows]


def _curve(
    X: np.ndarray,
    labels: np.ndarray,
    judged: np.ndarray,
    classifier: str,
    C: float | None,
    seed: int,
) -> LearningCurve:
    """Return the learning curve on the judged images; on a fifth if all are judged."""
    rows = np.arange(len(labels))
    if judged.all():
        # Cross-validation judges every image, so that no other image could be learned
        # from.
        held = np.random.default_rng(seed).permutation(len(labels)) % 5 == 0
    else:
        held = judged
    n_classes = int(labels.max()) + 1
    large = X.size * n_classes > _MANY
    return learning_curve(
        X,
        labels,
        rows[~held],
        rows[held],
        classifier=classifier,
        C=C or 1.0,
        shots=(5, 10, 20, 50, 100) if large else (5, 10, 20, 50, 100, 200, 500, 1000),
        n_draws=3 if large else 10,
        seed=seed,
    )


def _near_duplicates(
    X: np.ndarray, codes: Codes, rows: np.ndarray, judged: np.ndarray
) -> list[NearDuplicate]:
    """Return the judged images that look like a training image."""
    if judged.all():
        return []
    sample = np.unique(np.linspace(0, len(rows) - 1, 1000).astype(np.int64))
    threshold = duplicate_threshold(X[sample])
    sides, digests = judged.astype(np.int64), codes.sha256[rows]
    return find_duplicates(
        X, digests, sides, codes.labels[rows], threshold, across_only=True
    )
