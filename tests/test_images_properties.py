"""Tables, trees, arrays and rotations of any kind, against plain loops."""

import csv
import io
import itertools
import pickle
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from PIL import Image

from featpipe import images
from featpipe.images.folder_names import splits_of
from featpipe.images.orientation import SIDEWAYS, turned

quick = settings(
    deadline=None,
    max_examples=20,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
# Examples that write files.
fewer = settings(quick, max_examples=8)
counter = itertools.count()

# Names with what separates columns, quotes and sorts in odd ways.
STEMS = ["a", "B", "c d", "e,f", "g;h", 'i"j', "ö", "k'l", " m", "n|o", "日"]
CLASSES = st.sampled_from(["ant", "Bee", "c,d", 'e"f', "ö", "0"])


@pytest.fixture(scope="module")
def listed(tmp_path_factory) -> Path:
    """Return a folder with a file of every name."""
    folder = tmp_path_factory.mktemp("listed")
    for stem in STEMS:
        (folder / f"{stem}.png").write_bytes(stem.encode())
    return folder


@fewer
@given(
    st.permutations(STEMS),
    st.lists(CLASSES | st.just(""), min_size=11, max_size=11),
    st.lists(st.sampled_from(["train", "test", "val", ""]), min_size=11, max_size=11),
    st.permutations(["path", "label", "split", "group"]),
    st.sampled_from(",;\t|"),
    st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
    st.sampled_from(["\n", "\r\n"]),
)
def test_a_table_is_what_was_written_in_any_dialect(
    listed, stems, labels, splits, header, delimiter, encoding, end
):
    # Splits that have no class in common with train are refused, and tested elsewhere.
    labels = [label if split == "" else "ant" for label, split in zip(labels, splits,
              strict=True)]  # fmt: skip
    rows = [
        {"path": f"{stem}.png", "label": label, "split": split, "group": f"g{k % 3}"}
        for k, (stem, label, split) in enumerate(
            zip(stems, labels, splits, strict=True)
        )
    ]
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, header, delimiter=delimiter, lineterminator=end)
    writer.writeheader()
    writer.writerows(rows)
    table = listed / f"{next(counter)}.csv"
    table.write_bytes(text.getvalue().encode(encoding))
    image_set = images.scan(table)
    rows.sort(key=lambda row: row["path"].encode())
    assert image_set.failures == []
    assert image_set.paths == [row["path"] for row in rows]
    names = sorted({row["label"] for row in rows} - {""})
    assert image_set.class_names == names
    numbers = [names.index(row["label"]) if row["label"] else -1 for row in rows]
    assert image_set.labels.tolist() == numbers
    assert list(image_set.splits) == [row["split"] for row in rows]
    assert list(image_set.groups) == [row["group"] for row in rows]
    assert [image_set.read(i) for i in range(11)] == [
        row["path"].removesuffix(".png").encode() for row in rows
    ]


TREES = st.lists(
    st.tuples(CLASSES, st.sampled_from(["", "x/", "y/z/"]), st.sampled_from("abc")),
    min_size=1,
    max_size=7,
    unique=True,
)


@fewer
@given(TREES, st.sampled_from([[""], ["train/", "test/"], ["train/", "val/", "test/"]]))
def test_a_tree_and_its_archives_are_the_same_images(tmp_path, tree, tops):
    # Every class in every split, so that each can judge the others.
    paths = sorted(
        (f"{top}{name}/{sub}{stem}.png" for top in tops for name, sub, stem in tree),
        key=str.encode,
    )
    # One class name would be taken for a folder around everything.
    assume(len({name for name, *_ in tree}) > 1 or len(tops) > 1)
    folder = tmp_path / f"tree{next(counter)}"
    for path in paths:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(path.encode())
    archives = [folder.with_suffix(".zip"), folder.with_suffix(".tar")]
    with zipfile.ZipFile(archives[0], "w") as file:
        for path in reversed(paths):
            file.writestr(path, path.encode())
    with tarfile.open(archives[1], "w") as file:
        file.add(folder, arcname=".")
    depth = 0 if tops == [""] else 1
    names = sorted({name for name, *_ in tree})
    for source in (folder, *archives):
        image_set = images.scan(source)
        assert image_set.paths == paths
        assert image_set.class_names == names
        parts = [path.split("/") for path in paths]
        assert [names[k] for k in image_set.labels] == [part[depth] for part in parts]
        splits = [part[0] if depth else "" for part in parts]
        assert list(image_set.splits) == splits
        # Another process reads the same.
        again = pickle.loads(pickle.dumps(image_set))
        assert [again.read(i).decode() for i in range(len(paths))] == paths


@quick
@given(
    st.lists(st.integers(0, 6), min_size=1, max_size=9),
    st.lists(st.integers(0, 8), max_size=6),
)
def test_images_taken_keep_their_labels_and_pixels(labels, rows):
    names = [f"class {k}" for k in labels]
    pixels = np.arange(len(labels) * 4, dtype=np.uint8).reshape(-1, 2, 2)
    whole = images.from_arrays(pixels, names)
    assert whole.class_names == sorted(set(names))
    chosen = [row for row in rows if row < len(labels)]
    some = whole.take(np.array(chosen, np.int64))
    assert [some.class_names[k] for k in some.labels] == [names[row] for row in chosen]
    assert some.paths == [whole.paths[row] for row in chosen]
    for i, row in enumerate(chosen):
        grey = np.asarray(images.decode(some.read(i)).image)[..., 0]
        np.testing.assert_array_equal(grey, pixels[row])


SIZES = st.tuples(st.integers(1, 9), st.integers(1, 9))


@quick
@given(SIZES, st.integers(1, 8), st.integers(0, 2**32 - 1))
def test_each_orientation_moves_pixels_as_its_definition(size, orientation, seed):
    height, width = size
    stored = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    shown = np.asarray(turned(Image.fromarray(stored), orientation))
    # EXIF names the sides of the picture that the first row and column of the file are.
    top, left = {
        1: ("top", "left"),
        2: ("top", "right"),
        3: ("bottom", "right"),
        4: ("bottom", "left"),
        5: ("left", "top"),
        6: ("right", "top"),
        7: ("right", "bottom"),
        8: ("left", "bottom"),
    }[orientation]
    assert (shown.shape == (width, height, 3)) == (
        orientation in SIDEWAYS or height == width
    )
    for row in range(height):
        for column in range(width):
            place = {top: row, left: column}
            y = place.get("top", shown.shape[0] - 1 - place.get("bottom", 0))
            x = place.get("left", shown.shape[1] - 1 - place.get("right", 0))
            assert shown[y, x].tolist() == stored[row, column].tolist()


@quick
@given(
    SIZES,
    st.sampled_from(["L", "RGB", "1", "P"]),
    st.sampled_from(["PNG", "BMP", "TIFF", "GIF"]),
    st.integers(0, 2**32 - 1),
)
def test_opaque_images_are_decoded_as_their_colours(size, mode, kind, seed):
    assume((mode, kind) != ("RGB", "GIF"))
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (*size, 3), np.uint8)
    image = Image.fromarray(pixels).convert(mode)
    image.save(file := io.BytesIO(), kind)
    decoded = np.asarray(images.decode(file.getvalue()).image)
    np.testing.assert_array_equal(decoded, np.asarray(image.convert("RGB")))


WORDS = {"train": "train", "training": "train", "val": "val", "dev": "val",
         "test": "test", "testing": "test"}  # fmt: skip


@quick
@given(
    st.lists(st.sampled_from(sorted(WORDS)), min_size=1, max_size=3, unique=True),
    st.sampled_from([str.lower, str.upper, str.title]),
    st.sampled_from(["{}", "{}_set", "{}-images", "{} data", "{}2017", "set_{}"]),
    st.sampled_from(["", "flowers_", "my flowers-"]),
)
def test_spelling_and_common_words_do_not_change_a_split(words, spell, pattern, common):
    names = {f"{common}{pattern.format(spell(word))}": WORDS[word] for word in words}
    # A word that all share says nothing; of a single name it may be what it is about.
    assume(not common or len(names) > 1)
    assert splits_of(names) == names
    # A word of one folder alone makes it something else.
    other = f"steam {words[0]}s"
    assert other not in splits_of([*names, other])
