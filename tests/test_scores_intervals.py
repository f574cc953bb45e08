"""Intervals and tests of a chosen row, against scipy, formulas and plain loops."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from featpipe import scores


@given(st.integers(1, 400), st.data())
def test_the_exact_interval_is_scipys(n, data):
    right = data.draw(st.integers(0, n))
    expected = stats.binomtest(right, n).proportion_ci(0.95, method="exact")
    assert scores.exact(right, n) == pytest.approx((expected.low, expected.high))


@pytest.mark.parametrize("n", [20, 40, 153, 398])
def test_the_interval_of_an_accuracy_covers_it_near_100_percent_too(n):
    counts = np.arange(n + 1)
    limits = np.array([scores.accuracy_interval(k, n) for k in counts.tolist()])
    accuracies = np.concatenate([np.linspace(0.5, 0.9, 200),
                                 1 - np.geomspace(0.1, 0.02 / n, 1000)])  # fmt: skip
    inside = (limits[:, :1] <= accuracies) & (accuracies <= limits[:, 1:])
    chance = stats.binom.pmf(counts[:, None], n, accuracies)
    coverage = (inside * chance).sum(axis=0)
    assert coverage.min() > 0.925
    wilson = np.array([scores.wilson(k, n) for k in counts.tolist()])
    inside = (wilson[:, :1] <= accuracies) & (accuracies <= wilson[:, 1:])
    assert (inside * chance).sum(axis=0).min() < 0.85  # what is mended


def test_groups_of_one_image_have_the_exact_interval_of_single_images():
    correct = np.arange(60) % 10 > 0
    low, high = scores.grouped_interval(correct, np.arange(60))
    # But for n / (n - 1) in the variance.
    assert (low, high) == pytest.approx(scores.exact(54, 60), abs=2e-3)


def test_whole_groups_right_or_wrong_count_as_one_image_each():
    one_each = np.arange(20) % 5 > 0
    low, high = scores.grouped_interval(one_each, np.arange(20))
    repeated = np.repeat(one_each, 8), np.repeat(np.arange(20), 8)
    wide = scores.grouped_interval(*repeated)
    assert wide[0] <= low + 1e-9
    assert wide[1] >= high - 1e-9
    assert scores.grouped_interval(np.ones(40, bool), np.arange(40) // 10)[
        0
    ] == pytest.approx(scores.exact(4, 4)[0])
    assert scores.grouped_interval(np.ones(4, bool), np.zeros(4, int)) == (0, 1)


@pytest.mark.parametrize("counts", [(20, 12, 2, 16), (1, 1, 7, 12), (90, 6, 0, 4)])
def test_newcombes_interval_is_that_of_his_formula(counts):
    """His letters (1998, method 10): e, f, g, h are both, first, second, neither."""
    e, f, g, h = counts
    n, z = sum(counts), 1.959964
    limits = []
    for right in (e + f, e + g):
        spread = z * np.sqrt(z**2 + 4 * right * (1 - right / n))
        limits.append([(2 * right + z**2 + s * spread) / (2 * (n + z**2))
                       for s in (-1, 1)])  # fmt: skip
    (l2, u2), (l3, u3) = limits
    p2, p3 = (e + f) / n, (e + g) / n
    product = e * h - f * g
    corrected = product - n / 2 if product > n / 2 else min(product, 0)
    phi = corrected / np.sqrt((e + f) * (g + h) * (e + g) * (f + h))
    a, b, c, d = p2 - l2, u3 - p3, p3 - l3, u2 - p2
    low = p2 - p3 - np.sqrt(a**2 - 2 * phi * a * b + b**2)
    high = p2 - p3 + np.sqrt(c**2 - 2 * phi * c * d + d**2)
    first = np.repeat([True, True, False, False], counts)
    second = np.repeat([True, False, True, False], counts)
    interval = scores.difference_interval(first, second)
    assert interval == pytest.approx((p2 - p3, low, high), abs=1e-5)


def test_newcombes_interval_covers_the_difference():
    rng = np.random.default_rng(0)
    chances = [0.85, 0.07, 0.03, 0.05]  # both, only first, only second, neither
    covered = 0
    for _ in range(1000):
        drawn = rng.choice(4, 120, p=chances)
        _, low, high = scores.difference_interval(drawn < 2, drawn % 2 == 0)
        covered += low <= 0.04 <= high
    assert 0.935 < covered / 1000 < 0.98


def test_a_grouped_difference_of_single_images_is_students_interval():
    rng = np.random.default_rng(0)
    first, second = rng.random(80) < 0.9, rng.random(80) < 0.8
    gain = first.astype(float) - second
    expected = stats.ttest_1samp(gain, 0).confidence_interval(0.95)
    interval = scores.grouped_difference(first, second, np.arange(80))
    assert interval == pytest.approx((gain.mean(), expected.low, expected.high))


def test_a_detectable_difference_is_seen_in_four_of_five_comparisons():
    n, discordance = 153, 0.2
    difference = scores.detectable_difference(n, discordance)
    rng = np.random.default_rng(0)
    better = (discordance + difference) / 2
    chances = [better, discordance - better, 1 - discordance]
    seen = 0
    for only_first, only_second, _ in rng.multinomial(n, chances, 2000):
        # Connor's formula is of the test that the exact one rounds up.
        distance = abs(only_first - only_second) / np.sqrt(only_first + only_second)
        seen += 2 * stats.norm.sf(distance) < 0.05
    assert seen / 2000 == pytest.approx(0.8, abs=0.03)
    assert np.isnan(scores.detectable_difference(10, 0.05))


def all_flips(correct, ratio=1.0):
    """Correct by step-down maxT over every sign pattern, in plain loops."""
    n, m = correct.shape
    pairs = list(itertools.combinations(range(m), 2))

    def statistic(signs, pair):
        gain = correct[:, pair[0]].astype(int) - correct[:, pair[1]]
        return abs(signs @ gain) / max(1.0, np.sqrt((gain**2).sum()))

    observed = {p: statistic(np.ones(n), p) / np.sqrt(ratio) for p in pairs}
    order = sorted(pairs, key=lambda p: -observed[p])
    flips = [np.array(s) for s in itertools.product((-1, 1), repeat=n)]
    drawn = np.array([[statistic(signs, p) for p in order] for signs in flips])
    corrected, last = {}, 0.0
    for k, pair in enumerate(order):
        p = float((drawn[:, k:].max(axis=1) >= observed[pair] - 1e-9).mean())
        last = max(last, p)
        corrected[pair] = last
    return [corrected[0, j] for j in range(1, m)]


@pytest.mark.parametrize("seed", range(4))
def test_max_t_is_the_step_down_over_all_pairs_and_all_flips(seed):
    rng = np.random.default_rng(seed)
    correct = rng.random((9, 4)) < [0.95, 0.8, 0.5, 0.2]
    result = scores.max_t(correct, seed=seed)
    assert np.isnan(result[0])
    assert result[1:] == pytest.approx(all_flips(correct), abs=0.02)
    shrunk = scores.max_t(correct, variance_ratio=2.25, seed=seed)
    assert shrunk[1:] == pytest.approx(all_flips(correct, 2.25), abs=0.02)


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=4, max_size=40))
@settings(max_examples=25, deadline=None)
def test_of_two_rows_max_t_is_mcnemar_and_of_groups_the_sign_flip(pairs):
    correct = np.array(pairs)
    _, p = scores.max_t(correct)
    assert p == pytest.approx(scores.mcnemar(*correct.T), abs=0.025)
    groups = np.arange(len(pairs)) // 3
    _, p = scores.max_t(correct, groups)
    assert p == pytest.approx(scores.sign_flip(*correct.T, groups), abs=0.025)


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=30))
@settings(max_examples=25, deadline=None)
def test_a_gain_is_tested_one_sided(gains):
    total = sum(gains)
    p = scores.gain_p_value(np.array(gains, float))
    sums = np.zeros(1)
    for gain in gains:
        sums = np.concatenate([sums + gain, sums - gain]) if len(sums) < 2**14 else sums
    if len([g for g in gains if g]) <= 14 and len(gains) <= 14:
        expected = (sums >= total).mean() if total > 0 else 1.0
        assert p == pytest.approx(expected, abs=0.025)
    assert 0 < p <= 1
