"""A narrow terminal breaks no name and runs no examples together."""

import functools
import re
from collections.abc import Iterator

import pytest
from test_cli import featpipe_says
from typer.main import get_command
from typer.testing import CliRunner

from featpipe import backbones
from featpipe.backbones import describe_depths
from featpipe.cli.app import app
from featpipe.cli.tables import Column, print_table
from featpipe.cli.terminal import terminal

COMMANDS = get_command(app).commands  # type: ignore[attr-defined]  # a group


@pytest.fixture
def narrow(monkeypatch):
    """Return a function that sets the width of the terminal."""
    from rich.console import Console

    def set_width(width: int) -> None:
        monkeypatch.setattr(
            terminal,
            "out",
            Console(width=width, force_terminal=True, color_system=None),
        )

    return set_width


@pytest.fixture(scope="module")
def described_once() -> Iterator[None]:
    """Describe the depths of a network once, and print them at several widths."""
    once = functools.cache(describe_depths)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backbones, "describe_depths", once)
        yield


@pytest.mark.parametrize("width", [80, 60])
@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_example_begins_a_line(name, width):
    help_text = COMMANDS[name].help
    examples = re.findall(r"^    (featpipe .*)$", help_text, re.MULTILINE)
    assert examples
    shown = CliRunner(env={"COLUMNS": str(width)}).invoke(app, [name, "--help"]).stdout
    lines = [line.strip() for line in shown.splitlines()]
    for example in examples:
        begins = [line for line in lines if line and example.startswith(line)]
        assert begins, (example, shown)
        if width == 80:
            assert example in lines, "an example is longer than a line"
    assert max(map(len, shown.splitlines())) <= width


@pytest.mark.usefixtures("described_once")
@pytest.mark.parametrize("width", [120, 80, 60])
@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        (["depths", "mini"], ["penultimate", "stage1.0", "flatten"]),
        (
            ["depths", "vit_b_16", "--all"],
            ["encoder.layers.encoder_layer_11.getitem"],
        ),
        (["backbones", "resnet"], ["wide_resnet101_2", "IMAGENET1K_V2"]),
        (["backbones", "regnet"], ["IMAGENET1K_SWAG_LINEAR_V1"]),
    ],
    ids=" ".join,
)
def test_a_table_breaks_no_name(narrow, arguments, names, width):
    narrow(width)
    result = featpipe_says(*arguments)
    assert result.exit_code == 0, result.output
    shown = result.stdout
    assert max(map(len, shown.splitlines())) <= width
    words = re.split(r"[\s,]+", shown)
    for name in names:
        assert any(word.startswith(name) for word in words), shown


def test_columns_go_in_their_order_and_only_where_they_do_not_fit(narrow, capsys):
    columns = [
        Column("name"),
        Column("first", optional=1),
        Column("last", optional=2),
    ]
    rows = [("a" * 20, "b" * 20, "c" * 20)]
    for width, kept in ((80, "abc"), (50, "ac"), (30, "a"), (15, "a")):
        narrow(width)
        print_table(columns, rows)
        shown = capsys.readouterr().out
        assert {c for c in "abc" if c * 5 in shown} == set(kept), shown
        assert max(map(len, shown.splitlines())) <= width


def test_a_path_is_broken_before_a_name(narrow, capsys):
    narrow(40)
    columns = [Column("image", folds=True), Column("label"), Column("p", number=True)]
    print_table(columns, [("folder/" * 6 + "x.png", "helianthus", "0.731")])
    shown = capsys.readouterr().out
    assert "helianthus" in shown
    assert "0.731" in shown
    assert "".join(line[:22].strip() for line in shown.splitlines()[3:]).startswith(
        "folder/folder/"
    )
