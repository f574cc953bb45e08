"""What is released is whole: metadata, files, and a wheel that works elsewhere."""

import email
import os
import re
import subprocess
import sys
import tarfile
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest
from floors import floors

import featpipe

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_version_is_the_same_everywhere() -> None:
    version = featpipe.__version__
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"\n## {version} " in (ROOT / "CHANGELOG.md").read_text()


def test_every_dependency_has_a_floor() -> None:
    extras = [
        each for group in PROJECT["optional-dependencies"].values() for each in group
    ]
    for requirement in [*PROJECT["dependencies"], *extras]:
        assert re.match(r"[\w-]+(\[\w+\])?>=\d", requirement), requirement
    assert "torch==2.11" in floors()


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_of_the_shell_is_printed(shell: str) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "featpipe"],
        env={**os.environ, "_FEATPIPE_COMPLETE": f"source_{shell}"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "_FEATPIPE_COMPLETE" in result.stdout
    assert "featpipe" in result.stdout


def test_completion_completes_a_command() -> None:
    result = subprocess.run(
        [sys.executable, "-m", "featpipe"],
        env={
            **os.environ,
            "_FEATPIPE_COMPLETE": "complete_bash",
            "COMP_WORDS": "featpipe ex",
            "COMP_CWORD": "1",
        },
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout.split() == ["extract", "export"]


@pytest.mark.slow
def test_sdist_and_wheel_work_in_an_environment_of_their_own(tmp_path: Path) -> None:
    dist = tmp_path / "dist"
    # From the checkout the sdist, and from the sdist the wheel: nothing else is needed.
    run(sys.executable, "-m", "build", "--outdir", str(dist), str(ROOT))
    [sdist], [wheel] = dist.glob("*.tar.gz"), dist.glob("*.whl")
    check_metadata(wheel)
    with tarfile.open(sdist) as archive:
        names = [name.partition("/")[2] for name in archive.getnames()]
    assert {"docs/start.md", "tests/test_release.py", "CITATION.cff"} <= set(names)
    assert not [name for name in names if name.startswith((".venv", "site/"))]

    place = tmp_path / "elsewhere"
    venv.create(place / "env", with_pip=True)
    python = str(place / "env" / "bin" / "python")
    run(python, "-m", "pip", "install", "--quiet", str(wheel))
    program = str(place / "env" / "bin" / "featpipe")
    assert run(program, "--version", cwd=place) == f"featpipe {featpipe.__version__}\n"
    code = "import featpipe; print(featpipe.__file__)"
    assert run(python, "-c", code, cwd=place).startswith(str(place / "env"))
    write = "from pathlib import Path; from featpipe.demo import write_digits as w; "
    run(python, "-c", write + "w(Path('digits'))", cwd=place)
    options = ["--backbone", "mini", "--input-size", "32", "--limit", "100"]
    table = run(program, "run", "digits", "-o", "out", *options, cwd=place)
    assert "logistic" in table
    assert (place / "out" / "scores.json").exists()


def run(*words: str, cwd: Path | None = None) -> str:
    result = subprocess.run(words, cwd=cwd, capture_output=True, text=True)
    assert result.returncode == 0, (words, result.stdout, result.stderr)
    return result.stdout


def check_metadata(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        [name] = [name for name in names if name.endswith(".dist-info/METADATA")]
        metadata = email.message_from_bytes(archive.read(name))
    assert metadata["Name"] == "featpipe"
    assert len(metadata.get_all("Project-URL")) == 4
    assert metadata["Description-Content-Type"] == "text/markdown"
    links = re.findall(r"\]\(([^)]+)", metadata.get_payload())
    assert len(links) > 15
    assert [link for link in links if not link.startswith("https://")] == []
    assert "featpipe/backbones/mini.safetensors" in names
    assert "featpipe/report/page.html.jinja" in names
    assert "featpipe/py.typed" in names
