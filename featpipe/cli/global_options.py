"""The options before or after every command: -q, -v, --debug, --version."""

import functools
import inspect
from collections.abc import Callable
from typing import Annotated, Any

import typer

import featpipe
from featpipe.cli.terminal import terminal

__all__ = ["Debug", "Quiet", "Verbose", "Version", "with_global_options"]

_PANEL = "Before or after every command"


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"featpipe {featpipe.__version__}")
        raise typer.Exit


Version = Annotated[
    bool,
    typer.Option(
        "--version",
        callback=_print_version,
        is_eager=True,
        help="Show the version and exit.",
        rich_help_panel=_PANEL,
    ),
]
Quiet = Annotated[
    bool,
    typer.Option(
        "-q", "--quiet", help="Results and errors only.", rich_help_panel=_PANEL
    ),
]
Verbose = Annotated[
    bool,
    typer.Option("-v", "--verbose", help="More detail.", rich_help_panel=_PANEL),
]
Debug = Annotated[
    bool,
    typer.Option(
        "--debug", help="Tracebacks instead of one line.", rich_help_panel=_PANEL
    ),
]
_OPTIONS = {
    "quiet_": Quiet,
    "verbose_": Verbose,
    "debug_": Debug,
    "version_": Version,
}


def with_global_options(command: Callable[..., None]) -> Callable[..., None]:
    """Return a command that takes the global options after its name too.

    Parameters
    ----------
    command : callable
        With a signature that typer can read.

    Returns
    -------
    callable
        With the global options added to that signature. Options before the name of the
        command stay in force.
    """
    signature = inspect.signature(command)

    @functools.wraps(command)
    def run(*args: Any, **kwargs: Any) -> None:
        options = {name: kwargs.pop(name, False) for name in _OPTIONS}
        # The options before the command have been set already.
        terminal.quiet |= options["quiet_"]
        terminal.verbose |= options["verbose_"]
        terminal.debug |= options["debug_"]
        command(*args, **kwargs)

    # With an underscore, since a command may have an option of the same name.
    extra = [
        inspect.Parameter(
            name, inspect.Parameter.KEYWORD_ONLY, default=False, annotation=option
        )
        for name, option in _OPTIONS.items()
    ]
    parameters = [*signature.parameters.values(), *extra]
    run.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]  # typer reads it
    run.__annotations__ = {**command.__annotations__, **_OPTIONS}
    return run
