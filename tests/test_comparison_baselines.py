"""The classifiers without a C predict what scikit-learn's do."""

import numpy as np
import pytest
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.neighbors import KNeighborsClassifier, NearestCentroid
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Normalizer, StandardScaler

from featpipe.comparison import baselines


def of_scikit_learn(name, n_images):
    if name == "lda":
        return LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto")
    if name == "nearest-mean":
        return make_pipeline(StandardScaler(), NearestCentroid())
    nearest = KNeighborsClassifier(min(5, n_images))
    return make_pipeline(StandardScaler(), Normalizer(), nearest)


def draw(n, width, n_classes, seed=0):
    """Return codes of overlapping classes, half for learning, with their numbers."""
    rng = np.random.default_rng(seed)
    # Every other number, as where a fold lacks classes.
    y = 2 * (np.arange(2 * n) % n_classes)
    X = (
        rng.normal(size=(2 * n, width))
        + 0.5 * rng.normal(size=(n_classes, width))[y // 2]
    )
    scale = 10.0 ** rng.integers(-3, 4, width)
    return (X * scale + 5 * scale).astype(np.float32), y


# Of a constant column, about deviations that the nearest mean does not use.
@pytest.mark.filterwarnings("ignore:self.within_class_std_dev_ has at least 1 zero")
@pytest.mark.parametrize("name", baselines.BASELINES)
@pytest.mark.parametrize(
    ("n", "width", "n_classes"),
    [(60, 20, 3), (40, 200, 2), (300, 16, 7), (7, 3, 3), (90, 40, 30), (4, 1, 2)],
)
def test_baselines_predict_what_those_of_scikit_learn_do(name, n, width, n_classes):
    X, y = draw(n, width, n_classes)
    if width > 5:
        X[:, 3] = 0.1  # constant, and not a binary fraction
    ours = baselines.BASELINES[name]().fit(X[:n], y[:n])
    theirs = of_scikit_learn(name, n).fit(X[:n], y[:n])
    assert ours.classes_.tolist() == theirs.classes_.tolist()
    assert ours.predict(X[n:]).tolist() == theirs.predict(X[n:]).tolist()
    if name in baselines.WITH_PROBABILITIES:
        expected = theirs.predict_proba(X[n:])
        assert ours.predict_proba(X[n:]) == pytest.approx(expected, abs=1e-5)


def test_neighbours_are_found_block_by_block(monkeypatch):
    X, y = draw(50, 8, 3)
    ours = baselines.BASELINES["knn"]().fit(X[:50], y[:50])
    whole = ours.predict(X[50:]).tolist()
    monkeypatch.setattr(baselines, "_BLOCK", 7 * 50)
    assert ours.predict(X[50:]).tolist() == whole
    assert ours.fit(X[:50], y[:50]).predict(X[50:]).tolist() == whole


def test_an_image_at_the_mean_has_no_direction():
    # Of length zero, it is nearer to every image than those at a right angle or more.
    X = np.array([[1, 1], [-1, -1], [1, -1], [-1, 1], [0, 0]], np.float32)
    y = np.array([0, 0, 0, 0, 1])
    for name in ("knn", "nearest-mean"):
        ours = baselines.BASELINES[name]().fit(X, y)
        assert (
            ours.predict(X).tolist()
            == of_scikit_learn(name, 5).fit(X, y).predict(X).tolist()
        )


def test_classes_that_do_not_vary_have_a_discriminant_still():
    X = np.repeat(np.eye(3, 4, dtype=np.float32), 4, axis=0)
    y = np.repeat(np.arange(3), 4)
    X[0] += 0.5
    ours = baselines.BASELINES["lda"]().fit(X, y)
    theirs = of_scikit_learn("lda", 12).fit(X, y)
    assert ours.predict(X).tolist() == theirs.predict(X).tolist()


def test_as_many_classes_as_images_have_no_discriminant():
    X = np.eye(3, dtype=np.float32)
    with pytest.raises(ValueError, match="cannot learn from 3 images of as many"):
        baselines.BASELINES["lda"]().fit(X, np.arange(3))
