"""Images that several files must agree on, and images on both sides of a split."""

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
    found = compare(files)
    assert len(found.scores) == 4


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


def brute_force(X, sides):
    """Give each row of a later side its closest row of an earlier one, by loops."""
    Z = (X - X.mean(0)) / X.std(0)
    closest = {}
    for i in range(len(X)):
        for j in range(len(X)):
            if 0 <= sides[j] < sides[i]:
                cosine = Z[i] @ Z[j] / np.linalg.norm(Z[i]) / np.linalg.norm(Z[j])
                if cosine > closest.get(i, (-2, 0))[0]:
                    closest[i] = (cosine, j)
    return closest


def test_near_duplicates_equal_those_of_plain_loops(monkeypatch):
    monkeypatch.setattr(duplicates, "_BLOCK", 7)  # several blocks, the last one short
    rng = np.random.default_rng(0)
    X = rng.normal(size=(40, 8)).astype(np.float32)
    sides = rng.integers(-1, 3, 40)
    X[5], X[30] = X[20] + 0.05, X[11]
    unknown = np.zeros((40, 32), np.uint8)
    expected = brute_force(X.astype(np.float64), sides)
    found = duplicates.find(X, unknown, sides, alike=0.6)
    assert [(t.row, t.other) for t in found] == [
        (i, j) for i, (cosine, j) in sorted(expected.items()) if cosine >= 0.6
    ]
    for twin in found:
        assert twin.cosine == pytest.approx(expected[twin.row][0], abs=1e-5)
        assert not twin.exact


def test_copies_across_the_split_are_reported_and_copies_within_are_not(tmp_path):
    labels, made = draw(90, width=32, depths={"a:avg": 0.3})
    X = made["a:avg"]
    X[50] = X[2] + 0.01  # val repeats train, same class
    X[10] = X[13]  # within train
    digests = np.random.default_rng(0).integers(1, 255, (90, 32)).astype(np.uint8)
    digests[60] = digests[4]  # byte for byte, another class
    path = write(tmp_path / "a.h5", labels, made, sha256=digests,
                 splits=splits_of(90, "train", "val"))  # fmt: skip
    notes = " | ".join(compare(path).notes)
    assert "images that look like one on another side" in notes
    assert ": 1, such as images/050.png ~ images/002.png" in notes
    assert "images that repeat one on another side of the split byte for byte" in notes
    assert ": 1 (1 with another label), such as images/060.png ~ images/004" in notes
    assert "images/010.png" not in notes


def test_no_duplicates_is_said_too(tmp_path):
    labels, made = draw(60, width=32, depths={"a:avg": 0.3})
    notes = compare(write(tmp_path / "a.h5", labels, made)).notes
    assert any("no near-duplicates across the split" in note for note in notes)


def test_background_rises_where_a_depth_cannot_tell_images_apart():
    rng = np.random.default_rng(0)
    labels = np.arange(100) % 2
    telling = rng.normal(size=(100, 64))
    dull = rng.normal(size=(100, 2))
    assert duplicates.background(telling, labels) < 0.7
    assert duplicates.background(dull, labels) > 0.99
