"""What must not change a plan: held-out labels, rows that take no part, mere names."""

import re
from dataclasses import replace

import numpy as np
import pytest
from drawn_labels import (
    GROUPS,
    NO_GROUPS,
    SEEDS,
    SEVERAL,
    drawn_split,
    labelled,
    planned,
)
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from featpipe.protocol import (
    FEW,
    LabelledRows,
    Protocol,
    folds,
    plan,
    tuning_rows,
)

quick = settings(deadline=None, max_examples=15)

# The validation part of a plan chooses, so its labels may change what is chosen.
HELD = st.just(["train", "train", "test"])


def pairs_of(protocol: Protocol) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return the row numbers of everything that is fitted, and what it scores."""
    pairs = []
    for part in [protocol.final, *protocol.parts]:
        pairs.append((part.train, part.held))
        pairs += [(part.train[a], part.train[b]) for a, b in part.selection]
    train = protocol.final.train
    return pairs + [(train[a], train[b]) for a, b in protocol.repeats]


def same_pairs(first: Protocol, second: Protocol) -> bool:
    pairs, others = pairs_of(first), pairs_of(second)
    return len(pairs) == len(others) and all(
        np.array_equal(a, b)
        for pair, other in zip(pairs, others, strict=True)
        for a, b in zip(pair, other, strict=True)
    )


@quick
@given(labelled(splits=HELD, n_least=20), SEEDS, st.randoms(use_true_random=False))
def test_labels_of_held_out_rows_decide_nothing(images, seed, random):
    protocol = planned(images, n_folds=3, seed=seed)
    assume(not protocol.nested)
    labels = images.labels.copy()
    drawn = [random.randrange(4) for _ in protocol.judged]
    labels[protocol.judged] = drawn
    other = plan(replace(images, labels=labels), n_folds=3, seed=seed)
    assert same_pairs(protocol, other)
    # Nor do they decide what chooses the learning rate and the epoch.
    try:
        tuning = tuning_rows(images, n_folds=3, seed=seed)
    except ValueError:
        assume(False)
    again = tuning_rows(replace(images, labels=labels), n_folds=3, seed=seed)
    assert np.array_equal(again.fit, tuning.fit)
    assert np.array_equal(again.select, tuning.select)


@quick
@given(labelled(splits=SEVERAL, n_least=16), SEEDS, st.integers(1, 5))
def test_rows_without_a_split_change_no_other_row(images, seed, n_more):
    drawn_split(images)
    protocol = planned(images, n_folds=3, seed=seed)
    more = LabelledRows(
        np.concatenate([images.labels, np.zeros(n_more, np.int64)]),
        np.concatenate([images.splits, np.array([""] * n_more, object)]),
        np.concatenate([images.groups, np.array(["a"] * n_more, object)]),
        images.class_names,
    )
    other = plan(more, n_folds=3, seed=seed)
    assert same_pairs(protocol, other)
    assert (other.sides[len(images.labels) :] == -1).all()
    assert np.array_equal(other.sides[: len(images.labels)], protocol.sides)


@quick
@given(
    labelled(groups=NO_GROUPS, splits=st.just([""])), SEEDS, st.permutations(range(4))
)
def test_the_numbers_of_classes_are_only_names(images, seed, numbers):
    protocol = planned(images, n_folds=3, seed=seed)
    renumbered = np.array(numbers)[images.labels]
    other = plan(replace(images, labels=renumbered), n_folds=3, seed=seed)
    assert same_pairs(protocol, other)


@quick
@given(labelled(), st.none() | st.floats(0.1, 0.9), SEEDS)
def test_no_fit_scores_a_row_of_a_group_that_it_learned(images, share, seed):
    protocol = planned(images, n_folds=3, seed=seed, test_size=share)
    for fitted, scored in pairs_of(protocol):
        learned = {images.groups[i] for i in fitted} - {""}
        assert learned.isdisjoint(images.groups[i] for i in scored)
        assert set(fitted).isdisjoint(scored)
        # A classifier cannot learn one class.
        assert len(set(images.labels[fitted])) > 1


@quick
@given(labelled(groups=GROUPS), st.floats(0.1, 0.49), SEEDS)
def test_with_groups_a_share_and_its_complement_divide_the_rows(images, share, seed):
    assume((images.groups != "").any())
    small = planned(images, n_folds=3, seed=seed, test_size=share)
    large = planned(images, n_folds=3, seed=seed, test_size=1 - share)
    assume(round(1 / share) == round(1 / (1 - (1 - share))))
    assert np.array_equal(small.judged, large.final.train)
    assert np.array_equal(large.judged, small.final.train)


@quick
@given(labelled(), st.none() | st.floats(0.1, 0.6), SEEDS)
def test_every_number_of_a_note_is_that_of_the_plan(images, share, seed):
    protocol = planned(images, n_folds=3, seed=seed, test_size=share)
    stated = [int(n) for n in re.findall(r"(\d+) images?\b", protocol.notes[0])]
    n, final = len(images.labels), protocol.final
    if share is None:
        assert stated[0] == n
        assert f"one of {len(protocol.parts)} models" in protocol.notes[0]
        assert protocol.name == f"{len(protocol.parts)}-fold"
    else:
        assert stated == [len(final.held), len(final.train)]
        assert f"({len(final.held) / n:.0%})" in protocol.notes[0]
    # Scores of few images are warned of: all of the drawn sets are small.
    few = [note for note in protocol.notes if f"fewer than {FEW} images" in note]
    assert len(few) == bool(final.selection)


@quick
@given(st.integers(2, 5), st.integers(2, 4), st.integers(0, 3), SEEDS)
def test_folds_of_equal_groups_hold_out_whole_groups(n_folds, size, n_alone, seed):
    n_groups = 4 * n_folds
    groups = np.repeat([f"g{k}" for k in range(n_groups)], size).tolist()
    labels = np.repeat(np.arange(n_groups) % 2, size)
    groups += [""] * n_alone
    labels = np.concatenate([labels, np.arange(n_alone) % 2])
    pairs = folds(labels, groups, n_folds=n_folds, seed=seed)
    held = np.concatenate([held for _, held in pairs])
    assert sorted(held) == list(range(len(labels)))
    for _, rows in pairs:
        names = [groups[i] for i in rows if groups[i]]
        assert all(names.count(name) == size for name in names)
    # Stratified: with groups of one size and two classes no fold lacks a class.
    assert all(len(set(labels[rows])) == 2 for _, rows in pairs)


@quick
@given(st.lists(st.integers(0, 2), min_size=12, max_size=40), SEEDS, SEEDS)
def test_plans_of_other_seeds_judge_the_same_rows(labels, seed, other_seed):
    nothing = np.array([""] * len(labels), object)
    images = LabelledRows(np.array(labels), nothing, nothing, ["a", "b", "c"])
    protocol = planned(images, n_folds=3, seed=seed)
    other = plan(images, n_folds=3, seed=other_seed)
    assert np.array_equal(protocol.judged, other.judged)
    sizes = sorted(len(part.held) for part in protocol.parts)
    assert sizes == sorted(len(part.held) for part in other.parts)
    # Every row is judged by a fit that has not seen it, and by one alone.
    for part in protocol.parts:
        assert np.array_equal(np.setdiff1d(protocol.judged, part.train), part.held)


@quick
@given(labelled(splits=SEVERAL, n_least=12))
def test_a_given_split_is_planned_exactly_if_two_classes_can_be_learned(images):
    names = set(images.splits)
    learned = set(images.labels[images.splits == "train"])
    if len(names) < 2:
        return  # one name is no split, and cross-validation has rules of its own
    is_clear = "train" in names and names & {"val", "test"}
    possible = bool(is_clear) and len(learned) > 1 and len(set(images.labels)) > 1
    if not possible:
        # The message has a number of images, and what would do.
        refusal = r"\d+ (have|\w+ images are)|no \w+ images"
        with pytest.raises(ValueError, match=refusal):
            plan(images, n_folds=3)
        return
    protocol = plan(images, n_folds=3)
    assert set(images.labels[protocol.final.train]) >= learned


@quick
@given(labelled(groups=NO_GROUPS, splits=HELD, n_least=12))
def test_exactly_the_classes_missing_on_a_side_are_warned_of(images):
    protocol = planned(images, n_folds=2)
    assume(not protocol.nested)
    learned = set(images.labels[protocol.final.train])
    judged = set(images.labels[protocol.judged])
    warned = {"no training images": set(), "no held-out images": set()}
    for text in protocol.warnings:
        kind = next((kind for kind in warned if text.startswith(kind)), None)
        if kind is not None:
            quoted = re.findall(r"'(\w+)'", text)
            warned[kind] |= {images.class_names.index(name) for name in quoted}
    assert warned["no training images"] == judged - learned
    assert warned["no held-out images"] == learned - judged


@quick
@given(labelled(), st.floats(0.01, 0.99), SEEDS)
def test_a_share_leaves_rows_on_both_sides_or_is_refused(images, share, seed):
    try:
        protocol = plan(images, test_size=share, seed=seed, n_folds=2)
    except ValueError as error:
        text = str(error)
        assert "holds out none" in text or "class" in text or "folds" in text
        return
    (part,) = protocol.parts
    assert len(part.train) > 0
    assert len(part.held) > 0
    assert protocol.name == "test"
    assert not protocol.chosen_by_val
    # Positions of the folds that choose are inside the training rows.
    for fitted, scored in part.selection:
        assert sorted([*fitted, *scored]) == list(range(len(part.train)))
