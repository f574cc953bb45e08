"""Time the search for C where images are few, beside what scikit-learn's users write.

    python benchmarks/small.py                        # digits and drawn codes
    python benchmarks/small.py --binary photos.h5 --many tiny.h5 --depth features.12:avg

Every set is searched by featpipe (45 C x 5 folds + refit), by LogisticRegressionCV (45
C, 5 folds, with two jobs and with one), by GridSearchCV over LinearSVC and by
RidgeClassifierCV. Printed: wall-clock and processor seconds, the C chosen, its
cross-validated accuracy, and whether the set keeps its mark. Worker pools are warm, and
torch has been started: that is not counted.
"""

from __future__ import annotations

import argparse
import resource
import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import numpy as np
from joblib import Parallel, delayed
from sklearn.base import ClassifierMixin
from sklearn.datasets import load_digits, make_classification
from sklearn.linear_model import LogisticRegressionCV, RidgeClassifierCV
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

from featpipe import classifiers, codes

GRID = np.logspace(-6, 5, 45)
CV = StratifiedKFold(5, shuffle=True, random_state=0)
Set = tuple[str, np.ndarray, np.ndarray]
Search = Callable[[np.ndarray, np.ndarray], tuple[float, float]]


class Run(NamedTuple):
    """One search: seconds by the clock and of processors, the C and its accuracy."""

    wall: float
    cpu: float
    C: float
    accuracy: float


def main(argv: list[str] | None = None) -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--binary", help="a codes file of few images of two classes")
    parser.add_argument("--many", help="a codes file of many images and classes")
    parser.add_argument("--depth", default="penultimate", help="of both files")
    parser.add_argument("--sets", default="", help="names to run; default all")
    parser.add_argument("--classifiers", default="linear,svm,logistic")
    parser.add_argument("--no-rivals", action="store_true")
    parser.add_argument("--rivals", default="", help="names that hold this text only")
    options = parser.parse_args(argv)
    wanted = [name for name in options.sets.split(",") if name]
    warm()
    print(f"{'set':22}{'':10}{'':26}{'wall':>8}{'cpu':>8}{'C':>9}{'cv':>8}")
    for name, X, y in sets(options.binary, options.many, options.depth):
        if wanted and name not in wanted:
            continue
        for classifier in options.classifiers.split(","):
            ours = ours_on(classifier, X, y)
            show(name, classifier, "featpipe", ours)
            if options.no_rivals:
                continue
            for rival, search in RIVALS[classifier].items():
                if options.rivals not in rival:
                    continue
                theirs = timed(partial(search, X, y))
                show("", "", rival, theirs, ours, len(y))


def sets(binary: str | None, many: str | None, depth: str) -> Iterator[Set]:
    """Yield name, float32 codes and class numbers of every set."""
    if binary:
        X, y = codes.read(binary).arrays(depth, "train")
        yield "photos", X.astype(np.float32), y
    X, y = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(y))[:1198]
    X, y = X[order].astype(np.float32), y[order]
    yield "digits", X, y
    turn = np.random.default_rng(1).normal(size=(64, 2048)).astype(np.float32) / 8
    yield "digits x 2,048", np.maximum(X @ turn, 0), y
    if many:
        X, y = codes.read(many).arrays(depth, "train")
        for n, k in ((500, 10), (2000, 10), (3000, 10), (2500, 50)):
            rows = np.random.default_rng(0).permutation(len(y))[:n]
            labels = np.unique(y[rows] * k // (y.max() + 1), return_inverse=True)[1]
            yield f"{n} of {k} classes", X[rows].astype(np.float32), labels
    for n in (50, 200, 1000, 5000):
        for width in (64, 384, 2048):
            X, y = make_classification(
                n,
                width,
                n_informative=20,
                n_classes=5,
                class_sep=0.7,
                random_state=0,
            )
            yield f"drawn {n} x {width}", X.astype(np.float32), y


def warm() -> None:
    """Start torch and two workers, so that nobody pays for it."""
    X, y = load_digits(return_X_y=True)
    for name in ("linear", "logistic", "svm"):
        classifiers.make(name).fit(X[:100], y[:100])
    Parallel(n_jobs=2)(delayed(time.sleep)(0.5) for _ in range(4))


def ours_on(name: str, X: np.ndarray, y: np.ndarray) -> Run:
    """Search with featpipe."""

    def search() -> tuple[float, float]:
        model = classifiers.make(name).fit(X, y)
        return model.C_, model.cv_score_

    return timed(search)


def timed(search: Callable[[], tuple[float, float]]) -> Run:
    """Run a search that returns C and accuracy."""
    wall, cpu = time.perf_counter(), processor_seconds()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        C, accuracy = search()
    wall, cpu = time.perf_counter() - wall, processor_seconds() - cpu
    return Run(wall, cpu, C, accuracy)


def processor_seconds() -> float:
    """Return the processor seconds of this process and of children that ended."""
    own = resource.getrusage(resource.RUSAGE_SELF)
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return own.ru_utime + own.ru_stime + ended.ru_utime + ended.ru_stime


def show(
    name: str,
    classifier: str,
    who: str,
    run: Run,
    ours: Run | None = None,
    n_rows: int = 1,
) -> None:
    """Print one search, and how ours compares."""
    text = f"{name:22}{classifier:10}{who:26}{run.wall:8.2f}{run.cpu:8.2f}"
    text += f"{run.C:9.2g}{run.accuracy:8.4f}"
    if ours is not None:
        rows = (ours.accuracy - run.accuracy) * n_rows
        text += f"  {run.wall / ours.wall:5.1f} x, ours {rows:+.0f} images"
    print(text, flush=True)


def logistic_cv(n_jobs: int) -> Search:
    """Return the search of LogisticRegressionCV on standardised codes."""

    def search(X: np.ndarray, y: np.ndarray) -> tuple[float, float]:
        model = LogisticRegressionCV(
            Cs=GRID, cv=CV, n_jobs=n_jobs, scoring="accuracy", **QUIET
        )
        make_pipeline(StandardScaler(), model).fit(X, y)
        scores = model.scores_
        folds = scores if isinstance(scores, np.ndarray) else scores[max(scores)]
        return float(np.ravel(model.C_)[0]), float(folds.mean(axis=0).max())

    return search


# Old versions predict by other rules unless told; new ones warn of the choice.
QUIET = {"use_legacy_attributes": False}


def grid(model: ClassifierMixin, name: str, values: np.ndarray) -> Search:
    """Return a GridSearchCV of a pipeline with two jobs; ``values`` per C of GRID."""

    def search(X: np.ndarray, y: np.ndarray) -> tuple[float, float]:
        pipeline = make_pipeline(StandardScaler(), model)
        step = pipeline.steps[-1][0]
        fitted = GridSearchCV(
            pipeline, {f"{step}__{name}": values}, cv=CV, n_jobs=2
        ).fit(X, y)
        return float(GRID[fitted.best_index_]), float(fitted.best_score_)

    return search


def ridge_cv(X: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Return what RidgeClassifierCV finds."""
    model = RidgeClassifierCV(alphas=0.5 / GRID, cv=CV)
    make_pipeline(StandardScaler(), model).fit(X, y)
    return float(0.5 / model.alpha_), float("nan")


RIVALS: dict[str, dict[str, Search]] = {
    "logistic": {
        "LogisticRegressionCV, 2": logistic_cv(2),
        "LogisticRegressionCV, 1": logistic_cv(1),
    },
    "svm": {"GridSearchCV(LinearSVC)": grid(LinearSVC(), "C", GRID)},
    "linear": {"RidgeClassifierCV": ridge_cv},
}


if __name__ == "__main__":
    main()
