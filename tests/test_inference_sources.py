"""Sources of every kind that Python has: names, facts, order, and what is refused."""

import io
import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from featpipe.images import ImageError, decode
from featpipe.inference import (
    GIVEN,
    from_items,
    image_set_of,
    require_different_paths,
)

quick = settings(deadline=None, max_examples=30)

NOISE = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)


def png(pixels: np.ndarray = NOISE) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def read_once(content: bytes) -> io.BufferedReader:
    """Return a file that is at its end once it was read, and has no `getvalue`."""
    return io.BufferedReader(io.BytesIO(content))  # type: ignore[arg-type]


BYTES = {
    "bytes": bytes,
    "bytearray": bytearray,
    "memoryview": memoryview,
    "a file": read_once,
    "BytesIO": io.BytesIO,
}


@pytest.mark.parametrize("kind", BYTES)
def test_the_bytes_of_a_file_are_an_image_in_any_of_their_forms(kind):
    make = BYTES[kind]
    for items in (make(png()), [make(png())], [("mine", make(png()))]):
        (image_set,) = (from_items(items),)
        assert len(image_set) == 1
        assert image_set.read(0) == png()
        assert image_set.sizes.tolist() == [len(png())]


def test_a_file_in_memory_is_whole_wherever_it_was_read_to():
    file = io.BytesIO(png())
    file.seek(9)
    assert from_items([file]).read(0) == png()


def test_a_file_of_text_and_a_tensor_are_named_for_what_they_are():
    with pytest.raises(ValueError, match=r"image 1 is (a |<)_io\.StringIO"):
        from_items([png(), io.StringIO("text")])
    with pytest.raises(ValueError, match=r"a torch\.Tensor; .*permute\(1, 2, 0\)"):
        from_items([torch.zeros(3, 90, 90)])
    with pytest.raises(ValueError, match="give paths") as caught:
        from_items([{k: k for k in range(99)}])
    # What is long is named by its kind, and what has no axes is told of none.
    assert "image 0 is a builtins.dict; give paths" in str(caught.value)
    assert "permute" not in str(caught.value)
    with pytest.raises(ValueError, match="is one thing") as caught:
        from_items("x" * 999)
    assert len(str(caught.value)) < 200


@quick
@given(st.lists(st.integers(1, 20), min_size=1, max_size=4))
@example([9, 9, 2])
@example([9, 9, 5])
@example([4, 9, 9, 2])
def test_the_shape_of_an_array_is_one_image_or_many_or_is_refused(shape):
    channels = (1, 3, 4)
    array = np.zeros(shape, np.uint8)
    if len(shape) == 1:
        wanted = 0
    elif len(shape) == 2 or (len(shape) == 3 and shape[2] in channels):
        wanted = 1
    elif len(shape) == 3:
        # The width of a grey image, or the channels of one?
        narrow = shape[2] in (2, 5) or (shape[2] <= 16 and shape[1] >= 8 * shape[2])
        wanted = 0 if narrow else shape[0]
    else:
        wanted = shape[0] if shape[3] in channels else 0
    if not wanted:
        with pytest.raises(ValueError, match=r"shape.*give"):
            from_items(array)
        return
    with pytest.MonkeyPatch.context() as patch:
        warned: list[str] = []
        patch.setattr("warnings.warn", lambda text, *a, **k: warned.append(text))
        assert len(from_items(array)) == wanted
    # Three or four grey images may be one image with its channels first.
    assert bool(warned) == (len(shape) == 3 and wanted in (3, 4))


def test_an_array_of_paths_of_two_axes_is_the_column_of_a_table():
    column = np.array([["a.png"], ["b.png"]])
    assert from_items(column).paths == from_items(column.astype(object)).paths
    assert from_items(column).paths == ["a.png", "b.png"]


def test_sizes_and_times_are_those_of_the_files(tmp_path, monkeypatch):
    (tmp_path / "x.png").write_bytes(png())
    os.utime(tmp_path / "x.png", ns=(5, 1_234_567_891))
    monkeypatch.chdir(tmp_path)
    files = from_items(["x.png", "gone.png", "nul\0.png"])
    assert files.sizes.tolist() == [len(png()), 0, 0]
    assert files.mtimes.tolist() == [1_234_567_891, 0, 0]
    assert (files.root, files.source) == (str(tmp_path), GIVEN)
    assert files.read(0) == png()
    for gone in (1, 2):
        with pytest.raises(ImageError) as caught:
            files.read(gone)
        assert caught.value.stage == "read"
    # With an image in memory among them there is no folder they all lie in.
    mixed = from_items(["x.png", NOISE, ("mine", png())])
    assert mixed.root == ""
    assert mixed.sizes.tolist() == [len(png()), NOISE.nbytes, len(png())]
    np.testing.assert_array_equal(decode(mixed.read(1)).image, NOISE)
    assert (mixed.read(0), mixed.read(2)) == (png(), png())


def test_one_name_for_two_contents_is_refused_and_one_file_twice_is_not():
    assert from_items(["a.png", Path("a.png")]).paths == ["a.png", "a.png"]
    for items in (
        [("a.png", png()), ("b", png()), ("a.png", png())],
        ["a.png", ("b", png()), ("a.png", png())],
        [("a.png", png()), ("b", png()), "a.png"],
        [NOISE, ("b", png()), ("image 0", png())],
    ):
        with pytest.raises(ValueError, match="images 0 and 2 are both called"):
            from_items(items)


@quick
@given(st.lists(st.sampled_from("abcd"), min_size=1, max_size=6))
def test_the_first_image_that_is_listed_again_is_named(paths):
    image_set = from_items(paths)
    again = [i for i, path in enumerate(paths) if path in paths[:i]]
    if not again:
        assert require_different_paths(image_set) is image_set
        return
    i = again[0]
    sentence = f"images {paths.index(paths[i])} and {i} are both {paths[i]!r}"
    with pytest.raises(ValueError, match=sentence):
        require_different_paths(image_set)


CELLS = st.sampled_from(
    [None, float("nan"), pandas.NA, pandas.NaT, "", "ant", "bee", 3, 3.0, True, 2.5]
)


def text_of(cell: object) -> str:
    """Return a cell as its text; nothing for one that is missing."""
    if cell is None or cell is pandas.NA or cell is pandas.NaT or cell != cell:
        return ""
    return "3" if cell == 3 else str(cell)


@quick
@given(
    st.lists(st.tuples(CELLS, CELLS), min_size=1, max_size=7),
    st.permutations(["path", "label", "group"]),
    st.sampled_from([str, str.upper, str.title, " {} ".format]),
)
def test_a_frame_means_the_same_however_it_is_written(cells, order, spelled):
    columns = {
        "path": [f"{k}.png" for k in range(len(cells))],
        "label": [label for label, _ in cells],
        "group": [group for _, group in cells],
    }
    frame = pandas.DataFrame(
        {spelled(name): pandas.Series(columns[name], dtype=object) for name in order}
    )
    image_set = image_set_of(frame)
    assert image_set.paths == columns["path"]
    wanted = [text_of(label) for label, _ in cells]
    names = [*image_set.class_names, ""]
    assert [names[k] for k in image_set.labels] == wanted
    assert image_set.class_names == sorted({*wanted} - {""})
    assert list(image_set.groups) == [text_of(group) for _, group in cells]
    assert set(image_set.splits) == {""}


def test_splits_of_a_frame_are_read_and_unknown_ones_refused():
    paths = [f"{k}.png" for k in range(4)]
    splits = ["Training", "dev", None, "TEST"]
    frame = pandas.DataFrame({"path": paths, "split": splits, "label": list("aaba")})
    assert list(image_set_of(frame).splits) == ["train", "val", "", "test"]
    with pytest.raises(ValueError, match="'half' is no split"):
        image_set_of(frame.assign(split=["train", "half", "test", "test"]))
    with pytest.raises(ValueError, match=r"no class of train .* is in test"):
        image_set_of(frame.assign(split=["train", "train", "test", ""]))


def test_limit_labels_and_ignored_files_hold_for_lists_and_folders(tmp_path, draw):
    for k in range(6):
        draw(tmp_path / "ab"[k % 2] / f"{k}.png", k)
    paths = sorted(tmp_path.rglob("*.png"))
    frame = pandas.DataFrame({"path": paths, "label": ["ant", "bee"] * 3})
    assert len(image_set_of(frame, limit=3)) == 3
    assert set(image_set_of(frame, limit=2).paths) <= {*map(str, paths)}
    assert image_set_of(frame, unlabelled=True).labels.tolist() == [-1] * 6
    folder = image_set_of(tmp_path, ignore=lambda path: path.endswith("3.png"))
    assert len(folder) == 5
    assert not any(path.endswith("3.png") for path in folder.paths)


def test_the_path_of_an_image_is_one_image_and_of_a_folder_what_it_holds(
    tmp_path, draw
):
    draw(tmp_path / "photos" / "a" / "1.png", 1)
    draw(tmp_path / "photos" / "looks like.png" / "2.png", 2)
    one = image_set_of(tmp_path / "photos" / "a" / "1.png")
    assert one.paths == [str(tmp_path / "photos" / "a" / "1.png")]
    # A folder that is called like an image is a folder.
    folder = image_set_of(tmp_path / "photos" / "looks like.png")
    assert folder.paths == ["2.png"]
    with pytest.raises((ValueError, OSError), match="gone"):
        image_set_of(tmp_path / "gone.png")


def test_a_subset_of_what_has_no_files_is_refused_by_its_name():
    class Numbers:
        """A dataset without files."""

    subset = SimpleNamespace(dataset=Numbers(), indices=[0])
    with pytest.raises(ValueError, match="a Subset of Numbers names no image files"):
        image_set_of(subset)


def test_only_the_images_asked_for_travel_with_a_reader(tmp_path):
    (tmp_path / "x.png").write_bytes(png())
    items = [str(tmp_path / "x.png"), NOISE, ("mine", png()), 255 - NOISE]
    whole = from_items(items)
    for wanted in ([0], [1], [2], [0, 3], [1, 2, 3]):
        paths = [whole.paths[i] for i in wanted]
        part = whole.reader.only(paths)
        for i in wanted:
            assert part.read(whole.paths[i]) == whole.read(i)
        assert set(part.contents) == {"mine"} & {*paths}
        assert set(part.in_memory) == {*paths} - {whole.paths[0]}
