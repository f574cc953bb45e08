"""The typer app: its commands, and the options before a command."""

import os
import warnings
from collections.abc import Callable

import typer

from featpipe.cli import (
    advising,
    comparing,
    demonstrating,
    extracting,
    files,
    finetuning,
    fitting,
    listing,
    predicting,
    reporting,
)
from featpipe.cli.encoding import allow_any_encoding
from featpipe.cli.global_options import (
    Debug,
    Quiet,
    Verbose,
    Version,
    with_global_options,
)
from featpipe.cli.terminal import terminal, with_exit_status

__all__ = ["app", "run_app"]

# Set before torch is loaded: threads that wait sleep, where they would spin. Beside
# busy processes a fit took 21 s with spinning threads, and 5 s with sleeping ones.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

app = typer.Typer(
    name="featpipe",
    no_args_is_help=True,
    # typer's tracebacks would print local variables, which may be large arrays.
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
    "Models": (fitting.fit, predicting.predict, fitting.export),
    "Answers": (advising.advise, reporting.report),
    "What there is": (listing.backbones, listing.depths),
    "Codes files": (files.inspect, files.verify, files.merge),
    "A first look": (demonstrating.demo,),
}

for _panel, _commands in _PANELS.items():
    for _command in _commands:
        # typer reads the signature of the outer function, which has the global options.
        _wrapped = with_global_options(with_exit_status(_command))
        app.command(rich_help_panel=_panel)(_wrapped)


def _show_warning(message: Warning | str, category: type[Warning], *_: object) -> None:
    """Print a warning as one line; a UserWarning without its class."""
    text = " ".join(str(message).split())
    terminal.info(text if category is UserWarning else f"{category.__name__}: {text}")


@app.callback()
def _globals(
    version: Version = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """CNN codes once, classifiers in seconds.

    Runs a frozen, pretrained network over labelled images once, keeps the codes, and
    compares classifiers on them. `featpipe demo` shows the whole job offline;
    `featpipe run FOLDER` does it on your own images.
    """
    # Pillow warns of odd EXIF and TIFF tags; notes in the codes file have what matters.
    warnings.filterwarnings("ignore", module="PIL")
    # Python's own function prints a line of code too, which does not help here.
    warnings.showwarning = _show_warning  # type: ignore[assignment]  # for lines of code
    terminal.quiet, terminal.verbose, terminal.debug = quiet, verbose, debug


def run_app() -> None:
    """Parse the arguments of the process, and run its command."""
    allow_any_encoding()
    app(prog_name="featpipe")
