"""The classifiers as scikit-learn estimators: the contract, C, weights, names."""

import pickle

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer, load_iris
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.metrics import balanced_accuracy_score, f1_score
from sklearn.model_selection import (
    GridSearchCV,
    GroupKFold,
    StratifiedKFold,
    cross_val_score,
)
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC
from sklearn.utils.estimator_checks import parametrize_with_checks

from featpipe import classifiers
from featpipe.classifiers import (
    LinearClassifier,
    LogisticClassifier,
    SVMClassifier,
    solve_cost,
)

ALL = (LinearClassifier, SVMClassifier, LogisticClassifier)
FEW = (1e-3, 1e-1, 1e1)


@parametrize_with_checks([one() for one in ALL])
def test_scikit_learns_own_checks_pass(estimator, check):
    check(estimator)


@pytest.fixture(scope="module")
def iris():
    return load_iris(return_X_y=True)


@pytest.fixture(scope="module")
def cancer():
    X, y = load_breast_cancer(return_X_y=True)
    return StandardScaler().fit_transform(X), y


@pytest.mark.parametrize("C", [1e-4, 1.0, 1e4])
def test_linear_is_ridge_to_1e_5(iris, C):
    X, y = iris
    Z = StandardScaler().fit_transform(X)
    expected = RidgeClassifier(alpha=0.5 / C).fit(Z, y)
    model = LinearClassifier(C=C).fit(Z, y)
    np.testing.assert_allclose(model.coef_, expected.coef_, rtol=1e-5, atol=1e-9)
    np.testing.assert_allclose(model.intercept_, expected.intercept_, rtol=1e-5)


@pytest.mark.parametrize("C", [1e-3, 1.0])
def test_two_classes_are_scikit_learns_binary_fits(cancer, C):
    X, y = cancer
    logistic = LogisticRegression(C=C, tol=1e-10, max_iter=10**5).fit(X, y)
    ours = LogisticClassifier(C=C, tol=1e-9).fit(X, y)
    assert ours.coef_.shape == (1, X.shape[1])
    np.testing.assert_allclose(ours.coef_, logistic.coef_, atol=2e-3)
    np.testing.assert_allclose(
        ours.predict_proba(X), logistic.predict_proba(X), atol=1e-3
    )
    # LinearSVC penalises its intercept unless it is scaled out of reach.
    svc = LinearSVC(
        C=C, dual=False, tol=1e-8, intercept_scaling=1e3, max_iter=10**5
    ).fit(X, y)
    svm = SVMClassifier(C=C, tol=1e-9).fit(X, y)
    np.testing.assert_allclose(svm.coef_, svc.coef_, atol=2e-3)


@pytest.mark.parametrize("one", ALL)
def test_coefficients_are_on_the_scale_of_the_codes_given(iris, one):
    X, y = iris
    stretch = np.array([1.0, 10.0, 1e-3, 50.0])
    plain = one(C=0.1, tol=1e-10).fit(X, y)
    scaled = one(C=0.1, tol=1e-10).fit(X * stretch + 7, y)
    np.testing.assert_allclose(scaled.coef_ * stretch, plain.coef_, atol=1e-5)
    np.testing.assert_allclose(
        scaled.decision_function(X * stretch + 7), plain.decision_function(X), atol=1e-5
    )


@pytest.mark.parametrize("one", ALL)
def test_chosen_C_is_the_best_of_the_curve_and_ties_go_to_the_smaller(iris, one):
    X, y = iris
    model = one(Cs=FEW).fit(X, y)
    curve = model.C_curve_
    best = curve[:, 1].max()
    assert curve[curve[:, 1] >= best - 1e-12, 0].min() == model.C_
    assert model.cv_score_ == best
    assert (model.cv_predicted_ == y).mean() == pytest.approx(best)


@pytest.mark.parametrize("one", ALL)
def test_curve_is_what_grid_search_finds(iris, one):
    X, y = iris
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    grid = GridSearchCV(one(), {"C": list(FEW)}, cv=folds).fit(X, y)
    model = one(Cs=FEW).fit(X, y)
    expected = grid.cv_results_["mean_test_score"]
    np.testing.assert_allclose(model.C_curve_[:, 1], expected, atol=1.01 / len(y))


@pytest.mark.parametrize(
    ("metric", "score"),
    [
        ("balanced_accuracy", balanced_accuracy_score),
        ("macro_f1", lambda y, p: f1_score(y, p, average="macro")),
    ],
)
def test_metrics_are_scikit_learns(iris, metric, score):
    X, y = iris
    keep = np.r_[0:20, 50:100, 100:150]
    X, y = X[keep], y[keep]
    model = LinearClassifier(Cs=[1e-4], metric=metric).fit(X, y)
    folds = StratifiedKFold(5, shuffle=True, random_state=0).split(X, y)
    each = [score(y[held], model.cv_predicted_[held]) for _, held in folds]
    assert model.cv_score_ == pytest.approx(np.mean(each))


def test_string_labels_and_frames_come_back(iris):
    X, y = iris
    names = np.array(["ant", "bee", "cat"])[y]
    frame = pd.DataFrame(X, columns=list("abcd"))
    model = LogisticClassifier(Cs=FEW).fit(frame, names)
    assert set(model.predict(frame)) == {"ant", "bee", "cat"}
    assert model.feature_names_in_.tolist() == list("abcd")
    assert model.cv_predicted_.dtype == names.dtype


@pytest.mark.parametrize("one", ALL)
def test_classifiers_work_in_pipelines_clones_and_pickles(iris, one):
    X, y = iris
    pipe = make_pipeline(StandardScaler(), one(Cs=FEW))
    assert cross_val_score(clone(pipe), X, y, cv=3).mean() > 0.7
    model = one(C=1.0).fit(X, y)
    again = pickle.loads(pickle.dumps(model))
    assert (again.predict(X) == model.predict(X)).all()


def test_groups_and_given_pairs_choose_C(iris):
    X, y = iris
    groups = np.arange(len(y)) // 2
    pairs = list(GroupKFold(3).split(X, y, groups))
    model = LinearClassifier(Cs=FEW, cv=pairs).fit(X, y)
    assert model.cv_predicted_ is not None
    single = LinearClassifier(Cs=FEW, cv=pairs[:1]).fit(X, y)
    assert single.cv_predicted_ is None
    train, held_out = pairs[0]
    fitted = LinearClassifier(C=single.C_).fit(X[train], y[train])
    assert single.cv_score_ == pytest.approx(fitted.score(X[held_out], y[held_out]))


@pytest.mark.parametrize("one", ALL)
def test_balanced_weights_are_those_written_out(iris, one):
    X, y = iris
    X, y = X[:120], y[:120]
    counts = np.bincount(y)
    written = {k: len(y) / (3 * count) for k, count in enumerate(counts)}
    balanced = one(C=0.1, class_weight="balanced").fit(X, y)
    by_hand = one(C=0.1, class_weight=written).fit(X, y)
    np.testing.assert_allclose(balanced.coef_, by_hand.coef_, atol=1e-9)


def test_edge_of_the_grid_small_classes_and_lone_rows_are_said(iris):
    X, y = iris
    edge = LinearClassifier(Cs=[1e-9, 1e-8]).fit(X, y)
    assert "smallest of the grid" in edge.warnings_[0]
    few = LinearClassifier(Cs=FEW).fit(X[:103], y[:103])
    assert "fewer than 5 rows (2)" in few.warnings_[0]
    lone = LinearClassifier(Cs=FEW).fit(X[[0, 60, 120]], y[[0, 60, 120]])
    assert "could not be chosen" in lone.warnings_[1]
    assert lone.C_ == 1.0
    assert np.isnan(lone.cv_score_)


def test_stopping_short_is_warned_of_and_said(cancer):
    X, y = cancer
    model = LogisticClassifier(C=1e4, max_iter=1)
    with pytest.warns(ConvergenceWarning, match="not converged after 1 passes"):
        model.fit(X, y)
    assert not model.converged_
    assert "not converged" in model.warnings_[0]


class Streamed:
    """Codes given some rows at a time."""

    def __init__(self, X):
        self.X, self.shape, self.dtype = X, X.shape, X.dtype

    def rows(self, start, stop):
        return self.X[start:stop]


@pytest.mark.parametrize("one", ALL)
def test_a_reader_gives_what_the_array_gives(iris, one):
    X, y = iris
    array, reader = one(Cs=FEW).fit(X, y), one(Cs=FEW).fit(Streamed(X), y)
    assert reader.C_ == array.C_
    np.testing.assert_allclose(reader.coef_, array.coef_, atol=1e-6)
    assert (reader.predict(Streamed(X)) == array.predict(X)).all()
    with pytest.raises(ValueError, match="give one label a row"):
        one().fit(Streamed(X), y[1:])


@pytest.mark.parametrize(
    ("value", "match"),
    [
        ({"C": "best"}, "C='best'"),
        ({"C": -1.0}, "C=-1.0"),
        ({"Cs": []}, "must be numbers above zero"),
        ({"metric": "auc"}, "choose from accuracy"),
        ({"tol": 0}, "tol=0"),
        ({"class_weight": "even"}, "class_weight='even'"),
        ({"class_weight": {0: -1.0}}, r"class_weight\[0\]=-1.0 has to be"),
        ({"cv": [(np.arange(50), np.arange(50, 60))]}, "fewer than two classes"),
        ({"cv": [(np.arange(150), np.arange(0))]}, "held-out part of cv is empty"),
    ],
)
def test_bad_parameters_are_refused_in_words(iris, value, match):
    with pytest.raises(ValueError, match=match):
        LinearClassifier(**value).fit(*iris)


def test_negative_weights_are_refused(iris):
    X, y = iris
    with pytest.raises(ValueError, match="negative value"):
        LinearClassifier().fit(X, y, sample_weight=-np.ones(len(y)))


def test_make_knows_its_names():
    assert isinstance(classifiers.make("svm", C=2.0), SVMClassifier)
    with pytest.raises(ValueError, match="choose from linear, svm, logistic"):
        classifiers.make("forest")


@pytest.mark.parametrize("one", ALL)
def test_nested_parts_choose_as_each_would_alone(one):
    X, y = load_iris(return_X_y=True)
    folds = list(StratifiedKFold(4, shuffle=True, random_state=0).split(X, y))
    everything = np.arange(len(y))
    parts = [classifiers.NestedPart(everything, folds)]
    for train, held in folds:
        others = [other for _, other in folds if other is not held]
        inner = [
            (np.flatnonzero(~np.isin(train, other)), np.searchsorted(train, other))
            for other in others
        ]
        parts.append(classifiers.NestedPart(train, inner))
    # So exact that no row near a boundary may be told otherwise.
    model = one(Cs=FEW, tol=1e-8)
    together = classifiers.fit_nested(model, X, y, parts)
    for part, model in zip(parts, together, strict=True):
        alone = clone(model).set_params(cv=part.selection)
        alone.fit(X[part.train], y[part.train])
        assert model.C_ == alone.C_
        np.testing.assert_allclose(model.C_curve_, alone.C_curve_, atol=1e-12)
        np.testing.assert_allclose(model.coef_, alone.coef_, atol=1e-6)
        assert (model.cv_predicted_ == alone.cv_predicted_).all()
        assert model.converged_


def test_nested_parts_with_counted_weights_or_fewer_classes_are_fitted_alone():
    X, y = load_iris(return_X_y=True)
    first = np.arange(100)
    folds = list(
        StratifiedKFold(3, shuffle=True, random_state=0).split(X[:100], y[:100])
    )
    parts = [classifiers.NestedPart(first, folds)]
    (model,) = classifiers.fit_nested(LogisticClassifier(Cs=FEW), X, y, parts)
    assert model.classes_.tolist() == [0, 1]
    assert model.coef_.shape == (1, 4)
    weighted = SVMClassifier(Cs=FEW, class_weight="balanced")
    (model,) = classifiers.fit_nested(
        weighted,
        X[:90],
        y[:90],
        [
            classifiers.NestedPart(
                np.arange(90), [(np.arange(0, 90, 2), np.arange(1, 90, 2))]
            )
        ],
    )
    alone = clone(weighted).set_params(cv=[(np.arange(0, 90, 2), np.arange(1, 90, 2))])
    np.testing.assert_allclose(model.coef_, alone.fit(X[:90], y[:90]).coef_, atol=1e-9)


@pytest.mark.parametrize(
    ("n", "width", "n_classes", "columns"),
    [(30, 7, 2, 5), (40, 9, 3, 15), (6, 9, 4, 20)],
)
def test_the_operations_of_a_pass_are_those_of_its_two_products(
    n, width, n_classes, columns
):
    cost = solve_cost(n, width, n_classes)
    rank = min(n, width)
    # Of (n, rank) @ (rank, columns), and of its transpose with what that gives.
    assert cost.operations == 2 * (2 * n * rank * columns)
    assert cost.n_bytes == np.zeros((n, width), np.float32).nbytes
    assert all(0 < least < most for least, most in cost.seconds.values())


def test_the_cost_of_many_classes_is_told_from_a_product_of_a_part(monkeypatch):
    products, ones = [], torch.ones
    monkeypatch.setattr(
        torch, "ones", lambda *shape: products.append(shape) or ones(*shape)
    )
    # All at once, with 200 classes in five folds: 8e12 operations, and 3.3 GB.
    cost = solve_cost(16_384, 50_176, 200)
    (n, width), (_, columns) = products
    operations = 4 * n * width * columns
    assert operations < 5e9
    rank = 16_384
    assert cost.operations == 4 * 16_384 * rank * 5 * 200
    # The part is scaled up to the whole: at 1 to 10,000 GFLOP a second.
    assert 1e9 < cost.operations / cost.pass_seconds < 1e13
