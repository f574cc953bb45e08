"""Extraction: the right codes in the right rows, and every image accounted for."""

import copy
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from extracting import run
from PIL import Image
from torchvision.transforms import v2
from trapping import apart

import featpipe
from featpipe import backbones, codes, images, inference
from featpipe.extraction import extract, plan, runner
from featpipe.inference.pixels import Decoding

# Batch-mates change the last bits; nothing else may.
CLOSE = {"rtol": 1e-5, "atol": 1e-6}


def by_hand(path: Path, flip: bool = False) -> dict[str, np.ndarray]:
    """One image through the unfused network, by torchvision's own preprocessing."""
    network = backbones.load(
        "networks:tiny", weights="none", depths=["penultimate"], input_size=16
    ).network
    image = Image.open(path).convert("RGB")
    to_tensor = v2.Compose(
        [
            v2.Resize(16),
            v2.CenterCrop(16),
            v2.ToImage(),
            v2.ToDtype(torch.float32, True),
        ]
    )
    x = v2.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))(to_tensor(image))
    x = x.flip(-1)[None] if flip else x[None]
    with torch.no_grad():
        stem = network.stem(x)
        late = network.late(network.body(network.act(network.norm(stem))))
    means = {"stem:avg": stem.mean((2, 3)), "penultimate": late.mean((2, 3))}
    return {spec: code[0].numpy() for spec, code in means.items()}


def test_codes_equal_a_plain_loop_one_image_at_a_time(photos, tmp_path):
    file, _ = run(photos, tmp_path / "a.h5")
    assert file.depths == ["stem:avg", "penultimate"]
    for i, path in enumerate(file.paths):
        expected = by_hand(photos / path)
        for spec in file.depths:
            X, _ = file.arrays(spec)
            np.testing.assert_allclose(X[i], expected[spec], **CLOSE)


def test_hflip_is_the_mean_of_image_and_mirror_image(photos, tmp_path):
    file, _ = run(photos, tmp_path / "a.h5", hflip=True, depth=["stem:avg", "body:map"])
    plain, _ = run(photos, tmp_path / "b.h5", depth="body:map")
    maps, straight = file.rows("body", 0, 9), plain.rows("body", 0, 9)
    assert maps.dtype == np.float16
    assert maps.shape == straight.shape == (6, 6, 4, 4)
    for i, path in enumerate(file.paths):
        both = [by_hand(photos / path, flip)["stem:avg"] for flip in (False, True)]
        X, _ = file.arrays("stem:avg")
        np.testing.assert_allclose(X[i], np.mean(both, axis=0), **CLOSE)
    # The mirror image's map is turned back: corners keep their places.
    mirrored = tmp_path / "mirrored"
    for path in photos.rglob("*.png"):
        target = mirrored / path.relative_to(photos)
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.open(path).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(target)
    other, _ = run(mirrored, tmp_path / "c.h5", depth="body:map")
    expected = (straight + other.rows("body", 0, 9)[..., ::-1].astype(float)) / 2
    np.testing.assert_allclose(maps, expected, rtol=2e-3, atol=2e-3)


def test_batches_workers_order_and_company_do_not_matter(photos, tmp_path, draw):
    X, _ = run(photos, tmp_path / "a.h5")[0].arrays("stem+penultimate")
    variants = [{"batch_size": 1}, {"batch_size": 5, "workers": 7}, {"workers": 1}]
    for k, change in enumerate(variants):
        other, _ = run(photos, tmp_path / f"{k}.h5", **change)
        np.testing.assert_allclose(other.arrays("stem+penultimate")[0], X, **CLOSE)
    shuffled = tmp_path / "shuffled"
    for k in (3, 5, 0, 4, 2, 1):
        draw(shuffled / ("ant", "bee")[k % 2] / f"{k}.png", k)
    other, _ = run(shuffled, tmp_path / "s.h5")
    assert other.paths == [f"ant/{k}.png" for k in (0, 2, 4)] + [
        f"bee/{k}.png" for k in (1, 3, 5)
    ]
    np.testing.assert_array_equal(other.arrays("stem+penultimate")[0], X)
    (alone,) = (draw(tmp_path / "alone" / "4.png", 4),)
    other, _ = run(alone.parent, tmp_path / "alone.h5")
    np.testing.assert_allclose(other.arrays("stem+penultimate")[0][0], X[2], **CLOSE)


def test_tables_say_what_the_source_says(tmp_path, draw):
    for k, name in enumerate(("train/ant/0", "train/bee/1", "val/ant/2", "val/bee/3")):
        draw(tmp_path / "p" / f"{name}.png", k)
    file, progress = run(tmp_path / "p", tmp_path / "a.h5")
    assert file.splits.tolist() == ["train", "train", "val", "val"]
    assert file.class_names == ["ant", "bee"]
    assert file.labels.tolist() == [0, 1, 0, 1]
    assert file.images_root == str(tmp_path / "p")
    image = tmp_path / "p" / file.paths[2]
    assert file.sizes[2] == image.stat().st_size
    assert file.mtimes[2] == image.stat().st_mtime_ns
    assert file.provenance["backbone"] == "networks:tiny"
    assert (progress.computed, progress.kept, progress.failed) == (4, 0, 0)
    assert progress.done == 4


def test_every_input_is_a_row_or_a_failure_with_its_reason(photos, tmp_path):
    (photos / "ant" / "cut.png").write_bytes(
        (photos / "ant" / "0.png").read_bytes()[:90]
    )
    (photos / "ant" / "text.jpg").write_text("hello")
    (photos / "bee" / "gone.png").symlink_to("nowhere")
    file, progress = run(photos, tmp_path / "a.h5")
    assert len(file) == 6
    failed = {path: stage for path, stage, _ in file.failures}
    assert failed == {
        "ant/cut.png": "decode",
        "ant/text.jpg": "decode",
        "bee/gone.png": "scan",
    }
    assert all(reason for *_, reason in file.failures)
    assert (progress.n_images, progress.failed, progress.done) == (9, 3, 9)
    with pytest.raises(ValueError, match=r"bee/gone\.png: scan: .*--on-error fail"):
        run(photos, tmp_path / "b.h5", on_error="fail")
    (photos / "bee" / "gone.png").unlink()
    with pytest.raises(ValueError, match=r"ant/cut\.png: decode: .*--on-error fail"):
        run(photos, tmp_path / "b.h5", on_error="fail")
    # The failing run is resumable; a run that skips takes it on.
    assert not (tmp_path / "b.h5").exists()
    again, _ = run(photos, tmp_path / "b.h5")
    assert again.failures == file.failures[:2]


def test_a_code_that_is_not_finite_is_a_failure_of_its_image_alone(photos, tmp_path):
    Image.new("RGB", (16, 16)).save(photos / "ant" / "black.png")
    file, progress = run(
        photos, tmp_path / "a.h5", backbone="networks:exploding", depth="1.body:avg"
    )
    assert [(path, stage) for path, stage, _ in file.failures] == [
        ("ant/black.png", "network")
    ]
    assert "1.body:avg is not finite" in file.failures[0][2]
    assert (progress.computed, progress.failed) == (6, 1)
    codes.verify(tmp_path / "a.h5")


def test_not_one_code_is_an_error_and_leaves_nothing(tmp_path):
    (tmp_path / "p").mkdir()
    for k in range(3):
        (tmp_path / "p" / f"{k}.jpg").write_text("no image")
    with pytest.raises(
        ValueError, match=r"not one of 3 images .* 0\.jpg, failed at dec"
    ):
        run(tmp_path / "p", tmp_path / "a.h5")
    assert [path.name for path in tmp_path.iterdir()] == ["p"]


def test_float16_is_rounded_once_and_never_overflows(photos, tmp_path):
    full, _ = run(photos, tmp_path / "a.h5")
    half, _ = run(photos, tmp_path / "b.h5", dtype="float16")
    assert half.rows("stem", 0, 6).dtype == np.float16
    expected = full.rows("stem", 0, 6).astype(np.float16)
    np.testing.assert_array_equal(half.rows("stem", 0, 6), expected)
    loud = {"backbone": "networks:loud", "depth": "late:max"}
    with pytest.raises(
        ValueError, match=r"'late:max' reach .* beyond float16's 65,504"
    ):
        run(photos, tmp_path / "c.h5", dtype="float16", **loud)
    assert not (tmp_path / "c.h5").exists()
    assert run(photos, tmp_path / "c.h5", **loud)[0].rows("late", 0, 6).max() > 65504


def test_parts_of_another_dtype_are_not_mixed_in(photos, tmp_path, monkeypatch):
    monkeypatch.setattr(plan, "SLICE", 2)

    def stop(progress):
        if progress.computed == 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(photos, tmp_path / "a.h5", dtype="float16", progress=stop)
    assert len(list((tmp_path / "a.h5.parts").glob("*.h5"))) == 1
    file, progress = run(photos, tmp_path / "a.h5", dtype="float32")
    fresh, _ = run(photos, tmp_path / "b.h5")
    assert (progress.computed, progress.kept) == (6, 0)
    assert file.path.read_bytes() == fresh.path.read_bytes()


def test_names_of_any_bytes_come_through(tmp_path, draw):
    folder = tmp_path / "p"
    names = [b"line\nfeed.png", b"\xff\xfe.png", "日本.png".encode(), b" space .png"]
    for k, name in enumerate(names):
        draw(folder / "ant" / "x.png", k).rename(folder / "ant" / os.fsdecode(name))
    file, _ = run(folder, tmp_path / "a[1]*.h5")
    assert sorted(map(os.fsencode, file.paths)) == sorted(b"ant/" + n for n in names)
    assert file.paths == sorted(file.paths, key=os.fsencode)
    _, progress = run(folder, tmp_path / "a[1]*.h5")
    assert (progress.computed, progress.kept) == (0, 4)


def test_arrays_are_a_source_too(tmp_path):
    rng = np.random.default_rng(0)
    pixels = list(rng.integers(0, 256, (4, 20, 16, 3), dtype=np.uint8))
    file, _ = run(
        images.from_arrays(pixels, labels=["x", "y", "x", "y"]), tmp_path / "a"
    )
    for k, array in enumerate(pixels):
        Image.fromarray(array).save(tmp_path / "x.png")
        expected = by_hand(tmp_path / "x.png")["stem:avg"]
        np.testing.assert_allclose(file.rows("stem", k, k + 1)[0], expected, **CLOSE)


def test_two_names_of_one_depth_are_one_depth(photos, tmp_path):
    file, _ = run(photos, tmp_path / "a.h5", depth=["stem", "stem:avg", "stem:max"])
    assert file.depths == ["stem:avg", "stem:max"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"precision": "fp64"}, "'fp64'; use auto, fp32"),
        ({"dtype": "int8"}, "'int8'; use float32 or float16"),
        ({"depth": []}, "no depth"),
        ({"on_error": "stop"}, "'stop'; use 'skip' or 'fail'"),
        ({"batch_size": 0}, "batch_size=0 has to be"),
        ({"workers": 0}, "workers=0 has to be"),
        ({"shard": (2, 2)}, "shard is '2/2'"),
        ({"device": "cuda:99"}, "'cuda:99' cannot be used"),
        ({"depth": "stam"}, "'stam'"),
        ({"limit": 0}, "limit=0"),
    ],
)
def test_options_that_do_not_fit_are_refused_and_leave_nothing(
    photos, tmp_path, change, message
):
    with pytest.raises(ValueError, match=message):
        run(photos, tmp_path / "a.h5", **change)
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]


def test_an_output_that_cannot_be_is_refused_before_any_work(photos, tmp_path):
    with pytest.raises(IsADirectoryError, match="is a folder; give the name of a file"):
        run(photos, tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no folder .*/none to write a.h5"):
        run(photos, tmp_path / "none" / "a.h5")
    (tmp_path / "text.h5").write_text("mine")
    with pytest.raises(
        codes.CodesError, match="not a featpipe codes file; choose another"
    ):
        run(photos, tmp_path / "text.h5")
    assert (tmp_path / "text.h5").read_text() == "mine"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_a_folder_that_is_not_writable_is_said(photos, tmp_path):
    tmp_path.chmod(0o755)
    # Somebody else may not see the folders above: all is imported and read first.
    source = images.scan(photos)

    def act() -> None:
        os.chdir(tmp_path)
        os.setgid(65534)
        os.setuid(65534)
        extract(source, "a.h5", backbone="squeezenet1_1", weights="none")

    result = apart(act)
    assert result.get("error") == "PermissionError", result
    assert "is not writable; choose another place for a.h5" in result["text"]


@pytest.fixture
def small_disk(tmp_path):
    """Return a disk of a megabyte."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", disk]
    if not shutil.which("mount") or subprocess.run(mount, check=False).returncode:
        pytest.skip("mounting a small disk is not allowed here")
    yield disk
    subprocess.run(["umount", disk], check=True)


@pytest.mark.parametrize(("n", "full_at"), [(40, "a part"), (26, "the file")])
def test_a_disk_that_is_full_is_said_and_room_is_all_it_needs(
    tmp_path, draw, small_disk, monkeypatch, n, full_at
):
    # A part takes 36 kB: 40 of them are too many, 26 leave no room for the file.
    monkeypatch.setattr(plan, "SLICE", 1)
    monkeypatch.setattr(runner, "_SECONDS", 0.0)
    for k in range(n):
        draw(tmp_path / "photos" / f"{k:02}.png", k)
    path, parts = small_disk / "a.h5", small_disk / "a.h5.parts"
    with pytest.raises(OSError, match=r"No space left.* needs .* are free; make room"):
        run(tmp_path / "photos", path)
    finished = len(list(parts.glob("*.h5")))
    assert 20 < finished < 40
    assert (finished == n) == (full_at == "the file")
    assert {result.name for result in small_disk.iterdir()} == {"a.h5.parts"}
    assert len(list(parts.iterdir())) == finished
    subprocess.run(["mount", "-o", "remount,size=8m", small_disk], check=True)
    result, progress = run(tmp_path / "photos", path)
    assert (progress.kept, progress.computed) == (finished, n - finished)
    fresh, _ = run(tmp_path / "photos", small_disk / "fresh.h5")
    assert result.path.read_bytes() == fresh.path.read_bytes()


def test_running_out_of_memory_halves_the_batch_and_says_so(photos, tmp_path, capfd):
    # A network that stands for a small GPU: more than two images are too many.
    progress = inference.Progress()
    backbone = backbones.load(
        "networks:tiny", weights="none", depths=["stem:avg"], input_size=16
    )

    cut = copy.deepcopy(backbone.cut)
    name = cut.forward.__code__.co_filename
    assert "eval_with_key" in name
    traced = type(cut).forward
    defined = {"torch": torch, "traced": traced}
    code = """
def forward(self, x):
    if len(x) > 2:
        raise torch.OutOfMemoryError
    return traced(self, x)
"""
    # As if it came from the traced code itself, for which torch has words of its own.
    exec(compile(code, name, "exec"), defined)
    type(cut).forward = defined["forward"]
    small = replace(backbone, _cut=cut)
    engine = inference.engine.Engine(
        images.scan(photos),
        6,
        lambda: [small],
        decoding=Decoding(),
        hflip=False,
        workers=1,
        progress=progress,
    )
    (batch,) = engine.batches([range(6)], lambda i, sha256: None)
    result = batch.codes["stem:avg"]
    whole, _ = run(photos, tmp_path / "a.h5")
    np.testing.assert_allclose(result, whole.rows("stem", 0, 6), **CLOSE)
    text = "out of memory on cpu: batches are halved, to "
    assert progress.messages == [text + "3", text + "1"]
    # torch prints a traceback where a traced module fails.
    assert capfd.readouterr().err == ""


UNINSTALLED = """
import importlib.metadata, sys
find = importlib.metadata.distribution
def distribution(name):
    if name == "featpipe":
        raise importlib.metadata.PackageNotFoundError(name)
    return find(name)
importlib.metadata.distribution = distribution
sys.path.insert(0, sys.argv[3])
import extracting
from pathlib import Path
file, _ = extracting.run(Path(sys.argv[1]), Path(sys.argv[2]))
print(file.provenance["versions"]["featpipe"])
print(sorted({"torch", "torchvision", "torch._dynamo"} & sys.modules.keys()))
"""


def test_a_package_that_was_never_installed_extracts_and_imports_little(
    photos, tmp_path
):
    done = subprocess.run(
        [sys.executable, "-c", UNINSTALLED, photos, tmp_path / "a.h5", "tests"],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=False,
    )
    # torchvision and torch's compiler take two seconds; this network uses neither.
    assert done.stdout.split("\n")[:2] == [featpipe.__version__, "['torch']"], (
        done.stderr
    )
    assert len(codes.read(tmp_path / "a.h5")) == 6
