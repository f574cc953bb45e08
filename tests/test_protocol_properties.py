"""Splits, folds, groups and strata of drawn images, against plain loops."""

import re
from collections import Counter

import numpy as np
import pytest
from drawn_labels import (
    CLASS_NAMES,
    NO_GROUPS,
    SEEDS,
    SEVERAL,
    SPLITS,
    drawn_split,
    labelled,
    planned,
)
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from featpipe.protocol import (
    Part,
    describe_rows,
    folds,
    given_groups,
    group_numbers,
    labelled_rows,
    learned_splits,
    plan,
    resolve_C,
    split_rows,
    tuning_rows,
    unseen_classes,
)

quick = settings(deadline=None, max_examples=15)


@quick
@given(st.lists(st.text("ab ", max_size=2), max_size=30))
def test_rows_share_a_number_where_they_share_a_named_group(names):
    numbers = group_numbers(names)
    assert sorted(set(numbers)) == list(range(len(set(numbers))))
    for i, one in enumerate(names):
        for j, other in enumerate(names):
            same = i == j or (one == other != "")
            assert (numbers[i] == numbers[j]) == same
    assert (given_groups(names) is None) == (set(names) <= {""})


@quick
@given(st.lists(SPLITS, max_size=12))
def test_the_parts_of_a_split_are_those_of_its_rules(splits):
    names = set(splits)
    if len(names) < 2:
        assert split_rows(np.array(splits, object)) is None
        assert learned_splits(splits) == ()
        return
    if "train" not in names or names == {"train", ""}:
        with pytest.raises(ValueError, match="need 'train' and one of") as error:
            split_rows(np.array(splits, object))
        stated = re.findall(r"(\d+) have (?:the split '(\w+)'|none)", str(error.value))
        assert {name: int(n) for n, name in stated} == Counter(splits)
        assert learned_splits(splits) == ()
        return
    rows = split_rows(np.array(splits, object))
    three = {"train", "val", "test"} <= names
    parts = [rows.train, rows.choose, rows.held, rows.without]
    assert sorted(np.concatenate(parts)) == list(range(len(splits)))
    assert {splits[row] for row in rows.train} == {"train"}
    assert {splits[row] for row in rows.choose} == ({"val"} if three else set())
    assert {splits[row] for row in rows.held} == {rows.name} <= {"val", "test"}
    assert {splits[row] for row in rows.without} <= {""}
    learned = {splits[row] for row in [*rows.train, *rows.choose]}
    assert set(learned_splits(splits)) == learned


@quick
@given(labelled(splits=SEVERAL, lowest=-1))
def test_labelled_rows_are_those_with_a_label(images):
    rows, kept = labelled_rows(images)
    expected = [i for i, label in enumerate(images.labels) if label >= 0]
    assert rows.tolist() == expected
    assert kept.labels.tolist() == [images.labels[i] for i in expected]
    assert list(kept.splits) == [images.splits[i] for i in expected]
    assert list(kept.groups) == [images.groups[i] for i in expected]
    assert list(kept.class_names) == CLASS_NAMES


@quick
@given(labelled(), st.integers(2, 7), SEEDS)
def test_there_are_as_many_folds_as_classes_and_groups_allow(images, n_folds, seed):
    labels, groups = images.labels, images.groups
    largest = max(Counter(labels.tolist()).values())
    named = {name for name in groups if name}
    n_groups = len(named) + sum(name == "" for name in groups)
    n_most = min(n_folds, largest, *([n_groups] if named else []))
    if n_most < 2:
        with pytest.raises(ValueError, match=f"cannot make {n_folds} folds"):
            folds(labels, groups, n_folds=n_folds, seed=seed)
        return
    pairs = folds(labels, groups, n_folds=n_folds, seed=seed)
    assert len(pairs) <= n_most
    # A group that holds most images may leave folds empty; single images do not.
    if not named:
        assert len(pairs) == n_most
        for pair, other in zip(
            pairs, folds(labels, n_folds=n_folds, seed=seed), strict=True
        ):
            assert all(map(np.array_equal, pair, other))
    for pair in pairs:
        for rows in pair:
            assert rows.tolist() == sorted(set(rows.tolist()))
            assert rows.size > 0


@quick
@given(labelled(groups=NO_GROUPS), st.floats(0.05, 0.95), SEEDS)
def test_a_test_part_is_the_share_of_each_class_but_its_last_image(images, share, seed):
    protocol = planned(images, test_size=share, seed=seed)
    held = Counter(images.labels[protocol.judged].tolist())
    for label, n in Counter(images.labels.tolist()).items():
        assert held[label] == min(round(share * n), n - 1)
    (part,) = protocol.parts
    assert sorted([*part.train, *part.held]) == list(range(len(images.labels)))
    assert set(np.flatnonzero(protocol.sides)) == set(part.held)
    again = plan(images, test_size=share, seed=seed)
    assert np.array_equal(again.judged, protocol.judged)


@quick
@given(labelled(splits=SEVERAL, n_least=16))
def test_given_splits_are_taken_as_they_are_and_divided_groups_counted(images):
    rows = drawn_split(images)
    protocol = planned(images)
    three = len(rows.choose) > 0
    assert protocol.name == rows.name
    assert protocol.chosen_by_val == three
    assert protocol.judged.tolist() == rows.held.tolist()
    assert set(protocol.final.train) == {*rows.train, *rows.choose}
    assert set(np.flatnonzero(protocol.sides == -1)) == set(rows.without)
    # By the plainest loop: names that occur under two splits that take part.
    splits_of: dict[str, set[str]] = {}
    for name, split in zip(images.groups, images.splits, strict=True):
        if name and split:
            splits_of.setdefault(name, set()).add(split)
    divided = sorted(name for name in splits_of if len(splits_of[name]) > 1)
    notes = [note for note in protocol.notes if "divided by the given split" in note]
    expected = [f"split: {len(divided)}, such as {divided[0]!r};"] if divided else []
    assert len(notes) == len(expected)
    assert all(text in note for text, note in zip(expected, notes, strict=True))


@quick
@given(labelled(), SEEDS)
def test_the_other_folds_choose_inside_each_part(images, seed):
    protocol = planned(images, n_folds=4, seed=seed)
    folds_ = [set(part.held) for part in protocol.parts]
    for i, part in enumerate(protocol.parts):
        # The other folds choose inside this part, unless one class would be left.
        left = [set(part.train) - fold for fold in folds_[:i] + folds_[i + 1 :]]
        if all(len({images.labels[row] for row in rows}) > 1 for rows in left):
            assert [set(part.train[fitted]) for fitted, _ in part.selection] == left
            assert [set(part.train[scored]) for _, scored in part.selection] == [
                fold for k, fold in enumerate(folds_) if k != i
            ]


@quick
@given(labelled(splits=st.just(["train", "train", "test"])), SEEDS)
def test_few_training_images_have_further_folds_of_each_row(images, seed):
    assume(len(set(images.splits)) == 2)
    protocol = planned(images, n_folds=3, seed=seed)
    n = len(protocol.final.train)
    for fitted, scored in protocol.repeats:
        assert set(fitted).isdisjoint(scored)
        assert {*fitted, *scored} == set(range(n))
        assert len(set(images.labels[protocol.final.train[fitted]])) > 1
    # Four more cuts; one loses a fold where all it would learn is of one class.
    assert len(protocol.repeats) <= 4 * 3
    again = plan(images, n_folds=3, seed=seed)
    for pair, other in zip(protocol.repeats, again.repeats, strict=True):
        assert all(map(np.array_equal, pair, other))


@quick
@given(labelled(groups=NO_GROUPS), st.integers(2, 6))
def test_exactly_the_classes_smaller_than_the_folds_are_named(images, n_folds):
    protocol = planned(images, n_folds=n_folds)
    sizes = Counter(images.labels.tolist())
    small = [k for k in sorted(sizes) if sizes[k] < len(protocol.parts)]
    named = [text for text in protocol.warnings if "fewer training images" in text]
    assert len(named) == bool(small)
    for text in named:
        counts = ", ".join(str(sizes[k]) for k in small)
        assert f"({counts}) than the {len(protocol.parts)} folds" in text
        assert [k for k in sizes if repr(CLASS_NAMES[k]) in text] == [
            k for k in sizes if k in small
        ]


@quick
@given(
    st.lists(st.floats(1e-6, 1e6), max_size=3),
    st.just("auto") | st.floats(1e-6, 1e6),
    st.booleans(),
)
def test_a_C_is_chosen_where_there_are_folds_and_taken_where_there_is_one(
    Cs, C, has_folds
):
    pair = np.array([0, 1]), np.array([2, 3])
    part = Part(np.arange(4), np.arange(4, 5), [pair] * has_folds)
    if has_folds or C != "auto":
        assert resolve_C(part, C, Cs) == C
    elif len(Cs) == 1:
        assert resolve_C(part, C, Cs) == Cs[0]
    else:
        with pytest.raises(ValueError, match="4 training images are too few"):
            resolve_C(part, C, Cs)


@quick
@given(labelled(splits=SEVERAL, n_least=16, lowest=-1), SEEDS)
def test_a_tuning_holds_out_and_spares_what_its_plan_does(images, seed):
    rows, kept = labelled_rows(images)
    protocol = planned(kept, n_folds=3, seed=seed)
    tuning = None
    try:
        tuning = tuning_rows(images, n_folds=3, seed=seed)
    except ValueError:
        assume(False)
    part = protocol.parts[0]
    assert tuning.train.tolist() == rows[part.train].tolist()
    assert tuning.held.tolist() == rows[part.held].tolist()
    assert sorted([*tuning.fit, *tuning.select]) == tuning.train.tolist()
    # Those that choose are of the first pair that chooses C, and no class goes with
    # them.
    fitted, scored = part.selection[0]
    assert set(tuning.select) <= set(rows[part.train[scored]])
    if protocol.chosen_by_val:
        assert tuning.fit.tolist() == rows[part.train[fitted]].tolist()
    else:
        labels = images.labels
        assert set(labels[tuning.fit]) == set(labels[tuning.train])
    (sentence, *more) = describe_rows(tuning, refit=True)
    numbers = [len(tuning.train), len(tuning.select), len(tuning.held)]
    assert [int(n) for n in re.findall(r"\d+", sentence)] == numbers
    assert len(more) == protocol.nested


@quick
@given(st.sets(st.integers(0, 3)), st.sets(st.integers(0, 3)))
def test_classes_that_are_judged_and_never_learned_are_named(learned, judged):
    texts = list(unseen_classes(CLASS_NAMES, np.array([*learned]), np.array([*judged])))
    missing = [CLASS_NAMES[k] for k in sorted(judged - learned)]
    assert re.findall(r"'(\w+)'", " ".join(texts)) == missing
