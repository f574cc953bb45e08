"""The solvers on drawn problems, against numpy and scipy in double precision.

Problems are small and awkward: more columns than rows, constant and repeated columns,
rows of weight zero, repeated rows, columns of very different scale.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax
from sklearn.linear_model import Ridge

from featpipe import solvers
from featpipe.solvers import eigenbasis, newton_cg, path, standardize
from featpipe.solvers.selection import predict_held_out

quick = settings(deadline=None, max_examples=15)

CPU = torch.device("cpu")
LOSSES = st.sampled_from(["linear", "svm", "logistic"])
CURVED = st.sampled_from(["svm", "logistic"])
SEEDS = st.integers(0, 10**6)
EXACT = solvers.Options(tol=1e-8)
C = st.sampled_from([1e-3, 0.1, 1.0, 30.0])


@st.composite
def problems(draw, losses=LOSSES, awkward=True):
    """Draw a problem of a few rows, in which every class has rows that weigh."""
    rng = np.random.default_rng(draw(SEEDS))
    n_classes = draw(st.integers(2, 4))
    n, width = draw(st.integers(8, 30)), draw(st.integers(1, 12))
    labels = np.concatenate([np.arange(n_classes), rng.integers(0, n_classes, n)])
    codes = rng.standard_normal((len(labels), width))
    codes[:, 0] += labels
    weights = rng.uniform(0.5, 2.0, len(labels))
    if awkward:
        weights[n_classes:] *= rng.integers(0, 3, n)
        codes *= 10.0 ** rng.integers(-3, 4, width)
        codes[-1] = codes[0]
        codes[:, -1] = 7.0 if draw(st.booleans()) else codes[:, 0]
    loss = draw(losses)
    return solvers.Problem(codes, labels, n_classes, loss, weights, weights)


def scales(problem):
    """Return the standard deviation of each column by the row weights."""
    w = problem.row_weights / problem.row_weights.sum()
    deviation = np.sqrt(w @ (problem.codes - w @ problem.codes) ** 2)
    return np.where(deviation > 1e-9 * np.abs(problem.codes).max(0), deviation, 1.0)


def value_and_slope(problem, C, coef, intercept):
    """Return the objective, and its gradient by standardised coefficients."""
    scale = scales(problem)
    f = problem.codes @ coef.T + intercept
    own = problem.labels[:, None] == np.arange(problem.n_classes)
    own = own[:, 1:] if problem.n_columns == 1 else own
    sign = 2.0 * own - 1.0
    if problem.loss == "logistic" and problem.n_columns > 1:
        rows, slopes = -log_softmax(f, axis=1)[own], softmax(f, axis=1) - own
    elif problem.loss == "logistic":
        rows = np.logaddexp(0, -sign * f).sum(1)
        slopes = -sign * np.exp(-np.logaddexp(0, sign * f))
    else:
        error = sign - f
        if problem.loss == "svm":
            error = sign * np.maximum(1 - sign * f, 0)
        rows, slopes = (error**2).sum(1), -2 * error
    w, scaled = problem.weights, coef * scale
    value = 0.5 * (scaled**2).sum() + C * (w @ rows)
    by_coef = scaled + C * ((w[:, None] * slopes).T @ (problem.codes / scale))
    return value, by_coef, C * (w @ slopes)


def minimum(problem, C):
    """Return the least objective that scipy reaches from zero, in standard columns."""
    k, width, scale = problem.n_columns, problem.codes.shape[1], scales(problem)
    middle = problem.weights @ problem.codes / problem.weights.sum()

    def function(p):
        scaled, shifted = p[: k * width].reshape(k, width), p[k * width :]
        # The intercept at the mean of the codes, where it hardly depends on the rest.
        intercept = shifted - scaled / scale @ middle
        value, by_coef, by_intercept = value_and_slope(
            problem, C, scaled / scale, intercept
        )
        by_coef = by_coef - by_intercept[:, None] * (middle / scale)
        return value, np.concatenate([by_coef.ravel(), by_intercept])

    limits = {"maxiter": 5000, "maxfun": 10_000, "ftol": 1e-15, "gtol": 1e-11}
    start = np.zeros(k * (width + 1))
    return minimize(function, start, jac=True, method="L-BFGS-B", options=limits).fun


def fold_codes(problem, splits=None):
    rows = np.arange(len(problem.labels))
    return eigenbasis.fold_codes(
        problem, splits or [(rows, rows[:0])], solvers.Options(), CPU
    )


class Unchanged:
    """No preconditioner: conjugate gradients in the coefficients as they are."""

    classes = None

    def enter(self, gradient):
        return gradient

    leave = __call__ = enter


def batch_at_random(problem, codes, Cs, seed):
    """Return the objective of a problem at some C, and coefficients of size 0.3."""
    objective = path._objective(problem, codes, list(Cs), solvers.Options())
    draws = np.random.default_rng(seed).standard_normal(objective.shape)
    return objective, torch.from_numpy(0.3 * draws)


@quick
@given(problems(), C)
def test_no_point_is_below_a_solution(problem, C):
    solution = solvers.solve(problem, C, options=EXACT)
    assert solution.converged
    value, *_ = value_and_slope(problem, C, solution.coef, solution.intercept)
    # Of columns one against the rest each is a problem of its own; the sum of their
    # minima is the minimum of the sum.
    assert value <= minimum(problem, C) * (1 + 1e-6) + 1e-12


@quick
@given(problems(), C)
def test_the_gradient_at_a_solution_is_nothing(problem, C):
    solution = solvers.solve(problem, C, options=EXACT)
    _, by_coef, by_intercept = value_and_slope(
        problem, C, solution.coef, solution.intercept
    )
    # What the penalty and the loss pull by is of this size where they do not cancel.
    pull = C * problem.weights.sum()
    assert np.abs(by_intercept).max() <= 1e-5 * pull
    assert np.abs(by_coef).max() <= 1e-5 * pull


@quick
@given(problems(CURVED), C, st.sampled_from([0.3, 1e-2, 1e-4]))
def test_a_proven_gap_is_never_below_the_true_one(problem, C, tol):
    solution = solvers.solve(problem, C, options=solvers.Options(tol=tol))
    assert solution.gap <= tol
    # Of columns one against the rest, the worst gap bounds that of their sum.
    value, *_ = value_and_slope(problem, C, solution.coef, solution.intercept)
    true = (value - minimum(problem, C)) / value
    assert true <= solution.gap + 1e-9


@quick
@given(problems(st.just("linear")), C)
def test_least_squares_solve_the_normal_equations(problem, C):
    solution = solvers.solve(problem, C)
    scale, w = scales(problem), problem.weights
    middle = w @ problem.codes / w.sum()
    Z = (problem.codes - middle) / scale
    for column in range(problem.n_columns):
        own = column + (problem.n_columns == 1)
        y = np.where(problem.labels == own, 1.0, -1.0)
        model = Ridge(alpha=0.5 / C, solver="cholesky").fit(Z, y, sample_weight=w)
        ours = problem.codes @ solution.coef[column] + solution.intercept[column]
        np.testing.assert_allclose(ours, model.predict(Z), rtol=1e-5, atol=1e-6)


@quick
@given(problems(awkward=False), C, SEEDS)
def test_the_order_of_rows_and_columns_changes_no_score(problem, C, seed):
    rng = np.random.default_rng(seed)
    rows = rng.permutation(len(problem.labels))
    columns = rng.permutation(problem.codes.shape[1])
    other = replace(
        problem,
        codes=problem.codes[rows][:, columns],
        labels=problem.labels[rows],
        weights=problem.weights[rows],
        row_weights=problem.row_weights[rows],
    )
    first = solvers.solve(problem, C, options=EXACT)
    second = solvers.solve(other, C, options=EXACT)
    np.testing.assert_allclose(
        second.coef, first.coef[:, columns], rtol=1e-3, atol=1e-4
    )
    np.testing.assert_allclose(second.intercept, first.intercept, rtol=1e-3, atol=1e-3)


@quick
@given(problems(awkward=False), C, SEEDS)
def test_standardising_makes_units_and_offsets_of_columns_irrelevant(problem, C, seed):
    rng = np.random.default_rng(seed)
    width = problem.codes.shape[1]
    unit, offset = 10.0 ** rng.integers(-6, 7, width), rng.normal(size=width)
    other = replace(problem, codes=(problem.codes + offset) * unit)
    first = solvers.solve(problem, C, options=EXACT)
    second = solvers.solve(other, C, options=EXACT)
    expected = problem.codes @ first.coef.T + first.intercept
    ours = other.codes @ second.coef.T + second.intercept
    np.testing.assert_allclose(ours, expected, rtol=1e-3, atol=1e-3)


@quick
@given(problems(awkward=False), C)
def test_the_numbers_of_classes_are_only_names(problem, C):
    last = problem.n_classes - 1
    other = replace(problem, labels=last - problem.labels)
    first = solvers.solve(problem, C, options=EXACT)
    second = solvers.solve(other, C, options=EXACT)
    expected = -first.coef if problem.n_columns == 1 else first.coef[::-1]
    np.testing.assert_allclose(second.coef, expected, rtol=1e-3, atol=1e-4)


@quick
@given(problems(awkward=False), C, st.integers(1, 4))
def test_weights_and_C_count_only_by_their_product(problem, C, times):
    heavy = replace(problem, weights=times * problem.weights)
    first = solvers.solve(problem, times * C, options=EXACT)
    second = solvers.solve(heavy, C, options=EXACT)
    np.testing.assert_allclose(second.coef, first.coef, rtol=1e-3, atol=1e-4)


@quick
@given(problems(), SEEDS, st.tuples(C, C))
def test_values_and_gradients_of_a_batch_are_those_of_numpy(problem, seed, Cs):
    codes = fold_codes(problem)
    objective, theta = batch_at_random(problem, codes, Cs, seed)
    at = objective.evaluate(theta)
    step = torch.from_numpy(np.random.default_rng(seed + 1).normal(size=theta.shape))
    small = 1e-6
    ends = [objective.evaluate(theta + s * small * step).value for s in (1, -1)]
    slope = newton_cg.inner(at.gradient, step)
    tolerance = 1e-5 * float(at.value.abs().max() + slope.abs().max())
    np.testing.assert_allclose((ends[0] - ends[1]) / (2 * small), slope, atol=tolerance)
    if not objective.joint and problem.n_columns > 1:
        return  # Each column is a unit; `value_and_slope` adds them up.
    for unit, C in enumerate(objective.C.tolist()):
        coef, intercept = codes.as_given(theta[0, unit], 0)
        # A constant column has no scale, and no coefficient at a minimum.
        coef = np.where(np.ptp(problem.codes, axis=0) == 0, 0.0, coef)
        theta[0, unit] = codes.from_given(solvers.Start(coef, intercept), 0)
        value, *_ = value_and_slope(problem, C, coef, intercept)
        at = objective.evaluate(theta)
        assert float(at.value[0, unit]) == pytest.approx(value, rel=1e-6)


@quick
@given(problems(CURVED), SEEDS, C, st.sampled_from([1, 4, 20]))
def test_a_step_along_a_line_lowers_the_objective_as_armijo_asks(
    problem, seed, C, factor
):
    objective, theta = batch_at_random(problem, fold_codes(problem), [C], seed)
    at = objective.evaluate(theta)
    step, *_ = newton_cg.conjugate_gradients(
        objective, at.curvature, theta, -at.gradient, Unchanged(), 200
    )
    # Too long by the factor, so that the search has to come back.
    direction = factor * step
    active = torch.ones_like(at.value, dtype=torch.bool)
    there, then, n_trials = newton_cg.search(objective, at, theta, direction, active)
    assert n_trials <= newton_cg.MAX_TRIALS
    np.testing.assert_allclose(then.value, objective.evaluate(there).value)
    # The point is on the line, in every unit.
    length = newton_cg.inner(there - theta, direction)
    length = length / newton_cg.inner(direction, direction)
    on_line = theta + length[..., None, None] * direction
    torch.testing.assert_close(there, on_line, rtol=1e-6, atol=1e-6)
    # It is lower by a share of what the slope promises, or still on the way down.
    slope = newton_cg.inner(at.gradient, direction)
    falls = newton_cg.inner(then.gradient, direction) <= 0
    enough = at.value + newton_cg.DECREASE * length * slope
    assert bool((falls | (then.value <= enough + 1e-9 * at.value)).all())
    assert bool((then.value <= at.value * (1 + 1e-9)).all())
    # Units at rest stay where they are.
    here, still, _ = newton_cg.search(objective, at, theta, direction, ~active)
    assert torch.equal(here, theta)
    assert torch.equal(still.value, at.value)


@quick
@given(problems(CURVED), SEEDS, C)
def test_conjugate_gradients_solve_the_newton_equations(problem, seed, C):
    objective, theta = batch_at_random(problem, fold_codes(problem), [C], seed)
    objective = objective.finer().finer() or objective
    at = objective.evaluate(theta)
    n_most = 20 * theta[0, 0].numel()
    step, n_steps, unsolved = newton_cg.conjugate_gradients(
        objective, at.curvature, theta, -at.gradient, Unchanged(), n_most
    )
    product = objective.hessian_product(step, at.curvature, theta)
    left = torch.linalg.vector_norm((product + at.gradient).flatten(2), dim=2)
    whole = torch.linalg.vector_norm(at.gradient.flatten(2), dim=2)
    assert n_steps <= n_most
    solved = ~unsolved
    # A direction along which nothing bends has no solution, and is left out.
    bound = newton_cg.FORCING * (1 + 1e-6) * whole[:, solved] + 1e-9
    bends = objective.n_free.sum() == 0
    assert not bends or bool((left[:, solved] <= bound).all())
    # A direction of descent, whatever was left over.
    assert bool((newton_cg.inner(step, at.gradient) <= 0).all())


@quick
@given(problems(), st.integers(1, 9), SEEDS)
def test_rows_read_in_blocks_are_standardised_as_in_one_piece(problem, step, seed):
    codes, w = problem.codes, problem.row_weights
    rows = standardize.Rows(problem, CPU, 10**9)
    blocks = standardize.Rows.__new__(standardize.Rows)
    blocks.__dict__.update(rows.__dict__, kept=None, single=None, step=step)
    blocks.mean, blocks.scale = blocks._standards(problem)
    torch.testing.assert_close(blocks.mean, rows.mean)
    torch.testing.assert_close(blocks.scale, rows.scale)
    share = w / w.sum()
    scale, unit = scales(problem), rows.unit.numpy()
    np.testing.assert_allclose(rows.mean, share @ codes / unit, atol=1e-12)
    constant = np.ptp(codes[w > 0], axis=0) == 0
    np.testing.assert_allclose(
        (rows.scale * rows.unit)[~constant], scale[~constant], rtol=1e-9
    )
    parts = [blocks.read(*block) for block in blocks.blocks()]
    torch.testing.assert_close(torch.cat(parts), rows.read(0, rows.n_rows))


@quick
@given(problems(), SEEDS)
def test_moments_of_folds_are_weighted_means_and_deviations(problem, seed):
    rng = np.random.default_rng(seed)
    rows = standardize.Rows(problem, CPU, 10**9)
    n = len(problem.labels)
    row_weights = torch.from_numpy(
        rng.uniform(0.5, 2, (2, n)) * (rng.random((2, n)) < 0.8)
    )
    row_weights[:, :2] += 1.0
    weights = row_weights * torch.from_numpy(rng.uniform(0.5, 2, n))
    ratio, centre = standardize.fold_moments(rows, row_weights, weights, True)
    z = rows.read(0, n, torch.float64).numpy()
    for fold in range(2):
        w = row_weights[fold].numpy()
        mean = np.average(z, axis=0, weights=w)
        variance = np.average((z - mean) ** 2, axis=0, weights=w)
        varies = variance > 1e-9
        deviation = 1 / ratio[fold].numpy()
        np.testing.assert_allclose(deviation[varies] ** 2, variance[varies], rtol=1e-6)
        expected = np.average(z, axis=0, weights=weights[fold].numpy())
        np.testing.assert_allclose(centre[fold], expected, atol=1e-9)


@quick
@given(problems(), SEEDS, st.tuples(C, C))
def test_held_out_rows_are_predicted_by_the_largest_score(problem, seed, Cs):
    rng = np.random.default_rng(seed)
    n = len(problem.labels)
    # All classes are learned: the first rows have one of each.
    order = rng.permutation(np.arange(problem.n_classes, n))
    folds = [order[: n // 4], order[n // 4 : n // 2]]
    splits = [(np.setdiff1d(np.arange(n), held), held) for held in folds]
    codes = fold_codes(problem, splits)
    shape = len(splits), len(Cs), problem.n_columns, codes.rank + 1
    theta = torch.from_numpy(rng.standard_normal(shape))
    predictions = predict_held_out(codes, theta, folds)
    for fold, held in enumerate(folds):
        for k in range(len(Cs)):
            coef, intercept = codes.as_given(theta[fold, k], fold)
            f = problem.codes[held] @ coef.T + intercept
            top = np.sort(f, axis=1) if f.shape[1] > 1 else np.abs(f)
            margin = top[:, -1] - top[:, -2] if f.shape[1] > 1 else top[:, 0]
            expected = f.argmax(1) if f.shape[1] > 1 else (f[:, 0] > 0).astype(int)
            clear = margin > 1e-6 * (1 + np.abs(f).max())
            assert (predictions[fold][k] == expected)[clear].all()


@quick
@given(problems(CURVED, awkward=False), C)
def test_a_start_at_the_minimum_ends_there(problem, C):
    first = solvers.solve(problem, C, options=EXACT)
    start = solvers.Start(first.coef, first.intercept)
    again = solvers.solve(problem, C, options=EXACT, start=start)
    assert again.converged
    assert again.n_passes <= first.n_passes
    np.testing.assert_allclose(again.coef, first.coef, rtol=1e-3, atol=1e-4)
