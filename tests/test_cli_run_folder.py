"""One folder for each source and backbone: nothing of one run replaces another's."""

import json
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_cli import SMALL, featpipe_says, refused

import featpipe
from featpipe.cli.run_folder import default_folder

QUICK = [*SMALL, "--classifiers", "nearest-mean", "--folds", "2"]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a working folder with the same twelve images as folder, table and zip."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    rows = ["path,label"]
    for k in range(12):
        path = Path("six") / "ab"[k % 2] / f"{k}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(path)
        if k < 10:
            rows.append(f"{path},{'ab'[k % 2]}")
    Path("six.csv").write_text("\n".join(rows))
    with zipfile.ZipFile("six.zip", "w") as file:
        for path in sorted(Path("six").rglob("*.png"))[:8]:
            file.write(path)
    return tmp_path


def run(*arguments: object) -> str:
    result = featpipe_says("run", *arguments, *QUICK)
    assert result.exit_code == 0, result.output
    return result.output


def folders(here: Path) -> dict[str, int]:
    """Return the images in each folder that `run` has made."""
    return {
        path.parent.name: len(featpipe.read(path))
        for path in here.glob("featpipe-*/codes.h5")
    }


def test_folder_table_and_zip_of_one_name_have_folders_of_their_own(here):
    for source in ("six", "six.csv", "six.zip"):
        run(source)
    assert folders(here) == {
        "featpipe-six-mini": 12,
        "featpipe-six.csv-mini": 10,
        "featpipe-six.zip-mini": 8,
    }
    scores = {path.read_bytes() for path in here.glob("featpipe-*/scores.json")}
    assert len(scores) == 3


def test_the_same_command_goes_on_in_the_same_folder(here):
    run("six")
    before = (here / "featpipe-six-mini" / "codes.h5").stat().st_mtime_ns
    for name in ("six", "six/", "./six", here / "six"):
        assert "0 computed, 12 kept" in run(name)
    assert (here / "featpipe-six-mini" / "codes.h5").stat().st_mtime_ns == before
    assert folders(here) == {"featpipe-six-mini": 12}


@pytest.mark.parametrize("output", [(), ("-o", "out")])
def test_two_sources_never_share_a_folder(here, output):
    (here / "more").mkdir()
    shutil.copytree(here / "six" / "a", here / "more" / "six" / "a")
    shutil.copytree(here / "six" / "a", here / "more" / "six" / "b")
    run("six", *output)
    kept = {path: path.read_bytes() for path in here.glob("*/*.*")}
    line = refused("run", "more/six", *output, *QUICK)
    assert f"holds the run of {here / 'six'}, not of {here / 'more' / 'six'}" in line
    assert "give -o another folder, or --overwrite" in line
    assert {path: path.read_bytes() for path in here.glob("*/*.*")} == kept
    assert "12 images" in run("more/six", *output, "--overwrite")


def test_a_source_that_has_moved_is_the_same(here):
    run("six")
    (here / "elsewhere").mkdir()
    (here / "six").rename(here / "elsewhere" / "six")
    assert "0 computed, 12 kept" in run("elsewhere/six")


def test_another_backbone_is_another_folder(here, monkeypatch):
    run("six")
    monkeypatch.setattr("test_cli_run_folder.QUICK", [*QUICK[2:], "--seed", "1"])
    run("six", "--backbone", "networks:tiny")
    assert set(folders(here)) == {"featpipe-six-mini", "featpipe-six-networks-tiny"}


def test_what_was_run_is_recorded_and_bad_input_leaves_nothing(here):
    refused("run", "nowhere", *QUICK)
    refused("run", "six", *QUICK, "--depth", "nothing")
    assert featpipe_says("run", "six", *QUICK, "--plan").exit_code == 0
    lines = (here / "six.csv").read_text().splitlines()
    splits = ["split", *["val", "test"] * 5]
    text = "\n".join(f"{a},{b}" for a, b in zip(lines, splits, strict=True))
    (here / "held.csv").write_text(text)
    assert "5 have the split 'val' and" in refused("run", "held.csv", *QUICK)
    assert not list(here.glob("featpipe-*"))
    run("six.csv")
    record = json.loads((here / "featpipe-six.csv-mini" / "run.json").read_text())
    assert record == {"source": str(here / "six.csv"), "backbone": "mini"}
    # Whatever stands there instead, `run` writes its own.
    (here / "featpipe-six.csv-mini" / "run.json").write_text("[1]")
    run("six.csv")


def test_a_run_inside_its_own_source_does_not_take_itself_for_images(here, monkeypatch):
    monkeypatch.chdir(here / "six")
    run(".")
    assert "0 computed, 12 kept, 0 failed" in run(".")
    codes = featpipe.read("featpipe-six-mini/codes.h5")
    assert codes.class_names == ["a", "b"]


@pytest.mark.parametrize(
    ("source", "backbone", "folder"),
    [
        ("a/flowers/", "resnet50", "featpipe-flowers-resnet50"),
        ("my photos.csv", "timm:vit_tiny", "featpipe-my-photos.csv-timm-vit_tiny"),
        ("torchvision:CIFAR10?root=/d/x", "mini", "featpipe-torchvision-CIFAR10-mini"),
        ("/", "nets:small?width=32", "featpipe-nets-small-width-32"),
        ("größe", "mini", "featpipe-größe-mini"),
    ],
)
def test_names_are_what_every_file_system_takes(source, backbone, folder):
    assert str(default_folder(source, backbone)) == folder
