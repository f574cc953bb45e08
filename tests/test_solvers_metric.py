"""The metric of the descent, against the matrices it stands for."""

import numpy as np
import pytest
import torch
from scipy.special import logsumexp, softmax
from sklearn.datasets import load_digits
from sklearn.model_selection import StratifiedKFold

from featpipe import classifiers, solvers
from featpipe.solvers import _metric, _roads, _sample
from featpipe.solvers._sample import Bent
from featpipe.solvers._table import build
from featpipe.solvers._walkers import Grid

C = torch.tensor([0.3, 20.0], dtype=torch.float64)
MASS = torch.tensor([7.0, 2.0], dtype=torch.float64)
UNITS = torch.arange(2)


def drawing():
    turn = torch.Generator().manual_seed(0)
    return lambda *shape: torch.randn(*shape, generator=turn, dtype=torch.float64)


def metric_at(curvature, bent):
    like = torch.zeros(2, 3, 6, dtype=torch.float64)
    metric = _metric.Metric(like, MASS, torch.float64)
    metric.refresh(UNITS, curvature, C, bent)
    return metric


def drawn_metric(draw):
    root = draw(2, 3, 3)
    bent = Bent(draw(2, 3, 5), draw(2, 3, 5) ** 2)
    return root @ root.mT, bent, metric_at(root @ root.mT, bent)


def dense(metric):
    """Apply the inverse to every unit vector, and invert what comes."""
    every = torch.eye(18, dtype=torch.float64).view(18, 1, 3, 6)
    columns = [metric.solve(v.expand(2, -1, -1), UNITS, C).flatten(1) for v in every]
    return torch.linalg.inv(torch.stack(columns, dim=2)).view(2, 3, 6, 3, 6)


def test_columns_that_share_no_curvature_have_each_its_own_hessian():
    draw = drawing()
    bend, bent = draw(2, 3) ** 2, Bent(draw(2, 3, 5), draw(2, 3, 5) ** 2)
    found = dense(metric_at(torch.diag_embed(bend), bent))
    for unit, column in np.ndindex(2, 3):
        much = C[unit] * MASS[unit] * bend[unit, column]
        m, spread = bent.centre[unit, column], bent.spread[unit, column]
        wanted = torch.zeros(6, 6, dtype=torch.float64)
        wanted[:5, :5] = torch.diag(much * spread + 1) + much * torch.outer(m, m)
        wanted[:5, 5] = wanted[5, :5] = much * m
        wanted[5, 5] = much
        torch.testing.assert_close(found[unit, column, :, column], wanted)


def test_columns_that_bend_at_the_same_rows_have_the_kronecker_product():
    draw = drawing()
    root, spread = draw(2, 3, 3), draw(2, 1, 5) ** 2
    curvature = root @ root.mT
    bent = Bent(torch.zeros(2, 3, 5, dtype=torch.float64), spread.expand(2, 3, 5))
    found = dense(metric_at(curvature, bent))
    for unit in range(2):
        much, G = C[unit] * MASS[unit], torch.zeros(6, 6, dtype=torch.float64)
        G[:5, :5], G[5, 5] = torch.diag(spread[unit, 0]), 1
        penalty = torch.diag(torch.tensor([1.0] * 5 + [0.0], dtype=torch.float64))
        wanted = much * torch.einsum("cd,ij->cidj", curvature[unit], G)
        wanted += torch.einsum("cd,ij->cidj", torch.eye(3, dtype=C.dtype), penalty)
        torch.testing.assert_close(found[unit], wanted)


@pytest.mark.parametrize("n_pairs", [0, 1, 7])
def test_the_frozen_metric_is_the_one_of_a_single_step(n_pairs):
    draw = drawing()
    _, _, metric = drawn_metric(draw)
    like = torch.zeros(2, 3, 6, dtype=torch.float64)
    history = _metric.History(like, C.dtype, 10**6)
    for i in range(n_pairs):
        step = draw(2, 3, 6)
        # One of the two units learns nothing from some pairs.
        change = step * torch.tensor([1.0, (-1.0) ** i])[:, None, None]
        history.push(UNITS, step, change * draw(1, 1, 6) ** 2)
    v = draw(2, 3, 6)
    expected = -history.direction(v, metric, UNITS, C)
    apply = history.frozen(metric, UNITS, C)
    torch.testing.assert_close(apply(v, UNITS), expected)
    torch.testing.assert_close(apply(v[1:], UNITS[1:]), expected[1:])


def digits(n_rows=500):
    X, y = load_digits(return_X_y=True)
    X, y = X[:n_rows].astype(np.float32), y[:n_rows]
    splits = list(StratifiedKFold(3, shuffle=True, random_state=0).split(X, y))
    return X, y, splits


def test_a_sample_of_all_rows_gives_the_mean_and_variance_where_a_column_bends(
    monkeypatch,
):
    monkeypatch.setattr(_sample, "MANY", 5)
    X, y, splits = digits()
    weights = np.random.default_rng(0).uniform(0.5, 2, len(y))
    ones = np.ones(len(y))
    task = solvers.Task(X, y, 10, "logistic", weights, ones, standardize=False)
    options = solvers.Options()
    design = build(task, splits, options)
    grid = Grid.evenly(np.ones(1), options.tol, 10)
    geometry = _roads._geometry(design, options)
    descent = _roads._set_out(task, design, grid, options, geometry)
    theta = 0.05 * drawing()(3, 10, 65)
    found = descent.sample.bent(theta, torch.arange(3))
    for p, (train, _) in enumerate(splits):
        w = weights[train]
        Z = X[train] - np.average(X[train], axis=0, weights=w)
        Z = Z @ descent.objective.basis.numpy()
        prob = softmax(Z @ theta[p, :, :-1].numpy().T + theta[p, :, -1].numpy(), axis=1)
        known = descent.sample.spread[p].numpy()
        for column in range(10):
            bend = w * prob[:, column] * (1 - prob[:, column])
            mean = np.average(Z, axis=0, weights=bend)
            own = np.average((Z - mean) ** 2, axis=0, weights=bend)
            n_rows = bend.sum() ** 2 / (bend**2).sum()
            share = n_rows / (n_rows + _sample.PRIOR)
            assert 0.05 < share < 0.9
            wanted = share * own + (1 - share) * known
            np.testing.assert_allclose(
                found.centre[p, column], share * mean, rtol=1e-5, atol=1e-6
            )
            np.testing.assert_allclose(
                found.spread[p, column], wanted, rtol=1e-5, atol=1e-5
            )


def objective(model, X, y):
    f = X @ model.coef_.T + model.intercept_
    loss = logsumexp(f, axis=1) - f[np.arange(len(y)), y]
    return 0.5 * np.square(model.coef_ * X.std(0)).sum() + model.C_ * loss.sum()


def test_looking_at_each_column_changes_the_road_and_not_where_it_leads(monkeypatch):
    X, y, _ = digits(900)
    plain = classifiers.make("logistic", cv=3).fit(X, y)
    monkeypatch.setattr(_sample, "MANY", 5)
    looked = classifiers.make("logistic", cv=3).fit(X, y)
    assert looked.converged_
    assert looked.n_iter_ != plain.n_iter_
    assert looked.C_ == plain.C_
    X = X.astype(np.float64)
    assert objective(looked, X, y) == pytest.approx(objective(plain, X, y), rel=2e-6)
