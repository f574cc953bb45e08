"""LogME and H-score on real codes, against plain formulas, and beside the probe."""

from pathlib import Path

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.stats import kendalltau, multivariate_normal
from sklearn.covariance import ledoit_wolf

import featpipe
from featpipe.advice import check_advice, h_score, logme

SHARED = Path(__file__).parents[2] / "shared"
PHOTOS = SHARED / "data" / "hymenoptera" / "train"
WEIGHTS = SHARED / "weights" / "squeezenet1_0-imagenet.pth"
DEPTHS = [f"features.{k}:avg" for k in (3, 5, 7, 9, 10, 12)]

pytestmark = pytest.mark.skipif(
    not (PHOTOS.is_dir() and WEIGHTS.is_file()),
    reason=f"{PHOTOS} or {WEIGHTS} is missing; see CONTRIBUTING.md",
)


@pytest.fixture(scope="module")
def codes(tmp_path_factory):
    return featpipe.extract(
        PHOTOS,
        tmp_path_factory.mktemp("real") / "c.h5",
        backbone="squeezenet1_0",
        weights=str(WEIGHTS),
        depth=DEPTHS,
        input_size=64,
        limit=60,
        device="cpu",
    )


def plain_logme(X, y):
    """Return the mean of the classes' log evidence an image, at its maximum.

    The evidence is the density of t = 1 and 0 under N(0, I / beta + X X' / alpha).
    """
    gram, n = X @ X.T, len(X)
    value, basis = np.linalg.eigh(gram)
    items = []
    for label in np.unique(y):
        t = (y == label).astype(float)
        turned = (basis.T @ t) ** 2

        def loss(p, turned=turned):
            variance = np.exp(-p[1]) + np.exp(-p[0]) * value.clip(0)
            return (np.log(2 * np.pi * variance) + turned / variance).sum() / 2 / n

        options = {"xatol": 1e-9, "fatol": 1e-13, "maxiter": 5000}
        starts = ([0.0, 1.0], [5.0, 3.0], [-3.0, 3.0])
        best = min(
            (minimize(loss, s, method="Nelder-Mead", options=options) for s in starts),
            key=lambda each: each.fun,
        )
        alpha, beta = np.exp(best.x)
        covariance = np.eye(n) / beta + gram / alpha
        density = multivariate_normal(cov=covariance).logpdf(t)
        assert density / n == pytest.approx(-best.fun, abs=1e-6)
        items.append(density / n)
    return np.mean(items)


@pytest.mark.parametrize("depth", DEPTHS)
def test_scores_of_real_codes_are_those_of_plain_formulas(codes, depth):
    X, y = codes.arrays(depth)
    X = X.astype(float)
    assert logme(X, y) == pytest.approx(plain_logme(X, y), abs=1e-6)
    means = np.array([X[y == label].mean(axis=0) for label in y])
    between = np.cov(means.T, ddof=0)
    shrunk, amount = ledoit_wolf(X)
    plain = np.trace(np.linalg.solve(shrunk, between)) * (1 - amount)
    assert h_score(X, y) == pytest.approx(plain, abs=1e-6)


def test_the_rank_agreement_with_the_probe_over_six_depths_is_told(codes):
    advice = featpipe.advise(codes)
    lines = check_advice(codes, advice)
    [text] = [line.text for line in lines if line.what == "rank agreement"]
    print(text)
    probe = {s.depth: s.cv_accuracy for s in featpipe.compare(
        codes, classifiers=["logistic"]).scores}  # fmt: skip
    order = [probe[each.depth] for each in advice.depths]
    for name, field in (("LogME", "logme"), ("H-score", "h_score")):
        tau = kendalltau([getattr(each, field) for each in advice.depths], order)[0]
        assert f"{name} {tau:.2f}" in text
    assert "over 6 depths" in text
