"""Which C can still be chosen, by loops; rows in blocks, starts, and what is shared."""

import math
import threading
from contextvars import copy_context
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from featpipe import solvers
from featpipe.solvers import Judge, fold_codes, losses, problem, sharing
from featpipe.solvers.selection import AT_REST, CHANCE

quick = settings(deadline=None, max_examples=40)

SEEDS = st.integers(0, 10**6)


class Walks:
    """Predictions of some C for some rows, weighed, and a judge that knows them."""

    def __init__(self, seed: int, n_rows: int, n_C: int, noise: float) -> None:
        rng = np.random.default_rng(seed)
        n = 2 * n_rows
        truth = rng.integers(0, 3, n)
        weight = rng.choice([1.0, 2.0], n)
        self.truth, self.weight = truth, weight / weight.sum()
        wrong = rng.random((n_C, n)) < noise * rng.uniform(0.2, 1, (n_C, 1))
        self.predicted = np.where(wrong, rng.integers(0, 3, (n_C, n)), truth)
        # The second fold comes first, and every fold's rows in an order of their own.
        self.at = [rng.permutation(n_rows) for _ in range(2)]
        self.judge = Judge([(1, self.at[1]), (0, self.at[0])], truth, self.weight)
        for position in range(n_C):
            self.judge.add(position, self.by_fold(self.predicted[position]))

    def by_fold(self, pooled: np.ndarray) -> list[np.ndarray]:
        """Return predictions as folds have them: with rows that do not count."""
        half = len(pooled) // 2
        folds = []
        for at, part in zip(self.at, (pooled[half:], pooled[:half]), strict=True):
            fold = np.full(half, 9)
            fold[at] = part
            folds.append(fold)
        return folds

    def score(self, pooled: np.ndarray) -> float:
        right = zip(pooled, self.truth, self.weight, strict=True)
        return sum(w for p, t, w in right if p == t)

    def turned(self, one: np.ndarray, two: np.ndarray) -> float:
        rows = zip(one, two, self.truth, self.weight, strict=True)
        return sum(w * w for a, b, t, w in rows if (a == t) != (b == t))


WALKS = st.builds(
    Walks,
    SEEDS,
    st.integers(3, 60),
    st.integers(2, 5),
    st.sampled_from([0.02, 0.2, 0.9]),
)


@quick
@given(WALKS)
def test_scores_and_the_best_are_those_of_a_loop(walks):
    scores = [walks.score(pooled) for pooled in walks.predicted]
    assert [walks.judge.scores[p] for p in range(len(scores))] == pytest.approx(scores)
    top = max(scores)
    assert walks.judge.best == next(p for p, s in enumerate(scores) if s > top - 1e-9)
    row = max(walks.weight)
    close = [p for p, s in enumerate(scores) if s >= top - row - 1e-9]
    assert walks.judge.within_one_row() == close


def reaches(missing: float, v: float) -> bool:
    """Return whether a walk from so far below may end above, as the page has it."""
    if missing <= 0:
        return True
    return v > 0 and 2 * (1 - norm.cdf(missing / math.sqrt(v))) > CHANCE


@quick
@given(WALKS)
def test_a_C_is_needed_where_a_walk_may_pass_the_best(walks):
    scores = [walks.score(pooled) for pooled in walks.predicted]
    best = max(scores)
    for low, high in pairwise(range(len(scores))):
        before, after = walks.predicted[low], walks.predicted[high]
        v = walks.turned(before, after)
        bridge = (best - scores[low]) * (best - scores[high])
        between = v > 0 and math.exp(-2 * bridge / v) > CHANCE
        assert walks.judge.needs_between(low, high) == between
        moved = sum(walks.weight[before != after])
        missing = best - scores[high]
        at_rest = moved <= AT_REST and moved <= missing
        beyond = not at_rest and reaches(missing - 1e-12, 2 * v)
        assert walks.judge.needs_beyond(low, high, growing=False) == beyond
        assert walks.judge.needs_beyond(low, high, growing=True)


@quick
@given(WALKS, SEEDS)
def test_a_C_on_the_way_is_dropped_where_neither_test_lets_it_win(walks, seed):
    rng, n = np.random.default_rng(seed), len(walks.truth)
    best = walks.predicted[walks.judge.best]
    for share in (0.01, 0.3):
        now, then = (
            np.where(rng.random(n) < share, rng.integers(0, 3, n), pooled)
            for pooled in (best, walks.predicted[0])
        )
        v = min(2 * walks.turned(then, now), walks.turned(best, now))
        missing = walks.score(best) - walks.score(now)
        rejected = walks.judge.rejects(walks.by_fold(then), walks.by_fold(now))
        assert rejected == (not reaches(missing - 1e-12, v))


def test_a_metric_of_its_own_takes_the_place_of_the_score():
    walks = Walks(0, 10, 3, 0.9)
    judge = Judge(
        walks.judge.held_out, walks.truth, walks.weight, lambda p: float((p == 1).sum())
    )
    for position, pooled in enumerate(walks.predicted):
        judge.add(position, walks.by_fold(pooled))
    expected = {p: (pooled == 1).sum() for p, pooled in enumerate(walks.predicted)}
    assert judge.scores == expected


NUMBERS = st.floats(0, 3)


@quick
@given(
    st.lists(st.tuples(NUMBERS, st.floats(1e-3, 9)), min_size=1, max_size=4),
    NUMBERS,
    NUMBERS,
    st.integers(0, 2),
)
def test_the_bound_of_logistic_is_the_one_of_the_page(pairs, slope, steepest, n_free):
    pairs = sorted(pairs, key=lambda pair: pair[1])
    n_free = min(n_free, len(pairs) - 1)
    used = pairs[n_free:]
    decrement = math.sqrt(sum(along**2 / value for along, value in used))
    reach = decrement * math.sqrt(2 / min(value for _, value in used))
    if reach >= 1:
        expected = math.inf
    else:
        span = -math.log(1 - reach)
        length = decrement * (span / reach if reach > 0 else 1.0)
        moved = math.sqrt(math.exp(span) * steepest) * length
        expected = decrement * length + (slope + moved) ** 2 / 2
    along, values = (
        torch.tensor(part, dtype=torch.float64)[None]
        for part in zip(*pairs, strict=True)
    )
    ours = losses.logistic_gap(
        torch.tensor([slope], dtype=torch.float64),
        along,
        values,
        torch.tensor([steepest], dtype=torch.float64),
        torch.tensor([n_free]),
    )
    assert float(ours) == pytest.approx(expected, rel=1e-9)


def several_blocks(patch: pytest.MonkeyPatch) -> None:
    """Have blocks of 512 rows."""
    patch.setattr(fold_codes, "CPU_SCORES", 1)


@pytest.mark.parametrize("loss", ["linear", "svm", "logistic"])
@pytest.mark.parametrize("n_classes", [2, 3])
def test_many_blocks_of_rows_give_what_one_gives(loss, n_classes, monkeypatch):
    rng = np.random.default_rng(0)
    y = rng.integers(0, n_classes, 1500)
    X = rng.standard_normal((1500, 3))
    X[:, 0] += y
    ones, order = np.ones(1500), rng.permutation(1500)
    splits = [(order[400:], order[:400]), (order[:900], order[900:])]
    task = solvers.Problem(X, y, n_classes, loss, ones, ones)
    Cs = np.array([1e-3, 0.1])
    whole = solvers.solve_path(task, Cs, splits)
    several_blocks(monkeypatch)
    cut = solvers.solve_path(task, Cs, splits)
    for fold, (train, held) in enumerate(splits):
        one, other = whole.predicted[fold], cut.predicted[fold]
        assert one.shape == (2, len(held))
        assert (one != other).mean() < 0.002
        # The start of a fold alone is its own solution.
        for position, C in enumerate(Cs):
            own = solvers.Problem(
                X[train], y[train], n_classes, loss, ones[train], ones[train]
            )
            alone = solvers.solve(own, C)
            start = cut.start(position, [fold])
            np.testing.assert_allclose(start.coef, alone.coef, rtol=0.05, atol=5e-3)
            f = X[held] @ alone.coef.T + alone.intercept
            told = f.argmax(1) if n_classes > 2 else (f[:, 0] > 0)
            assert (told == other[position]).mean() > 0.99
    for position in (0, 1):
        each = [cut.start(position, [fold]) for fold in (0, 1)]
        both = cut.start(position)
        np.testing.assert_allclose(both.coef, (each[0].coef + each[1].coef) / 2)
        middle = (each[0].intercept + each[1].intercept) / 2
        np.testing.assert_allclose(both.intercept, middle)


def test_what_is_made_is_made_once_for_one_array_and_one_key():
    X, made = np.arange(12.0).reshape(4, 3), []

    def make(codes: np.ndarray, key: object) -> object:
        return sharing.make_once(codes, key, lambda: made.append(key) or object())

    assert make(X, "a") is not make(X, "a")  # nothing is kept outside the block
    with solvers.share_codes():
        first = make(X, "a")
        assert make(X, "a") is make(X.view(), "a") is first
        others = [
            make(X, "b"),
            make(X[:2], "a"),
            make(X[1:3], "a"),
            make(X[::2], "a"),
            make(X.T, "a"),
            make(X.copy(), "a"),
            make(X.view(np.int64), "a"),
        ]
        assert len({id(each) for each in [first, *others]}) == 8
        with solvers.share_codes():
            assert make(X, "a") is first
        assert make(X, "a") is first  # the inner block ends nothing
        # A thread shares where it has a copy of the context.
        seen: list[object] = []
        for run in (copy_context().run, lambda act: act()):
            work = threading.Thread(
                target=run, args=(lambda: seen.append(make(X, "a")),)
            )
            work.start()
            work.join()
        assert [each is first for each in seen] == [True, False]
    assert make(X, "a") is not first


def test_what_could_not_be_made_is_tried_again():
    X = np.zeros(3)
    with solvers.share_codes():
        with pytest.raises(KeyError):
            sharing.make_once(X, "a", lambda: {}["gone"])
        assert sharing.make_once(X, "a", lambda: 7) == 7


def test_a_digest_tells_where_one_array_ends():
    one, two = np.array([1, 2]), np.array([3])
    digests = {
        sharing.digest_of(one, two),
        sharing.digest_of(one[:1], np.array([2, 3])),
        sharing.digest_of(np.array([1, 2, 3])),
        sharing.digest_of(two, one),
    }
    assert len(digests) == 4
    # What lies apart in memory is digested by its numbers.
    assert sharing.digest_of(np.arange(6)[::2]) == sharing.digest_of(
        np.array([0, 2, 4])
    )


@pytest.mark.parametrize(
    ("memory", "n_bytes"),
    [
        (None, 10**9), (1000, 1000), (np.int64(5000), 5000), ("1KB", 1000),
        ("2 K", 2000), ("3MiB", 3 * 10**6), (".5GB", 5 * 10**8), ("1000TB", 10**15),
        (" 7 MB ", 7 * 10**6), (2.5e6, 2_500_000),
    ],
)  # fmt: skip
def test_a_size_is_read_as_people_write_it(memory, n_bytes):
    assert solvers.Options(memory=memory).n_bytes == n_bytes


@pytest.mark.parametrize("memory", [True, 999, "1001TB", "1 2GB", "8gb", "", "١GB"])
def test_a_size_that_is_none_is_named(memory):
    with pytest.raises(ValueError, match="is no size from 1KB to 1000TB"):
        _ = solvers.Options(memory=memory).n_bytes


def test_small_passes_keep_to_one_thread_and_give_the_others_back():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        for n_operations, threads in ((1, 1), (2.1e8, 1), (2.3e8, 3)):
            with pytest.raises(KeyError), problem.few_threads(n_operations):
                raise KeyError(torch.get_num_threads())
            with problem.few_threads(n_operations):
                assert torch.get_num_threads() == threads
            assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(("cuda", "device"), [(True, "cuda"), (False, "cpu")])
def test_auto_takes_a_gpu_only_for_much_work_where_there_is_one(
    monkeypatch, cuda, device
):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    X, y = np.broadcast_to(np.float32(0), (10_000, 512)), np.zeros(10_000, np.int64)
    task = solvers.Problem(X, y, 10, "svm", X[:, 0], X[:, 0])
    # 4 n d m k operations a pass: 1e9 for five folds of ten columns.
    assert problem.count_operations(task, 5, 512) == 4 * 5 * 10_000 * 512 * 10
    assert problem.choose_device(task, 5, solvers.Options()).type == device
    few = solvers.Problem(X[:50], y[:50], 2, "svm", X[:50, 0], X[:50, 0])
    # No more directions than rows, and one column for two classes.
    assert problem.count_operations(few, 5, 512) == 4 * 5 * 50 * 50
    assert problem.choose_device(few, 5, solvers.Options()).type == "cpu"
    named = solvers.Options(device="cpu")
    assert problem.choose_device(task, 5, named).type == "cpu"
    assert problem.group_size(10**9) == 1
    assert problem.group_size(10**7) == 10


def of_equal_rows(*wrong: range) -> Judge:
    """Return a judge of a thousand rows, of which each C tells some wrongly."""
    judge = Judge([(0, np.arange(1000))], np.ones(1000, int), np.full(1000, 1e-3))
    for position, rows in enumerate(wrong):
        judge.add(position, [told_wrongly(rows)])
    return judge


def told_wrongly(rows: range) -> np.ndarray:
    predicted = np.ones(1000, int)
    predicted[list(rows)] = 0
    return predicted


@pytest.mark.parametrize(("missing", "lost"), [(3, False), (4, True)])
def test_a_walk_on_the_way_has_twice_the_rows_that_turned_last(missing, lost):
    # 2 (1 - Φ(m / √2)) is 0.034 for three rows missing and one that turned, 0.005 for
    # four; with the one row alone it would be 0.003 for three.
    judge, now = of_equal_rows(range(0)), range(missing)
    then = range(1, missing)
    assert judge.rejects([told_wrongly(then)], [told_wrongly(now)]) == lost


def test_solutions_are_at_rest_only_below_what_is_missing():
    # One row of a thousand turned, and the last C is the best so far.
    assert of_equal_rows(range(1), range(0)).needs_beyond(0, 1, growing=False)
    # Two are missing, more than turned: no larger C will bring them.
    judge = of_equal_rows(range(0), range(3), range(2))
    assert not judge.needs_beyond(1, 2, growing=False)
    # Six of a thousand are more than rest.
    judge = of_equal_rows(range(0), range(10), range(4))
    assert judge.needs_beyond(1, 2, growing=False)
