"""The options of `fit`, `predict` and `export`, which use model files."""

from pathlib import Path
from typing import Annotated

import typer

from featpipe.cli.choices import FitClassifier
from featpipe.cli.options import NETWORK

__all__: list[str] = []

ModelPath = Annotated[
    Path, typer.Argument(metavar="MODEL", help="A model file, written by `fit`.")
]
# Not the option of `extract`: the model knows its weights, and only their place may
# have changed.
WeightsNow = Annotated[
    Path | None,
    typer.Option(
        "--weights",
        metavar="FILE",
        help="The backbone's weights file, if it has been moved.",
        rich_help_panel=NETWORK,
    ),
]
BackboneNow = Annotated[
    str | None,
    typer.Option(
        "--backbone",
        metavar="NAME",
        help="The present name of the backbone. Needed for your own callable, since a "
        "model file alone never runs code.",
        rich_help_panel=NETWORK,
    ),
]
FittedModel = Annotated[
    Path, typer.Option("-o", "--output", metavar="MODEL", help="The model file.")
]
Classifier = Annotated[
    FitClassifier, typer.Option("--classifier", help="The classifier to fit.")
]
# One depth, or a concatenation: a model has one classifier.
FitDepth = Annotated[
    str | None,
    typer.Option(
        "--depth",
        metavar="SPEC",
        help="A depth in the file; a+b puts two side by side. Default: the only "
        "one, or penultimate.",
    ),
]
# Text, since `auto` is a value too.
COption = Annotated[
    str,
    typer.Option("--C", metavar="auto|x", help="auto chooses it, as `compare` does."),
]
# Off, since weights are often a thousand times larger than the classifier, and are on
# the machine already.
EmbedWeights = Annotated[
    bool,
    typer.Option(
        "--embed-weights",
        help="Put the backbone's weights into the file, which is then the whole model.",
    ),
]
# The search for C takes most of the time of a fit.
RecordedScores = Annotated[
    Path | None,
    typer.Option(
        "--scores",
        metavar="F.json",
        help="Take C from this record of `compare --json`, on the same file with "
        "the same options, instead of searching again.",
    ),
]
OnnxOutput = Annotated[
    Path, typer.Option("-o", "--output", metavar="F.onnx", help="The network.")
]
# The default checks every export, since every installation has these photos.
CheckSource = Annotated[
    str | None,
    typer.Option(
        "--check",
        metavar="SOURCE",
        help="Images for which the network must agree with `predict`. Default: "
        "20 views of the two photos that come with scikit-learn.",
    ),
]
# A list, since a shell expands `*.jpg` to many arguments.
PredictSources = Annotated[
    list[str],
    typer.Argument(
        metavar="SOURCE",
        help="A source as for `extract`; or image files; or - to read paths from "
        "stdin, one per line.",
    ),
]
# Optional, since a few labels can be read on the terminal.
PredictionsCsv = Annotated[
    Path | None,
    typer.Option(
        "-o",
        "--output",
        metavar="F.csv",
        help="Write path, label, probability and score of every image, and its true "
        "label if known; images that could not be read go to F.failures.csv.",
    ),
]
Top = Annotated[
    int, typer.Option("--top", metavar="K", min=1, help="Show the K likeliest classes.")
]
# Off, since `unknown` would surprise users who did not ask for it.
Reject = Annotated[
    float | None,
    typer.Option(
        "--reject",
        metavar="P",
        help="Answer `unknown` where a label is too doubtful, so that at most a "
        "share P of the other labels is wrong, such as 0.05.",
    ),
]
