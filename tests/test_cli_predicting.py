"""`fit`, `predict` and `export` as a person sees them."""

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_cli import SMALL, featpipe_says, refused

import featpipe


@pytest.fixture(scope="module")
def kinds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return 16 train and 8 test images of two classes of brightness."""
    folder = tmp_path_factory.mktemp("predicting") / "kinds"
    rng = np.random.default_rng(0)
    for split, n in (("train", 8), ("test", 4)):
        for name, low in (("dark", 0), ("[light]", 120)):
            for k in range(n):
                pixels = rng.integers(low, low + 135, (24, 30, 3), dtype=np.uint8)
                path = folder / split / name / f"{k}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(path)
    return folder


@pytest.fixture(scope="module")
def kinds_h5(kinds: Path) -> Path:
    path = kinds.parent / "kinds.h5"
    depths = ["--depth", "stage1", "--depth", "penultimate"]
    result = featpipe_says("extract", kinds, "-o", path, *SMALL, *depths)
    assert result.exit_code == 0, result.output
    return path


@pytest.fixture(scope="module")
def model(kinds_h5: Path) -> Path:
    path = kinds_h5.with_name("kinds.model")
    result = featpipe_says("fit", kinds_h5, "-o", path, "--C", "0.1")
    assert result.exit_code == 0, result.output
    assert "fitted on 16 images; accuracy on the 8 of 'test' " in result.stdout
    return path


@pytest.mark.parametrize("command", ["fit", "predict", "export"])
def test_help_shows_an_example(command: str) -> None:
    result = featpipe_says(command, "--help")
    assert result.exit_code == 0
    assert f"featpipe {command}" in result.output.partition("For example")[2]


def test_fit_says_what_was_chosen(kinds_h5: Path, tmp_path: Path) -> None:
    result = featpipe_says(
        *("fit", kinds_h5, "--classifier", "linear", "--depth", "stage1"),
        *("--C-grid", "1e-3:1e-1:3", "-o", tmp_path / "m"),
    )
    assert result.exit_code == 0, result.output
    assert "linear, C=" in result.stderr
    assert "on mini stage1:avg (" in result.stderr
    assert "cross-validated accuracy" in result.stdout
    assert featpipe.load(tmp_path / "m").class_names == ["[light]", "dark"]


def test_predict_labels_judges_and_counts(kinds: Path, model: Path) -> None:
    result = featpipe_says("predict", model, kinds / "test", "--top", "2")
    assert result.exit_code == 0, result.output
    assert "8 labelled images, accuracy " in result.stdout
    assert "true \\ predicted" in result.stdout
    assert "[light]/0.png" in result.stdout
    assert result.stdout.splitlines()[-1] == "8 of 8 images labelled, 0 failed"


def test_predict_judges_every_split(kinds: Path, model: Path) -> None:
    result = featpipe_says("predict", model, kinds)
    assert "test: 8 labelled images" in result.stdout
    assert "train: 16 labelled images" in result.stdout
    assert "`fit` learns from train: if the model learned" in result.stderr


def test_predict_writes_every_label_and_every_failure(
    kinds: Path, model: Path, tmp_path: Path
) -> None:
    source = tmp_path / "new"
    source.mkdir()
    (source / "a.png").write_bytes((kinds / "test" / "dark" / "0.png").read_bytes())
    (source / "broken.jpg").write_text("no image")
    output = tmp_path / "labels.csv"
    result = featpipe_says("predict", model, source, "-o", output)
    assert result.exit_code == 0, result.output
    assert "failed: broken.jpg: decode: " in result.stderr
    assert "1 of 2 images labelled, 1 failed" in result.stdout
    assert "accuracy" not in result.stdout
    with output.open() as file:
        (row,) = csv.DictReader(file)
    assert row["path"] == "a.png"
    assert row["label"] == "dark"
    assert 0.5 < float(row["probability"]) <= 1
    with (tmp_path / "labels.failures.csv").open() as file:
        (failure,) = csv.DictReader(file)
    assert failure["path"] == "broken.jpg"
    (source / "a.png").unlink()
    assert "not one of 1 images" in refused("predict", model, source)


def test_an_unknown_class_is_said(kinds: Path, model: Path, tmp_path: Path) -> None:
    (tmp_path / "new" / "violet").mkdir(parents=True)
    (tmp_path / "new" / "dark").mkdir()
    for name in ("violet", "dark"):
        content = (kinds / "test" / "dark" / "1.png").read_bytes()
        (tmp_path / "new" / name / "x.png").write_bytes(content)
    result = featpipe_says("predict", model, tmp_path / "new")
    assert "not the model's (violet)" in result.stderr
    assert "accuracy 50.0 %" in result.stdout


def test_export_writes_a_network_that_agrees(
    kinds: Path, kinds_h5: Path, tmp_path: Path
) -> None:
    shallow, output = tmp_path / "kinds.model", tmp_path / "kinds.onnx"
    depth = ["--depth", "stage1", "--C", "0.1"]
    assert featpipe_says("fit", kinds_h5, "-o", shallow, *depth).exit_code == 0
    result = featpipe_says("export", shallow, "-o", output, "--check", kinds / "test")
    assert result.exit_code == 0, result.output
    assert "onnxruntime agrees on 8 images" in result.stdout
    assert output.exists()


def test_what_cannot_be_done_is_one_line(
    kinds: Path, kinds_h5: Path, model: Path, tmp_path: Path
) -> None:
    assert "no model file" in refused("predict", tmp_path / "no.model", kinds)
    assert "no model file" in refused("predict", kinds_h5, kinds)
    assert "no such folder" in refused("predict", model, tmp_path / "nowhere")
    gone = tmp_path / "gone" / "x.model"
    assert "no folder" in refused("fit", kinds_h5, "-o", gone)
    assert "no folder" in refused("predict", model, kinds, "-o", gone)
    with_file = ("--weights", tmp_path / "w.pth")
    line = refused("predict", model, kinds / "test", *with_file)
    assert "no weights file" in line
    assert not (tmp_path / "gone").exists()
    bad = featpipe_says("fit", kinds_h5, "-o", tmp_path / "m", "--C", "many")
    assert bad.exit_code == 2
    assert featpipe_says("predict", model, kinds, "--top", "0").exit_code == 2
