"""The solvers' smaller rooms: slopes, kept scores, products, predictions."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq, minimize
from scipy.special import logsumexp
from sklearn.datasets import load_digits, make_blobs
from sklearn.model_selection import StratifiedKFold

from featpipe import solvers
from featpipe.solvers import _descent, _frame, _predictions, _roads
from featpipe.solvers._evaluation import Objective
from featpipe.solvers._frame import Frame, scores
from featpipe.solvers._gram import symmetric
from featpipe.solvers._search import NEARLY, crossing
from featpipe.solvers._standing import Standing, Trial
from featpipe.solvers._starts import Starts
from featpipe.solvers._table import build
from featpipe.solvers._threads import dealt


@settings(max_examples=30, deadline=None)
@given(
    kinks=st.lists(st.floats(0.01, 0.99), min_size=0, max_size=8),
    steepness=st.floats(0.1, 1e3),
)
def test_the_crossing_of_a_slope_with_kinks_is_found(kinks, steepness):
    def slope(x):
        return -1 + 1.5 * x + steepness * sum(max(0.0, x - kink) for kink in kinks)

    def slopes(x):
        return torch.tensor([slope(float(x[0]))], dtype=torch.float64)

    one = torch.ones(1, dtype=torch.float64)
    found = float(crossing(slopes, slopes(0 * one), one, slopes(one))[0])
    true = brentq(slope, 0, 1)
    assert abs(slope(found)) <= NEARLY or abs(found - true) < 0.05


def problem(n_classes, loss="logistic"):
    X, y = load_digits(n_class=n_classes, return_X_y=True)
    X, y = X[:300].astype(np.float32), y[:300]
    ones = np.ones(len(y))
    return solvers.Task(X, y, n_classes, loss, ones, ones), y


def test_kept_scores_are_those_of_the_coefficients_after_many_steps():
    task, y = problem(4)
    splits = list(StratifiedKFold(2, shuffle=True, random_state=0).split(y, y))
    design = build(task, splits, solvers.Options())
    frame = Frame(design=design, split=torch.tensor([0, 1]))
    rng = torch.Generator().manual_seed(0)
    theta = torch.zeros(2, 4, 65, dtype=torch.float64)
    standing = Standing(frame, theta, 10**9)
    units = torch.tensor([0, 1])
    for _ in range(20):
        direction = torch.randn(theta.shape, generator=rng, dtype=torch.float64)
        direction = frame.rounded(direction, units)
        standing.turn(units)
        lengths = torch.rand(2, generator=rng, dtype=torch.float64)
        trial = Trial(standing, theta, direction, lengths, units, torch.float64)
        trial.shifts = torch.randn(2, 4, generator=rng, dtype=torch.float64)
        for block in design.pieces(64):
            for rows in trial.cut(block):
                trial.read(rows, None)
        trial.end()
        standing.go(units, lengths, trial.shifts)
        theta = theta + lengths[:, None, None] * direction
        theta[..., -1] += trial.shifts
    standing.follow(units, slice(0, 300))
    v, shift = frame.to_table(theta, units)
    wanted = scores(v, shift, design.table.rows(0, 300, torch.float64))
    torch.testing.assert_close(standing.here, wanted, rtol=1e-9, atol=1e-9)


@given(st.lists(st.integers(1, 100), max_size=30), st.integers(1, 5))
def test_every_piece_is_dealt_once_and_no_lane_gets_much_more(sizes, n_lanes):
    lanes = dealt(sizes, n_lanes)
    assert sorted(number for lane in lanes for number in lane) == list(
        range(len(sizes))
    )
    load = [sum(sizes[number] for number in lane) for lane in lanes]
    assert max(load) - min(load) <= max(sizes, default=0)


@pytest.mark.parametrize("loss", ["logistic", "svm"])
@pytest.mark.parametrize("settled", [False, True])
def test_lanes_add_up_to_what_one_thread_finds(loss, settled, monkeypatch):
    monkeypatch.setattr(_frame, "CPU_SCORES", 16)
    monkeypatch.setattr(_frame, "LEAST_ROWS", 16)
    task, _ = problem(3, loss)
    design = build(task, [(np.arange(300), np.arange(0))], solvers.Options())
    k = 3 if loss == "logistic" else 1
    units = torch.arange(1 if loss == "logistic" else 3)
    objective = Objective(
        design=design, split=0 * units, loss=loss, n_columns=k, own=units
    )
    rng = torch.Generator().manual_seed(1)
    theta = torch.randn(len(units), k, 65, generator=rng, dtype=torch.float64)
    found, before = [], torch.get_num_threads()
    try:
        for n_threads in (1, 3):
            torch.set_num_threads(n_threads)
            standing = Standing(objective, theta, 10**9)
            lengths = torch.ones(len(units), dtype=torch.float64)
            trial = Trial(standing, theta, theta, lengths, units, torch.float64)
            found.append(objective.evaluate(trial, settled=settled))
            assert torch.get_num_threads() == n_threads
    finally:
        torch.set_num_threads(before)
    torch.testing.assert_close(found[0], found[1], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("loss", ["logistic", "svm"])
def test_with_and_without_kept_scores_the_path_is_the_same(loss, monkeypatch):
    task, y = problem(3, loss)
    splits = list(StratifiedKFold(3, shuffle=True, random_state=0).split(y, y))
    Cs = np.logspace(-4, 2, 7)
    kept = solvers.solve_path(task, Cs, splits)
    monkeypatch.setattr(Standing, "n_bytes", staticmethod(lambda n_cells: 10**15))
    anew = solvers.solve_path(task, Cs, splits)
    assert kept.converged
    assert anew.converged
    for one, other in zip(kept.predicted, anew.predicted, strict=True):
        assert (one == other).mean() > 0.995


def test_least_squares_on_all_rows_comes_out_of_the_path():
    task, y = problem(5, "linear")
    splits = list(StratifiedKFold(3, shuffle=True, random_state=0).split(y, y))
    Cs = np.logspace(-4, 2, 4)
    path = solvers.solve_path(task, Cs, splits)
    for C, found in zip(Cs, path.whole, strict=True):
        alone = solvers.solve(task, C)
        np.testing.assert_allclose(found.coef, alone.coef, atol=1e-8)
        np.testing.assert_allclose(found.intercept, alone.intercept, atol=1e-8)


@pytest.mark.parametrize(("n", "width"), [(5, 3), (300, 128), (200, 300)])
def test_a_symmetric_product_is_that_of_all_of_it(n, width):
    z = torch.randn(n, width, dtype=torch.float64)
    weights = torch.rand(n, dtype=torch.float64)
    torch.testing.assert_close(symmetric(z.T * weights, z), (z.T * weights) @ z)


def test_of_equal_scores_the_first_column_is_predicted():
    f = torch.randint(0, 3, (4, 6, 50)).float()
    wanted = np.argmax(f.numpy(), axis=1)
    np.testing.assert_array_equal(_predictions._argmax(f).numpy(), wanted)


def many_classes(loss, width):
    X, y = make_blobs(
        600, width, centers=60, cluster_std=6.0, shuffle=True, random_state=0
    )
    ones = np.ones(len(y))
    return solvers.Task(X.astype(np.float32), y, 60, loss, ones, ones), y


@pytest.mark.parametrize("loss", ["svm", "logistic"])
@pytest.mark.parametrize("width", [40, 700])
def test_many_classes_begin_at_the_mean_of_the_splits_and_end_where_they_would_anyway(
    loss, width
):
    task, y = many_classes(loss, width)
    splits = list(StratifiedKFold(5, shuffle=True, random_state=0).split(y, y))
    path = solvers.solve_path(task, np.array([1e-4, 1e-2]), splits)
    assert set(path.starts) == {0, 1}
    below = solvers.solve(task, 1e-2)
    led = solvers.solve(task, 1e-2, start=path.starts[1])
    assert led.converged
    assert led.n_passes < below.n_passes
    scale = np.abs(below.coef).max()
    np.testing.assert_allclose(led.coef, below.coef, atol=2e-3 * scale)
    # Begun at its own minimum, a fit has next to nothing to do.
    again = solvers.solve(task, 1e-2, start=solvers.Start(led.coef, led.intercept))
    assert again.n_passes <= 3


def test_few_classes_have_no_starts():
    task, y = problem(4)
    splits = list(StratifiedKFold(3, shuffle=True, random_state=0).split(y, y))
    assert not solvers.solve_path(task, np.array([1e-3, 1e-1]), splits).starts


def test_starts_are_means_over_all_splits_within_memory():
    rng = np.random.default_rng(0)
    coef, intercept = rng.normal(size=(3, 2, 5)), rng.normal(size=(3, 2))
    starts = Starts(3, memory=2 * 4 * 10)
    for position in range(3):
        for split in range(2 if position == 1 else 3):
            starts.add(position, coef[split], intercept[split])
    found = starts.found()
    assert list(found) == [0]  # 1 lacks a split, 2 is beyond the memory
    np.testing.assert_allclose(found[0].coef, coef.mean(0), atol=1e-6)
    np.testing.assert_allclose(found[0].intercept, intercept.mean(0), rtol=1e-12)


@pytest.mark.parametrize(
    ("loss", "n_columns"), [("svm", 1), ("logistic", 1), ("logistic", 3)]
)
def test_without_codes_the_intercepts_and_the_loss_are_the_best(loss, n_columns):
    class_mass = np.array([3.0, 5.5, 2.0])
    labels = np.arange(3)

    def total(b):
        if n_columns > 1:
            return class_mass @ (logsumexp(b) - b)
        sign = np.where(labels == 1, 1, -1)
        if loss == "svm":
            return class_mass @ np.maximum(1 - sign * b, 0) ** 2
        return class_mass @ np.logaddexp(0, -sign * b)

    intercepts, flat = _roads._without_codes(
        loss, torch.from_numpy(class_mass)[None], torch.tensor([1]), n_columns
    )
    found = minimize(total, np.zeros(n_columns), tol=1e-12)
    assert float(flat[0]) == pytest.approx(found.fun, rel=1e-9)
    assert total(intercepts[0].numpy()) == pytest.approx(found.fun, rel=1e-9)


@pytest.mark.parametrize("loss", ["svm", "logistic"])
def test_exact_scores_all_along_lead_to_the_same_path(loss, monkeypatch):
    task, y = problem(4, loss)
    splits = list(StratifiedKFold(3, shuffle=True, random_state=0).split(y, y))
    Cs = np.logspace(-4, 4, 9)
    # So exact that no row near a boundary may be told otherwise.
    options = solvers.Options(tol=1e-7)
    usual = solvers.solve_path(task, Cs, splits, options=options)
    set_C, evaluated = _descent.Descent._set_C, []

    def set_exact(self, walkers):
        set_C(self, walkers)
        self.precise[:] = self.exact[:] = True

    def evaluate(self, trial, *, settled=False):
        evaluated.append(trial.kept)
        return objective_evaluate(self, trial, settled=settled)

    objective_evaluate = Objective.evaluate
    monkeypatch.setattr(_descent.Descent, "_set_C", set_exact)
    monkeypatch.setattr(Objective, "evaluate", evaluate)
    exact = solvers.solve_path(task, Cs, splits, options=options)
    assert evaluated
    assert not any(evaluated)
    assert exact.converged
    for one, other in zip(exact.predicted, usual.predicted, strict=True):
        assert (one == other).all()


def test_the_path_ends_where_it_takes_long_and_the_score_has_fallen(monkeypatch):
    task, y = problem(4)
    splits = list(StratifiedKFold(3, shuffle=True, random_state=0).split(y, y))
    Cs = np.logspace(-4, 4, 9)
    asked = []

    def score(p, predicted):
        asked.append(p)
        return float((predicted == y[splits[p][1]]).mean())

    monkeypatch.setattr(_descent, "LONG", 0.0)
    # Nothing falls here: the path is walked to its end, however long it takes.
    path = solvers.solve_path(task, Cs, splits, score=score)
    assert asked
    assert path.evaluated.all()
    # Half of the held-out rows are wrong from C = 1 on: what lies beyond is left.
    usual = solvers.solve_path(task, Cs, splits)

    def falling(p, predicted):
        like = [(predicted == each).all() for each in usual.predicted[p]]
        return 0.5 if any(like[5:]) and not any(like[:5]) else 1.0

    path = solvers.solve_path(task, Cs, splits, score=falling)
    assert path.evaluated[:4].all()
    assert not path.evaluated[-1]
    assert path.converged
    assert np.isnan(path.gaps[:, ~path.evaluated]).all()
    # Without a score there is no telling, and all is solved.
    assert solvers.solve_path(task, Cs, splits).evaluated.all()
