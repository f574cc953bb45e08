"""Transferability against plain formulas, and advice that follows from the file."""

from dataclasses import replace

import numpy as np
import pytest
from drawn_codes import draw, splits_of, write
from scipy.optimize import minimize
from scipy.stats import kendalltau
from sklearn.covariance import ledoit_wolf
from sklearn.datasets import load_digits, load_iris
from sklearn.linear_model import Ridge
from typer.testing import CliRunner

import featpipe
from featpipe.advice import check_advice, h_score, logme, loo_predictions
from featpipe.advice.finetuning import PUBLISHED, FinetuningEstimate
from featpipe.advice.transferability import _evidence, _Spectrum, standardise
from featpipe.cli.app import app


def random_codes(n, width, n_classes, seed=0):
    labels, made = draw(n, width=width, n_classes=n_classes, seed=seed)
    return made["layer2:avg"].astype(float), labels


def digits(n=120):
    X, y = load_digits(return_X_y=True)
    return X[:n], y[:n]


CASES = {
    "images are many": random_codes(120, 9, 3),
    "codes are wide": random_codes(24, 36, 4),
    "two classes": random_codes(50, 20, 2, seed=3),
    "iris": load_iris(return_X_y=True),
    "digits, with constant columns": digits(),
}
case = pytest.mark.parametrize(("X", "y"), CASES.values(), ids=CASES)


def plain_log_evidence(X, t, alpha, beta):
    """Equation 3 of You et al. 2021, with inverses and determinants spelled out."""
    n, width = X.shape
    A = alpha * np.eye(width) + beta * X.T @ X
    m = beta * np.linalg.solve(A, X.T @ t)
    return (
        n / 2 * np.log(beta)
        + width / 2 * np.log(alpha)
        - n / 2 * np.log(2 * np.pi)
        - beta / 2 * ((X @ m - t) ** 2).sum()
        - alpha / 2 * m @ m
        - np.linalg.slogdet(A)[1] / 2
    ) / n


@case
def test_logme_is_the_maximum_of_the_plain_evidence(X, y):
    of_classes = []
    for label in np.unique(y):
        t = (y == label).astype(float)
        items = [
            minimize(
                lambda p, t=t: -plain_log_evidence(X, t, *np.exp(p)),
                start,
                method="Nelder-Mead",
                options={"xatol": 1e-9, "fatol": 1e-13, "maxiter": 4000},
            ).fun
            for start in ([0.0, 1.0], [3.0, 3.0], [-3.0, 3.0])
        ]
        of_classes.append(-min(items))
    assert logme(X, y) == pytest.approx(np.mean(of_classes), abs=1e-6)


@case
def test_h_score_is_the_trace_of_its_definition(X, y):
    means = np.array([X[y == label].mean(axis=0) for label in y])
    within, between = (np.cov(each.T, ddof=0) for each in (X, means))
    plain = np.trace(np.linalg.pinv(within, rcond=1e-12, hermitian=True) @ between)
    assert h_score(X, y, shrinkage=False) == pytest.approx(plain, abs=1e-6)
    shrunk, amount = ledoit_wolf(X)
    plain = np.trace(np.linalg.pinv(shrunk, hermitian=True) @ between) * (1 - amount)
    assert h_score(X, y) == pytest.approx(plain, abs=1e-6)


def test_the_unshrunk_h_score_of_wide_codes_says_nothing():
    X, y = random_codes(40, 60, 4)
    rng = np.random.default_rng(0)
    assert h_score(X, y, shrinkage=False) == pytest.approx(3)
    assert h_score(rng.normal(size=X.shape), y, shrinkage=False) == pytest.approx(3)
    assert h_score(X, y) > h_score(rng.normal(size=X.shape), y) + 0.5


@pytest.mark.parametrize("name", ["images are many", "codes are wide"])
def test_left_out_predictions_are_those_of_fits_without_the_image(name):
    X, y = CASES[name]
    S = standardise(X)
    Y = np.eye(int(y.max()) + 1)[y]
    ratio = _evidence(_Spectrum.of(S), Y - Y.mean(axis=0), shared=True)[1][0]
    predicted = [
        Ridge(alpha=ratio)
        .fit(np.delete(S, i, axis=0), np.delete(Y, i, axis=0))
        .predict(S[i : i + 1])
        .argmax()
        for i in range(len(y))
    ]
    assert loo_predictions(X, y).tolist() == predicted


@pytest.mark.parametrize("score", [logme, h_score, loo_predictions])
def test_scores_refuse_what_they_cannot_score(score):
    X, y = random_codes(12, 3, 2)
    with pytest.raises(ValueError, match="at least two classes"):
        score(X, np.zeros(12, int))
    with pytest.raises(ValueError, match=r"\(12, 3\) codes and \(11,\) labels"):
        score(X, y[1:])
    X[3, 1] = np.nan
    with pytest.raises(ValueError, match="nan or infinity"):
        score(X, y)


# Seven depths that separate ever better.
DEPTHS = {f"layer{k}": 0.15 * k for k in range(1, 8)}


@pytest.fixture
def file(tmp_path):
    labels, made = draw(150, depths=DEPTHS)
    splits = splits_of(150, "train", "train", "test")
    return write(tmp_path / "codes.h5", labels, made, splits=splits)


def test_scores_order_the_depths_as_the_probe_does(file):
    advice = featpipe.advise(file)
    comparison = featpipe.compare(file, classifiers=["logistic"])
    probe = {score.depth: score.cv_accuracy for score in comparison.scores}
    order = [probe[each.depth] for each in advice.depths]
    for name in ("logme", "h_score", "loo_accuracy"):
        tau, _ = kendalltau([getattr(each, name) for each in advice.depths], order)
        assert tau > 0.7, name


def test_held_out_labels_do_not_change_the_advice(tmp_path, file):
    labels, made = draw(150, depths=DEPTHS)
    labels[100:] = np.random.default_rng(1).permutation(labels[100:])
    splits = splits_of(150, "train", "train", "test")
    other = write(tmp_path / "other.h5", labels, made, splits=splits)
    first, second = featpipe.advise(file), featpipe.advise(other)
    assert first.depths == second.depths
    assert first.lines == second.lines


def test_a_better_earlier_depth_means_that_the_images_are_different(tmp_path):
    for name, depths, similar in (
        ("late", {"early": 0.1, "penultimate": 1.0}, True),
        ("early", {"early": 1.0, "penultimate": 0.1}, False),
        # Listed first or last, the penultimate depth is the deepest.
        ("turned", {"penultimate": 0.1, "early": 1.0}, False),
        ("alone", {"penultimate": 1.0}, None),
    ):
        labels, made = draw(150, depths=depths)
        advice = featpipe.advise(write(tmp_path / f"{name}.h5", labels, made))
        assert advice.similar is similar
        assert advice.depth == max(depths, key=depths.get)
        assert advice.case.startswith("small")


def test_two_hundred_images_a_class_are_many(tmp_path):
    for n, large in ((597, False), (600, True)):
        labels, made = draw(n, width=4)
        assert featpipe.advise(write(tmp_path / f"{n}.h5", labels, made)).large is large


def test_groups_are_said_to_flatter(tmp_path):
    labels, made = draw(60)
    groups = [f"g{i // 6}" for i in range(60)]
    grouped = featpipe.advise(write(tmp_path / "g.h5", labels, made, groups=groups))
    assert "groups" in [line.what for line in grouped.lines]


def test_disagreeing_scores_are_named(monkeypatch, file):
    monkeypatch.setattr(
        "featpipe.advice.advising.h_score", lambda X, y: -float(X.std())
    )
    advice = featpipe.advise(file)
    (line,) = [line for line in advice.lines if line.what == "depth"]
    assert "the scores disagree: the H-score prefers layer1" in line.text


def test_an_outlook_without_six_errors_cannot_be_shown():
    assert not FinetuningEstimate(
        n_train=100, n_judged=50, accuracy=0.9
    ).can_be_significant  # 5 errors
    assert FinetuningEstimate(
        n_train=100, n_judged=61, accuracy=0.9
    ).can_be_significant  # 6.1
    least, median, most = FinetuningEstimate(
        n_train=100, n_judged=60, accuracy=0.9
    ).gains
    removed = sorted((t - f) / (100 - f) for f, t in PUBLISHED.values())
    assert least == pytest.approx(0.1 * removed[0])
    assert median == pytest.approx(0.1 * (removed[5] + removed[6]) / 2)
    assert most == pytest.approx(0.1 * removed[-1])


def test_the_check_compares_the_advice_with_the_probe(file):
    advice = featpipe.advise(file)
    verdict, agreement, expectation = check_advice(file, advice)
    comparison = featpipe.compare(file, classifiers=["logistic"])
    by_depth = {score.depth: score for score in comparison.scores}
    advised = by_depth[advice.depth]
    held = advised.recommended or advised.tied_with_recommended
    assert verdict.text.startswith("held" if held else "did not hold")
    assert "over 7 depths" in agreement.text
    assert f"{100 * advised.accuracy:.1f} %" in expectation.text


@pytest.mark.parametrize(("n", "few"), [(1, "one depth is"), (2, "two depths are")])
def test_few_depths_have_no_rank_agreement(file, n, few):
    advice = featpipe.advise(file)
    keep = sorted(advice.depths, key=lambda scores: scores.depth != advice.depth)[:n]
    _, agreement, _ = check_advice(file, replace(advice, depths=keep))
    assert agreement.text == f"{few} too few for a rank agreement"


def test_the_command_prints_lines_that_fit_80_columns(file):
    runner = CliRunner(env={"COLUMNS": "80", "NO_COLOR": "1"})
    done = runner.invoke(app, ["advise", str(file), "--check"])
    assert done.exit_code == 0, done.output
    for word in ("LogME", "similarity:", "fine-tuning:", "rank agreement:", "★"):
        assert word in done.output


def test_unlabelled_images_get_no_advice_but_a_sentence(tmp_path):
    _, made = draw(12)
    path = write(tmp_path / "u.h5", np.full(12, -1), made, class_names=["ant"])
    done = CliRunner().invoke(app, ["advise", str(path)])
    assert done.exit_code == 1
    assert "not one image" in done.output
