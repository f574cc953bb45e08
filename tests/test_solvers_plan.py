"""Many classes: which C are solved, and that those are solved as ever."""

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import StratifiedKFold

from featpipe import classifiers, solvers
from featpipe.solvers import _plan

GRID = np.logspace(-6, 5, 45)


def digits():
    X, y = load_digits(return_X_y=True)
    X, y = X[:400].astype(np.float32), y[:400]
    splits = list(StratifiedKFold(3, shuffle=True, random_state=0).split(X, y))
    ones = np.ones(len(y))
    return solvers.Task(X, y, 10, "logistic", ones, ones), y, splits


def test_a_large_problem_skips_what_lies_far_from_the_best(monkeypatch):
    task, y, splits = digits()
    full = solvers.solve_path(task, GRID, splits)
    monkeypatch.setattr(_plan, "LARGE", 0)

    def score(p, predicted):
        return (predicted == y[splits[p][1]]).mean()

    path = solvers.solve_path(task, GRID, splits, score=score)
    assert path.converged
    assert 10 < path.evaluated.sum() < 30
    assert np.isnan(path.gaps[:, ~path.evaluated]).all()
    assert (path.gaps[:, path.evaluated] <= 1e-4).all()
    for ours, theirs in zip(path.predicted, full.predicted, strict=True):
        same = (ours == theirs)[path.evaluated]
        assert same.mean() > 0.99

    def curve(found):
        parts = [
            (found.predicted[p] == y[rows]).mean(1)
            for p, (_, rows) in enumerate(splits)
        ]
        return np.mean(parts, axis=0)

    best = curve(path)[path.evaluated].max()
    # The best of all C is found, up to one of the 400 rows.
    assert best >= curve(full).max() - 1 / 400


def test_without_a_score_or_where_it_is_small_every_C_is_solved():
    task, _, splits = digits()
    assert solvers.solve_path(task, GRID[::11], splits).evaluated.all()
    path = solvers.solve_path(task, GRID[::11], splits, score=lambda p, predicted: 0.0)
    assert path.evaluated.all()


def test_the_curve_of_a_classifier_is_nan_where_C_was_skipped(monkeypatch):
    monkeypatch.setattr(_plan, "LARGE", 0)
    task, y, _ = digits()
    model = classifiers.make("logistic", cv=3).fit(task.codes, y)
    skipped = np.isnan(model.C_curve_[:, 1])
    assert 0 < skipped.sum() < 45
    said = f"{skipped.sum()} of 45 C were left out"
    assert any(said in each for each in model.warnings_)
    assert model.cv_score_ == np.nanmax(model.C_curve_[:, 1])
    assert model.converged_
