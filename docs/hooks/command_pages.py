"""Write reference/commands.md from the command line itself: it is never out of date."""

import inspect
from collections.abc import Callable, Iterator
from enum import Enum
from typing import Any, get_args

import typer
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from featpipe.cli.app import app

PATH = "reference/commands.md"
Row = tuple[str, str, str]


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the page of the command line to the pages that mkdocs builds."""
    files.append(File.generated(config, PATH, content=page()))
    return files


def page() -> str:
    """Return the page: a section for each command, a table for each panel."""
    lines = ["# Command line", "", "Written from the program itself.", ""]
    lines += ["These options go before or after the name of any command:", ""]
    before = app.registered_callback
    assert before is not None
    assert before.callback is not None
    lines += _table(_parameters(before.callback))
    for command in app.registered_commands:
        assert command.callback is not None
        function = inspect.unwrap(command.callback)
        lines += ["", f"## featpipe {function.__name__.replace('_', '-')}", ""]
        lines += _description(inspect.getdoc(function) or "")
        panels: dict[str, list[tuple[str, Row]]] = {}
        for panel, row in _parameters(function):
            panels.setdefault(panel, []).append((panel, row))
        for panel, rows in panels.items():
            lines += ["", f"**{panel}**", "", *_table(rows)]
    return "\n".join(lines) + "\n"


def _description(text: str) -> list[str]:
    """Return the help text with its indented examples as console blocks."""
    lines: list[str] = []
    fenced = False
    for line in text.replace("\b", "").strip().splitlines():
        example = line.strip().startswith("featpipe ")
        if example and not fenced:
            lines += ["", "```console"]
        if fenced and not example:
            lines += ["```", ""]
        fenced = example
        lines.append(f"$ {line.strip()}" if example else line.strip())
    return [*lines, "```"] if fenced else lines


def _parameters(function: Callable[..., Any]) -> Iterator[tuple[str, Row]]:
    """Yield the panel and the row of each argument and option, in their order."""
    signature = inspect.signature(function, eval_str=True)
    for name, parameter in signature.parameters.items():
        kind, option = get_args(parameter.annotation)[:2]
        argument = isinstance(option, typer.models.ArgumentInfo)
        panel = "Arguments" if argument else option.rich_help_panel or "Options"
        if argument:
            names = f"`{option.metavar or name.upper()}`"
        else:
            names = ", ".join(f"`{n}`" for n in _names(name, option, kind))
            value = _value(option, kind)
            names += f" `{value}`" if value else ""
        yield panel, (names, " ".join((option.help or "").split()), _default(parameter))


def _names(name: str, option: Any, kind: Any) -> list[str]:
    """Return the spellings of an option; typer derives one where none is given."""
    # In Annotated, typer keeps the first spelling where else the default would be.
    spellings = [option.default, *(option.param_decls or ())]
    given = [part for part in spellings if isinstance(part, str)]
    if given:
        return [n for part in given for n in part.split("/")]
    derived = "--" + name.replace("_", "-")
    return [derived, f"--no-{derived[2:]}"] if kind is bool else [derived]


def _value(option: Any, kind: Any) -> str:
    """Return what follows the option: its metavar, its choices or its type."""
    kinds = [each for each in (kind, *get_args(kind)) if each is not type(None)]
    if option.metavar or bool in kinds:
        return option.metavar or ""
    for each in kinds:
        if isinstance(each, type) and issubclass(each, Enum):
            return " ".join(member.value for member in each)
    return "N" if int in kinds else "VALUE"


def _default(parameter: inspect.Parameter) -> str:
    value = parameter.default
    if value is inspect.Parameter.empty:
        return "required"
    value = getattr(value, "value", value)
    return "" if value in (None, False, (), []) else f"`{value}`"


def _table(rows: Any) -> Iterator[str]:
    yield "| name | meaning | default |"
    yield "|---|---|---|"
    for _, cells in rows:
        yield f"| {' | '.join(map(_escaped, cells))} |"


def _escaped(cell: str) -> str:
    """Return a table cell whose bars and brackets are characters, not Markdown."""
    return cell.replace("|", "\\|").replace("[", "\\[")
