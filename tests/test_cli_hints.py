"""Every command that featpipe prints, and every one in its documentation, parses."""

import ast
import atexit
import functools
import os
import re
import shlex
import signal
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import pytest
from test_cli import featpipe_says
from typer.main import get_command

import featpipe
from featpipe.cli import comparing, demonstrating, main
from featpipe.cli.app import app
from featpipe.cli.kept import KEPT
from featpipe.cli.starting import interruptible, uninterrupted

PACKAGE = Path(featpipe.__file__).parent
ROOT = PACKAGE.parent
COMMANDS = get_command(app).commands  # type: ignore[attr-defined]  # a group
GROUP_OPTIONS = {o for p in get_command(app).params for o in p.opts}


def texts(path: Path) -> list[str]:
    """Return every text in a module, the values put into it as ``X``."""
    items: list[str] = []

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.JoinedStr):
            parts = (
                p.value if isinstance(p, ast.Constant) else "X" for p in node.values
            )
            items.append("".join(map(str, parts)))
            inside = [p for p in node.values if not isinstance(p, ast.Constant)]
            for part in inside:
                visit(part)
            return
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            items.append(node.value)
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse(path.read_text()))
    return items


def commands_in(text: str) -> list[str]:
    """Return what follows ``featpipe``, between backticks or on a line of its own."""
    quoted = re.findall(r"`(?:\$ )?(?:python -m )?featpipe ([a-z]+\b[^`]*)`", text)
    text = re.sub(r"\\\n\s*", "", text)
    lines = re.findall(
        r"^ *(?:\$ )?(?:python -m )?featpipe ([a-z]+ [^`\n]*)$", text, re.MULTILINE
    )
    # On a line of its own, words behind a gap explain it; and it may be a sentence.
    lines = [re.split(r"\s{2,}|\s#", line)[0] for line in lines]
    lines = [line for line in lines if line.split()[0] in COMMANDS]
    return [" ".join(command.split()) for command in quoted] + lines


def without_dask(text: str) -> str:
    """Leave out commands of another program."""
    return re.sub(r"`dask [^`]*`", "", text)


def parse(line: str) -> None:
    # A variable of the shell stands for a number where one is wanted.
    name, *arguments = shlex.split(re.sub(r"\$\w+", "1", line))
    command = COMMANDS[name]
    if arguments:  # else a command is named, and not shown
        command.make_context(name, arguments)


# A hint that is put together while it runs; see the test of it.
DEMO = ("featpipe/cli/demonstrating.py", "run X -o X X")
HINTS = {
    (str(path.relative_to(ROOT)), command)
    for path in sorted(PACKAGE.rglob("*.py"))
    # Found sooner than a module is parsed.
    if re.search(r"featpipe (?!import\b)", path.read_text())
    for text in texts(path)
    for command in commands_in(text)
}
DOCUMENTED = {
    (str(path.relative_to(ROOT)), command)
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    for command in commands_in(path.read_text())
}


@pytest.mark.parametrize("hint", sorted((HINTS | DOCUMENTED) - {DEMO}), ids=" ".join)
def test_a_command_that_is_shown_parses(hint):
    _, command = hint
    parse(command)


def test_the_command_that_demo_shows_parses(tmp_path, monkeypatch):
    request = {}

    @functools.wraps(comparing.run)
    def run(**options):
        request.update(options)

    monkeypatch.setattr(demonstrating, "run", run)
    shown = featpipe_says("demo", tmp_path / "x").stderr
    (command,) = re.findall(r"^\$ featpipe (.*)$", shown, re.MULTILINE)
    name, *arguments = shlex.split(command)
    parsed = COMMANDS[name].make_context(name, arguments).params
    assert {key: parsed[key] for key in ("source", "backbone", "depth")} == {
        key: request[key] for key in ("source", "backbone", "depth")
    }


def test_commands_are_found_at_all():
    assert len(HINTS) > 25
    assert len(DOCUMENTED) > 25
    assert ("featpipe/codes/opening.py", "extract SOURCE -o X") in HINTS
    assert any(path == "README.md" for path, _ in DOCUMENTED)


def test_every_option_named_in_a_message_exists():
    known = GROUP_OPTIONS | {
        o for c in COMMANDS.values() for p in c.params for o in p.opts
    }
    known |= {"--help"} | {
        o for c in COMMANDS.values() for p in c.params for o in p.secondary_opts
    }
    named = {
        (option, str(path.relative_to(ROOT)))
        for path in PACKAGE.rglob("*.py")
        for text in texts(path)
        for option in re.findall(r"(?<![\w-])--[a-zA-Z][\w-]*", without_dask(text))
    }
    assert len(named) > 100
    assert [pair for pair in sorted(named) if pair[0] not in known] == []


def test_every_command_named_with_an_option_has_it():
    """As in `compare --json`: a command, and one of its options."""
    pairs = {
        (name, option)
        for path in PACKAGE.rglob("*.py")
        for text in texts(path)
        for name, option in re.findall(
            r"`([a-z]+) (?:[^`]*? )?(--[a-zA-Z][\w-]*)", text
        )
        if name in COMMANDS
    }
    assert len(pairs) > 5
    for name, option in pairs:
        assert option in {o for p in COMMANDS[name].params for o in p.opts}, name


@pytest.mark.parametrize("name", sorted(COMMANDS))
@pytest.mark.parametrize("option", ["-v", "-q", "--verbose", "--quiet", "--debug"])
def test_global_options_stand_before_and_after_every_command(name, option):
    assert option in GROUP_OPTIONS
    assert option in {o for p in COMMANDS[name].params for o in p.opts}


def test_global_options_do_the_same_on_both_sides(tmp_path):
    (tmp_path / "x.h5").write_text("no codes file")
    for option in ("-v", "-q"):
        sides = [
            featpipe_says(option, "inspect", tmp_path / "x.h5"),
            featpipe_says("inspect", option, tmp_path / "x.h5"),
            featpipe_says("inspect", tmp_path / "x.h5", option),
        ]
        assert len({(text.exit_code, text.output) for text in sides}) == 1
    text = featpipe_says("inspect", tmp_path / "x.h5", "--debug")
    assert type(text.exception).__name__ == "CodesError"
    # What one command was asked for does not last.
    assert featpipe_says("inspect", tmp_path / "x.h5").exit_code == 1
    assert featpipe_says("verify", "--version").stdout.startswith("featpipe 0.")


@pytest.mark.parametrize(
    ("command", "kept"),
    {
        "extract six -o x.h5": "finished images are kept; the same command goes on",
        "run six": "finished images are kept; the same command goes on",
        "extract six -o x.h5 --plan": "nothing was changed",
        "run six --overwrite": "with --overwrite the same command starts again",
        "finetune six": "nothing is kept; with -o MODEL finished epochs are kept",
        "finetune six -o m": "finished epochs are kept; the same command goes on to m",
        "compare x.h5": "the codes are unchanged; the same command starts again",
        "fit x.h5 -o m": "the codes are unchanged, and no model was written",
        "merge a.h5 b.h5 -o c.h5": "the given files are unchanged, and no other",
    }.items(),
)
def test_ctrl_c_ends_with_what_is_kept(command, kept, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)

    def interrupt(*arguments, **options):
        raise KeyboardInterrupt

    for place in (
        *(
            "featpipe.images.scan",
            "featpipe.comparison.compare",
            "featpipe.codes.merge",
        ),
        *("featpipe.predictor.fit", "featpipe.finetuning.finetune"),
    ):
        monkeypatch.setattr(place, interrupt)
    result = featpipe_says(*command.split())
    assert result.exit_code == 130
    assert result.stderr.strip().splitlines()[-1].startswith(f"interrupted; {kept}")


def test_ctrl_c_after_the_file_is_written_says_so(monkeypatch, tmp_path):
    def write(files, output):
        output.write_bytes(b"whole")
        raise KeyboardInterrupt

    monkeypatch.setattr("featpipe.codes.merge", write)
    monkeypatch.chdir(tmp_path)
    result = featpipe_says("merge", "a.h5", "b.h5", "-o", "c.h5")
    assert result.exit_code == 130
    assert result.stderr == "interrupted; c.h5 was written, and is whole\n"


def test_ctrl_c_while_an_object_is_deleted_is_not_lost(monkeypatch, capfd):
    class Interrupted:
        def __del__(self):
            signal.raise_signal(signal.SIGINT)

    def command():
        with interruptible():
            Interrupted()  # Python drops what __del__ raises
            time.sleep(5)

    monkeypatch.setattr("featpipe.cli.app.run_app", command)
    monkeypatch.setattr(atexit, "register", lambda *call: None)
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)
    try:
        with pytest.raises(KeyboardInterrupt):
            main()
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("phase", "printed", "end"),
    [
        ("importing", "interrupted; nothing was begun\n", "left with 130"),
        ("working", "", "KeyboardInterrupt"),
        ("reporting", "", "no end"),
        ("reported", "", "left with 130"),
    ],
)
def test_ctrl_c_is_never_a_traceback(phase, printed, end, monkeypatch, capfd):
    def leave(status):
        raise RuntimeError(f"left with {status}")

    def command():
        inside = {"working": interruptible, "reporting": uninterrupted}
        with inside.get(phase, nullcontext)():
            if phase == "reported":
                with uninterrupted():
                    pass
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(os, "_exit", leave)
    monkeypatch.setattr("featpipe.cli.app.run_app", command)
    monkeypatch.setattr(atexit, "register", lambda *call: None)
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)
    outcome = "no end"
    try:
        main()
    except (KeyboardInterrupt, RuntimeError) as error:
        outcome = str(error) or type(error).__name__
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    assert (outcome, capfd.readouterr().err) == (end, printed)


def test_every_command_says_what_an_interruption_keeps():
    assert set(KEPT) == set(COMMANDS)
