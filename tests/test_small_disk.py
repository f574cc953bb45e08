"""Every command on a real disk of two megabytes that is full, and then is not.

The disk is a tmpfs: posix_fallocate, writes and renames really fail on it. Nothing may
die of a signal (libhdf5 does on a full disk), and no file may be half there.
"""

import importlib
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from surviving import digest
from trapping import apart
from typer.testing import CliRunner

import featpipe
from featpipe import report as reports
from featpipe.cli.app import app
from featpipe.predictor import exporting
from featpipe.report import Report, make_report, making

pytest_plugins = ["predictor_fixtures"]

SIZE = 2 * 2**20


@pytest.fixture
def disk(tmp_path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = shutil.which("mount")
    if mount is None:
        pytest.skip("there is no mount on this system")
    command = [mount, "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"a tmpfs cannot be mounted here: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture(scope="module", autouse=True)
def imported() -> None:
    """Import once what every fork would import by itself."""
    importlib.import_module("featpipe.finetuning.augment")
    importlib.import_module("torch._dynamo")  # optimisers import it late


@pytest.fixture(scope="module")
def model(kinds_h5) -> Path:
    path = kinds_h5.path.with_name("small.model")
    featpipe.fit(kinds_h5, "linear", C=0.1).save(path)
    return path


@pytest.fixture(scope="module")
def networks(kinds_h5) -> tuple[Path, bytes]:
    """Save a model of a shallow depth, and convert it once: that takes seconds."""
    pytest.importorskip("onnxruntime", reason="the extra `export` is not installed")
    pytest.importorskip("onnxscript", reason="the extra `export` is not installed")
    path = kinds_h5.path.with_name("shallow.model")
    fitted = featpipe.fit(kinds_h5, "linear", depth="stage1", C=0.1)
    fitted.save(path)
    return path, exporting._onnx(fitted)


@pytest.fixture(scope="module")
def report(kinds_h5) -> tuple[Report, str, dict[str, bytes]]:
    """Make a report, its page and its plots once: what is tried here is writing."""
    pytest.importorskip("bokeh", reason="the extra `report` is not installed")
    made = make_report(kinds_h5)
    page = making.render(made.files, made.findings, made.map, made.notes)
    plots = {name: making.png_of(figure) for name, figure in made.figures().items()}
    return made, page, plots


def fill(disk: Path, free: int) -> Path:
    """Leave so many bytes."""
    ballast = disk / "ballast"
    ballast.write_bytes(b"x" * (shutil.disk_usage(disk).free - free))
    return ballast


def run(words: list[str]) -> dict:
    """Run a command in a fork, which may die."""

    def act() -> dict:
        done = CliRunner().invoke(app, words)
        return {"status": done.exit_code, "stderr": done.stderr}

    return apart(act)


EXTRACT = (
    "extract {src} -o {disk}/c.h5 --backbone mini --weights none --input-size 32 "
    "--precision fp32 --workers 1"
)
COMPARE = "compare {h5} --classifiers linear"
FEW_C = "--C-grid 1e-3:1e-2:2"
# Each with what it writes, and the bytes that are left: none, and some.
COMMANDS = {
    "extract": (EXTRACT, ["c.h5"], 200_000),
    "extract, replacing": (f"{EXTRACT} --overwrite", ["c.h5"], 200_000),
    "extract, a depth more": (f"{EXTRACT} --depth penultimate --depth stage3", ["c.h5"],
                              200_000),
    "merge": ("merge {h5} -o {disk}/all.h5", ["all.h5"], 60_000),
    "compare --json": (f"{COMPARE} --json {{disk}}/s.json", ["s.json"], 4096),
    "compare --csv": (f"{COMPARE} {FEW_C} --csv {{disk}}/s.csv", ["s.csv"], 0),
    "compare --predictions": (
        f"{COMPARE} {FEW_C} --predictions {{disk}}/p.csv", ["p.csv"], 0),
    "fit": ("fit {h5} --classifier linear -o {disk}/m", ["m"], 4096),
    "predict": ("predict {model} {src} -o {disk}/f.csv", ["f.csv"], 0),
    "export": ("export {shallow} -o {disk}/m.onnx --check {src}", ["m.onnx"], 4096),
    "report": ("report {h5} -o {disk}/r.html", ["r.html"], 300_000),
    "report --png": ("report {h5} --png {disk}/plots", ["plots"], 60_000),
    "finetune": ("finetune {src} -o {disk}/t --backbone networks:tiny --weights none "
                 "--depth stem:avg --train head --epochs 1 --lr 0.01 --workers 1",
                 ["t"], 4096),
}  # fmt: skip


CASES = [(name, free) for name, (*_, some) in COMMANDS.items() for free in {0, some}]


@pytest.mark.parametrize(("name", "free"), sorted(CASES))
def test_a_full_disk_costs_one_sentence_and_a_rerun(
    name, free, disk, kinds, kinds_h5, model, request, monkeypatch
):
    text, outputs, _ = COMMANDS[name]
    shallow = None
    if name == "export":
        shallow, content = request.getfixturevalue("networks")
        monkeypatch.setattr(exporting, "_onnx", lambda predictor: content)
    if name.startswith("report"):
        made, page, plots = request.getfixturevalue("report")
        monkeypatch.setattr(reports, "make_report", lambda *_, **__: made)
        monkeypatch.setattr(making, "render", lambda *_: page)
        monkeypatch.setattr(Report, "figures", lambda self: plots)
        monkeypatch.setattr(making, "png_of", bytes)
    places = {"src": kinds, "disk": disk, "h5": kinds_h5.path, "model": model}
    words = text.format(**places, shallow=shallow).split()
    old = {}
    if name.startswith("extract, "):
        shutil.copy(kinds_h5.path, disk / "c.h5")
        old = {"c.h5": digest(disk / "c.h5")}
    ballast = fill(disk, free)
    first = run(words)
    assert first["signal"] == 0, first
    assert first["value"]["status"] == 1, first["value"]["stderr"]
    lines = first["value"]["stderr"].strip().splitlines()
    assert str(disk) in lines[-1], lines
    assert re.search(r"needs? [\d,]+ bytes", lines[-1]), lines
    assert "free" in lines[-1], lines
    assert "Traceback" not in first["value"]["stderr"]
    for output in outputs:
        there = (disk / output).is_file()
        assert there == (output in old), f"{output} is half there"
        assert not there or digest(disk / output) == old[output]
    ballast.unlink()
    again = run(words)
    assert again["signal"] == 0, again
    assert again["value"]["status"] == 0, again
    for output in outputs:
        made = disk / output
        assert made.is_dir() or digest(made)
    left = {each.name for each in disk.iterdir()} - set(outputs) - {"c.h5.failures.csv"}
    assert not left
