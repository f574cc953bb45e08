"""Folds: every row held out once, classes even, groups whole."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featpipe.protocol import folds, group_numbers


@given(
    st.lists(st.integers(0, 3), min_size=8, max_size=60),
    st.integers(2, 6),
    st.integers(0, 5),
)
@settings(deadline=None)
def test_folds_hold_every_row_out_once_and_stratify(labels, n_folds, seed):
    labels = np.array(labels)
    pairs = folds(labels, n_folds=n_folds, seed=seed)
    held = np.concatenate([held for _, held in pairs])
    assert sorted(held) == list(range(len(labels)))
    for train, part in pairs:
        assert set(train) | set(part) == set(range(len(labels)))
        assert not set(train) & set(part)
    for label in np.unique(labels):
        counts = [int((labels[part] == label).sum()) for _, part in pairs]
        assert max(counts) - min(counts) <= 1


@given(st.data())
@settings(deadline=None, max_examples=50)
def test_folds_never_part_a_group(data):
    n = data.draw(st.integers(12, 40))
    labels = np.array(data.draw(st.lists(st.integers(0, 2), min_size=n, max_size=n)))
    groups = data.draw(st.lists(st.sampled_from([*"abcdef", ""]), min_size=n,
                                max_size=n))  # fmt: skip
    if len(set(group_numbers(groups))) < 2:
        return
    pairs = folds(labels, groups, n_folds=3)
    for train, held in pairs:
        of_train = {groups[i] for i in train} - {""}
        assert not of_train & {groups[i] for i in held}
    assert sorted(np.concatenate([held for _, held in pairs])) == list(range(n))


def test_same_seed_gives_same_folds_and_another_seed_others():
    labels = np.arange(60) % 3
    for first, again in zip(folds(labels), folds(labels), strict=True):
        assert np.array_equal(first[1], again[1])
    other = folds(labels, seed=1)
    assert not np.array_equal(folds(labels)[0][1], other[0][1])


def test_too_few_images_for_folds_is_an_error():
    with pytest.raises(ValueError, match="at least two folds"):
        folds(np.array([0, 1, 2]))
