"""The command line: which commands there are, and the options before them."""

import os
import warnings
from collections.abc import Callable
from typing import Annotated

import typer

import featpipe
from featpipe.cli import (
    advising,
    comparing,
    demonstrating,
    extracting,
    files,
    finetuning,
    listing,
    predicting,
    reporting,
)
from featpipe.cli.voice import guarded, voice

__all__ = ["app", "main"]

# Before torch is loaded: threads that wait for one another sleep instead of spinning.
# Beside busy processes a fit took 21 s with spinning threads, and 5 s with these.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

app = typer.Typer(
    name="featpipe",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)

_PANELS: dict[str, tuple[Callable[..., None], ...]] = {
    "The job": (
        comparing.run,
        extracting.extract,
        comparing.compare,
        finetuning.finetune,
    ),
    "Models": (predicting.fit, predicting.predict, predicting.export),
    "Answers": (advising.advise, reporting.report),
    "What there is": (listing.backbones, listing.depths),
    "Codes files": (files.inspect, files.verify, files.merge),
    "A first look": (demonstrating.demo,),
}
for _panel, _commands in _PANELS.items():
    for _command in _commands:
        app.command(rich_help_panel=_panel)(guarded(_command))


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"featpipe {featpipe.__version__}")
        raise typer.Exit


def _show_warning(message: Warning | str, category: type[Warning], *_: object) -> None:
    """Print a warning as one line; of ours the text alone."""
    text = " ".join(str(message).split())
    voice.remark(text if category is UserWarning else f"{category.__name__}: {text}")


@app.callback()
def _globals(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Say and end."
        ),
    ] = False,
    quiet: Annotated[
        bool, typer.Option("-q", "--quiet", help="Results and errors only.")
    ] = False,
    verbose: Annotated[bool, typer.Option("-v", "--verbose", help="Say more.")] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Tracebacks instead of one line.")
    ] = False,
) -> None:
    """CNN codes once, classifiers in seconds.

    Runs a frozen, pretrained network over labelled images once, keeps the codes, and
    compares classifiers on them. `featpipe demo` shows the whole job offline;
    `featpipe run FOLDER` does it on your own images.
    """
    # Pillow warns of odd EXIF and TIFF tags; what matters of them is in the notes.
    warnings.filterwarnings("ignore", module="PIL")
    warnings.showwarning = _show_warning  # type: ignore[assignment]  # for lines of code
    voice.quiet, voice.verbose, voice.debug = quiet, verbose, debug


def main() -> None:
    """Run the command line."""
    app(prog_name="featpipe")
