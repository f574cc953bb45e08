"""The solvers against scipy in float64: objectives, predictions, bounds, memory."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.special import logsumexp, softmax
from sklearn.datasets import load_digits
from sklearn.model_selection import StratifiedKFold

from featpipe import solvers
from featpipe.solvers import losses

LOSSES = ("linear", "svm", "logistic")
# A few of 1e-6...1e5, so that every regime is met: flat, fitted, interpolating.
SOME_C = (1e-6, 1e-2, 1e1, 1e5)


def standardised(X):
    X = X.astype(np.float64)
    scale = X.std(axis=0)
    scale[scale < 1e-12] = 1.0
    return (X - X.mean(axis=0)) / scale, scale


def loss_and_slope(loss, f, y, weights):
    k = f.shape[1]
    own = y[:, None] == (np.arange(k) if k > 1 else 1)
    sign = 2.0 * own - 1.0
    if loss == "logistic" and k > 1:
        value = logsumexp(f, axis=1) - f[own]
        slope = softmax(f, axis=1) - own
    elif loss == "logistic":
        value = np.logaddexp(0, -sign * f)[:, 0]
        slope = -sign * np.exp(-np.logaddexp(0, sign * f))
    else:
        h = sign - f if loss == "linear" else sign * np.maximum(1 - sign * f, 0)
        value, slope = (h**2).sum(axis=1), -2 * h
    return (weights * value).sum(), weights[:, None] * slope


def objective(loss, X, y, C, coef, intercept, weights=None):
    weights = np.ones(len(y)) if weights is None else weights
    scale = standardised(X)[1]
    f = X.astype(np.float64) @ coef.T + intercept
    return (
        0.5 * ((coef * scale) ** 2).sum() + C * loss_and_slope(loss, f, y, weights)[0]
    )


def minimum(loss, X, y, Cs, weights=None):
    """Return what scipy finds at each C, warm-started, in the row space."""
    weights = np.ones(len(y)) if weights is None else weights
    Z, _ = standardised(X)
    U, S, _V = np.linalg.svd(Z, full_matrices=False)
    kept = 1e-10 * S[0] < S
    Z, k = (U * S)[:, kept], 1 if y.max() == 1 else y.max() + 1
    p = np.zeros((Z.shape[1] + 1) * k)
    for C in Cs:

        def value(p, C=C):
            P = p.reshape(-1, k)
            total, r = loss_and_slope(loss, Z @ P[:-1] + P[-1], y, weights)
            slope = np.vstack([P[:-1] + C * Z.T @ r, C * r.sum(axis=0)])
            return 0.5 * (P[:-1] ** 2).sum() + C * total, slope.ravel()

        limits = {"maxiter": 3000, "maxfun": 6000, "ftol": 1e-15, "gtol": 1e-10}
        optimum = minimize(
            value, p, jac=True, method="L-BFGS-B", options=limits | {"maxcor": 40}
        )
        p = optimum.x
        P = p.reshape(-1, k)
        yield optimum.fun, Z @ P[:-1] + P[-1]


def task(loss, X, y, weights=None, **more):
    weights = np.ones(len(y)) if weights is None else weights
    y = np.asarray(y, np.int64)
    return solvers.Problem(X, y, int(y.max()) + 1, loss, weights, weights, **more)


def data(kind):
    rng = np.random.default_rng(0)
    X, y = load_digits(return_X_y=True)
    X = X.astype(np.float32)
    if kind == "digits":
        return X[:250, 20:40], y[:250] % 3
    if kind == "ill-conditioned":
        turn = np.linalg.qr(rng.standard_normal((20, 20)))[0]
        X = (rng.standard_normal((150, 20)) * np.logspace(0, -4, 20)) @ turn
        return X, (X[:, 0] + 0.5 * rng.standard_normal(150) > 0).astype(int)
    if kind == "separable":
        y = np.arange(60) % 3
        return rng.standard_normal((60, 8)) + 6 * np.eye(3, 8)[y], y
    if kind == "imbalanced":
        return X[:200, 10:30], np.where(y[:200] == 3, 1, 0)
    X = np.maximum(rng.standard_normal((40, 120)), 0)
    return X, np.arange(40) % 3


KINDS = ("digits", "ill-conditioned", "separable", "imbalanced", "wide")


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("kind", KINDS)
def test_every_C_comes_within_1e_4_of_scipys_minimum(kind, loss):
    X, y = data(kind)
    for C, (best, f) in zip(SOME_C, minimum(loss, X, y, SOME_C), strict=True):
        model = solvers.solve(task(loss, X, y), C)
        result = objective(loss, X, y, C, model.coef, model.intercept)
        assert model.converged
        # scipy may stop short of the minimum, never below it.
        assert result <= best * (1 + 1e-4) + 1e-12
        if abs(result - best) > 1e-6 * best:
            continue
        ours = X @ model.coef.T + model.intercept
        if f.shape[1] == 1:
            clear = np.abs(f[:, 0]) > 1e-2
            same = (f[:, 0] > 0) == (ours[:, 0] > 0)
        else:
            top = np.sort(f, axis=1)
            clear = top[:, -1] - top[:, -2] > 1e-2
            same = f.argmax(axis=1) == ours.argmax(axis=1)
        assert same[clear].all()


@pytest.mark.parametrize("loss", ["svm", "logistic"])
def test_proven_gap_is_never_below_the_true_one(loss):
    X, y = data("digits")
    for tol in (1e-1, 1e-3):
        for C in (1e-2, 1e1):
            ((best, _),) = minimum(loss, X, y, [C])
            loose = solvers.Options(tol=100 * tol)
            model = solvers.solve(task(loss, X, y), C, options=loose)
            result = objective(loss, X, y, C, model.coef, model.intercept)
            assert (result - best) / result <= model.gap + 1e-9


@pytest.mark.parametrize("loss", LOSSES)
def test_path_predicts_what_single_fits_on_the_fold_predict(loss):
    X, y = data("digits")
    splits = list(StratifiedKFold(3, shuffle=True, random_state=0).split(X, y))
    Cs = np.logspace(-5, 1, 5)
    path = solvers.solve_path(task(loss, X, y), Cs, splits)
    assert path.converged
    assert (path.gaps <= 1e-4).all()
    for (train, held_out), predicted in zip(splits, path.predicted, strict=True):
        for C, ours in zip(Cs, predicted, strict=True):
            model = solvers.solve(task(loss, X[train], y[train]), C)
            f = X[held_out] @ model.coef.T + model.intercept
            assert (f.argmax(axis=1) == ours).mean() > 0.98


@pytest.mark.parametrize("loss", LOSSES)
def test_single_precision_changes_nothing(loss, monkeypatch):
    from featpipe.solvers import standardize

    X, y = data("digits")
    splits = list(StratifiedKFold(3, shuffle=True, random_state=0).split(X, y))
    Cs = np.logspace(-4, 1, 4)
    expected = solvers.solve_path(task(loss, X, y), Cs, splits)
    monkeypatch.setattr(standardize, "SMALL", 0)
    path = solvers.solve_path(task(loss, X, y), Cs, splits)
    assert path.converged
    for ours, theirs in zip(path.predicted, expected.predicted, strict=True):
        assert (ours == theirs).mean() > 0.98


class Reader:
    """Codes that count how many rows are asked for at once."""

    def __init__(self, X):
        self.X, self.shape, self.dtype, self.most = X, X.shape, X.dtype, 0

    def rows(self, start, stop):
        self.most = max(self.most, stop - start)
        return self.X[start:stop]


@pytest.mark.parametrize("loss", LOSSES)
def test_streaming_three_times_the_memory_gives_the_same_answer(loss, monkeypatch):
    from featpipe.solvers import standardize

    monkeypatch.setattr(standardize, "READ_BYTES", 64 * 2**10)
    X, y = data("digits")
    splits = list(StratifiedKFold(2, shuffle=True, random_state=0).split(X, y))
    Cs = np.array([1e-3, 1e-1])
    expected = solvers.solve_path(task(loss, X, y), Cs, splits)
    reader = Reader(X.astype(np.float64))
    little = solvers.Options(memory=reader.X.nbytes // 3)
    path = solvers.solve_path(task(loss, reader, y), Cs, splits, options=little)
    assert path.converged
    assert reader.most <= 256
    for ours, theirs in zip(path.predicted, expected.predicted, strict=True):
        assert (ours == theirs).mean() > 0.98
    # So exact that the coefficients themselves must agree.
    model = solvers.solve(task(loss, X, y), 0.1, options=solvers.Options(tol=1e-10))
    exact = solvers.Options(tol=1e-10, memory=little.memory)
    again = solvers.solve(task(loss, reader, y), 0.1, options=exact)
    np.testing.assert_allclose(again.coef, model.coef, atol=1e-5)
    np.testing.assert_allclose(again.intercept, model.intercept, atol=1e-5)


@pytest.mark.parametrize("loss", LOSSES)
def test_a_weight_counts_as_that_many_rows(loss):
    X, y = data("digits")
    times = np.arange(len(y)) % 3
    weighted = solvers.solve(task(loss, X, y, times.astype(float)), 0.1)
    repeated = task(loss, np.repeat(X, times, axis=0), np.repeat(y, times))
    expected = solvers.solve(repeated, 0.1)
    np.testing.assert_allclose(weighted.coef, expected.coef, atol=1e-3)


@pytest.mark.parametrize("loss", LOSSES)
def test_a_class_missing_from_a_fold_is_never_predicted_there(loss):
    X, y = data("separable")
    train = np.flatnonzero(y != 2)
    held_out = np.flatnonzero(y == 2)
    path = solvers.solve_path(task(loss, X, y), [0.01, 1.0, 100.0], [(train, held_out)])
    assert path.converged
    assert not (path.predicted[0] == 2).any()


def test_too_few_passes_are_reported():
    X, y = data("digits")
    hurried = solvers.Options(max_passes=1)
    path = solvers.solve_path(
        task("logistic", X, y),
        [1e3],
        [(np.arange(200), np.arange(200, 250))],
        options=hurried,
    )
    assert not path.converged
    assert path.gaps[0, 0] > 1e-4


def test_many_classes_are_solved_split_by_split_when_memory_is_short():
    X, y = data("digits")
    splits = list(StratifiedKFold(3, shuffle=True, random_state=0).split(X, y))
    ample = solvers.solve_path(task("svm", X, y), [1e-2], splits)
    scarce = solvers.Options(memory=20_000)
    path = solvers.solve_path(task("svm", X, y), [1e-2], splits, options=scarce)
    for ours, theirs in zip(path.predicted, ample.predicted, strict=True):
        assert (ours == theirs).mean() > 0.98


@pytest.mark.parametrize(
    ("value", "expected"), [(None, 10**9), ("8GB", 8 * 10**9), ("1.5 MB", 1500000)]
)
def test_memory_is_read_as_bytes(value, expected):
    assert solvers.Options(memory=value).n_bytes == expected


@pytest.mark.parametrize("value", ["lots", "0", "-1GB"])
def test_memory_that_is_no_size_is_refused(value):
    with pytest.raises(ValueError, match="is no size"):
        _ = solvers.Options(memory=value).n_bytes


def test_streamed_codes_with_nan_are_refused():
    X, y = data("digits")
    X = X.copy()
    X[3, 4] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        solvers.solve(task("linear", Reader(X), y), 1.0)


@settings(max_examples=60, deadline=None)
@given(
    name=st.sampled_from(LOSSES),
    k=st.sampled_from([1, 3, 5]),
    seed=st.integers(0, 10**6),
    size=st.floats(0.01, 60.0),
    single=st.booleans(),
)
def test_losses_agree_with_scipy_in_value_slope_and_curvature(
    name, k, seed, size, single
):
    rng = np.random.default_rng(seed)
    joint = name == "logistic" and k > 1
    k = k if joint else 1
    f, y = size * rng.standard_normal((k, 7)), rng.integers(0, max(k, 2), 7)
    w, step = rng.uniform(0, 2, 7), rng.standard_normal((k, 7))
    dtype = torch.float32 if single else torch.float64
    loss = losses.make_loss(name, k)
    scores = torch.from_numpy(f)[None, None].to(dtype)
    weights = torch.from_numpy(w)[None].to(dtype)
    labels = torch.from_numpy(y)
    targets = labels if joint else (2 * labels - 1).to(dtype)[None]
    block = loss(scores.clone(), targets, weights)
    f = scores[0, 0].double().numpy()
    value, slope = loss_and_slope(name, f.T, y, w)
    rough = 1e-4 if single else 1e-9
    np.testing.assert_allclose(block.value[0, 0], value, rtol=rough, atol=1e-30)
    largest = np.abs(slope).max() + 1
    np.testing.assert_allclose(
        block.residual[0, 0].T, slope, rtol=rough, atol=rough * largest
    )
    small = 1e-5
    change = (
        loss_and_slope(name, (f + small * step).T, y, w)[1]
        - loss_and_slope(name, (f - small * step).T, y, w)[1]
    ) / (2 * small)
    product = loss.hessian_product(
        block.curvature, torch.from_numpy(step)[None, None].to(dtype), weights
    )
    if name == "svm" and np.abs(1 - (2 * y - 1) * f).min() < 1e-3:
        return  # The slope of a hinge has a kink there.
    np.testing.assert_allclose(product[0, 0].T, change, atol=1e-3 * largest)


def test_softmax_keeps_tiny_losses_in_single_precision():
    f = torch.tensor([[[[30.0], [0.0], [0.0]]]])
    block = losses.Softmax()(f, torch.tensor([0]), torch.ones(1, 1))
    expected = 2 * np.exp(-30.0)
    np.testing.assert_allclose(block.value, expected, rtol=1e-5)
    np.testing.assert_allclose(block.residual[0, 0, 0], -expected, rtol=1e-5)


def test_bounds_are_infinite_where_nothing_resists():
    zero = torch.zeros(1, dtype=torch.float64)
    none, slope = torch.zeros(1, 3, dtype=torch.float64), torch.eye(3).double()[2:]
    assert torch.isinf(losses.hinge_gap(slope, none, none, zero)).all()
    assert losses.hinge_gap(none, none, none, zero) == 0


@settings(max_examples=100, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    C=st.floats(-3, 3),
    away=st.floats(-6, 1),
)
def test_the_bound_of_the_hinge_is_never_below_the_gap_that_scipy_finds(seed, C, away):
    rng, C = np.random.default_rng(seed), 10**C
    rows = np.c_[rng.normal(size=(20, 3)), np.ones(20)]
    sign, weights = np.resize([-1.0, 1.0, 1.0], 20), rng.uniform(0.1, 2, 20)

    def value_and_slope(theta):
        hinge = np.maximum(1 - sign * (rows @ theta), 0)
        penalised = np.r_[theta[:-1], 0]
        value = C * weights @ hinge**2 + penalised @ penalised / 2
        return value, penalised - 2 * C * (weights * hinge * sign) @ rows

    best = minimize(value_and_slope, np.zeros(4), jac=True, options={"gtol": 1e-9})
    theta = best.x + 10**away * rng.normal(size=4)
    hinge = np.maximum(1 - sign * (rows @ theta), 0)
    pulls = -2 * C * (weights * hinge * sign)[:, None] * rows
    given = value_and_slope(theta)[1], pulls.sum(0), pulls[sign > 0].sum(0)
    vectors = [torch.from_numpy(vector)[None] for vector in given]
    gap = losses.hinge_gap(*vectors, torch.tensor([C * weights @ hinge**2]))
    true = value_and_slope(theta)[0] - best.fun
    assert float(gap) >= true - 1e-9 * best.fun
    if away < -5 and C < 10:
        # Near the minimum it is not far above: the intercept adds little to it.
        assert float(gap) < 1e-2 * best.fun
