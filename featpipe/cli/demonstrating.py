"""The command `demo`: both stages on images that come with scikit-learn."""

import inspect
from pathlib import Path
from typing import Annotated

import typer

from featpipe.cli.comparing import run
from featpipe.cli.terminal import terminal

__all__ = ["demo"]

# Digits differ by the position of their strokes, which `flatten` keeps. The smallest
# input is enough for digits of 8 pixels a side.
_DEPTHS = ["stage2", "stage3:flatten", "penultimate"]
_INPUT_SIZE = 32


def demo(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="Where to put everything.")
    ] = Path("featpipe-demo"),
) -> None:
    """Do the whole job offline: 1,797 handwritten digits through the bundled network.

    Writes images, codes and scores into a folder, and shows each command it runs.

    For example:

        featpipe demo
    """
    from featpipe.demo import write_digits

    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"{folder} is a file; give a folder, or none")
    images = folder / "digits"
    count = write_digits(images)
    terminal.info(f"{count:,} digits in {images}, as train/… and test/… class folders")
    options = f"--backbone mini --input-size {_INPUT_SIZE} "
    options += " ".join(f"--depth {depth}" for depth in _DEPTHS)
    # The user can repeat this command with another depth.
    terminal.info(f"$ featpipe run {images} -o {folder} {options}")
    # typer does not fill in the defaults of a function that is called directly.
    defaults = {
        name: parameter.default
        for name, parameter in inspect.signature(run).parameters.items()
    }
    values = {"source": str(images), "output": folder, "backbone": "mini"}
    run(**{**defaults, **values, "depth": _DEPTHS, "input_size": _INPUT_SIZE})
    for line in (
        f"files: {folder / 'codes.h5'} (see featpipe inspect), "
        f"{folder / 'scores.json'}, {folder / 'scores.csv'}",
        "next, on your own images, in one folder per class (in train/ and test/, or "
        "without):",
        "  featpipe run YOUR_FOLDER --backbone mini     offline, in seconds",
        "  featpipe run YOUR_FOLDER                     ResNet-50, with better codes",
    ):
        terminal.info(line)
