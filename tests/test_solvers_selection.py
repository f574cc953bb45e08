"""Which C are left out, how often that costs the best one, and what is reported."""

import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer, load_digits, load_wine
from sklearn.model_selection import StratifiedKFold

from featpipe import classifiers, solvers
from featpipe.solvers import Judge

GRID = np.logspace(-6, 5, 45)


def judge_of(right):
    """Return a judge of rows that are right (n_C, n) at each C."""
    n = right.shape[1]
    judge = Judge([(0, np.arange(n))], np.ones(n, np.int64), np.full(n, 1 / n))
    for position, row in enumerate(right):
        judge.add(position, [row.astype(np.int64)])
    return judge


def test_the_best_is_the_smallest_of_equal_scores():
    right = np.array([[1, 0, 0, 1], [1, 1, 0, 1], [1, 0, 1, 1]], bool)
    judge = judge_of(right)
    assert judge.scores == pytest.approx({0: 0.5, 1: 0.75, 2: 0.75})
    assert judge.best == 1
    assert judge.within_one_row() == [0, 1, 2]


@pytest.mark.parametrize("missing", [4, 8, 12])
def test_a_walk_between_two_scores_passes_the_best_as_often_as_is_computed(missing):
    # Rows turn one by one, in any order: +1 and -1 steps whose sum is known.
    rng = np.random.default_rng(0)
    up, down, n = 30, 30, 4000
    steps = np.r_[np.ones(up), -np.ones(down)]
    walks = np.array([rng.permutation(steps).cumsum().max() for _ in range(n)])
    seen = (walks >= missing).mean()
    computed = np.exp(-2 * missing**2 / (up + down))
    assert computed == pytest.approx(seen, abs=0.05)


def test_nothing_is_needed_between_two_C_that_tell_all_rows_alike():
    judge = judge_of(np.array([[1, 1, 0, 0], [1, 0, 0, 0], [1, 0, 0, 0]], bool))
    assert not judge.needs_between(1, 2)
    assert judge.needs_between(0, 1)


def test_nothing_is_needed_far_below_the_best():
    rng = np.random.default_rng(0)
    best = rng.random(1000) < 0.9
    worse = [np.where(rng.random(1000) < share, False, best) for share in (0.3, 0.4)]
    judge = judge_of(np.array([best, *worse]))
    assert not judge.needs_between(1, 2)
    assert not judge.needs_beyond(1, 2, growing=False)
    assert judge.needs_beyond(1, 2, growing=True)


def test_nothing_is_needed_beyond_solutions_at_rest():
    rng = np.random.default_rng(0)
    right = rng.random(1000) < 0.9
    nearly = right.copy()
    nearly[:4] = ~nearly[:4]
    judge = judge_of(np.array([right, nearly]))
    assert not judge.needs_beyond(0, 1, growing=False)


def predictions(right):
    return [np.asarray(right).astype(np.int64)]


def test_a_C_that_is_worse_by_more_than_chance_loses_on_the_way():
    rng = np.random.default_rng(0)
    best = rng.random(1000) < 0.9
    judge = judge_of(best[None])
    start = rng.random(1000) < 0.5
    worse = np.where(rng.random(1000) < 0.2, False, best)
    assert judge.rejects(predictions(start), predictions(worse))
    # Nearly as many rows became right as wrong.
    about = best.copy()
    about[np.flatnonzero(best)[:20]] = False
    about[np.flatnonzero(~best)[:16]] = True
    assert not judge.rejects(predictions(start), predictions(about))


def test_a_C_where_hardly_a_row_turns_loses_by_a_few_rows():
    rng = np.random.default_rng(0)
    best = rng.random(1000) < 0.9
    judge = judge_of(best[None])
    behind = rng.permutation(best)
    behind[np.flatnonzero(behind)[:10]] = False
    still = behind.copy()
    still[:2] = ~still[:2]
    assert judge.rejects(predictions(still), predictions(behind))
    moving = rng.permutation(behind)
    assert not judge.rejects(predictions(moving), predictions(behind))


def test_a_C_that_is_level_with_the_best_never_loses():
    best = np.arange(100) < 90
    judge = judge_of(best[None])
    assert not judge.rejects(predictions(best), predictions(best))


def test_a_short_grid_is_solved_whole():
    X, y = load_digits(return_X_y=True)
    model = classifiers.make("svm", Cs=np.logspace(-5, 0, 8)).fit(X[::4], y[::4])
    assert not np.isnan(model.C_curve_).any()


@pytest.mark.parametrize("loss", ["logistic", "svm", "linear"])
@pytest.mark.parametrize("load", [load_digits, load_breast_cancer, load_wine])
def test_the_chosen_C_scores_like_the_best_of_all_C(loss, load):
    X, y = load(return_X_y=True)
    X, y = X[::2], y[::2]
    model = classifiers.make(loss).fit(X, y)
    full = classifiers.make(loss, full_path=True).fit(X, y)
    assert not np.isnan(full.C_curve_).any()
    assert model.cv_score_ >= full.cv_score_ - 1.01 / len(y)
    both = ~np.isnan(model.C_curve_[:, 1])
    np.testing.assert_allclose(
        model.C_curve_[both, 1], full.C_curve_[both, 1], atol=2.01 / len(y)
    )


def test_skipped_C_are_nan_in_the_curve_and_counted_in_a_note():
    X, y = load_digits(return_X_y=True)
    model = classifiers.make("svm").fit(X[:400], y[:400])
    n_skipped = np.isnan(model.C_curve_[:, 1]).sum()
    assert 0 < n_skipped < 45
    assert any(f"{n_skipped} of 45 values of C" in text for text in model.warnings_)
    assert model.cv_score_ == np.nanmax(model.C_curve_[:, 1])
    assert model.converged_


def test_without_a_judge_every_C_is_solved():
    X, y = load_digits(return_X_y=True)
    X, y = X[:200], y[:200]
    splits = list(StratifiedKFold(3).split(X, y))
    ones = np.ones(len(y))
    task = solvers.Problem(X, y, 10, "logistic", ones, ones)
    path = solvers.solve_path(task, GRID[::5], splits)
    assert path.solved.all()
    assert path.converged


def test_C_near_the_best_are_solved_finer(monkeypatch):
    X, y = load_breast_cancer(return_X_y=True)
    model = classifiers.make("logistic")
    job = model._prepare(X, y)
    splits = list(StratifiedKFold(5, shuffle=True, random_state=0).split(X, y))
    judge = classifiers.choosing.make_judge(
        job.labels,
        [(k, np.arange(len(held)), held) for k, (_, held) in enumerate(splits)],
        "accuracy",
    )
    path = solvers.solve_path(job.problem, GRID, splits, judges=[judge])
    close = judge.within_one_row()
    assert (path.gaps[:, close] <= 1e-6).all()
    assert path.gaps[:, path.solved].max() > 1e-6


def test_a_metric_that_is_no_sum_chooses_by_its_own_value():
    X, y = load_wine(return_X_y=True)
    y = np.minimum(y, 1)
    model = classifiers.make("logistic", metric="macro_f1").fit(X, y)
    full = classifiers.make("logistic", metric="macro_f1", full_path=True).fit(X, y)
    assert model.cv_score_ >= full.cv_score_ - 0.02
