"""The options of the protocol: how `compare`, `fit` and `finetune` choose and judge."""

from pathlib import Path
from typing import Annotated

import typer

from featpipe.cli.choices import ClassWeight, Metric
from featpipe.cli.options import MACHINE, WRITING

__all__: list[str] = []

_PROTOCOL = "The protocol"
# One text with commas: a list option would have to be repeated for each name.
Classifiers = Annotated[
    str,
    typer.Option(
        "--classifiers",
        metavar="A,B,…",
        help="linear, svm, logistic, knn, nearest-mean, lda, ensemble.",
        rich_help_panel=_PROTOCOL,
    ),
]
CompareDepths = Annotated[
    list[str] | None,
    typer.Option(
        "--depth",
        metavar="SPEC",
        help="Depths to compare; may be repeated; a+b puts two side by side. Default: "
        "all in the file.",
        rich_help_panel=_PROTOCOL,
    ),
]
Folds = Annotated[
    int,
    typer.Option(
        "--folds",
        metavar="N",
        min=2,
        help="Folds that choose, and that judge where there is no split.",
        rich_help_panel=_PROTOCOL,
    ),
]
# Off: the C left out could hardly have won, and take most of the time.
FullPath = Annotated[
    bool,
    typer.Option(
        "--full-path",
        help="Solve every C, also those that could hardly be chosen.",
        rich_help_panel=_PROTOCOL,
    ),
]
# The shape of numpy's logspace, without its exponents.
CGrid = Annotated[
    str | None,
    typer.Option(
        "--C-grid",
        metavar="lo:hi:n",
        help="Values of C, evenly spaced in the logarithm. Default: 1e-6:1e5:45.",
        rich_help_panel=_PROTOCOL,
    ),
]
MetricOption = Annotated[
    Metric,
    typer.Option(
        "--metric",
        metavar="NAME",
        help="The measure that choices are made by: accuracy, balanced_accuracy or "
        "macro_f1.",
        rich_help_panel=_PROTOCOL,
    ),
]
ClassWeightOption = Annotated[
    ClassWeight | None,
    typer.Option(
        "--class-weight",
        help="balanced: rare classes count as much as frequent ones.",
        rich_help_panel=_PROTOCOL,
    ),
]
# None and no default share: without it cross-validation uses every image.
TestSize = Annotated[
    float | None,
    typer.Option(
        "--test-size",
        metavar="SHARE",
        help="Hold out this share where the images have no split, as 0.2.",
        rich_help_panel=_PROTOCOL,
    ),
]
With = Annotated[
    list[Path] | None,
    typer.Option(
        "--with",
        metavar="F.json",
        help="Scores of other models on the same images, as `finetune --json` writes "
        "them; may be repeated.",
        rich_help_panel=_PROTOCOL,
    ),
]
Memory = Annotated[
    str | None,
    typer.Option(
        "--memory",
        metavar="SIZE",
        help="Memory for the program, as 8GB; larger codes are read from the file "
        "on every pass. Default: half of what the machine has available.",
        rich_help_panel=MACHINE,
    ),
]
CompareJson = Annotated[
    Path | None,
    typer.Option(
        "--json", metavar="F", help="Write the scores as JSON.", rich_help_panel=WRITING
    ),
]
Csv = Annotated[
    Path | None,
    typer.Option(
        "--csv",
        metavar="F",
        help="Write the scores as a flat table.",
        rich_help_panel=WRITING,
    ),
]
Predictions = Annotated[
    Path | None,
    typer.Option(
        "--predictions",
        metavar="F",
        help="Write the prediction of every row for every held-out image, as CSV.",
        rich_help_panel=WRITING,
    ),
]
