"""README promises nothing that is not there."""

import re
import shlex
from pathlib import Path

import pytest
from typer.main import get_command

from featpipe.cli.app import app

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def commands() -> list[list[str]]:
    lines = "\n".join(blocks("console")).splitlines()
    lines = [line[2:] for line in lines if line.startswith("$ featpipe ")]
    return [shlex.split(line, comments=True)[1:] for line in lines]


def test_every_command_shown_exists_with_its_options() -> None:
    known = get_command(app).commands  # type: ignore[attr-defined]  # a group
    assert len(commands()) >= 6
    for name, *arguments in commands():
        options = {o for p in known[name].params for o in p.opts}
        shown = [word for word in arguments if re.match(r"--?[a-zA-Z]", word)]
        assert set(shown) <= options, (name, shown)


def test_every_file_named_is_there() -> None:
    named = re.findall(r"`((?:docs|tests|featpipe|benchmarks|\.ci)/[\w./-]+)`", README)
    assert len(named) > 8
    assert [path for path in named if not (ROOT / path).exists()] == []


def test_the_python_shown_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, draw
) -> None:
    for split, count in (("train", 10), ("test", 4)):
        for k in range(2 * count):
            name = ("daisy", "rose")[k % 2]
            draw(tmp_path / "flowers" / split / name / f"{k}.png", k)
    monkeypatch.chdir(tmp_path)
    shown: dict[str, object] = {}
    for code in blocks("python"):
        exec(compile(code, "README.md", "exec"), shown)
    assert shown["X"].shape[0] == 28  # type: ignore[attr-defined]  # an array
