"""`backbones` and `depths`: what there is, on the command line."""

from typing import Annotated

import typer

from featpipe.cli import options as o
from featpipe.cli.voice import voice

__all__ = ["backbones", "depths"]


def backbones(
    pattern: Annotated[
        str,
        typer.Argument(metavar="[PATTERN]", help="Show names that contain this."),
    ] = "",
) -> None:
    """List the backbones, their weights and sizes.

    Any other network works too: timm:NAME, or package.module:callable for your own.

    For example:

        featpipe backbones
        featpipe backbones resnet
    """
    from rich import box
    from rich.table import Table

    from featpipe.backbones import catalogue

    rows = [row for row in catalogue() if pattern.lower() in row.name]
    if not rows:
        raise ValueError(
            f"no backbone's name contains {pattern!r}; leave it out to see all"
        )
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("backbone", no_wrap=True)
    for name in ("input px", "parameters", "top-1 %"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("weights (the default first)", overflow="fold")
    for row in rows:
        others = [name for name in row.weights if name != row.default]
        top = "" if row.accuracy is None else f"{row.accuracy:.1f}"
        counted = f"{row.n_parameters / 1e6:,.1f} M"
        entries = ", ".join([row.default, *others])
        table.add_row(row.name, str(row.input_size), counted, top, entries)
    voice.out.print(table)
    for note in dict.fromkeys(row.note for row in rows if row.note):
        voice.remark(f"{note}.")
    voice.remark(
        "top-1: on ImageNet, of the default weights, as torchvision states it. Every "
        "network also takes --weights none (random) or a file."
    )


def depths(
    backbone: Annotated[
        str, typer.Argument(metavar="BACKBONE", help="As `backbones` lists it.")
    ],
    input_size: o.InputSize = None,
    every: Annotated[
        bool,
        typer.Option("--all", help="Every node, also those inside blocks."),
    ] = False,
) -> None:
    """List where codes can be taken: shape, width, parameters, cost.

    For example:

        featpipe depths resnet50
        featpipe depths squeezenet1_0 --all
    """
    from rich import box
    from rich.table import Table

    from featpipe.backbones import describe_depths

    rows = describe_depths(backbone, input_size=input_size, every=every)
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("depth", overflow="fold")
    table.add_column("as stored", overflow="fold")
    for name in ("shape", "width", "parameters", "cost %"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(
            row.node,
            row.spec,
            "×".join(map(str, row.shape)),
            f"{row.width:,}",
            f"{row.n_parameters:,}",
            f"{100 * row.cost_share:.1f}",
        )
    voice.out.print(table)
    voice.remark(
        "shape: what the node gives for one image; width: of its code; parameters and "
        "cost: of everything up to there, cost as a share of the whole network."
    )
