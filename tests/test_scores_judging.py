"""Measures, paired tests and folds, each against an independent road."""

import itertools
import operator
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn import metrics

from featpipe import scores
from featpipe.comparison.judging import JudgedContender
from featpipe.comparison.testing import describe_power

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


def smallest_p(difference, variance_ratio):
    """Try every sign of every difference in a plain loop."""
    sizes = [abs(d) for d in difference if d]
    most = sum(sizes) / variance_ratio**0.5
    sums = [
        abs(sum(map(operator.mul, signs, sizes)))
        for signs in itertools.product([1, -1], repeat=len(sizes))
    ]
    return sum(total >= most - 1e-9 for total in sums) / len(sums)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_the_note_that_nothing_can_differ_agrees_with_trying_every_sign(data):
    """Over groups and images, few rows and many, with the choice inside or not."""
    grouped, nested = data.draw(st.booleans()), data.draw(st.booleans())
    n_units, n_rows = data.draw(st.integers(2, 8)), data.draw(st.integers(2, 30))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    size = data.draw(st.integers(1, 4)) if grouped else 1
    groups = np.repeat(np.arange(n_units), size)
    correct = rng.random((n_rows, len(groups))) < rng.random()
    ratio = scores.fold_variance_ratio(data.draw(st.integers(2, 10)))
    judged = SimpleNamespace(
        rows=groups,
        grouped=grouped,
        nested=nested,
        group_numbers=groups,
        variance_ratio=ratio if nested else 1.0,
    )
    entries = [JudgedContender(None, np.arange(len(groups)), c) for c in correct]
    notes = " ".join(describe_power(entries, judged))
    least = []
    for row in correct[1:]:
        gain = row.astype(int) - correct[0]
        units = [int(gain[groups == k].sum()) for k in range(n_units)]
        least.append(smallest_p(units, judged.variance_ratio))
    # Holm: the smallest p-value is multiplied by the number of tests.
    impossible = min(least) * (1 if nested else n_rows - 1) >= 0.05
    assert ("no difference can be significant" in notes) == impossible
