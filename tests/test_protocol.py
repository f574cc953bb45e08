"""Who trains and who judges, without any fitting."""

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featpipe.protocol import LabelledRows, learned_splits, plan, tuning_rows

NAMES = ["ant", "bee", "cat"]
BLANK = np.array([""] * 60, object)


def make(labels, splits=None, groups=None, **options):
    n = len(labels)
    blank = np.array([""] * n, object)
    images = LabelledRows(
        np.asarray(labels),
        blank if splits is None else np.array(splits, object),
        blank if groups is None else np.array(groups, object),
        NAMES,
    )
    return plan(images, **options)


def warnings_and_notes(protocol):
    return " | ".join([*protocol.warnings, *protocol.notes])


SPLITS = st.sampled_from(["train", "train", "val", "test"])


@given(st.lists(st.tuples(st.integers(0, 2), SPLITS), min_size=30, max_size=80))
@settings(deadline=None, max_examples=60)
def test_no_judged_row_is_ever_learned_from(rows):
    labels, splits = map(list, zip(*rows, strict=True))
    try:
        protocol = make(labels, splits)
    except ValueError:
        return
    for part in protocol.parts:
        assert not set(part.train) & set(part.held)
        for fitted, scored in part.selection:
            assert not set(fitted) & set(scored)
            assert max([*fitted, *scored]) < len(part.train)
    held = {i for i, split in enumerate(splits) if split == protocol.name}
    # Rows of one split alone have no split.
    everyone = set(range(len(labels)))
    assert set(protocol.judged) == (everyone if len(set(splits)) == 1 else held)


@given(st.lists(st.integers(0, 2), min_size=20, max_size=60), st.integers(0, 4))
@settings(deadline=None, max_examples=40)
def test_without_a_split_every_row_is_judged_once(labels, seed):
    try:
        protocol = make(labels, n_folds=3, seed=seed)
    except ValueError:
        return
    assert protocol.nested
    assert np.array_equal(protocol.judged, np.arange(len(labels)))
    for side, part in enumerate(protocol.parts):
        assert set(part.train) | set(part.held) == set(range(len(labels)))
        assert (protocol.sides[part.held] == side).all()
    assert len(protocol.final.held) == 0


@pytest.mark.parametrize("options", [{}, {"test_size": 0.25}, {"test_size": 0.7}])
def test_groups_are_on_one_side_of_every_cut(options):
    labels = np.arange(60) % 3
    groups = [f"g{i // 5}" for i in range(50)] + [""] * 10
    protocol = make(labels, groups=groups, n_folds=3, **options)
    for part in protocol.parts:
        pairs = [(part.train, part.held)]
        pairs += [(part.train[a], part.train[b]) for a, b in part.selection]
        for one, other in pairs:
            assert not ({groups[i] for i in one} & {groups[i] for i in other}) - {""}


def test_test_wins_over_val_and_val_chooses():
    protocol = make([0, 1] * 15, ["train"] * 10 + ["val"] * 10 + ["test"] * 10)
    assert protocol.name == "test"
    assert np.array_equal(protocol.final.train, np.arange(20))
    ((fitted, scored),) = protocol.final.selection
    assert np.array_equal(fitted, np.arange(10))
    assert np.array_equal(scored, np.arange(10, 20))


def test_a_single_split_name_is_no_split():
    protocol = make([0, 1] * 10, ["train"] * 20)
    assert protocol.name == "5-fold"
    assert "every image is of split 'train'" in warnings_and_notes(protocol)


def test_a_test_part_keeps_the_share_of_every_class():
    labels = np.array([0] * 40 + [1] * 20 + [2])
    protocol = make(labels, test_size=0.25)
    held = labels[protocol.judged]
    assert [(held == label).sum() for label in range(3)] == [10, 5, 0]
    assert "no held-out images of class 'cat'" in warnings_and_notes(protocol)
    other = make(labels, test_size=0.25, seed=1)
    assert not np.array_equal(other.judged, protocol.judged)


def test_what_is_too_small_or_missing_is_said():
    labels = [0] * 10 + [1] * 10 + [2] * 2 + [0, 1]
    protocol = make(labels, ["train"] * 22 + ["val"] * 2)
    assert (
        "class 'cat' has fewer training images (2) than the 5 folds"
        in warnings_and_notes(protocol)
    )
    assert "no held-out images of class 'cat'" in warnings_and_notes(protocol)
    protocol = make([0, 1] * 8 + [2, 0], ["train"] * 16 + ["test"] * 2)
    assert "no training images of class 'cat'" in warnings_and_notes(protocol)


def test_classes_are_measured_by_the_folds_that_there_are():
    # No class has five training images, so there are three folds, and all have all.
    protocol = make(
        [0] * 4 + [1] * 4, ["train"] * 3 + ["val"] + ["train"] * 3 + ["val"]
    )
    assert len(protocol.final.selection) == 3
    assert not [text for text in protocol.warnings if "fewer training" in text]
    labels = [0] * 4 + [1] * 2 + [2] * 2 + [0, 1, 2]
    protocol = make(labels, ["train"] * 8 + ["val"] * 3)
    assert (
        "classes 'bee', 'cat' have fewer training images (2, 2) than the 4 folds: some "
        "folds lack them" in warnings_and_notes(protocol)
    )


def test_a_given_split_that_parts_a_group_is_said():
    groups = ["a"] * 3 + [""] * 14 + ["b", "b", "a"]
    protocol = make([0, 1] * 10, ["train"] * 16 + ["test"] * 4, groups)
    assert "groups divided by the given split: 1, such as 'a'" in warnings_and_notes(
        protocol
    )


def test_rows_without_a_split_take_no_part_beside_a_split():
    protocol = make([0, 1] * 12, ["train"] * 12 + ["test"] * 8 + [""] * 4)
    assert "4 labelled images without a split" in warnings_and_notes(protocol)
    assert set(protocol.sides[20:]) == {-1}
    assert protocol.judged.max() == 19


@pytest.mark.parametrize(
    ("labels", "splits", "options", "says"),
    [
        ([0] * 20, None, {}, "the 20 labelled images are all of class 'ant'"),
        ([0] * 10 + [1] * 10, ["train"] * 10 + ["val"] * 10, {}, "10 training images"),
        (
            [0, 1, 2],
            None,
            {},
            "too few to hold any out .* at least two classes 2 images",
        ),
        (
            [0, 1] * 4,
            ["val"] * 4 + ["test"] * 4,
            {},
            "4 have the split 'val' and 4 have the",
        ),
        (
            [0, 1] * 4,
            ["test"] * 4 + [""] * 4,
            {},
            "4 have the split 'test' and 4 have none; learning and",
        ),
        ([0, 1] * 4, ["train"] * 4 + [""] * 4, {}, "need 'train' and one of"),
        ([0, 1] * 8, ["train"] * 8 + ["val"] * 8, {"test_size": 0.2}, "already"),
        ([0] * 19 + [1], None, {}, "training images are all of class 'ant'"),
    ],
)
def test_nothing_to_learn_or_judge_is_an_error(labels, splits, options, says):
    with pytest.raises(ValueError, match=says):
        make(labels, splits, **options)


def tuning(labels, splits=None, groups=None, seed=0):
    blank = np.array([""] * len(labels), object)
    images = LabelledRows(
        np.asarray(labels),
        blank if splits is None else np.array(splits, object),
        blank if groups is None else np.array(groups, object),
        NAMES,
    )
    return tuning_rows(images, seed=seed)


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_tuning_rows_do_not_overlap_and_no_class_is_lost(data):
    n = data.draw(st.integers(12, 40))

    def column(values):
        drawn = st.lists(st.sampled_from(values), min_size=n, max_size=n)
        return np.array(data.draw(drawn))

    labels = column([-1, 0, 0, 1, 1, 2])
    splits = column(["train", "train", "test"])
    groups = column(["", "", "g", "h"])
    says = ""
    try:
        rows = tuning(labels, splits, groups, seed=data.draw(st.integers(0, 3)))
    except ValueError as error:
        says = str(error)
    if says:
        assert re.search("two|too few", says)
        return
    assert sorted([*rows.fit, *rows.select]) == rows.train.tolist()
    assert not set(rows.train) & set(rows.held)
    assert (labels[[*rows.train, *rows.held]] >= 0).all()
    assert {*labels[rows.fit]} == {*labels[rows.train]}
    named = {g for g in groups[rows.fit] if g}
    assert not named & {g for g in groups[rows.select] if g}


def test_with_three_splits_val_chooses_and_is_learned_from_at_the_end():
    rows = tuning([0, 1] * 20, ["train"] * 20 + ["val"] * 10 + ["test"] * 10)
    assert rows.fit.tolist() == list(range(20))
    assert rows.select.tolist() == list(range(20, 30))
    assert rows.train.tolist() == list(range(30))
    assert (rows.held.tolist(), rows.protocol) == (list(range(30, 40)), "test")


@pytest.mark.parametrize("value", [["train", "test"], ["train", "val"], [""]])
def test_tuning_holds_out_what_the_plan_holds_out(value):
    rng = np.random.default_rng(0)
    labels, splits = rng.integers(0, 3, 60), rng.choice(value, 60)
    part = make(labels, splits).parts[0]
    rows = tuning(labels, splits)
    assert np.array_equal(rows.train, part.train)
    assert np.array_equal(rows.held, part.held)
    for pair, other in zip(rows.folds, part.selection, strict=True):
        assert np.array_equal(pair[0], other[0])
        assert np.array_equal(pair[1], other[1])
    # The first fold that chooses C chooses the epoch too.
    assert np.array_equal(rows.select, rows.train[part.selection[0][1]])


@pytest.mark.parametrize(
    ("splits", "learned"),
    [
        (["train", "test"], ("train",)),
        (["test", "val", "train"], ("train", "val")),
        (["val", "train", ""], ("train",)),
        (["val", "test"], ()),
        (["train"], ()),
        (["train", ""], ()),
        ([], ()),
    ],
)
def test_learned_splits_are_those_the_plan_trains_on(splits, learned):
    assert learned_splits(splits) == learned
    rows = [split for split in splits for _ in range(12)]
    try:
        protocol = make([0, 1] * (len(rows) // 2), rows)
    except ValueError:
        return
    if not protocol.nested:
        assert {rows[row] for row in protocol.final.train} == set(learned)


def test_a_training_part_too_small_for_folds_has_no_selection():
    protocol = make([0, 1, 0, 1], ["train", "train", "test", "test"])
    assert protocol.final.selection == []
    assert "too few for cross-validation" in warnings_and_notes(protocol)


@pytest.mark.parametrize(
    ("splits", "warned"),
    [
        (["train"] * 199 + ["test"] * 9, "fewer than 200 images to learn from"),
        (["train"] * 200 + ["test"] * 9, ""),
        (
            ["train"] * 300 + ["val"] * 199 + ["test"] * 9,
            "images of 'val' (199) choose",
        ),
        (["train"] * 30 + ["val"] * 200 + ["test"] * 9, ""),
    ],
)
def test_few_images_that_choose_are_warned_of(splits, warned):
    notes = warnings_and_notes(make(np.arange(len(splits)) % 2, splits))
    assert warned in notes
    assert bool(warned) == ("may be better" in notes)


@given(st.lists(st.integers(2, 9), min_size=3, max_size=3))
@settings(deadline=None, max_examples=25)
def test_the_classes_with_fewer_rows_than_folds_are_named_and_counted(sizes):
    labels = [k for k, size in enumerate(sizes) for _ in range(size)]
    splits = ["train"] * len(labels) + ["val"] * 3
    protocol = make([*labels, 0, 1, 2], splits)
    n_folds = len(protocol.final.selection)
    assert n_folds == min(5, max(sizes))
    small = {NAMES[k]: size for k, size in enumerate(sizes) if size < n_folds}
    told = [text for text in protocol.warnings if "fewer training" in text]
    assert len(told) == bool(small)
    for text in told:
        assert re.findall(r"'(\w+)'", text) == list(small)
        assert f"({', '.join(map(str, small.values()))})" in text
        assert f"than the {n_folds} folds" in text
        assert text.endswith("lack them" if len(small) > 1 else "lack it")
