"""Images that several files must agree on, and images on both sides of a split."""

import itertools

import numpy as np
import pytest
from drawn_codes import draw, splits_of, write

import featpipe
from featpipe import codes
from featpipe.comparison import duplicates


def pair(tmp_path, **other):
    labels, made = draw(30)
    splits = splits_of(30, "train", "val")
    first = write(tmp_path / "a.h5", labels, made, splits=splits)
    changed = {"labels": labels, "splits": splits} | other
    labels = changed.pop("labels")
    made = {depth: X[: len(labels)] for depth, X in made.items()}
    changed["splits"] = changed["splits"][: len(labels)]
    return [first, write(tmp_path / "b.h5", labels, made, **changed)]


def compare(files, **options):
    return featpipe.compare(files, classifiers=["nearest-mean"], **options)


def test_files_with_different_images_are_refused_with_an_example(tmp_path):
    labels, _ = draw(30)
    says = r"'images/029\.png' is labelled in .*a\.h5' but not in .*b\.h5' \(1 such"
    with pytest.raises(featpipe.CodesError, match=says):
        compare(pair(tmp_path, labels=labels[:29]))


@pytest.mark.parametrize("what", ["content", "label", "split", "group"])
def test_files_that_disagree_about_an_image_are_refused(tmp_path, what):
    labels, _ = draw(30)
    labels[7] = (labels[7] + 1) % 3
    changed = {
        "content": {"sha256": np.ones((30, 32), np.uint8)},
        "label": {"labels": labels},
        "split": {"splits": ["val", *splits_of(30, "train", "val")[1:]]},
        "group": {"groups": ["g"] + [""] * 29},
    }
    with pytest.raises(featpipe.CodesError, match=f"has another {what} in .*b.h5"):
        compare(pair(tmp_path, **changed[what]))


def test_labels_are_matched_by_name_not_by_number(tmp_path):
    labels, _ = draw(30)
    files = pair(tmp_path, labels=2 - labels, class_names=["cat", "bee", "ant"])
    comparison = compare(files)
    assert len(comparison.scores) == 4


def test_maps_are_left_out_and_refused_by_name(tmp_path):
    labels, made = draw(30)
    maps = {"layer3:map": np.zeros((30, 2, 3, 3), np.float16)}
    path = write(tmp_path / "a.h5", labels, made | maps)
    assert {score.depth for score in compare(path).scores} == set(made)
    with pytest.raises(ValueError, match="'layer3:map' holds maps"):
        compare(path, depths=["layer3"])


def test_an_open_codes_file_is_as_good_as_its_path(tmp_path):
    labels, made = draw(30)
    path = write(tmp_path / "a.h5", labels, made)
    one, two = compare(path), compare(codes.read(path))
    assert [s.accuracy for s in one.scores] == [s.accuracy for s in two.scores]


def brute_force(X, sides, labels):
    """Return each row and kind the closest row before it, by loops."""
    Z = (X - X.mean(0)) / X.std(0)
    Z /= np.linalg.norm(Z, axis=1, keepdims=True)
    closest = {}
    for i in range(len(X)):
        for j in range(len(X)):
            if min(sides[i], sides[j]) < 0 or (sides[j], j) >= (sides[i], i):
                continue
            kind = "across" if sides[i] != sides[j] else "within"
            kind = "relabelled" if labels[i] != labels[j] else kind
            if Z[i] @ Z[j] > closest.get((i, kind), (-2, 0))[0]:
                closest[i, kind] = (Z[i] @ Z[j], j)
    return closest


def test_near_duplicates_equal_those_of_plain_loops(monkeypatch):
    monkeypatch.setattr(duplicates, "_BLOCK", 7)  # several blocks, the last one short
    rng = np.random.default_rng(0)
    X = rng.normal(size=(60, 8)).astype(np.float32)
    sides, labels = rng.integers(-1, 3, 60), rng.integers(0, 2, 60)
    X[5], X[30], X[41] = X[20] + 0.05, X[11], X[11] + 0.01
    unknown = np.zeros((60, 32), np.uint8)
    expected = brute_force(X.astype(np.float64), sides, labels)
    pairs = duplicates.find_duplicates(X, unknown, sides, labels, alike=0.6)
    assert {(t.row, t.kind): t.other for t in pairs} == {
        key: j for key, (cosine, j) in expected.items() if cosine >= 0.6
    }
    assert {t.kind for t in pairs} == set(duplicates.KINDS)
    for copy in pairs:
        assert copy.cosine == pytest.approx(expected[copy.row, copy.kind][0], abs=1e-5)
        assert not copy.exact


def test_across_only_compares_images_of_two_sides_whatever_is_on_their_own(monkeypatch):
    monkeypatch.setattr(duplicates, "_BLOCK", 7)
    rng = np.random.default_rng(0)
    X = rng.normal(size=(60, 8))
    sides, labels = rng.integers(-1, 3, 60), rng.integers(0, 2, 60)
    same = np.flatnonzero(sides == 2)[:2]
    first = np.flatnonzero(sides == 0)[0]
    X[same[0]], X[same[1]] = X[first] + 0.05, X[first] + 0.05  # nearer to each other
    labels[[first, same[0], same[1]]] = 0, 1, 0
    digests = rng.integers(0, 256, (60, 32), np.uint8)
    digests[same[1]] = digests[same[0]]  # one file twice, on one side
    directions = (X - X.mean(axis=0)) / X.std(axis=0)
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    expected = {}
    for i, j in itertools.product(range(60), range(60)):
        cosine = directions[i] @ directions[j]
        if sides[i] > sides[j] >= 0 and cosine >= 0.6:
            kind = "relabelled" if labels[i] != labels[j] else "across"
            expected[i, kind] = max(expected.get((i, kind), (0, 0)), (cosine, j))
    pairs = duplicates.find_duplicates(
        X.astype(np.float32), digests, sides, labels, 0.6, across_only=True
    )
    assert {(t.row, t.kind): t.other for t in pairs} == {
        key: j for key, (_, j) in expected.items()
    }
    assert (same[0], "relabelled") in expected


def test_copies_are_reported_by_what_they_spoil(tmp_path):
    labels, made = draw(90, width=32, depths={"a:avg": 0.3})
    X = made["a:avg"]
    X[50] = X[2] + 0.01  # val repeats train, same class
    X[10] = X[13]  # within train, same class
    X[70] = X[77] + 0.01  # within val, another class
    digests = np.random.default_rng(0).integers(1, 255, (90, 32)).astype(np.uint8)
    digests[60] = digests[4]  # byte for byte, another class
    path = write(tmp_path / "a.h5", labels, made, sha256=digests,
                 splits=splits_of(90, "train", "val"))  # fmt: skip
    notes = compare(path).notes
    (two_labels,) = [note for note in notes if "copies under two labels" in note]
    assert "1 byte for byte, 1 by their looks (cosine of a:avg codes >= " in two_labels
    assert "images/060.png ~ images/004.png; images/077.png ~ images/070" in two_labels
    (across,) = [note for note in notes if "copies on two sides" in note]
    assert "1 by their looks" in across
    assert across.endswith("such as images/050.png ~ images/002.png")
    (within,) = [note for note in notes if "copies on one side" in note]
    assert within.endswith("such as images/013.png ~ images/010.png")


@pytest.mark.parametrize("n_planted", [2, 3, 4, 8, 30])
def test_copies_under_another_label_do_not_hide_themselves(tmp_path, n_planted):
    labels, made = draw(200, width=64, depths={"a:avg": 0.3})
    X = made["a:avg"]
    rng = np.random.default_rng(0)
    for k in range(n_planted):  # a re-encoded copy of k, of the next class
        X[100 + k] = X[k] + 0.1 * rng.normal(size=64)
        assert labels[100 + k] != labels[k]
    splits = splits_of(200, "train", "val")
    path = write(tmp_path / "a.h5", labels, made, splits=splits)
    notes = compare(path).notes
    (note,) = [n for n in notes if "copies under two labels" in n]
    assert f"wrong: {n_planted} by their looks" in note
    assert note.endswith(f"; {n_planted} of them on two sides of the split")
    assert any("no other near-duplicates across the split" in n for n in notes)


def test_labels_move_no_threshold(tmp_path):
    labels, made = draw(90, width=32, depths={"a:avg": 0.3, "b:avg": 0.3})
    other = np.random.default_rng(0).permutation(labels)
    splits = splits_of(90, "train", "val")
    says = []
    for name, value in (("a.h5", labels), ("b.h5", other)):
        path = write(tmp_path / name, value, made, splits=splits)
        says += [n for n in compare(path).notes if "near-duplicates" in n]
    assert says[0] == says[1]


def test_no_duplicates_is_said_too(tmp_path):
    labels, made = draw(60, width=32, depths={"a:avg": 0.3})
    notes = compare(write(tmp_path / "a.h5", labels, made)).notes
    assert any("no near-duplicates across the folds" in note for note in notes)
    splits = splits_of(60, "train", "test")
    notes = compare(write(tmp_path / "b.h5", labels, made, splits=splits)).notes
    assert any("no near-duplicates across the split" in note for note in notes)


def test_the_threshold_rises_where_a_depth_cannot_tell_images_apart():
    rng = np.random.default_rng(0)
    telling = rng.normal(size=(100, 64))
    dull = rng.normal(size=(100, 2))
    assert duplicates.unrelated_similarity(telling) < 0.7
    assert duplicates.threshold(0.7) == duplicates.ALIKE
    assert duplicates.unrelated_similarity(dull) > 0.99
    # Never so high that an exact copy would not reach it.
    same = duplicates.unrelated_similarity(np.repeat(rng.normal(size=(9, 8)), 5, 0))
    assert duplicates.threshold(same) == duplicates.threshold(1.0) < 1 - 1e-5
