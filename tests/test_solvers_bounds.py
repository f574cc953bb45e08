"""The numbers that a proven gap rests on, against dense linear algebra."""

from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from solver_cases import case_of, drawn

from featpipe.solvers import objective

quick = settings(deadline=None, max_examples=12)

SEEDS = st.integers(0, 10**6)
FORMS = st.sampled_from(["shared", "rotated", "common"])


def steepest_of(case, theta):
    """Return the bound on the curvature of C Σ loss that a gap was proven with."""
    with mock.patch.object(
        objective, "logistic_gap", wraps=objective.logistic_gap
    ) as gap:
        case.batch.evaluate(theta)
    return gap.call_args.args[3]


@quick
@given(SEEDS, FORMS, st.integers(2, 4), st.sampled_from([0.0, 0.3, 3.0]))
def test_no_direction_of_the_coefficients_bends_more_than_the_bound_says(
    seed, form, n_classes, size
):
    case = case_of(seed, "logistic", form, n_classes, wide=form == "rotated")
    theta = drawn(case.batch.shape, seed + 1, size)
    steepest = steepest_of(case, theta)
    _, _, k, columns = case.batch.shape
    for fold, unit in case.units():
        hessian = torch.autograd.functional.hessian(
            lambda x, fold=fold, unit=unit: case.value(x, fold, unit), theta[fold, unit]
        )
        # Of the coefficients, without the intercepts and without the penalty.
        bent = hessian.view(k, columns, k, columns)[:, :-1, :, :-1]
        n = k * (columns - 1)
        largest = torch.linalg.eigvalsh(bent.reshape(n, n))[-1] - 1
        assert largest <= steepest[fold, unit] * (1 + 1e-9)


@quick
@given(SEEDS, FORMS, st.integers(2, 4))
def test_norms_and_gram_matrices_of_a_fold_are_within_what_bounds_them(
    seed, form, n_classes
):
    case = case_of(seed, "svm", form, n_classes, wide=form == "rotated")
    codes = case.codes
    for fold, (train, _) in enumerate(case.splits):
        used = case.problem.weights[train] > 0
        rows = case.rows(fold)[train][used, :-1]
        norm = np.linalg.norm(rows, axis=1).max()
        # Rounded up: a bound that is too small proves what is wrong.
        assert norm * (1 - 1e-12) <= float(codes.radius[fold]) <= 1.01 * norm
        weighted = rows * case.problem.weights[train][used, None]
        largest = np.linalg.eigvalsh(rows.T @ weighted)[-1]
        assert largest <= float(codes.top[fold]) * (1 + 1e-9)
        mass = case.problem.weights[train].sum()
        assert float(codes.mass[fold]) == pytest.approx(mass)
        each = np.bincount(
            case.problem.labels[train], case.problem.weights[train], n_classes
        )
        np.testing.assert_allclose(codes.class_weight[fold].numpy(), each)
