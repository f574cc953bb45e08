"""A terminal of few characters loses no result, nor does a name of any bytes."""

import csv
import importlib
import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from trapping import apart

from featpipe.cli import main
from featpipe.cli.encoding import replace_characters
from featpipe.cli.outputs import run_all

ENCODINGS = ("ascii", "cp1252")


def run_all_commands(folder: Path, encoding: str) -> None:
    """Run every command with such streams: in a fork, for they are not put back."""
    for name in ("stdout", "stderr"):
        # As PYTHONIOENCODING makes them.
        errors = "strict" if name == "stdout" else "backslashreplace"
        stream = (folder / name).open("w", encoding=encoding, errors=errors)
        os.dup2(stream.fileno(), 1 if name == "stdout" else 2)
        setattr(sys, name, stream)
    warnings.simplefilter("default")  # printed, as outside of pytest
    out, codes, model = folder / "out", folder / "out" / "codes.h5", folder / "a.model"
    small = ["--backbone", "mini", "--weights", "none", "--input-size", "32"]
    images = str(folder / "images")
    grid = ["--C-grid", "1e-2:1:2", "--folds", "2"]
    for command in (
        ["run", images, "-o", out, *small, "--classifiers", "logistic,svm", *grid],
        ["extract", images, "-o", codes, *small, "--json", folder / "extract.json"],
        ["compare", codes, *grid, "--json", folder / "scores.json",
         "--csv", folder / "scores.csv", "--predictions", folder / "predictions.csv"],
        ["fit", codes, "-o", model, "--C", "1"],
        ["predict", model, images, "-o", folder / "labels.csv"],
        ["predict", model, images, "--top", "2"],
        ["finetune", images, *small, "--train", "head", "--epochs", "1", "--lr", "0.1",
         "--json", folder / "tuned.json"],
        ["inspect", codes], ["verify", codes], ["advise", codes],
        ["compare", "--help"], ["depths", "mini"], ["compare", folder / "caf\xe9.h5"],
    ):  # fmt: skip
        sys.argv = ["featpipe", *map(str, command)]
        try:
            main()
        except SystemExit as end:
            print(command[0], "ends with", end.code, flush=True)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Draw 20 images of two classes; names are not ASCII, and some are no text."""
    folder = tmp_path_factory.mktemp("encoding") / "images"
    rng = np.random.default_rng(0)
    for name, low in (("caf\xe9 ★", 0), ("\N{CJK UNIFIED IDEOGRAPH-732B}", 120)):
        (folder / name).mkdir(parents=True)
        for k in range(10):
            pixels = rng.integers(low, low + 135, (24, 30, 3), dtype=np.uint8)
            odd = os.fsdecode(b"\xff%d.png" % k)
            Image.fromarray(pixels).save(folder / name / odd)
    (folder / "caf\xe9 ★" / os.fsdecode(b"\xfebroken.jpg")).write_text("no image")
    return folder


@pytest.fixture(scope="module")
def ran(images: Path) -> Path:
    """Return the folder with a folder for each encoding, where every command ran."""
    # Once, and not in each fork; optimisers import the last one late.
    for name in ("advice", "comparison", "extraction", "finetuning"):
        importlib.import_module(f"featpipe.{name}")
    importlib.import_module("torch._dynamo")
    for encoding in ENCODINGS:
        folder = images.parent / encoding
        folder.mkdir()
        (folder / "images").symlink_to(images)
        result = apart(lambda folder=folder: run_all_commands(folder, folder.name))
        assert "value" in result, result
    return images.parent


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_every_command_finishes_and_writes_its_files_in_a_small_encoding(
    ran: Path, encoding: str
) -> None:
    folder = ran / encoding
    stdout = (folder / "stdout").read_bytes().decode(encoding)
    stderr = (folder / "stderr").read_bytes().decode(encoding)
    assert "Error" not in stderr
    assert "unexpected" not in stderr
    ends = [line.split()[-1] for line in stdout.splitlines() if " ends with " in line]
    assert ends == ["0"] * 12 + ["1"], stdout + stderr
    assert "* recommended: highest cross-validated" in stdout
    assert r"\u732b" in stdout
    assert "?" not in stdout.partition("recommended")[2]
    scores = json.loads((folder / "scores.json").read_text("utf-8"))["scores"]
    assert {score["classifier"] for score in scores} == {"linear", "logistic", "svm"}
    with (folder / "labels.csv").open(
        encoding="utf-8", errors="surrogateescape"
    ) as file:
        rows = list(csv.DictReader(file))
    assert {row["label"] for row in rows} == {"caf\xe9 ★", "猫"}
    for name in ("scores.csv", "predictions.csv", "extract.json", "tuned.json"):
        assert (folder / name).stat().st_size > 0


def test_a_terminal_that_is_full_loses_no_file(images: Path, tmp_path: Path) -> None:
    (tmp_path / "images").symlink_to(images)
    run = [*("run", "images", "-o", "out"), "--classifiers", "linear"]
    run += ["--folds", "2", "--C-grid", "1e-2:1:2"]
    small = ["--backbone", "mini", "--weights", "none", "--input-size", "32"]
    with Path("/dev/full").open("w") as full:
        result = subprocess.run(
            [sys.executable, "-m", "featpipe", *run, *small],
            cwd=tmp_path,
            stdout=full,
            stderr=subprocess.PIPE,
            check=False,
            env={**os.environ, "LC_ALL": "C", "PYTHONIOENCODING": "ascii"},
        )
    assert result.returncode == 1
    assert b"error: " in result.stderr
    assert b"Traceback" not in result.stderr
    assert json.loads((tmp_path / "out" / "scores.json").read_text("utf-8"))["scores"]


@pytest.mark.slow
def test_a_reader_that_has_enough_loses_no_file_and_is_no_error(
    images: Path, tmp_path: Path
) -> None:
    (tmp_path / "images").symlink_to(images)
    small = "--backbone mini --weights none --input-size 32"
    tune = f"finetune images {small} --train head --epochs 1 --lr 0.1 --json t.json"
    script = f"""
        featpipe() {{ "{sys.executable}" -m featpipe "$@"; }}
        set -o pipefail -e
        featpipe run images -o out {small} --classifiers linear | true
        featpipe fit out/codes.h5 -o a.model --C 1 2>&1 | true
        featpipe predict a.model images -o labels.csv 2>&1 | head -n 1
        featpipe extract images -o out/codes.h5 {small} --json e.json | true
        featpipe {tune} 2>&1 | true
        echo all
    """
    result = subprocess.run(
        ["bash", "-c", script],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.endswith(b"all\n")
    assert b"Error" not in result.stderr
    for name in ("out/scores.json", "a.model", "labels.csv", "e.json", "t.json"):
        assert (tmp_path / name).stat().st_size > 0


def test_a_file_that_cannot_be_written_keeps_no_table_from_being_printed() -> None:
    done: list[str] = []

    def full() -> None:
        raise OSError("no space left")

    with pytest.raises(OSError, match="no space left"):
        run_all(lambda: done.append("csv"), full, lambda: done.append("table"))
    assert done == ["csv", "table"]


def test_replaced_characters_are_plain() -> None:
    error = UnicodeEncodeError("ascii", "a★\udcffé…b", 1, 5, "")
    assert replace_characters(error) == (r"*\udcff\xe9...", 5)
