"""The parts of the solvers, each against a plain computation."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from scipy.special import logsumexp
from sklearn.datasets import load_digits
from sklearn.linear_model import Ridge
from sklearn.model_selection import StratifiedKFold

from featpipe import solvers
from featpipe.solvers import eigenbasis, fold_codes, newton_cg, path, preconditioner
from featpipe.solvers.objective import Objective
from featpipe.solvers.ridge import ridge

CPU = torch.device("cpu")


def problem(n_rows=200, n_classes=3, loss="logistic", width=20, weighted=True):
    X, y = load_digits(n_class=n_classes, return_X_y=True)
    X, y = X[:n_rows, 20 : 20 + width].astype(np.float32), y[:n_rows]
    weights = np.random.default_rng(0).uniform(0.5, 2, len(y))
    weights = weights if weighted else np.ones(len(y))
    task = solvers.Problem(X, y, n_classes, loss, weights, np.ones(len(y)))
    splits = list(StratifiedKFold(3, shuffle=True, random_state=0).split(X, y))
    return task, splits


def both_forms(task, splits, monkeypatch):
    options = solvers.Options()
    shared = eigenbasis.fold_codes(task, splits, options, CPU)
    assert isinstance(shared, fold_codes.SharedCodes)
    monkeypatch.setattr(eigenbasis, "_rotates", lambda *args: True)
    rotated = eigenbasis.fold_codes(task, splits, options, CPU)
    assert isinstance(rotated, fold_codes.RotatedCodes)
    return rotated, shared


def basis_of(codes, fold):
    """Return V of a fold, (width, rank)."""
    if codes.basis is not None:
        return codes.basis[fold, :-1, :-1]
    identity = torch.eye(codes.rank, dtype=torch.float64)
    return codes.unrotate(identity, fold).T


def objective(codes, task, Cs=(0.01, 1.0)):
    return path._objective(task, codes, list(Cs), solvers.Options())


def drawn(shape, seed=0):
    rng = np.random.default_rng(seed)
    return torch.from_numpy(0.1 * rng.standard_normal(shape))


def fold_rows(task, train):
    """Standardise all rows by those of a fold, as the documentation has it."""
    X = task.codes.astype(np.float64)
    scale = X[train].std(axis=0)
    scale[scale < 1e-12] = 1.0
    mean = np.average(X[train], axis=0, weights=task.weights[train])
    return (X - mean) / scale


@pytest.mark.parametrize("loss", ["svm", "logistic"])
def test_value_gradient_and_hessian_are_those_of_a_plain_computation(loss, monkeypatch):
    task, splits = problem(loss=loss)
    for codes in both_forms(task, splits, monkeypatch):
        batch = objective(codes, task)
        theta = drawn(batch.shape)
        at = batch.evaluate(theta)
        step = drawn(batch.shape, 1)
        product = batch.hessian_product(step, at.curvature, theta)
        small = 1e-6
        ends = [batch.evaluate(theta + s * small * step).gradient for s in (1, -1)]
        change = (ends[0] - ends[1]) / (2 * small)
        torch.testing.assert_close(product, change, rtol=2e-3, atol=2e-2)
        for fold, (train, _) in enumerate(splits):
            x = fold_rows(task, train)
            for unit, C in enumerate(batch.C.tolist()):
                part = theta[fold, unit].numpy()
                W = codes.unrotate(theta[fold, unit, :, :-1], fold).numpy()
                b = part[:, -1]
                f, w, y = x @ W.T + b, task.weights, task.labels
                if loss == "logistic":
                    rows = logsumexp(f, axis=1) - f[np.arange(len(y)), y]
                else:
                    sign = np.where(y == int(batch.column[unit]), 1.0, -1.0)
                    rows = np.maximum(1 - sign * f[:, 0], 0) ** 2
                value = 0.5 * (W**2).sum() + C * (w * rows)[train].sum()
                assert float(at.value[fold, unit]) == pytest.approx(value, rel=1e-6)


def test_sums_over_the_rows_of_a_class_are_those_of_a_plain_computation(monkeypatch):
    task, splits = problem(loss="svm")
    for codes in both_forms(task, splits, monkeypatch):
        column = torch.tensor([2, 0, 2, 1])
        residual = drawn((codes.n_folds, len(column), len(task.labels)))
        z = codes.block(0, len(task.labels), torch.float64)
        own = codes.labels == column[:, None]
        sums = codes.from_rows(codes.own_adjoint(z, residual, own))
        for fold in range(codes.n_folds):
            rows = codes.fold_rows(0, len(task.labels), torch.float64)[fold]
            for unit, number in enumerate(column.tolist()):
                chosen = np.flatnonzero(task.labels == number)
                expected = residual[fold, unit, chosen] @ rows[chosen]
                torch.testing.assert_close(sums[fold, unit], expected)


def test_a_search_that_finds_no_length_leaves_units_where_they_were(monkeypatch):
    task, splits = problem(loss="svm")
    batch = objective(eigenbasis.fold_codes(task, splits, solvers.Options(), CPU), task)
    theta = drawn(batch.shape)
    at = batch.evaluate(theta)
    monkeypatch.setattr(newton_cg, "MAX_TRIALS", 2)
    active = torch.ones_like(at.value, dtype=torch.bool)
    there, then, n_trials = newton_cg.search(
        batch, at, theta, -1e9 * at.gradient, active
    )
    assert n_trials == 2
    assert torch.equal(there, theta)
    assert torch.equal(then.value, at.value)


def test_bases_are_orthonormal_and_make_gram_matrices_diagonal(monkeypatch):
    task, splits = problem()
    for codes in both_forms(task, splits, monkeypatch):
        for fold, (train, _) in enumerate(splits):
            basis = basis_of(codes, fold)
            rank = codes.rank
            torch.testing.assert_close(
                basis.T @ basis, torch.eye(rank, dtype=basis.dtype)
            )
            x = torch.from_numpy(fold_rows(task, train)[train]) @ basis
            w = torch.from_numpy(task.weights[train])[:, None]
            gram = (w * x).T @ x
            torch.testing.assert_close(
                gram, torch.diag(codes.eigenvalues[fold]), rtol=1e-4, atol=1e-3
            )
            norms = x.square().sum(1).sqrt()
            assert float(norms.max()) <= float(codes.radius[fold]) * (1 + 1e-6)


def test_coefficients_go_to_codes_as_given_and_back(monkeypatch):
    task, splits = problem()
    for codes in both_forms(task, splits, monkeypatch):
        theta = drawn((3, codes.rank + 1))
        for fold in range(3):
            start = codes.as_given(theta, fold)
            torch.testing.assert_close(codes.from_given(start, fold), theta)
            z = codes.block(0, 5, torch.float64)
            v = codes.to_rows(theta.expand(3, -1, -1), torch.float64)
            f = codes.scores(z, v)[fold].T.numpy()
            expected = task.codes[:5] @ start.coef.T + start.intercept
            np.testing.assert_allclose(f, expected, atol=1e-6)


def test_ridge_is_scikit_learns_on_every_fold(monkeypatch):
    task, splits = problem(loss="linear")
    Cs = torch.tensor([1e-3, 1.0, 1e3], dtype=torch.float64)
    for codes in both_forms(task, splits, monkeypatch):
        theta = ridge(codes, 3, Cs)
        for fold, (train, _) in enumerate(splits):
            x, w = fold_rows(task, train), task.weights[train]
            for i, C in enumerate(Cs.tolist()):
                y = np.where(task.labels[train] == 1, 1.0, -1.0)
                model = Ridge(alpha=0.5 / C, solver="cholesky")
                model.fit(x[train], y, sample_weight=w)
                ours = codes.unrotate(theta[fold, i, 1:2, :-1], fold)[0].numpy()
                np.testing.assert_allclose(ours, model.coef_, atol=1e-6)


def test_mean_row_inverts_the_hessian_where_every_row_bends_alike(monkeypatch):
    task, splits = problem()
    for codes in both_forms(task, splits, monkeypatch):
        batch = objective(codes, task)
        theta = torch.zeros(batch.shape, dtype=torch.float64)
        at = batch.evaluate(theta)
        inverse = preconditioner.mean_row(batch, at, theta)
        # Steps whose columns sum to zero, as all steps do.
        step = drawn(batch.shape)
        step -= step.mean(2, keepdim=True)
        product = batch.hessian_product(step, at.curvature, theta)
        ours = inverse.leave(inverse(inverse.enter(product)))
        torch.testing.assert_close(ours, step, rtol=1e-3, atol=1e-4)
        # In the eigenbases a product is the same one.
        inside = inverse.enter(step)
        product = batch.hessian_product(inside, at.curvature, theta, inverse.classes)
        torch.testing.assert_close(inverse(product), inside, rtol=1e-3, atol=1e-4)


def test_hessians_of_columns_are_exact():
    task, splits = problem(loss="svm")
    codes = eigenbasis.fold_codes(task, splits, solvers.Options(), CPU)
    batch = objective(codes, task)
    theta, step = drawn(batch.shape), drawn(batch.shape, 1)
    at = batch.evaluate(theta)
    h = preconditioner.column_hessians(batch, at, theta)
    product = batch.hessian_product(step, at.curvature, theta)
    ours = (h.double() @ step.mT).mT
    torch.testing.assert_close(ours, product, rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize("C", [1e-3, 10.0, 1e4])
def test_few_rows_that_bend_invert_the_hessian_of_every_column(C, monkeypatch):
    task, splits = problem(loss="svm")
    for codes in both_forms(task, splits, monkeypatch):
        batch = objective(codes, task, [C])
        # Large coefficients, so that most rows are beyond the margin.
        theta, step = 20 * drawn(batch.shape), drawn(batch.shape, 1)
        at = batch.evaluate(theta)
        assert 2 < preconditioner.most_active(batch, at) < len(task.labels)
        h = preconditioner.column_hessians(batch, at, theta).double()
        product = (h @ step.mT).mT
        ours = preconditioner.few_rows(batch, at)(product)
        torch.testing.assert_close(ours, step, rtol=1e-3, atol=2e-3)


@pytest.mark.parametrize("C", [1e2, 1e6, 1e12])
def test_equal_rows_and_a_large_C_leave_the_preconditioner_usable(C):
    # Where I + SSᵀ is singular but for its I, which rounding may swallow.
    task, splits = problem(loss="svm")
    same = np.repeat(task.codes[:10], 20, axis=0)
    task = replace(task, codes=same)
    codes = eigenbasis.fold_codes(task, splits, solvers.Options(), CPU)
    batch = objective(codes, task, [C])
    step = drawn(batch.shape)
    inverse = preconditioner.few_rows(batch, batch.evaluate(step))
    z = inverse(step)
    assert z.isfinite().all()
    assert (newton_cg.inner(step, z) > 0).all()


def test_a_column_that_no_row_bends_keeps_its_intercept():
    task, splits = problem(loss="svm")
    codes = eigenbasis.fold_codes(task, splits, solvers.Options(), CPU)
    batch = objective(codes, task, [1.0])
    theta = torch.zeros(batch.shape, dtype=torch.float64)
    at = batch.evaluate(theta)
    # As if every row were beyond the margin.
    at = at._replace(curvature=[part * 0 for part in at.curvature])
    step = drawn(batch.shape)
    step[..., -1] = 0
    assert preconditioner.most_active(batch, at) == 0
    torch.testing.assert_close(preconditioner.own_column(batch, at, theta)(step), step)


@pytest.mark.parametrize("factor_cost", [0.0, 1e9])
@pytest.mark.parametrize("loss", ["svm", "logistic"])
def test_both_preconditioners_lead_to_scipys_minimum(loss, factor_cost, monkeypatch):
    monkeypatch.setattr(newton_cg, "FACTOR_COST", factor_cost)
    task, splits = problem(loss=loss, n_classes=2)
    codes = eigenbasis.fold_codes(task, splits, solvers.Options(), CPU)
    batch = objective(codes, task, [0.1])
    start = torch.zeros(batch.shape, dtype=torch.float64)
    result = newton_cg.minimize(batch, start, 1e-8, 2000)
    assert (result.gap <= 1e-8).all()
    for fold, (train, _) in enumerate(splits):
        x, w = fold_rows(task, train)[train], task.weights[train]
        sign = 2.0 * task.labels[train] - 1

        def value(p, x=x, w=w, sign=sign):
            margin = sign * (x @ p[:-1] + p[-1])
            if loss == "logistic":
                rows = np.logaddexp(0, -margin)
            else:
                rows = np.maximum(1 - margin, 0) ** 2
            return 0.5 * (p[:-1] ** 2).sum() + 0.1 * (w * rows).sum()

        best = minimize(value, np.zeros(x.shape[1] + 1), method="L-BFGS-B").fun
        ours = float(batch.evaluate(result.theta).value[fold, 0])
        assert ours == pytest.approx(best, rel=1e-6)


def test_a_sample_of_the_rows_stands_for_all_of_them(monkeypatch):
    task, splits = problem(weighted=False)
    _, codes = both_forms(task, splits, monkeypatch)
    sample = codes.sample(3)
    assert sample.rows.n_rows == 67
    assert codes.sample(3) is sample
    expected = [3 * np.isin(np.arange(0, 200, 3), train).sum() for train, _ in splits]
    assert sample.mass.tolist() == expected
    row = codes.rows.read(3, 4, torch.float32)
    torch.testing.assert_close(sample.rows.read(1, 2, torch.float32), row)


def test_codes_are_shared_only_inside_the_block_and_for_the_same_fit():
    task, splits = problem()
    cut = [(train[:-1], held) for train, held in splits]
    options = solvers.Options()
    with solvers.share_codes():
        first = path._codes(task, splits, options)
        assert path._codes(task, splits, options) is first
        assert path._codes(task, cut, options) is not first
    assert path._codes(task, splits, options) is not first


@pytest.mark.parametrize(("n_rows", "one"), [(15, True), (60, False)])
def test_least_squares_shares_codes_with_the_others_where_all_are_rotated(
    n_rows, one, monkeypatch
):
    monkeypatch.setattr(eigenbasis, "OWN_BASES", 10)
    given, splits = problem(n_rows)
    with solvers.share_codes():
        first = path._codes(given, splits, solvers.Options())
        other = replace(given, loss="linear")
        assert (path._codes(other, splits, solvers.Options()) is first) == one


def test_units_are_solved_as_they_would_be_alone():
    task, splits = problem()
    Cs = np.array([1e-3, 1e-1, 10.0])
    together = solvers.solve_path(task, Cs, splits)
    for i, C in enumerate(Cs):
        alone = solvers.solve_path(task, [C], splits)
        for ours, theirs in zip(together.predicted, alone.predicted, strict=True):
            assert (ours[i] == theirs[0]).mean() > 0.98


def test_objective_names_its_shape_and_its_precisions():
    task, splits = problem()
    codes = eigenbasis.fold_codes(task, splits, solvers.Options(), CPU)
    batch = objective(codes, task)
    assert isinstance(batch, Objective)
    assert batch.shape == (3, 2, 3, 21)
    finer = batch.finer()
    assert finer is not None
    assert finer.product_dtype == torch.float64
    assert finer.finer() is None


@pytest.mark.parametrize("loss", ["svm", "logistic"])
def test_one_basis_for_all_folds_leads_to_the_same_solutions(loss, monkeypatch):
    task, splits = problem(loss=loss)
    own = solvers.solve_path(task, [0.01, 10.0], splits)
    monkeypatch.setattr(eigenbasis, "OWN_BASES", 0)
    common = solvers.solve_path(task, [0.01, 10.0], splits)
    assert common.converged
    codes = path._codes(task, splits, solvers.Options())
    assert not codes.is_exact
    for fold, (train, _) in enumerate(splits):
        x = torch.from_numpy(fold_rows(task, train)[train])
        gram = (torch.from_numpy(task.weights[train])[:, None] * x).T @ x
        assert float(torch.linalg.eigvalsh(gram)[-1]) <= float(codes.top[fold])
    for ours, theirs in zip(common.predicted, own.predicted, strict=True):
        assert (ours == theirs).mean() > 0.98


def test_columns_of_a_thousand_coefficients_are_factored():
    # MKL's LU of matrices this large and this many has returned bad pivots.
    rng = np.random.default_rng(0)
    X = rng.standard_normal((1198, 2048)).astype(np.float32)
    y = rng.integers(5, size=len(X))
    ones = np.ones(len(y))
    task = solvers.Problem(X, y, 5, "svm", ones, ones)
    splits = list(StratifiedKFold(5, shuffle=True, random_state=0).split(X, y))[:2]
    codes = eigenbasis.fold_codes(task, splits, solvers.Options(), CPU)
    assert codes.rank > 950
    batch = objective(codes, task, [0.01])
    theta, step = drawn(batch.shape) / 100, drawn(batch.shape, 1)
    at = batch.evaluate(theta)
    inverse = preconditioner.own_column(batch, at, theta)
    product = batch.hessian_product(step, at.curvature, theta)
    torch.testing.assert_close(inverse(product), step, rtol=1e-2, atol=1e-3)
    result = newton_cg.minimize(batch, 0 * theta, 1e-4, 1000)
    assert (result.gap <= 1e-4).all()


@pytest.mark.parametrize("loss", ["svm", "logistic"])
def test_steps_that_gain_nothing_end(loss):
    task, splits = problem(loss=loss)
    codes = eigenbasis.fold_codes(task, splits, solvers.Options(), CPU)
    batch = objective(codes, task, [1e5])
    start = torch.zeros(batch.shape, dtype=torch.float64)
    result = newton_cg.minimize(batch, start, 1e-40, 10**7)
    assert (result.gap <= 1e-6).all()
    assert result.n_passes.max() < 50_000


def test_mps_is_passed_over_for_solving_takes_float64():
    task, splits = problem()
    options = solvers.Options(device="mps")
    assert path.choose_device(task, len(splits), options) == CPU
