"""The commands `backbones` and `depths`, which print lists."""

from typing import Annotated

import typer

from featpipe.cli import options as o
from featpipe.cli.tables import Column, print_table
from featpipe.cli.terminal import terminal

__all__ = ["backbones", "depths"]


def backbones(
    pattern: Annotated[
        str,
        typer.Argument(metavar="PATTERN", help="Show names that contain this."),
    ] = "",
) -> None:
    """List the backbones, their weights and sizes.

    Any other network works too: timm:NAME, or package.module:callable for your own.

    For example:

        featpipe backbones
        featpipe backbones resnet
    """
    from featpipe.backbones import catalogue

    rows = [row for row in catalogue() if pattern.lower() in row.name]
    if not rows:
        raise ValueError(
            f"no backbone's name contains {pattern!r}; leave out PATTERN to see all"
        )
    columns = (
        Column("backbone"),
        Column("input px", number=True, optional=2),
        Column("parameters", number=True, optional=3),
        Column("top-1 %", number=True, optional=1),
        Column("weights (the default first)"),
    )
    print_table(
        columns,
        (
            (
                row.name,
                str(row.input_size),
                f"{row.n_parameters / 1e6:,.1f} M",
                # Weights of other tasks have no accuracy on ImageNet.
                "" if row.accuracy is None else f"{row.accuracy:.1f}",
                # `fromkeys` drops the default where it comes again.
                ", ".join(dict.fromkeys([row.default, *row.weights])),
            )
            for row in rows
        ),
    )
    # Many rows have the same note.
    for note in dict.fromkeys(row.note for row in rows if row.note):
        terminal.info(f"{note}.")
    terminal.info(
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
    """List the depths of a backbone: shape, width, parameters, cost.

    `extract --depth` takes any of them.

    For example:

        featpipe depths resnet50
        featpipe depths squeezenet1_0 --all
    """
    from featpipe.backbones import describe_depths

    rows = describe_depths(backbone, input_size=input_size, every=every)
    columns = (
        Column("depth"),
        Column("as stored", optional=2),
        Column("shape", number=True, optional=3),
        Column("width", number=True),
        Column("parameters", number=True, optional=1),
        Column("cost %", number=True, optional=4),
    )
    print_table(
        columns,
        (
            (
                row.node,
                row.spec,
                "×".join(map(str, row.shape)),
                f"{row.width:,}",
                f"{row.n_parameters:,}",
                f"{100 * row.cost_share:.1f}",
            )
            for row in rows
        ),
    )
    terminal.info(
        "shape: that of the node's output for one image; width: that of its code; "
        "parameters and cost: those of all layers up to the node, cost as a share of "
        "the whole network."
    )
