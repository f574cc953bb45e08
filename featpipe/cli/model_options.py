"""The options of model files: of `fit`, `predict` and `export`."""

from pathlib import Path
from typing import Annotated

import typer

from featpipe.cli.choices import FitClassifier
from featpipe.cli.options import NETWORK

__all__: list[str] = []

ModelPath = Annotated[
    Path, typer.Argument(metavar="MODEL", help="A model file, written by `fit`.")
]
# Other words than for `extract`: here the weights are known, and only their place may
# have changed.
WeightsNow = Annotated[
    Path | None,
    typer.Option(
        "--weights",
        metavar="FILE",
        help="Where the backbone's weights file is, if not where it was.",
        rich_help_panel=NETWORK,
    ),
]
BackboneNow = Annotated[
    str | None,
    typer.Option(
        "--backbone",
        metavar="NAME",
        help="What the backbone is called now. Needed where it is your own callable: "
        "a model file alone never runs code.",
        rich_help_panel=NETWORK,
    ),
]
FittedModel = Annotated[
    Path, typer.Option("-o", "--output", metavar="MODEL", help="The model file.")
]
Classifier = Annotated[
    FitClassifier, typer.Option("--classifier", help="What is fitted.")
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
# Off: the weights are often a thousand times larger than the classifier, and are
# already on the machine.
EmbedWeights = Annotated[
    bool,
    typer.Option(
        "--embed-weights",
        help="Put the backbone's weights into the file: it is then the whole model.",
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
# Photos that every installation has, so that each export is checked.
CheckSource = Annotated[
    str | None,
    typer.Option(
        "--check",
        metavar="SOURCE",
        help="Images on which the network has to agree with `predict`. Default: "
        "20 views of the two photos that come with scikit-learn.",
    ),
]
# Several, since a shell expands `*.jpg` to as many arguments.
PredictSources = Annotated[
    list[str],
    typer.Argument(
        metavar="SOURCE",
        help="A source as `extract` takes it; or image files; or - for a list of "
        "their paths on stdin, one in each line.",
    ),
]
# Optional: a few labels are read from the terminal.
PredictionsCsv = Annotated[
    Path | None,
    typer.Option(
        "-o",
        "--output",
        metavar="F.csv",
        help="Write path, label, probability, score of every image, and the truth "
        "where there is one; what could not be read goes to F.failures.csv.",
    ),
]
Top = Annotated[
    int, typer.Option("--top", metavar="K", min=1, help="The K likeliest classes.")
]
# Off: an answer of `unknown` would surprise users who did not ask for it.
Reject = Annotated[
    float | None,
    typer.Option(
        "--reject",
        metavar="P",
        help="Answer `unknown` where a label is too doubtful, so that at most a "
        "share P of the labels given is wrong, as 0.05.",
    ),
]
