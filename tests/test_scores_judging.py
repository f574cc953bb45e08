"""Measures, paired tests and folds, each against an independent road."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn import metrics

from featpipe import scores

BOOLS = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=40)


def test_wilson_solves_its_own_equation():
    # The interval's ends are where the score test statistic equals 1.96 exactly.
    low, high = scores.wilson(37, 50)
    for end in (low, high):
        z = abs(0.74 - end) / np.sqrt(end * (1 - end) / 50)
        assert z == pytest.approx(stats.norm.ppf(0.975), abs=1e-9)


def test_wilson_stays_informative_at_all_correct():
    low, high = scores.wilson(20, 20)
    assert low < 0.9
    assert high == 1.0


def test_measures_equal_scikit_learn():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, 90)
    probabilities = rng.dirichlet(np.ones(4), 90)
    predicted = probabilities.argmax(1)
    judged = scores.judge(labels, predicted, probabilities)
    assert judged["accuracy"] == metrics.accuracy_score(labels, predicted)
    assert judged["balanced_accuracy"] == pytest.approx(
        metrics.balanced_accuracy_score(labels, predicted)
    )
    assert judged["macro_f1"] == metrics.f1_score(labels, predicted, average="macro")
    assert judged["log_loss"] == pytest.approx(metrics.log_loss(labels, probabilities))


def test_balanced_accuracy_is_over_the_classes_held_out():
    judged = scores.judge(np.array([0, 0, 1]), np.array([0, 2, 1]))
    assert judged["balanced_accuracy"] == pytest.approx((0.5 + 1.0) / 2)


def test_infinite_log_loss_is_none():
    probabilities = np.array([[1.0, 0.0], [1.0, 0.0]])
    judged = scores.judge(np.array([0, 1]), np.array([0, 0]), probabilities)
    assert judged["log_loss"] is None


def test_nothing_to_judge_is_an_error():
    with pytest.raises(ValueError, match="at least one"):
        scores.judge(np.array([], int), np.array([], int))


@given(BOOLS)
def test_mcnemar_counts_coin_tosses(pairs):
    first, second = np.array(pairs).T
    wins, losses = (first & ~second).sum(), (~first & second).sum()
    n, rarer = int(wins + losses), int(min(wins, losses))
    tail = sum(stats.binom.pmf(k, n, 0.5) for k in range(rarer + 1))
    assert scores.mcnemar(first, second) == pytest.approx(min(1.0, 2 * tail))


@given(BOOLS, st.randoms(use_true_random=False))
@settings(max_examples=50, deadline=None)
def test_sign_flip_counts_every_sign_pattern(pairs, random):
    first, second = np.array(pairs).T
    groups = np.array([random.choice("abcdefgh") for _ in pairs])
    difference = np.array(
        [
            int(first[groups == g].sum()) - int(second[groups == g].sum())
            for g in np.unique(groups)
        ]
    )
    sums = [
        abs(np.dot(signs, difference))
        for signs in itertools.product((-1, 1), repeat=len(difference))
    ]
    expected = np.mean(np.array(sums) >= abs(difference.sum()))
    assert scores.sign_flip(first, second, groups) == pytest.approx(expected)


@given(BOOLS)
def test_sign_flip_over_single_images_is_mcnemar(pairs):
    first, second = np.array(pairs).T
    p = scores.sign_flip(first, second, np.arange(len(pairs)))
    assert p == pytest.approx(scores.mcnemar(first, second))


def test_grouped_images_count_as_less_evidence():
    first, second = np.ones(30, bool), np.zeros(30, bool)
    assert scores.mcnemar(first, second) < 1e-8
    assert scores.sign_flip(first, second, np.arange(30) // 15) == 0.5


def test_paired_tests_refuse_unpaired_images():
    with pytest.raises(ValueError, match="same images in the same order"):
        scores.mcnemar(np.ones(3, bool), np.ones(4, bool))


@given(st.lists(st.floats(0, 1), max_size=8))
def test_holm_rejects_what_the_step_down_rejects(p_values):
    corrected = scores.holm(p_values)
    level = 0.05
    order = np.argsort(p_values, kind="stable")
    rejected, m = set(), len(p_values)
    for step, i in enumerate(order):
        if p_values[i] * (m - step) > level:
            break
        rejected.add(int(i))
    assert {i for i, p in enumerate(corrected) if p <= level} == rejected
