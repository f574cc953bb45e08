"""The options that set how `compare`, `fit` and `finetune` choose and judge."""

from pathlib import Path
from typing import Annotated

import typer

from featpipe.cli.choices import ClassWeight, Metric
from featpipe.cli.options import MACHINE, WRITING

__all__: list[str] = []

_PROTOCOL = "The protocol"
# One text, since a list option would have to be repeated for each name.
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
        help="Number of folds, which choose C and, without a split, also judge.",
        rich_help_panel=_PROTOCOL,
    ),
]
# Off, since the C that are skipped could hardly win, and would take most of the time.
FullPath = Annotated[
    bool,
    typer.Option(
        "--full-path",
        help="Solve every C, also those that could hardly be chosen.",
        rich_help_panel=_PROTOCOL,
    ),
]
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
        help="The score that chooses C and the recommended row: accuracy, "
        "balanced_accuracy or macro_f1.",
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
# None by default, so that cross-validation uses every image.
TestSize = Annotated[
    float | None,
    typer.Option(
        "--test-size",
        metavar="SHARE",
        help="Hold out this share if the images have no split, such as 0.2.",
        rich_help_panel=_PROTOCOL,
    ),
]
With = Annotated[
    list[Path] | None,
    typer.Option(
        "--with",
        metavar="F.json",
        help="Scores of other models on the same images, such as `finetune --json` "
        "writes; may be repeated.",
        rich_help_panel=_PROTOCOL,
    ),
]
Memory = Annotated[
    str | None,
    typer.Option(
        "--memory",
        metavar="SIZE",
        help="Memory for the program, such as 8GB; every pass reads larger codes from "
        "the file. Default: half of what the machine has available.",
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
        help="Write what every row of the table predicts for every held-out image, as "
        "CSV.",
        rich_help_panel=WRITING,
    ),
]
