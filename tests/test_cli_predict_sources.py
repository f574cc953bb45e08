"""What `predict` takes: files, lists on stdin, folders of other names; and --reject."""

import csv
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_cli import SMALL, featpipe_says, refused
from typer.testing import CliRunner

import featpipe
from featpipe.cli.app import app
from featpipe.inference import from_items


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Draw 60 images of two classes that overlap a little, and fit a model."""
    folder = tmp_path_factory.mktemp("sources")
    rng = np.random.default_rng(0)
    for name, low in (("ants", 60), ("bees", 90)):
        for k in range(30):
            level = low + rng.integers(-20, 20)
            pixels = rng.integers(level, level + 60, (24, 30, 3), dtype=np.uint8)
            path = folder / "images" / name / f"{k}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
    result = featpipe_says("extract", folder / "images", "-o", folder / "c.h5", *SMALL)
    assert result.exit_code == 0, result.output
    for name in ("svm", "logistic"):
        model = ("--classifier", name, "-o", folder / name, "--C", "0.01")
        assert featpipe_says("fit", folder / "c.h5", *model).exit_code == 0
    return folder


def table(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def test_files_are_labelled_in_the_order_given(folder: Path, tmp_path: Path) -> None:
    bees, ants = folder / "images" / "bees", folder / "images" / "ants"
    files = [bees / "3.png", ants / "1.png", bees / "0.png", tmp_path / "none.png"]
    result = featpipe_says("predict", folder / "svm", *files, "-o", tmp_path / "f.csv")
    assert result.exit_code == 0, result.output
    assert "3 of 4 images labelled, 1 failed" in result.stdout
    rows = table(tmp_path / "f.csv")
    assert [row["path"] for row in rows] == [str(path) for path in files[:3]]
    assert "truth" not in rows[0]
    alone = featpipe_says("predict", folder / "svm", files[0], "--top", "2")
    assert "1 of 1 images labelled" in alone.stdout


def test_a_list_of_paths_comes_on_stdin(folder: Path, tmp_path: Path) -> None:
    odd = tmp_path / os.fsdecode(b"\xffa b.png")
    shutil.copy(folder / "images" / "ants" / "0.png", odd)
    other = folder / "images" / "bees" / "0.png"
    for between in (b"\n", b"\0", b"\r\n"):
        result = CliRunner().invoke(
            app,
            ["predict", str(folder / "svm"), "-", "-o", str(tmp_path / "f.csv")],
            input=between.join([os.fsencode(odd), os.fsencode(other), b""]),
        )
        assert result.exit_code == 0, result.output
        text = (tmp_path / "f.csv").read_bytes().decode("utf-8", "surrogateescape")
        paths = [row["path"] for row in csv.DictReader(text.splitlines())]
        assert paths == [str(odd), str(other)]
    nothing = CliRunner().invoke(app, ["predict", str(folder / "svm"), "-"], input="\n")
    assert nothing.exit_code == 1
    assert "stdin has no path" in nothing.stderr


def test_a_folder_beside_files_is_refused(folder: Path) -> None:
    line = refused("predict", folder / "svm", folder / "images", folder / "x.png")
    assert "give it alone" in line


def test_the_truth_is_written_where_there_is_one(folder: Path, tmp_path: Path) -> None:
    source = folder / "images"
    featpipe_says("predict", folder / "svm", source, "-o", tmp_path / "f.csv")
    rows = table(tmp_path / "f.csv")
    assert [row["truth"] for row in rows] == [row["path"][:4] for row in rows]
    compared = featpipe_says(
        *("compare", folder / "c.h5", "--classifiers", "nearest-mean"),
        *("--predictions", tmp_path / "p.csv"),
    )
    assert compared.exit_code == 0, compared.output
    assert [row["truth"] for row in table(tmp_path / "p.csv")] == [
        row["truth"] for row in rows
    ]


def test_folders_of_other_names_are_labelled_and_not_judged(
    folder: Path, tmp_path: Path
) -> None:
    for name, mine in (("Ants", "ants"), ("BEES ", "bees")):
        (tmp_path / "new" / name).mkdir(parents=True)
        shutil.copy(folder / "images" / mine / "0.png", tmp_path / "new" / name)
    result = featpipe_says("predict", folder / "svm", tmp_path / "new")
    assert result.exit_code == 0, result.output
    assert "accuracy" not in result.stdout
    assert "the labels are not judged; the model has ants, bees" in result.stderr
    assert "rename 'Ants' to 'ants', 'BEES ' to 'bees'" in result.stderr


def test_reject_answers_unknown_and_is_advised(folder: Path, tmp_path: Path) -> None:
    model, source = folder / "logistic", folder / "images"
    loaded = featpipe.load(model)
    rate = 0.2
    sure = loaded.predict_proba(source).max(1) >= loaded.threshold(rate)
    output = ("-o", tmp_path / "f.csv")
    result = featpipe_says("predict", model, source, "--reject", rate, *output)
    assert result.exit_code == 0, result.output
    rows = table(tmp_path / "f.csv")
    assert [row["label"] != "unknown" for row in rows] == sure.tolist()
    assert {row["likeliest"] for row in rows} == {"ants", "bees"}
    assert f"{(~sure).sum()} of 60 are 'unknown'" in result.stdout
    right = [row["label"] == row["truth"] for row in rows if row["label"] != "unknown"]
    assert f"{len(right)} labelled images, accuracy {100 * np.mean(right):.1f} %" in (
        result.stdout
    )
    line = refused("predict", model, source, "--reject", "0.0001")
    assert "cannot be promised from 60 training images" in line


def test_two_contents_of_one_name_are_refused(folder: Path) -> None:
    content = (folder / "images" / "ants" / "0.png").read_bytes()
    with pytest.raises(ValueError, match="images 0 and 2 are both called 'a'"):
        from_items([("a", content), ("b", content), ("a", content + b" ")])
    path = str(folder / "images" / "ants" / "0.png")
    with pytest.raises(ValueError, match="both called"):
        from_items([path, (path, content)])
    assert len(from_items([path, path])) == 2
