"""A Python that does not read file names as UTF-8 works, or says what to do."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import featpipe

PLAIN = {
    "PYTHONUTF8": "0",
    "PYTHONCOERCECLOCALE": "0",
    "LC_ALL": "C",
    "OMP_NUM_THREADS": "1",
}
SMALL = ["--backbone", "mini", "--input-size", "32", "--device", "cpu"]


def says(folder: Path, *arguments: str, **setting: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "featpipe", *arguments],
        cwd=folder,
        env={**os.environ, **PLAIN, **setting},
        capture_output=True,
        check=False,
    )


def draw_all(folder: Path, draw, names: list[str]) -> None:
    for k, name in enumerate(names * 2):
        draw(folder / name / f"{k}.png", k)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such setting")
@pytest.mark.parametrize(
    "kind",
    [
        "class",
        "not UTF-8",
        *(
            pytest.param(kind, marks=pytest.mark.slow)
            for kind in ("file", "root", "table")
        ),
    ],
    ids=str,
)
def test_names_that_are_not_ascii_are_one_sentence(tmp_path, draw, kind):
    source = "images"
    draw_all(tmp_path / source, draw, ["a", "b"])
    if kind == "class":
        (tmp_path / "images" / "b").rename(tmp_path / "images" / "caf\xe9")
    elif kind == "file":
        draw(tmp_path / "images" / "a" / "\N{CJK UNIFIED IDEOGRAPH-732B}.png", 9)
    elif kind == "root":
        source = "caf\xe9"
        (tmp_path / "images").rename(tmp_path / source)
    elif kind == "table":
        draw(tmp_path / "caf\xe9.png", 3)
        source = "t.csv"
        (tmp_path / source).write_bytes("path\ncaf\xe9.png\n".encode())
    else:
        draw(tmp_path / "images" / "a" / os.fsdecode(b"\xff.png"), 9)
    result = says(tmp_path, "extract", source, "-o", "x.h5", *SMALL)
    stderr = result.stderr.decode("utf-8", "replace")
    assert result.returncode == 1, stderr
    assert "Traceback" not in stderr
    assert stderr.count("error: ") == 1
    assert "unexpected" not in stderr
    if kind != "table":
        assert "set PYTHONUTF8=1" in stderr
    assert not (tmp_path / "x.h5").exists()
    if kind != "not UTF-8":
        result = says(tmp_path, "extract", source, "-o", "x.h5", *SMALL, PYTHONUTF8="1")
        assert result.returncode == 0, result.stderr


@pytest.mark.slow  # the fast test is of the names that fail
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such setting")
def test_names_that_are_ascii_work(tmp_path, draw):
    draw_all(tmp_path / "images", draw, ["a", "b"])
    result = says(tmp_path, "extract", "images", "-o", "x.h5", *SMALL)
    assert result.returncode == 0, result.stderr
    assert len(featpipe.read(tmp_path / "x.h5")) == 4
