"""The command `advise`: recommend a depth and a classifier."""

from typing import Annotated

import typer

from featpipe.cli import options as o
from featpipe.cli.progress import fit_progress
from featpipe.cli.terminal import terminal

__all__ = ["advise"]


def advise(
    file: o.CodesPath,
    check: Annotated[
        bool,
        typer.Option("--check", help="Run the probe and report if the advice held."),
    ] = False,
    device: o.Device = "auto",
    seed: o.Seed = 0,
) -> None:
    """Advise which depth and classifier to use, and whether to fine-tune.

    Decides which of cs231n's four cases the images are (few or many, similar to what
    the network was trained for or different) from the codes alone, in seconds.

    For example:

        featpipe advise flowers.h5
        featpipe advise flowers.h5 --check
    """
    # Commands import inside the function, so that `--help` loads neither numpy nor
    # torch.
    from featpipe.advice import advise as advice_of
    from featpipe.advice import check_advice

    advice = advice_of(file, seed=seed)
    terminal.out.print(advice)
    if check:
        with fit_progress() as progress:
            lines = check_advice(
                file, advice, device=device, seed=seed, progress=progress
            )
        for line in lines:
            terminal.out.print(line)
