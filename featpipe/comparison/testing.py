"""Test each row against the recommended one, and against the majority class."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from featpipe.comparison.judging import HeldOut, JudgedContender
from featpipe.scores import (
    SIGNIFICANT,
    Score,
    detectable_difference,
    difference_interval,
    gain_p_value,
    grouped_difference,
    holm,
    least_p_value,
    max_t,
    mcnemar,
    sign_flip,
)

__all__ = ["describe_power", "judge_all", "majority_notes"]


def judge_all(entries: Sequence[JudgedContender], judged: HeldOut) -> list[Score]:
    """Test each contender against the recommended one, which is the first.

    Rows keep their order; external scores, which were never ranked, come last.
    """
    p_values = _p_values(entries, judged)
    # All rows are tested against the majority, so all of them are corrected together.
    majority = holm(_majority_p_value(entry, judged) for entry in entries)
    return [
        replace(
            entry.score,
            recommended=k == 0,
            p_value=None if k == 0 else p_values[k],
            tied_with_recommended=k > 0 and p_values[k] >= SIGNIFICANT,
            majority_p_value=majority[k],
            better_than_majority=majority[k] < SIGNIFICANT,
            **_difference(entry, entries[0], judged),
        )
        for k, entry in enumerate(entries)
    ]


def _p_values(entries: Sequence[JudgedContender], judged: HeldOut) -> list[float]:
    """Return the corrected p-value of each entry against the first; nan for that."""
    if not judged.nested:
        tested = [_paired(entry, entries[0], judged) for entry in entries[1:]]
        return [math.nan, *holm(tested)]
    # The first row was chosen on the images that judge it, so the test includes the
    # choice. An external score may cover the first fold only; it would restrict the
    # test of all others to these images.
    everywhere = [entry for entry in entries if len(entry.at) == len(judged.rows)]
    p_value = dict(zip(map(id, everywhere), _chosen(everywhere, judged), strict=True))
    for entry in entries:
        if id(entry) not in p_value:
            p_value[id(entry)] = float(_chosen([*everywhere, entry], judged)[-1])
    return [float(p_value[id(entry)]) for entry in entries]


def _paired(
    entry: JudgedContender, recommended: JudgedContender, judged: HeldOut
) -> float:
    at = entry.at
    correct = recommended.correct[np.searchsorted(recommended.at, at)], entry.correct
    if judged.grouped:
        return sign_flip(*correct, judged.group_numbers[at])
    return mcnemar(*correct)


def _chosen(entries: Sequence[JudgedContender], judged: HeldOut) -> np.ndarray:
    """Test the first entry, chosen among all, on the images that all have judged."""
    at = entries[-1].at
    correct = [entry.correct[np.searchsorted(entry.at, at)] for entry in entries]
    return max_t(
        np.column_stack(correct),
        judged.group_numbers[at] if judged.grouped else None,
        variance_ratio=judged.variance_ratio,
        seed=judged.seed,
    )


def _difference(
    entry: JudgedContender, recommended: JudgedContender, judged: HeldOut
) -> dict[str, Any]:
    if entry is recommended:
        return {}
    at = entry.at
    correct = entry.correct, recommended.correct[np.searchsorted(recommended.at, at)]
    difference, low, high = (
        grouped_difference(*correct, judged.group_numbers[at])
        if judged.grouped
        else difference_interval(*correct)
    )
    return {
        "difference": difference,
        "difference_low": low,
        "difference_high": high,
    }


def _majority_p_value(entry: JudgedContender, judged: HeldOut) -> float:
    """Test whether a contender does better than naming the most frequent class.

    Each image counts the same for the accuracy, each class the same for the other two
    metrics.
    """
    at = entry.at
    labels = judged.labels[at]
    gain = entry.correct.astype(float) - (judged.majority[at] == labels)
    if judged.metric != "accuracy":
        # Divided by class size the mean gain is that of balanced accuracy.
        gain /= np.bincount(labels)[labels]
    return gain_p_value(
        gain,
        judged.group_numbers[at] if judged.grouped else None,
        variance_ratio=judged.variance_ratio,
        seed=judged.seed,
    )


def majority_notes(scores: Sequence[Score], judged: HeldOut) -> Iterator[str]:
    """Yield which rows seem to have learned nothing, and what to do about it."""
    idle = [score for score in scores if not score.better_than_majority]
    if not idle:
        return
    yield (
        f"{len(idle)} of {len(scores)} rows, marked !, are not told apart from always "
        f"naming the most frequent class, {judged.majority_class!r}, which is right "
        f"for {100 * judged.majority_accuracy:.1f} %"
    )
    n_classes = len(np.unique(judged.labels))
    if judged.metric == "accuracy" and judged.majority_accuracy > 1.5 / n_classes:
        yield (
            "the classes are of unequal size: choose by the mean over classes, and let "
            "each class weigh the same, with --metric balanced_accuracy --class-weight "
            "balanced"
        )


def describe_power(
    entries: Sequence[JudgedContender], judged: HeldOut
) -> Iterator[str]:
    """Yield the differences that these images cannot show: all, or small ones."""
    others = entries[1:]
    if not others:
        return
    differences = [_difference_by_unit(entry, entries[0], judged) for entry in others]
    units = [int(np.count_nonzero(difference)) for difference in differences]
    # Holm multiplies the smallest p-value by the number of rows. A test that includes
    # the choice corrects in its own way, which is never less than not at all.
    n_tests = 1 if judged.nested else len(others)
    least = min(
        least_p_value(difference, variance_ratio=judged.variance_ratio)
        for difference in differences
    )
    unit = "groups" if judged.grouped else "images"
    # Even a row that is worse wherever the two differ would not be significant: the
    # user should know before reading anything into the order.
    if n_tests * least >= SIGNIFICANT:
        yield (
            "no difference can be significant: a row is right where the recommended "
            f"one is wrong, or the reverse, on at most {max(units)} {unit}"
            + f", and {len(others)} rows are tested"
            * (len(others) > 1)
        )
    elif not judged.grouped:
        discordance = float(np.median(units)) / len(judged.rows)
        smallest = detectable_difference(
            round(len(judged.rows) / judged.variance_ratio),
            discordance,
            level=SIGNIFICANT / len(others),
        )
        if math.isfinite(smallest):
            yield (
                f"the smallest difference that {len(judged.rows)} images would show in "
                f"4 of 5 comparisons is {100 * smallest:.1f} points, where two rows "
                f"differ on {100 * discordance:.1f} % of the images, the median here"
            )


def _difference_by_unit(
    entry: JudgedContender, recommended: JudgedContender, judged: HeldOut
) -> np.ndarray:
    """Return the difference in correct answers, on each image or group."""
    other = recommended.correct[np.searchsorted(recommended.at, entry.at)]
    gain: np.ndarray = entry.correct.astype(np.int64) - other
    if judged.grouped:
        gain = np.bincount(judged.group_numbers[entry.at], weights=gain).astype(int)
    return gain
