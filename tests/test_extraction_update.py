"""A second extraction to the same file computes the difference, and no more."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from extracting import run
from PIL import Image

from featpipe import codes, images
from featpipe.codes import CodesError
from featpipe.extraction import extract, plan

CLOSE = {"rtol": 1e-5, "atol": 1e-6}
OTHERS = ("labels", "splits", "groups", "sizes", "mtimes", "sha256", "paths")
MORE = ("class_names", "failures", "notes", "depths", "images_root")


def like_fresh(result: codes.Codes, photos: Path, fresh: Path, **changes) -> None:
    """Compare with an extraction that knows nothing of earlier ones."""
    expected, _ = run(photos, fresh, **{"depth": result.depths, **changes})
    for name in OTHERS + MORE:
        np.testing.assert_array_equal(getattr(result, name), getattr(expected, name))
    for spec in result.depths:
        X, _ = result.arrays(spec)
        np.testing.assert_allclose(X, expected.arrays(spec)[0], **CLOSE)
    left = {path.name for path in result.path.parent.iterdir()}
    assert not {name for name in left if name.startswith((".", f"{result.path.name}."))}


def untouched(path: Path) -> tuple[int, int]:
    """Identify a file that was not written again."""
    return path.stat().st_ino, path.stat().st_mtime_ns


def test_nothing_changed_computes_and_writes_nothing(photos, tmp_path):
    (photos / "text.jpg").write_text("no image")
    path = tmp_path / "a.h5"
    first, _ = run(photos, path)
    before = untouched(path)
    for changes in ({}, {"depth": "penultimate"}, {"batch_size": 2, "workers": 1}):
        file, progress = run(photos, path, **changes)
        assert (progress.computed, progress.kept, progress.failed) == (0, 6, 1)
        assert file.depths == first.depths
        assert untouched(path) == before


WITHOUT_TORCH = """
import sys
from featpipe.extraction import extract
tallies = []
extract(sys.argv[1], sys.argv[2], backbone="squeezenet1_1", weights="none",
        input_size=32, progress=tallies.append)
heavy = {"torch", "torchvision", "sklearn", "scipy", "pandas"} & set(sys.modules)
print(tallies[-1].computed, tallies[-1].kept, sorted(heavy))
"""


def test_nothing_to_do_imports_no_torch(photos, tmp_path):
    path = tmp_path / "a.h5"
    options = {"backbone": "squeezenet1_1", "weights": "none", "input_size": 32}
    extract(photos, path, device="cpu", **options)
    before = untouched(path)
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, photos, path],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "0 6 []\n"
    assert untouched(path) == before


def test_only_the_difference_is_computed(photos, tmp_path, draw, monkeypatch):
    monkeypatch.setattr(plan, "SLICE", 3)
    path = tmp_path / "a.h5"
    run(photos, path)
    draw(photos / "ant" / "1 new.png", 100)  # added
    draw(photos / "cat" / "7.png", 101)  # a class in between is new
    draw(photos / "bee" / "3.png", 102)  # changed
    (photos / "ant" / "0.png").rename(photos / "ant" / "9.png")  # renamed
    (photos / "bee" / "1.png").rename(photos / "ant" / "10.png")  # moved
    (photos / "ant" / "2.png").unlink()  # deleted
    shutil.copy(photos / "ant" / "4.png", photos / "bee" / "4 again.png")  # copied
    file, progress = run(photos, path)
    assert (progress.computed, progress.kept, progress.failed) == (3, 5, 0)
    assert file.class_names == ["ant", "bee", "cat"]
    like_fresh(file, photos, tmp_path / "fresh.h5")


def test_a_folder_renamed_is_other_labels_and_no_work(photos, tmp_path):
    path = tmp_path / "a.h5"
    run(photos, path)
    (photos / "ant").rename(photos / "wasp")
    file, progress = run(photos, path)
    assert (progress.computed, file.class_names) == (0, ["bee", "wasp"])
    assert file.labels.tolist() == [0, 0, 0, 1, 1, 1]
    like_fresh(file, photos, tmp_path / "fresh.h5")
    file, progress = run(photos, path, unlabelled=True)
    assert (progress.computed, file.class_names) == (0, [])
    assert file.labels.tolist() == [-1] * 6


def test_touched_images_are_not_computed_again(photos, tmp_path):
    path = tmp_path / "a.h5"
    run(photos, path)
    for image in photos.rglob("*.png"):
        os.utime(image, ns=(1, 10**18))
    file, progress = run(photos, path)
    assert (progress.computed, progress.kept) == (0, 6)
    assert file.mtimes.tolist() == [10**18] * 6
    like_fresh(file, photos, tmp_path / "fresh.h5")


def test_failures_come_and_go_with_their_files(photos, tmp_path, draw):
    path, bad = tmp_path / "a.h5", photos / "ant" / "bad.png"
    bad.write_text("no image")
    run(photos, path)
    draw(bad, 100)
    (photos / "bee" / "1.png").write_text("broken now")
    file, progress = run(photos, path)
    assert (progress.computed, progress.kept, progress.failed) == (1, 5, 1)
    assert [failure[0] for failure in file.failures] == ["bee/1.png"]
    like_fresh(file, photos, tmp_path / "fresh.h5")
    (photos / "bee" / "1.png").unlink()
    file, progress = run(photos, path)
    assert (progress.computed, progress.failed, file.failures) == (0, 0, [])


def test_remarks_follow_the_content_of_an_image(photos, tmp_path, draw):
    def odd(path: Path) -> None:
        Image.fromarray(np.full((20, 16), 40000, np.uint16)).save(path)

    path = tmp_path / "a.h5"
    odd(photos / "ant" / "0.png")
    first, _ = run(photos, path)
    assert {note[0] for note in first.notes} == {"ant/0.png"}
    (photos / "ant" / "0.png").rename(photos / "bee" / "zero.png")
    draw(photos / "ant" / "0.png", 50)
    file, progress = run(photos, path)
    assert progress.computed == 1
    assert [(p, t) for p, _, t in file.notes] == [
        ("bee/zero.png", text) for *_, text in first.notes
    ]
    like_fresh(file, photos, tmp_path / "fresh.h5")


def test_one_more_depth_is_added_and_others_keep_their_bytes(photos, tmp_path, draw):
    path = tmp_path / "a.h5"
    before, _ = run(photos, path)
    old = {spec: before.rows(spec, 0, 6).tobytes() for spec in before.depths}
    file, progress = run(photos, path, depth=["body:gem"])
    assert (progress.computed, progress.kept) == (6, 0)
    assert file.depths == ["stem:avg", "penultimate", "body:gem"]
    assert {spec: file.rows(spec, 0, 6).tobytes() for spec in old} == old
    like_fresh(file, photos, tmp_path / "fresh.h5")
    # A depth more and an image more at once; the new image gets every depth.
    draw(photos / "ant" / "new.png", 100)
    file, progress = run(photos, path, depth="late:max")
    assert progress.computed == 7
    like_fresh(file, photos, tmp_path / "fresh2.h5")


def test_an_image_changed_behind_its_stamp_gets_no_mixed_row(photos, tmp_path, draw):
    path, image = tmp_path / "a.h5", photos / "ant" / "2.png"
    run(photos, path)
    stamp = image.stat()
    raw = bytearray(image.read_bytes())
    draw(image, 100)
    for seed in range(101, 400):
        if image.stat().st_size == stamp.st_size:
            break
        draw(image, seed)
    assert image.stat().st_size == stamp.st_size
    assert bytes(raw) != image.read_bytes()
    os.utime(image, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    file, _ = run(photos, path, depth="body:avg")
    assert [failure[:2] for failure in file.failures] == [("ant/2.png", "read")]
    assert "run the same command again" in file.failures[0][2]
    file, progress = run(photos, path, depth="body:avg")
    assert (progress.computed, progress.kept, file.failures) == (1, 5, [])
    like_fresh(file, photos, tmp_path / "fresh.h5")


def test_images_without_times_are_told_by_their_content(tmp_path):
    rng = np.random.default_rng(0)
    pixels = list(rng.integers(0, 256, (6, 20, 16, 3), dtype=np.uint8))
    path = tmp_path / "a.h5"
    run(images.from_arrays(pixels), path)
    before = untouched(path)
    _, progress = run(images.from_arrays(pixels), path)
    assert (progress.computed, progress.kept) == (0, 6)
    assert untouched(path) == before
    pixels[2] = pixels[2] ^ 255
    file, progress = run(images.from_arrays(pixels), path)
    assert (progress.computed, progress.kept) == (1, 5)
    fresh, _ = run(images.from_arrays(pixels), tmp_path / "fresh.h5")
    np.testing.assert_allclose(file.arrays("stem")[0], fresh.arrays("stem")[0], **CLOSE)


def test_parts_of_images_without_times_are_checked_by_content(tmp_path, monkeypatch):
    monkeypatch.setattr(plan, "SLICE", 3)
    pixels = list(np.random.default_rng(0).integers(0, 256, (6, 9, 9, 3), np.uint8))

    def stop(progress):
        if progress.computed == 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(images.from_arrays(pixels), tmp_path / "a.h5", progress=stop)
    assert len(list((tmp_path / "a.h5.parts").iterdir())) == 1
    pixels[1] = pixels[1] ^ 255
    file, progress = run(images.from_arrays(pixels), tmp_path / "a.h5")
    # Its slice is done anew, whole: as in an unbroken run, to the byte.
    assert (progress.computed, progress.kept) == (6, 0)
    fresh, _ = run(images.from_arrays(pixels), tmp_path / "fresh.h5")
    assert file.path.read_bytes() == fresh.path.read_bytes()


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        (
            {"seed": 1},
            r"weights = 'none \(SHA-256 \w{12}…\)', now it is 'none \(SHA-256 ",
        ),
        ({"backbone": "networks:loud"}, "backbone"),
        ({"input_size": 17}, r"preprocessing\.(crop|resize) = 16, now it is 17"),
        ({"hflip": True}, r"preprocessing\.hflip = False, now it is True"),
        ({"mean": (0.5, 0.5, 0.5)}, r"preprocessing\.mean"),
        ({"interpolation": "bicubic"}, r"preprocessing\.interpolation"),
        ({"precision": "bf16"}, r"(precision|decoding\.mode) = '(fp32|exact)'"),
        ({"dtype": "float16"}, "holds float32, not float16"),
    ],
)
def test_another_recipe_is_refused_with_the_field_that_differs(
    photos, tmp_path, changes, field
):
    path = tmp_path / "a.h5"
    run(photos, path)
    before = path.read_bytes()
    with pytest.raises(CodesError, match=f"a.h5 .*{field}.*--overwrite"):
        run(photos, path, **changes)
    assert path.read_bytes() == before
    assert {p.name for p in tmp_path.iterdir()} == {"photos", "a.h5"}
    file, progress = run(photos, path, overwrite=True, **changes)
    assert progress.computed == 6
    assert file.path.read_bytes() != before


def test_precision_auto_is_that_of_the_file(photos, tmp_path):
    run(photos, tmp_path / "a.h5", precision="bf16", depth="stem")
    file, progress = run(photos, tmp_path / "a.h5", precision="auto", depth="stem")
    assert (progress.computed, file.provenance["precision"]) == (0, "bf16")
    assert file.provenance["decoding"]["mode"] == "scaled"


def test_parts_of_another_recipe_are_refused_too(photos, tmp_path, monkeypatch):
    monkeypatch.setattr(plan, "SLICE", 2)

    def stop(progress):
        if progress.computed == 4:
            raise KeyboardInterrupt

    path = tmp_path / "a.h5"
    with pytest.raises(KeyboardInterrupt):
        run(photos, path, progress=stop)
    with pytest.raises(CodesError, match=r"a\.h5\.parts .*weights = 'SHA-256 "):
        run(photos, path, seed=1)
    _, progress = run(photos, path)
    assert (progress.computed, progress.kept) == (2, 4)


def test_a_damaged_file_is_not_built_upon(photos, tmp_path, draw):
    path = tmp_path / "a.h5"
    run(photos, path)
    raw = bytearray(path.read_bytes())
    raw[2000] ^= 1
    path.write_bytes(raw)
    with pytest.raises(CodesError, match=r"damaged.*--overwrite to replace"):
        run(photos, path)
    assert path.read_bytes() == bytes(raw)
    assert run(photos, path, overwrite=True)[1].computed == 6


def test_a_limit_lifted_computes_the_rest(photos, tmp_path):
    path = tmp_path / "a.h5"
    file, _ = run(photos, path, limit=2)
    assert file.paths == ["ant/0.png", "bee/1.png"]
    file, progress = run(photos, path)
    assert (progress.computed, progress.kept) == (4, 2)
    like_fresh(file, photos, tmp_path / "fresh.h5")


def test_another_source_never_replaces_one_that_is_still_there(photos, draw, tmp_path):
    path = tmp_path / "x.h5"
    before, _ = run(photos, path)
    content = path.read_bytes()
    for k in range(4):
        draw(tmp_path / "other" / "ab"[k % 2] / f"new{k}.png", 90 + k)
    with pytest.raises(CodesError, match=r"holds 6 images of .*photos, none of"):
        run(tmp_path / "other", path)
    assert path.read_bytes() == content
    # Moved, its images keep their names; gone, nobody misses them.
    moved = photos.rename(tmp_path / "moved")
    again, progress = run(moved, path)
    assert (progress.computed, again.paths) == (0, before.paths)
    moved.rename(tmp_path / "hidden")
    replaced, _ = run(tmp_path / "other", path)
    assert len(replaced) == 4
    file, _ = run(tmp_path / "hidden", path, overwrite=True)
    assert len(file) == 6
