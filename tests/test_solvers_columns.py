"""Columns as they are, of any size, and constants alone: solutions against scipy."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize, minimize_scalar
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from solver_cases import case_of

from featpipe import solvers
from featpipe.classifiers import make

quick = settings(deadline=None, max_examples=12)

SEEDS = st.integers(0, 10**6)
LOSSES = st.sampled_from(["linear", "svm", "logistic"])


@quick
@given(SEEDS, st.sampled_from([2, 3]), LOSSES)
def test_without_standardisation_columns_count_as_they_are(seed, n_classes, loss):
    case = case_of(seed, loss, "shared", n_classes)
    plain = replace(case.problem, standardize=False)
    ours = solvers.solve(plain, 0.3, options=solvers.Options(tol=1e-8))
    X, w, y = plain.codes, torch.from_numpy(plain.weights), plain.labels
    k = plain.n_columns

    def function(p):
        x = torch.from_numpy(p.copy()).view(k, -1).requires_grad_()
        f = torch.from_numpy(X) @ x[:, :-1].T + x[:, -1]
        if loss == "logistic" and k > 1:
            label = torch.from_numpy(y)
            rows = torch.nn.functional.cross_entropy(f, label, reduction="none")
        else:
            own = torch.from_numpy(y)[:, None] == torch.arange(n_classes)[-k:]
            margin = torch.where(own, 1.0, -1.0).double() * f
            rows = {
                "linear": lambda: (1 - margin) ** 2,
                "svm": lambda: (1 - margin).clamp_min(0) ** 2,
                "logistic": lambda: torch.nn.functional.softplus(-margin),
            }[loss]().sum(1)
        value = (x[:, :-1] ** 2).sum() / 2 + 0.3 * (w * rows).sum()
        value.backward()
        return float(value.detach()), x.grad.numpy().ravel().copy()

    here = np.column_stack([ours.coef, ours.intercept]).ravel()
    limits = {"maxiter": 3000, "ftol": 1e-15, "gtol": 1e-10}
    best = minimize(function, 0 * here, jac=True, method="L-BFGS-B", options=limits).fun
    assert function(here)[0] <= best * (1 + 1e-6)


def test_numbers_too_large_to_be_squared_are_refused_unless_standardised():
    case = case_of(0, "linear", "shared", 2)
    large = replace(case.problem, codes=case.problem.codes * [1, 1, 1e120, 1])
    assert np.isfinite(solvers.solve(large, 1.0).coef).all()
    with pytest.raises(ValueError, match=r"column 2 .* too large to be used as they"):
        solvers.solve(replace(large, standardize=False), 1.0)


@quick
@given(SEEDS, st.sampled_from([2, 3]), st.sampled_from([-150, -60, 60, 150]))
def test_columns_of_any_size_have_the_same_solution_on_their_own_scale(
    seed, n_classes, power
):
    case = case_of(seed, "logistic", "shared", n_classes)
    sizes = 2.0 ** np.array([power, -power, 0, 2 * power // 3])
    options = solvers.Options(tol=1e-8)
    first = solvers.solve(case.problem, 0.5, options=options)
    large = replace(case.problem, codes=case.problem.codes * sizes)
    second = solvers.solve(large, 0.5, options=options)
    # Powers of two change no digit.
    np.testing.assert_allclose(second.coef * sizes, first.coef, rtol=1e-9)
    np.testing.assert_allclose(second.intercept, first.intercept, rtol=1e-9)


def test_the_best_constant_of_every_loss_is_known():
    for loss in ("linear", "svm", "logistic"):
        case = case_of(5, loss, "shared", 2)
        own, w = case.problem.labels == 1, case.weights(0).numpy()

        def constant(b, own=own, w=w, loss=loss):
            margin = np.where(own, b, -b)
            rows = {
                "linear": (1 - margin) ** 2,
                "svm": np.maximum(1 - margin, 0) ** 2,
                "logistic": np.logaddexp(0, -margin),
            }[loss]
            return w @ rows

        best = minimize_scalar(constant, bounds=(-9, 9), method="bounded").fun
        assert float(case.batch.without[0, 0]) == pytest.approx(best, rel=1e-6)


def test_classifiers_without_standardisation_are_those_of_scikit_learn():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((120, 4)) * [30.0, 1.0, 0.1, 5.0]
    noise = 0.5 * rng.standard_normal(120)
    y = (X[:, 0] / 30 + X[:, 1] + 10 * X[:, 2] + noise > 0).astype(int)
    exact = {"tol": 1e-10, "max_iter": 10_000}
    models = {
        "logistic": LogisticRegression(C=1.0, **exact),
        "linear": RidgeClassifier(alpha=0.5),
    }
    for name, theirs in models.items():
        ours = make(name, C=1.0, standardize=False, tol=1e-9).fit(X, y)
        theirs.fit(X, y)
        np.testing.assert_allclose(ours.coef_.ravel(), theirs.coef_.ravel(), rtol=1e-4)
        np.testing.assert_allclose(ours.intercept_, theirs.intercept_, rtol=1e-4)
