"""Values, slopes, curvature and proven gaps at any point, against plain computations.

Codes are standardised by numpy loops, losses are torch's own, derivatives those of
autograd, minima those of scipy.
"""

from itertools import pairwise

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from solver_cases import case_of, drawn

from featpipe.solvers import newton_cg, preconditioner

quick = settings(deadline=None, max_examples=12)

SEEDS = st.integers(0, 10**6)
LOSSES = st.sampled_from(["linear", "svm", "logistic"])
FORMS = st.sampled_from(["shared", "rotated", "common"])


@quick
@given(SEEDS, LOSSES, FORMS, st.integers(2, 4), st.sampled_from([0.1, 1.0, 8.0]))
def test_values_slopes_and_hessians_are_those_of_autograd(
    seed, loss, form, n_classes, size
):
    case = case_of(seed, loss, form, n_classes, wide=form == "rotated")
    theta, step = (drawn(case.batch.shape, seed + k, size) for k in (1, 2))
    at = case.batch.evaluate(theta)
    product = case.batch.hessian_product(step, at.curvature, theta)
    # Curvature that was not kept is worked out anew.
    again = case.batch.hessian_product(step, None, theta)
    torch.testing.assert_close(again, product, rtol=1e-9, atol=1e-9)
    for fold, unit in case.units():

        def value(x, fold=fold, unit=unit):
            return case.value(x, fold, unit)

        here = theta[fold, unit].requires_grad_()
        expected, bent = torch.autograd.functional.hvp(value, here, step[fold, unit])
        slope = torch.autograd.functional.jacobian(value, here)
        rough = {"rtol": 1e-6, "atol": 1e-8 * float(expected.detach())}
        torch.testing.assert_close(at.value[fold, unit], expected.detach(), **rough)
        torch.testing.assert_close(at.gradient[fold, unit], slope, **rough)
        torch.testing.assert_close(product[fold, unit], bent, **rough)


def optimum(case, fold, unit):
    """Return the least value that scipy reaches for one unit."""
    k, size = case.batch.k, case.codes.rank + 1

    def function(p):
        x = torch.from_numpy(p.copy()).view(k, size).requires_grad_()
        value = case.value(x, fold, unit)
        value.backward()
        return float(value.detach()), x.grad.numpy().ravel().copy()

    limits = {"maxiter": 3000, "ftol": 1e-15, "gtol": 1e-10}
    start = np.zeros(k * size)
    return minimize(function, start, jac=True, method="L-BFGS-B", options=limits).fun


def with_best_slopes(case, theta, fold, unit):
    """Return the coefficients with the best W for their intercepts."""
    k, size = case.batch.k, case.codes.rank + 1
    b = theta[fold, unit, :, -1:]

    def function(p):
        w = torch.from_numpy(p.copy()).view(k, size - 1).requires_grad_()
        value = case.value(torch.cat([w, b], dim=1), fold, unit)
        value.backward()
        return float(value.detach()), w.grad.numpy().ravel().copy()

    found = minimize(
        function, np.zeros(k * (size - 1)), jac=True, method="L-BFGS-B",
        options={"maxiter": 3000, "ftol": 1e-15, "gtol": 1e-9},
    )  # fmt: skip
    return torch.cat([torch.from_numpy(found.x).view(k, size - 1), b], dim=1)


def loss_without_slopes(case, fold, unit):
    """Return the objective where W is zero and the intercepts are best."""
    k, size = case.batch.k, case.codes.rank + 1

    def function(b):
        theta = torch.zeros(k, size, dtype=torch.float64)
        theta[:, -1] = torch.from_numpy(b)
        return float(case.value(theta, fold, unit))

    limits = {"xatol": 1e-7, "fatol": 1e-10, "maxiter": 4000}
    return minimize(function, np.zeros(k), method="Nelder-Mead", options=limits).fun


@settings(deadline=None, max_examples=8)
@given(
    SEEDS,
    st.sampled_from(["svm", "logistic"]),
    st.sampled_from([2, 2, 3]),
    st.sampled_from(["any", "best W", "other intercept"]),
    st.sampled_from([0.05, 0.4, 1.5]),
)
def test_no_point_is_further_from_the_minimum_than_its_gap_says(
    seed, loss, n_classes, kind, size
):
    case = case_of(seed, loss, "shared", n_classes, Cs=(0.02, 1.0, 50.0))
    theta = drawn(case.batch.shape, seed + 1, size)
    if kind != "any":
        # Where the slope by W is zero or near it, all that is left is the intercept's.
        for fold, unit in case.units()[: case.batch.shape[1]]:
            theta[fold, unit] = with_best_slopes(case, theta, fold, unit)
    if kind == "other intercept":
        theta[..., -1] += drawn(case.batch.shape[:3], seed + 2, size / 4)
    at = case.batch.evaluate(theta)
    for fold, unit in case.units()[: case.batch.shape[1]]:
        value = float(case.value(theta[fold, unit], fold, unit))
        best, gap = optimum(case, fold, unit), float(at.gap[fold, unit])
        without = loss_without_slopes(case, fold, unit)
        # Relative to what W gains where that is less than the objective.
        least = min(value, max(without - value, 1e-3 * value))
        assert (value - best) / least <= gap * (1 + 1e-5) + 1e-6


@quick
@given(SEEDS, FORMS, st.booleans(), st.sampled_from([0.0, 300.0]))
def test_sums_of_rows_are_the_adjoint_of_scores(seed, form, turned, offset):
    case = case_of(seed, "logistic", form, 3, wide=form == "rotated", offset=offset)
    codes, n = case.codes, len(case.problem.labels)
    theta, double = drawn((2, 5, codes.rank + 1), seed, 1.0), torch.float64
    residual = drawn((2, 5, n), seed + 1, 1.0)
    z = codes.block(0, n, double)
    scores = codes.scores(z, codes.to_rows(theta, double, turned))
    sums = codes.from_rows(codes.adjoint(z, residual), turned)
    inner = [(scores * residual).sum(), (theta * sums).sum()]
    torch.testing.assert_close(*inner, rtol=1e-9, atol=1e-7)
    rows = codes.fold_rows(0, n, double)
    basis = codes.basis
    for fold in range(2):
        given_ = theta[fold]
        if turned and basis is not None:
            given_ = given_ @ (basis if basis.ndim == 2 else basis[fold]).T
        expected = rows[fold] @ given_.T
        torch.testing.assert_close(scores[fold].T, expected, rtol=1e-7, atol=1e-6)
        chosen = torch.tensor([[7, 3], [0, 3]])
        some = codes.take(chosen.expand(2, 2, 2), double)[fold]
        torch.testing.assert_close(some, rows[fold, chosen, :-1], rtol=1e-9, atol=1e-7)
        v = codes.to_rows(theta, double, turned)
        few = codes.fold_scores(z, v, fold, chosen[0])
        torch.testing.assert_close(few.T, scores[fold][:, chosen[0]])
    if form == "shared":
        expected = torch.from_numpy(case.rows(1))
        torch.testing.assert_close(rows[1], expected, rtol=1e-7, atol=1e-7)


@quick
@given(
    SEEDS,
    LOSSES,
    st.integers(2, 3),
    st.lists(st.integers(0, 3), min_size=1, unique=True),
)
def test_some_of_the_units_are_what_they_are_among_all(seed, loss, n_classes, some):
    case = case_of(seed, loss, "shared", n_classes, Cs=(0.01, 0.1, 1.0, 10.0))
    theta, tilt = (drawn(case.batch.shape, seed + k) for k in (1, 2))
    batch, units = case.batch.tilted(tilt), torch.tensor(some)
    whole, part = batch.evaluate(theta), batch.select(units).evaluate(theta[:, units])
    for one, other in zip(whole.select(units)[:5], part[:5], strict=True):
        torch.testing.assert_close(one.abs(), other.abs(), rtol=1e-9, atol=1e-9)
    for one, other in zip(whole.select(units).curvature, part.curvature, strict=True):
        torch.testing.assert_close(one, other)
    # A tilt is a linear term.
    plain = case.batch.evaluate(theta)
    torch.testing.assert_close(whole.gradient, plain.gradient + tilt)
    linear = (tilt * theta).sum((2, 3))
    torch.testing.assert_close(whole.value, plain.value + linear)


@quick
@given(SEEDS, LOSSES, st.integers(2, 3), FORMS)
def test_rows_cut_into_blocks_give_the_sums_of_all_rows(seed, loss, n_classes, form):
    case = case_of(seed, loss, form, n_classes, wide=form == "rotated")
    n, theta = len(case.problem.labels), drawn(case.batch.shape, seed)
    whole = case.batch.evaluate(theta)
    cut = case.batch._but(spans=[(0, 5), (5, 6), (6, n - 2), (n - 2, n)])
    parts = cut.evaluate(theta)
    for one, other in zip(whole[:4], parts[:4], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-7, atol=1e-9)
    step = drawn(case.batch.shape, seed + 1)
    torch.testing.assert_close(
        cut.hessian_product(step, parts.curvature, theta),
        case.batch.hessian_product(step, whole.curvature, theta),
        rtol=1e-8,
        atol=1e-8,
    )
    if not case.batch.joint:
        torch.testing.assert_close(
            preconditioner.column_hessians(cut, parts, theta),
            preconditioner.column_hessians(case.batch, whole, theta),
        )


@quick
@given(
    SEEDS,
    st.sampled_from(["svm", "logistic"]),
    st.sampled_from(["shared", "rotated"]),
    st.sampled_from([0.01, 0.5, 20.0]),
)
def test_the_inverse_of_each_column_is_that_of_the_dense_hessian(
    seed, loss, form, size
):
    n_classes = 2 if loss == "logistic" else 3
    case = case_of(seed, loss, form, n_classes, Cs=(0.1, 30.0), wide=form == "rotated")
    theta, right = (
        drawn(case.batch.shape, seed, size),
        drawn(case.batch.shape, seed + 1),
    )
    at = case.batch.evaluate(theta)
    inverse = preconditioner.own_column(case.batch, at, theta)
    solved = inverse.leave(inverse(inverse.enter(right)))
    active = torch.cat(at.curvature, dim=3)[:, :, 0] > 0
    assert preconditioner.most_active(case.batch, at) == int(active.sum(2).max())
    for fold, unit in case.units():
        if not active[fold, unit].any():
            continue  # nothing bends by the intercept
        x = torch.from_numpy(case.rows(fold)) @ case.basis(fold).T
        here = theta[fold, unit]
        dense = torch.autograd.functional.hessian(
            lambda t, fold=fold, unit=unit: case.value(t[None], fold, unit), here[0]
        )
        assert len(x) == len(case.problem.labels)
        expected = torch.linalg.solve(dense, right[fold, unit, 0])
        scale = float(expected.abs().max())
        torch.testing.assert_close(
            solved[fold, unit, 0], expected, rtol=1e-5, atol=1e-5 * scale
        )


@quick
@given(SEEDS, LOSSES, st.integers(2, 3))
def test_a_tilted_objective_has_its_minimum_where_the_slope_is_minus_the_tilt(
    seed, loss, n_classes
):
    case = case_of(seed, loss, "shared", n_classes)
    tilt = drawn(case.batch.shape, seed, 0.02)
    # The loss does not change where all scores are moved alike, and so must not it.
    tilt = tilt - tilt.mean(2, keepdim=True) if case.batch.joint else tilt
    start = torch.zeros(case.batch.shape, dtype=torch.float64)
    found = newton_cg.minimize(case.batch.tilted(tilt), start, 1e-11, 2000)
    gradient = case.batch.evaluate(found.theta).gradient
    torch.testing.assert_close(gradient, -tilt, rtol=0, atol=1e-4)


@quick
@given(SEEDS, st.sampled_from(["svm", "logistic"]), st.integers(2, 3))
def test_units_keep_their_own_passes_and_gaps_and_a_batch_stops_when_told(
    seed, loss, n_classes
):
    case = case_of(seed, loss, "shared", n_classes, Cs=(1e-6, 1e-2, 30.0))
    start = torch.zeros(case.batch.shape, dtype=torch.float64)
    result = newton_cg.minimize(case.batch, start, 1e-7, 2000)
    assert (result.gap <= 1e-7).all()
    at = case.batch.evaluate(result.theta)
    # The gap that is told is that of the coefficients that are returned.
    torch.testing.assert_close(at.gap, result.gap, rtol=1e-3, atol=1e-8)
    # A unit near its minimum leaves the batch before one that is far.
    assert (result.n_passes[:, 0] <= result.n_passes[:, -1]).all()
    # One that begins at its minimum takes one pass, of which nothing is changed.
    again = newton_cg.minimize(case.batch, result.theta, 1e-6, 2000)
    assert (again.n_passes == 1).all()
    assert torch.equal(again.theta, result.theta)
    case = case_of(seed, "logistic", "shared", n_classes, Cs=(100.0,))
    start = torch.zeros(case.batch.shape, dtype=torch.float64)
    asked = []

    def stop(theta):
        asked.append(theta.clone())
        return len(asked) == 2

    stopped = newton_cg.minimize(case.batch, start, 1e-12, 2000, stop)
    assert len(asked) == 2
    assert torch.equal(stopped.theta, asked[-1])
    values = [case.batch.evaluate(theta).value for theta in (start, *asked)]
    for before, after in pairwise(values):
        assert (after <= before * (1 + 1e-12)).all()
    hurried = newton_cg.minimize(case.batch, start, 1e-12, 3)
    assert (hurried.gap > 1e-12).any()
