"""Hard inputs by every classifier: the right answer, or one clear error.

*Right* is what a plain minimisation of the stated objective gives in float64, or, for
codes that differ from plain ones by scale, shift, type or layout, what the plain ones
give: standardised codes do not know of them.
"""

import pickle
import warnings

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import expit, logsumexp
from sklearn.exceptions import ConvergenceWarning, DataConversionWarning

from featpipe import classifiers

NAMES = ("linear", "svm", "logistic")
C = 0.3
N, WIDTH = 45, 5


def drawn(n=N, width=WIDTH, n_classes=3, seed=0):
    rng = np.random.default_rng(seed)
    y = np.arange(n) % n_classes
    X = rng.normal(size=(n, width)) + 1.5 * rng.normal(size=(n_classes, width))[y]
    return X, y


X, Y = drawn()
WHOLE = np.round(8 * X)  # whole numbers between -60 and 60


def standardised(X):
    """Standardise without trusting the size of a number: columns are scaled first."""
    X = np.asarray(X, np.longdouble)
    size = np.abs(X).max(axis=0)
    X = X / np.where(size > 0, size, 1)
    X = X - X.mean(axis=0)
    scale = X.std(axis=0)
    return (X / np.where(scale > 1e-15, scale, 1)).astype(float)


def plain(name, X, y):
    """Minimise the objective as docs/concepts/protocol.md states it."""
    S, (classes, y) = standardised(X), np.unique(y, return_inverse=True)
    k = 1 if len(classes) == 2 else len(classes)
    signs = np.where(y[:, None] == np.arange(len(classes))[-k:], 1.0, -1.0)
    if k == 1:
        signs = np.where(y == 1, 1.0, -1.0)[:, None]

    def loss(flat):
        W, b = flat[: -k or None].reshape(S.shape[1], k), flat[-k:]
        f = S @ W + b
        if name == "linear":
            value, slope = ((signs - f) ** 2).sum(), -2 * (signs - f)
        elif name == "svm":
            gap = np.maximum(0, 1 - signs * f)
            value, slope = (gap**2).sum(), -2 * signs * gap
        elif k == 1:
            value = np.logaddexp(0, -signs * f).sum()
            slope = -signs * expit(-signs * f)
        else:
            logs = f - logsumexp(f, axis=1, keepdims=True)
            value = -logs[np.arange(len(y)), y].sum()
            slope = np.exp(logs)
            slope[np.arange(len(y)), y] -= 1
        gradient = np.concatenate(
            [(W + C * S.T @ slope).ravel(), C * slope.sum(axis=0)]
        )
        return (W**2).sum() / 2 + C * value, gradient

    start = np.zeros((S.shape[1] + 1) * k)
    options = {"maxiter": 5000, "ftol": 1e-15, "gtol": 1e-9}
    best = minimize(loss, start, jac=True, method="L-BFGS-B", options=options).x
    f = S @ best[:-k].reshape(S.shape[1], k) + best[-k:]
    return f[:, 0] if k == 1 else f


def centred(f):
    """Take out what softmax does not see."""
    return f - f.mean(axis=1, keepdims=True) if f.ndim == 2 else f


def fitted(name, X, y, **options):
    return classifiers.make(name, C=C, tol=1e-6, **options).fit(X, y)


def memory_map(X, folder):
    np.save(folder / "X.npy", X)
    return np.load(folder / "X.npy", mmap_mode="r")


def read_only(X, _=None):
    X = X.copy()
    X.setflags(write=False)
    return X


def as_frame(X, _=None):
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    return pandas.DataFrame(X)


def every_second(X, _=None):
    wide = np.zeros((2 * len(X), 2 * X.shape[1]), X.dtype)
    wide[::2, ::2] = X
    return wide[::2, ::2]


# The same codes in another dress: decisions are those of the plain ones.
DRESSES = {
    "1e300": lambda X, _: X * (1e300 / np.abs(X).max()),
    "1e150": lambda X, _: X * 1e150,
    "1e30": lambda X, _: X * 1e30,
    "1e-30": lambda X, _: X * 1e-30,
    "1e-150": lambda X, _: X * 1e-150,
    "1e-300": lambda X, _: X * 1e-300,
    "columns of all sizes": lambda X, _: X * 10.0 ** np.array([-290, -38, 0, 38, 290]),
    "a column of 1e-290": lambda X, _: X * np.array([1e-290, 1, 1, 1, 1]),
    "a column of 1e290": lambda X, _: X * np.array([1, 1, 1, 1, 1e290]),
    "far from zero": lambda X, _: X + 1e5,
    "below zero": lambda X, _: X - 1e3,
    "a sign turned": lambda X, _: X * 1.0,
    "Fortran order": lambda X, _: np.asfortranarray(X),
    "negative strides": lambda X, _: X[::-1, ::-1].copy()[::-1, ::-1],
    "every second": every_second,
    "read-only": read_only,
    "memory map": memory_map,
    "big-endian": lambda X, _: X.astype(">f8"),
    "long double": lambda X, _: X.astype(np.longdouble),
    "objects": lambda X, _: X.astype(object),
    "lists": lambda X, _: X.tolist(),
    "tuples": lambda X, _: tuple(map(tuple, X.tolist())),
    "frame": as_frame,
    "float32": lambda X, _: X.astype(np.float32),
    "float16": lambda X, _: X.astype(np.float16),
    "int64": lambda X, _: X.astype(np.int64),
    "int32": lambda X, _: X.astype(np.int32),
    "int8": lambda X, _: X.astype(np.int8),
    "uint8": lambda X, _: (X + 100).astype(np.uint8),
    "float32 1e30": lambda X, _: (X * 1e30).astype(np.float32),
    "float32 1e-30": lambda X, _: (X * 1e-30).astype(np.float32),
    "a constant column 0": lambda X, _: np.column_stack([X, np.zeros(len(X))]),
    "a constant column 7": lambda X, _: np.column_stack([np.full(len(X), 7.0), X]),
    "a constant column 1e300": lambda X, _: np.column_stack(
        [X, np.full(len(X), 1e300)]
    ),
    "a constant column 1e-300": lambda X, _: np.column_stack(
        [X, np.full(len(X), 1e-300)]
    ),
    "a constant column 0.1": lambda X, _: np.column_stack([X, np.full(len(X), 0.1)]),
    "a constant float32 column": lambda X, _: np.column_stack(
        [X, np.full(len(X), 0.1)]
    ).astype(np.float32),
}  # fmt: skip


@pytest.fixture(scope="module")
def expected():
    """Decisions on the plain codes, twice over."""
    right = {name: plain(name, WHOLE, Y) for name in NAMES}
    for name in NAMES:
        scores = fitted(name, WHOLE, Y).decision_function(WHOLE)
        np.testing.assert_allclose(
            scores, centred_as(name, right[name], scores), atol=2e-4
        )
    return right


def centred_as(name, right, result):
    """Shift logistic scores as the fit has them: softmax does not see shifts."""
    if name != "logistic" or result.ndim == 1:
        return right
    return centred(right) + result.mean(axis=1, keepdims=True)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dress", DRESSES)
def test_scale_type_and_layout_of_codes_change_no_decision(
    dress, name, expected, tmp_path
):
    value = DRESSES[dress](WHOLE, tmp_path)
    before = pickle.dumps(value)
    model = fitted(name, value, Y)
    scores = model.decision_function(value)
    np.testing.assert_allclose(
        scores, centred_as(name, expected[name], scores), atol=2e-3
    )
    assert (model.predict(value) == expected[name].argmax(axis=1)).all()
    assert model.converged_
    assert pickle.dumps(value) == before, "what was given was changed"


def wide():
    return drawn(30, 900, 3, seed=1)


def relabelled():
    X, y = drawn(40, 4, 2, seed=2)
    return np.vstack([X, X[:12]]), np.concatenate([y, 1 - y[:12]])


def lonely():
    X, y = drawn(40, 4, 3, seed=3)
    y[y == 2] = 0
    y[7] = 2
    return X, y


def twins():
    X, y = drawn(40, 3, 3, seed=4)
    return np.column_stack([X, X, X]), y


def subnormal_float32():
    X, y = drawn(40, 4, 2, seed=5)
    X[:, 0] = np.where(y == 1, 1e-42, 0)
    return X.astype(np.float32), y


# Codes of another kind: decisions are those of the plain minimisation.
SETS = {
    "two classes": lambda: drawn(40, 4, 2, seed=6),
    "ten classes": lambda: drawn(60, 8, 10, seed=7),
    "far more width than rows": wide,
    "two rows": lambda: (np.array([[0.0, 1.0], [1.0, 3.0]]), np.array([0, 1])),
    "one column": lambda: drawn(40, 1, 3, seed=8),
    "one sample in a class": lonely,
    "duplicates under two labels": relabelled,
    "only duplicates": lambda: (np.ones((20, 3)), np.arange(20) % 2),
    "columns three times": twins,
    "a subnormal float32 column": subnormal_float32,
    "one of a hundred": lambda: (drawn(100, 3, 2, 9)[0], (np.arange(100) == 50) * 1),
    "one outlier of 1e6": lambda: (
        np.where(np.arange(160).reshape(40, 4) == 9, 1e6, drawn(40, 4, 2, 10)[0]),
        drawn(40, 4, 2, 10)[1],
    ),
}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("case", SETS)
def test_hard_sets_of_codes_are_solved_as_stated(case, name):
    value, y = SETS[case]()
    model = fitted(name, value, y)
    scores = model.decision_function(value)
    assert np.isfinite(scores).all()
    right = plain(name, value, y)
    np.testing.assert_allclose(scores, centred_as(name, right, scores), atol=2e-3)


LABELS = {
    "text": np.array(["ant", "bee", "wasp"]),
    "objects": np.array(["ant", "bee", "wasp"], object),
    "odd text": np.array(["", "a\nb", "🐝"]),
    "negative": np.array([-5, 0, 7]),
    "huge": np.array([-(2**62), 0, 2**62]),
    "int8": np.array([-128, 0, 127], np.int8),
    "whole floats": np.array([0.0, 1.0, 2.0]),
    "big-endian": np.array([1, 2, 3], ">i4"),
}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", LABELS)
def test_labels_of_any_kind_come_back_as_they_went_in(kind, name, expected):
    named = LABELS[kind]
    model = fitted(name, WHOLE, named[Y])
    predicted = model.predict(WHOLE)
    assert predicted.tolist() == named[expected[name].argmax(axis=1)].tolist()
    assert model.classes_.tolist() == named.tolist()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "value",
    [Y.tolist(), tuple(Y.tolist()), Y[::-1].copy()[::-1], read_only(Y), Y > 0],
    ids=["list", "tuple", "negative strides", "read-only", "bools"],
)
def test_labels_in_any_container_are_taken(value, name):
    model = fitted(name, WHOLE, value)
    assert model.classes_.tolist() == np.unique(value).tolist()
    assert (model.predict(WHOLE) == np.asarray(value)).mean() > 0.8


@pytest.mark.parametrize("name", NAMES)
def test_a_column_of_labels_is_taken_with_a_warning(name):
    with pytest.warns(DataConversionWarning, match="1d array"):
        model = fitted(name, WHOLE, Y[:, None])
    assert model.classes_.tolist() == [0, 1, 2]


def with_value(value, dtype=float):
    changed = WHOLE.astype(dtype)
    changed[3, 2] = value
    return changed


def with_column(size):
    changed = WHOLE.copy()
    changed[:, 1] = size * (Y == 1)
    return changed


REFUSED = {
    "NaN": (with_value(np.nan), Y, "NaN"),
    "infinite": (with_value(np.inf), Y, "infinity"),
    "minus infinite": (with_value(-np.inf), Y, "infinity"),
    "an object that is no number": (
        with_value("x", object),
        Y,
        "could not convert|str",
    ),
    "None": (with_value(None, object), Y, "NaN|NoneType|float"),
    "text": (WHOLE.astype(str).astype(object) + "x", Y, "could not convert|str"),
    "complex": (WHOLE + 1j, Y, "[Cc]omplex"),
    "one axis": (WHOLE[:, 0], Y, "2D"),
    "three axes": (WHOLE[:, :, None], Y, "dim 3"),
    "no rows": (WHOLE[:0], Y[:0], "0 sample"),
    "no columns": (WHOLE[:, :0], Y, "0 feature"),
    "a subnormal column": (with_column(1e-310), Y, "column 1 of the codes holds no"),
    "codes below 1e-302": (WHOLE * 1e-305, Y, "column 0 .* multiply it so that"),
    "fewer labels": (WHOLE, Y[:-1], "inconsistent"),
    "one class": (WHOLE, np.zeros(N, int), "one class|classes"),
    "one row": (WHOLE[:1], Y[:1], "one class|classes"),
    "labels NaN": (WHOLE, np.where(Y, Y, np.nan), "NaN"),
    "labels infinite": (WHOLE, np.where(Y, Y, np.inf), "infinity"),
    "labels with parts": (WHOLE, Y + 0.5, "[Uu]nknown label type|continuous"),
    "labels in two columns": (WHOLE, np.column_stack([Y, Y]), "1d|multi"),
    "labels of two types": (WHOLE, np.array(["a", 1, 2], object)[Y], "type|<|label"),
    "no labels": (WHOLE, None, "y"),
}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_right_is_one_clear_error(case, name):
    value, y, words = REFUSED[case]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scikit-learn's, on the way to its error
        with pytest.raises((ValueError, TypeError), match=words):
            fitted(name, value, y)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "bad", [0, -1.0, np.nan, np.inf, 1e-308, 1e308, "much", True, None, [1.0]]
)
def test_a_C_that_is_none_is_one_clear_error(bad, name):
    with pytest.raises((ValueError, TypeError), match="C"):
        classifiers.make(name, C=bad).fit(WHOLE, Y)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("C", [1e-30, 1e-12, 1e12, 1e30])
def test_scores_are_finite_at_any_C(C, name):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # which is said at 1e30
        # There a thousand passes take seconds and do not get there either.
        model = classifiers.make(name, C=C, max_iter=100).fit(WHOLE, Y)
    assert np.isfinite(model.decision_function(WHOLE)).all()
    assert np.isfinite(model.coef_).all()


@pytest.mark.parametrize("name", NAMES)
def test_new_codes_of_another_kind_are_one_clear_error(name):
    model = fitted(name, WHOLE, Y)
    for bad, words in ((WHOLE[:, :-1], "features"), (with_value(np.nan), "NaN")):
        with pytest.raises(ValueError, match=words):
            model.predict(bad)
    far = model.decision_function(np.full((1, WIDTH), 1e308))
    assert not np.isnan(far).any()
