"""Do the statements of the table hold? Coverage, false claims, and what choosing costs.

    python benchmarks/judging.py [--runs 300] [PART …]

Everything is drawn at random, so what is true is known. The classifier is ridge in
closed form (the objective of `linear`), so that hundreds of comparisons take minutes;
folds, intervals and tests are featpipe's own.

coverage     intervals of an accuracy
groups       the same over images in groups
pooled       the same over pooled predictions of folds
differences  intervals of the difference of two rows on the same images
claims       null runs without a split in which some row is called worse
held         the same with held-out images
power        how often McNemar's test shows the smallest difference that is named
regret       what the recommended row lacks to the best one
flattery     by how much the score of the row flatters that held-out images choose
"""

import argparse
import time
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import binom, norm

from featpipe.protocol import folds
from featpipe.scores import (
    accuracy_interval,
    detectable_difference,
    difference_interval,
    exact,
    fold_variance_ratio,
    grouped_interval,
    holm,
    max_t,
    mcnemar,
    wilson,
)

ALPHAS = 10.0 ** np.arange(-1, 5)  # 1 / 2C


def draw(
    rng: np.random.Generator,
    n: int,
    distances: Iterable[float],
    width: int,
    shared: float = 0.5,
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Draw labels of two even classes, and codes of one depth for each distance.

    All depths share a part of their noise, as depths of one network do.
    """
    labels = np.arange(n) % 2
    centres = rng.normal(size=(2, width))
    centres /= np.linalg.norm(centres[0] - centres[1])
    common = np.sqrt(shared) * rng.normal(size=(n, width))
    return labels, [
        distance * centres[labels]
        + common
        + np.sqrt(1 - shared) * rng.normal(size=(n, width))
        for distance in distances
    ]


def ridge(
    X: np.ndarray,
    y: np.ndarray,
    train: np.ndarray,
    held: np.ndarray,
    alphas: ArrayLike,
) -> np.ndarray:
    """Return the classes of ``held`` by ridge on ``train``, (n_alphas, n_held)."""
    mean, scale = X[train].mean(axis=0), X[train].std(axis=0)
    A, B = (X[train] - mean) / scale, (X[held] - mean) / scale
    target = 2.0 * y[train] - 1
    U, s, Vt = np.linalg.svd(A, full_matrices=False)
    aim = U.T @ (target - target.mean())
    weights = s / (s**2 + np.asarray(alphas)[:, None]) * aim
    values: np.ndarray = weights @ (Vt @ B.T) + target.mean()
    return (values > 0).astype(int)


def out_of_fold(
    X: np.ndarray,
    y: np.ndarray,
    pairs: Iterable[tuple[np.ndarray, np.ndarray]],
    alphas: Sequence[float] | np.ndarray,
) -> np.ndarray:
    """Return whether each row is right, by fits without it: (n_alphas, n)."""
    correct = np.empty((len(alphas), len(y)), bool)
    for train, held in pairs:
        correct[:, held] = ridge(X, y, train, held, alphas) == y[held]
    return correct


def coverage(runs: int) -> None:
    """Compute the lowest coverage of each interval over accuracies from 50 to 100 %."""
    print("\n| images | Wilson | exact | the table's |\n|---|---|---|---|")
    for n in (20, 40, 153, 398, 1000):
        k = np.arange(n + 1)
        p = np.concatenate([np.linspace(0.5, 0.9, 400), 1 - np.geomspace(0.1, 0.02 / n,
                            3000)])  # fmt: skip
        chance = binom.pmf(k[:, None], n, p)
        lowest = []
        for interval in (wilson, exact, accuracy_interval):
            limits = np.array([interval(each, n) for each in k.tolist()])
            inside = (limits[:, :1] <= p) & (p <= limits[:, 1:])
            lowest.append((inside * chance).sum(axis=0).min())
        print(f"| {n} | " + " | ".join(f"{each:.3f}" for each in lowest) + " |")


def groups(runs: int) -> None:
    """Draw images in groups of equal accuracy within, and count what is covered."""
    print("\n| groups of 8 | accuracy | correlation | as images | as groups |")
    print("|---|---|---|---|---|")
    rng = np.random.default_rng(0)
    for n_groups in (8, 20, 50):
        numbers = np.repeat(np.arange(n_groups), 8)
        for accuracy in (0.8, 0.95):
            for correlation in (0.05, 0.3, 0.8):
                a, b = (x * (1 / correlation - 1) for x in (accuracy, 1 - accuracy))
                hit = np.zeros(2)
                for _ in range(4 * runs):
                    of_group = rng.beta(a, b, n_groups)
                    correct = rng.random(len(numbers)) < of_group[numbers]
                    for i, (low, high) in enumerate((
                        wilson(int(correct.sum()), len(correct)),
                        grouped_interval(correct, numbers),
                    )):  # fmt: skip
                        hit[i] += low <= accuracy <= high
                shares = " | ".join(f"{each:.2f}" for each in hit / (4 * runs))
                print(f"| {n_groups} | {accuracy} | {correlation} | {shares} |")


def pooled(runs: int) -> None:
    """Count how often intervals of pooled predictions cover what new images give."""
    print("\n| images | accuracy | exact or Wilson | asked |\n|---|---|---|---|")
    n_new = 1000
    for n, distance in ((40, 2.2), (100, 2.2), (200, 2.2), (400, 2.2), (200, 4.0)):
        covered, accuracy = 0, 0.0
        for seed in range(runs):
            rng = np.random.default_rng(seed)
            labels, (X,) = draw(rng, n + n_new, [distance], 50)
            new = np.arange(n, n + n_new)
            right = truth = 0.0
            for train, held in folds(labels[:n], seed=seed):
                named = ridge(X, labels, train, np.concatenate([held, new]), [10.0])[0]
                true = labels[np.concatenate([held, new])]
                right += (named == true)[: len(held)].sum()
                truth += (named == true)[len(held) :].mean() * len(held) / n
            low, high = accuracy_interval(int(right), n)
            covered += low <= truth <= high
            accuracy += truth / runs
        print(f"| {n} | {accuracy:.2f} | {covered / runs:.2f} | 0.95 |", flush=True)


def differences(runs: int) -> None:
    """Count how often the interval of a difference covers it."""
    print("\n| images | accuracies | both wrong | coverage |\n|---|---|---|---|")
    rng = np.random.default_rng(0)
    for n in (40, 153, 400):
        for first, second, neither in (
            (0.9, 0.9, 0.05),
            (0.95, 0.9, 0.04),
            (0.8, 0.7, 0.1),
            (0.98, 0.97, 0.015),
        ):
            both = first + second + neither - 1
            cells = [both, first - both, second - both, neither]
            covered = 0
            for counts in rng.multinomial(n, cells, size=10 * runs):
                one = np.repeat([True, True, False, False], counts)
                other = np.repeat([True, False, True, False], counts)
                _, low, high = difference_interval(one, other)
                covered += low <= first - second <= high
            share = covered / (10 * runs)
            print(f"| {n} | {first}, {second} | {neither} | {share:.3f} |", flush=True)


def claims(runs: int) -> None:
    """Count null runs without a split in which some row is called worse."""
    print("\n| images | rows | width | groups of | accuracy | McNemar + Holm | maxT | "
          "the table's |\n|---|---|---|---|---|---|---|---|")  # fmt: skip
    settings = [(n, k, 16, 1, 0.0) for n in (40, 100, 200, 400) for k in (9, 24)]
    settings += [(150, 9, 16, 1, 3.0), (150, 24, 16, 1, 3.0), (150, 9, 100, 1, 3.0)]
    settings += [(400, 9, 16, 1, 3.0), (400, 24, 16, 1, 3.0)]
    settings += [(200, 9, 16, 5, 0.0), (200, 24, 16, 5, 3.0)]
    for n, n_rows, width, size, distance in settings:
        claimed, accuracy = np.zeros(3), 0.0
        for seed in range(runs):
            rng = np.random.default_rng(seed)
            # Of one group all images are of one class and share half of their noise.
            labels, depths = draw(rng, n // size, [distance] * n_rows, width)
            groups = np.repeat(np.arange(n // size), size)
            labels = labels[groups]
            if size > 1:
                depths = [
                    X[groups] + rng.normal(size=(n, width)) for X in depths
                ]  # fmt: skip
            pairs = folds(labels, groups.astype(str) if size > 1 else None, seed=seed)
            value = groups if size > 1 else None
            correct = np.array(
                [out_of_fold(X, labels, pairs, [10.0])[0] for X in depths]
            )
            best = correct.mean(axis=1).argmax()
            correct = correct[[best, *np.delete(np.arange(n_rows), best)]].T
            raw = [mcnemar(correct[:, 0], correct[:, j]) for j in range(1, n_rows)]
            claimed += [
                min(holm(raw)) < 0.05,
                np.nanmin(max_t(correct, value)) < 0.05,
                np.nanmin(max_t(correct, value, variance_ratio=fold_variance_ratio(5)))
                < 0.05,
            ]
            accuracy += correct.mean() / runs
        shares = " | ".join(f"{100 * each:.1f} %" for each in claimed / runs)
        of = size if size > 1 else ""
        print(f"| {n} | {n_rows} | {width} | {of} | {accuracy:.2f} | {shares} |",
              flush=True)  # fmt: skip


def held(runs: int) -> None:
    """Count null runs with held-out images in which some row is called worse.

    Models of equal accuracy, and equal methods fitted on 100 images: their models do
    differ, which the test is there to show.
    """
    print("\n| held-out images | rows | equal models | fitted on 100 images |\n"
          "|---|---|---|---|")  # fmt: skip
    for n_held in (40, 153, 400):
        for n_rows in (9, 24):
            claimed = np.zeros(2)
            for seed in range(runs):
                rng = np.random.default_rng(seed)
                # Half of what makes an image hard is the same for all rows.
                hard = rng.normal(size=(1, n_held)) + rng.normal(size=(n_rows, n_held))
                equal = hard < norm.ppf(0.85) * np.sqrt(2)
                # No matter which row: held-out images had no part in choosing it.
                claimed[0] += _called_worse(equal, 0)
                claimed[1] += _called_worse(*_fitted(rng, n_held, n_rows, seed))
            shares = " | ".join(f"{100 * each:.1f} %" for each in claimed / runs)
            print(f"| {n_held} | {n_rows} | {shares} |", flush=True)


def _called_worse(right: np.ndarray, best: int) -> bool:
    """Return whether a row is told apart from row ``best``, given what is right."""
    raw = [mcnemar(right[best], row) for k, row in enumerate(right) if k != best]
    return min(holm(raw)) < 0.05


def _fitted(
    rng: np.random.Generator, n_held: int, n_rows: int, seed: int
) -> tuple[np.ndarray, int]:
    """Return what is right of the held-out images, and the row that cv recommends."""
    labels, depths = draw(rng, 100 + n_held, [2.2] * n_rows, 16)
    train, judge = np.arange(100), np.arange(100, 100 + n_held)
    pairs = folds(labels[:100], seed=seed)
    cv = [out_of_fold(X[:100], labels[:100], pairs, [10.0]).mean() for X in depths]
    named = [ridge(X, labels, train, judge, [10.0])[0] for X in depths]
    return np.array(named) == labels[judge], int(np.argmax(cv))


def power(runs: int) -> None:
    """Count how often McNemar's test shows the smallest difference that is named."""
    print("\n| images | rows differ on | difference | shown |\n|---|---|---|---|")
    rng = np.random.default_rng(0)
    for n in (100, 153, 400, 1000):
        for discordance in (0.05, 0.1, 0.2):
            smallest = detectable_difference(n, discordance)
            if not np.isfinite(smallest):
                print(f"| {n} | {discordance:.0%} | none | |")
                continue
            share = (1 + smallest / discordance) / 2
            n_differ = rng.binomial(n, discordance, size=10 * runs)
            shown = 0
            for k, better in zip(n_differ, rng.binomial(n_differ, share), strict=True):
                one = np.repeat([True, False], [better, k - better])
                shown += mcnemar(one, ~one) < 0.05
            print(f"| {n} | {discordance:.0%} | {100 * smallest:.1f} points | "
                  f"{100 * shown / (10 * runs):.0f} % |", flush=True)  # fmt: skip


def regret(runs: int) -> None:
    """Measure what the recommended row lacks to the best one, by 1 and 5 repeats."""
    print("\n| training images | rows | lost, 1 × 5 folds | lost, 5 × 5 | cv above the "
          "truth, 1 × 5 | cv above, 5 × 5 |\n|---|---|---|---|---|---|")  # fmt: skip
    n_new = 1000
    for n in (40, 100, 200, 400):
        for n_rows in (9, 24):
            lost = np.zeros((runs // 3, 4))
            for seed in range(len(lost)):
                rng = np.random.default_rng(seed)
                distances = 2.2 + 0.3 * rng.normal(size=n_rows)
                labels, depths = draw(rng, n + n_new, distances, 50)
                train, new = np.arange(n), np.arange(n, n + n_new)
                y = labels[:n]
                cuts = [folds(y, seed=seed + 1000 * k) for k in range(5)]
                cv, truth = np.empty((n_rows, 5)), np.empty(n_rows)
                for row, X in enumerate(depths):
                    one = out_of_fold(X[:n], y, cuts[0], ALPHAS).mean(axis=1)
                    alpha = [ALPHAS[one.argmax()]]
                    cv[row] = [out_of_fold(X[:n], y, cut, alpha).mean() for cut in cuts]
                    named = ridge(X, labels, train, new, alpha)[0]
                    truth[row] = (named == labels[new]).mean()
                once, often = cv[:, 0].argmax(), cv.mean(axis=1).argmax()
                lost[seed] = (
                    truth.max() - truth[once],
                    truth.max() - truth[often],
                    cv[once, 0] - truth[once],
                    cv[often].mean() - truth[often],
                )
            points = " | ".join(f"{100 * each:.1f}" for each in lost.mean(axis=0))
            print(f"| {n} | {n_rows} | {points} |", flush=True)


def flattery(runs: int) -> None:
    """Measure how much the score of the row flatters that held-out images choose."""
    print("\n| held-out images | rows | flatters by |\n|---|---|---|")
    for n_held in (40, 153, 400):
        for n_rows in (9, 24):
            gained = []
            for seed in range(runs // 3):
                rng = np.random.default_rng(seed)
                labels, depths = draw(rng, 200 + n_held + 1000, [2.2] * n_rows, 50)
                held = np.arange(200, len(labels))
                right = np.array([
                    ridge(X, labels, np.arange(200), held, [10.0])[0] == labels[held]
                    for X in depths
                ])  # fmt: skip
                shown = right[:, :n_held].mean(axis=1)
                best = shown.argmax()
                gained.append(shown[best] - right[best, n_held:].mean())
            print(f"| {n_held} | {n_rows} | {100 * np.mean(gained):.1f} points |")


PARTS = {
    part.__name__: part
    for part in (
        *(coverage, groups, pooled, differences, claims, held, power),
        *(regret, flattery),
    )
}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", choices=[[], *PARTS], default=list(PARTS))
    parser.add_argument("--runs", type=int, default=300)
    options = parser.parse_args()
    for name in options.parts or PARTS:
        start = time.perf_counter()
        PARTS[name](options.runs)
        print(f"\n{name}: {time.perf_counter() - start:.0f} s", flush=True)
