"""The options, each written once: commands that share one share its words.

Types only; typer reads them from the commands' signatures.
"""

from pathlib import Path
from typing import Annotated

import typer

from featpipe.cli.choices import (
    ClassWeight,
    Decoding,
    Dtype,
    Metric,
    OnError,
    Precision,
)

__all__ = ["MACHINE", "NETWORK"]

NETWORK = "The network"
_PREPROCESSING = "Preprocessing (default: that of the weights)"
MACHINE = "The machine"
_WRITING = "What is written"
_PROTOCOL = "The protocol"


Source = Annotated[
    str,
    typer.Argument(
        metavar="SOURCE",
        help="A folder (class folders, or train/val/test with class folders below), a "
        "CSV or TSV (path[,label][,split][,group]), a .zip or .tar of such a folder, "
        "or torchvision:NAME?root=…",
    ),
]
CodesPath = Annotated[Path, typer.Argument(metavar="FILE.h5", help="A codes file.")]
CodesPaths = Annotated[
    list[Path],
    typer.Argument(metavar="FILE.h5…", help="Codes files of the same images."),
]
Output = Annotated[
    Path, typer.Option("-o", "--output", metavar="FILE.h5", help="The codes file.")
]

ModelPath = Annotated[
    Path, typer.Argument(metavar="MODEL", help="A model file, written by `fit`.")
]
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
Backbone = Annotated[
    str,
    typer.Option(
        "--backbone",
        metavar="NAME",
        help="A torchvision network, mini, timm:NAME or package.module:callable.",
        rich_help_panel=NETWORK,
    ),
]
Weights = Annotated[
    str | None,
    typer.Option(
        "--weights",
        metavar="W",
        help="An entry of the network, DEFAULT, none (random: the control), or a "
        "file. Default: IMAGENET1K_V1 where there is one.",
        rich_help_panel=NETWORK,
    ),
]
ExtractDepths = Annotated[
    list[str] | None,
    typer.Option(
        "--depth",
        metavar="NODE[:POOL]",
        help="Where codes are taken; may be repeated. POOL is avg, max, gem, flatten, "
        "cls, mean or map. Default: penultimate. `depths NAME` lists them.",
        rich_help_panel=NETWORK,
    ),
]
HFlip = Annotated[
    bool,
    typer.Option(
        "--hflip",
        help="Average the codes of each image and its mirror image.",
        rich_help_panel=NETWORK,
    ),
]
Device = Annotated[
    str,
    typer.Option(
        "--device",
        metavar="D",
        help="auto, cpu, cuda, cuda:1, mps.",
        rich_help_panel=MACHINE,
    ),
]
PrecisionOption = Annotated[
    Precision,
    typer.Option(
        "--precision",
        help="auto is bf16 where the processor multiplies it, and on an existing file "
        "that of the file.",
        rich_help_panel=MACHINE,
    ),
]
DecodingOption = Annotated[
    Decoding,
    typer.Option(
        "--decoding",
        help="scaled decodes large JPEGs smaller: faster, codes move as by bf16. "
        "auto is exact with fp32, else scaled; on an existing file that of the file.",
        rich_help_panel=MACHINE,
    ),
]
DtypeOption = Annotated[
    Dtype | None,
    typer.Option(
        "--dtype",
        help="Numbers as stored. Default: that of the file, else float32.",
        rich_help_panel=_WRITING,
    ),
]
BatchSize = Annotated[
    int | None,
    typer.Option(
        "--batch-size",
        min=1,
        help="Images through the network together, 128 at most, 512 beyond 10,000 "
        "images. Default: tried before a long run; else on the CPU what its cache "
        "holds, 32 at most, and on a GPU 128.",
        rich_help_panel=MACHINE,
    ),
]
Workers = Annotated[
    int | None,
    typer.Option(
        "--workers",
        min=1,
        help="Images read and decoded at once: up to four threads, else processes. "
        "Default: one a processor.",
        rich_help_panel=MACHINE,
    ),
]
InputSize = Annotated[
    int | None,
    typer.Option(
        "--input-size",
        metavar="PX",
        min=1,
        help="Side of the square the network sees; resize and crop follow.",
        rich_help_panel=_PREPROCESSING,
    ),
]
Resize = Annotated[
    int | None,
    typer.Option(
        "--resize",
        metavar="PX",
        min=0,
        help="Shorter side before the crop; 0: no resizing.",
        rich_help_panel=_PREPROCESSING,
    ),
]
Crop = Annotated[
    int | None,
    typer.Option(
        "--crop",
        metavar="PX",
        min=1,
        help="Side of the centre crop.",
        rich_help_panel=_PREPROCESSING,
    ),
]
Mean = Annotated[
    str | None,
    typer.Option(
        "--mean",
        metavar="R,G,B",
        help="Mean of the channels, between 0 and 1.",
        rich_help_panel=_PREPROCESSING,
    ),
]
Std = Annotated[
    str | None,
    typer.Option(
        "--std",
        metavar="R,G,B",
        help="Standard deviation of the channels.",
        rich_help_panel=_PREPROCESSING,
    ),
]
Interpolation = Annotated[
    str | None,
    typer.Option(
        "--interpolation",
        metavar="NAME",
        help="nearest, bilinear, bicubic, …",
        rich_help_panel=_PREPROCESSING,
    ),
]
ValueRange = Annotated[
    str,
    typer.Option(
        "--value-range",
        metavar="LO:HI|auto|file",
        help="Values of images of more than 8 bits that become black and white, as "
        "0:4095 for 12 bits. auto: each image's own; file: all that its bits can hold.",
        rich_help_panel=_PREPROCESSING,
    ),
]
MaxPixels = Annotated[
    str | None,
    typer.Option(
        "--max-pixels",
        metavar="N|none",
        help="Width times height of the largest image that is decoded; larger ones "
        "fail. none: no limit. Default: 89478485.",
        rich_help_panel=_PREPROCESSING,
    ),
]
AllowRandom = Annotated[
    bool,
    typer.Option(
        "--allow-random",
        help="Accept a network whose codes depend on more than the image.",
        rich_help_panel=NETWORK,
    ),
]
Unlabelled = Annotated[
    bool,
    typer.Option("--unlabelled", help="Take no labels and splits from folder names."),
]
Limit = Annotated[
    int | None,
    typer.Option(
        "--limit",
        metavar="N",
        min=1,
        help="At most N images, spread over the classes: a first look.",
    ),
]
OnErrorOption = Annotated[
    OnError,
    typer.Option(
        "--on-error",
        help="skip lists a broken image in the file, fail stops at the first.",
    ),
]
Shard = Annotated[
    str | None,
    typer.Option(
        "--shard",
        metavar="i/n",
        help="Only the i-th of n parts of the work, 0-based; `merge` joins them.",
        rich_help_panel=MACHINE,
    ),
]
PlanOnly = Annotated[
    bool,
    typer.Option(
        "--plan",
        help="Show what would be done, and what it would take; do nothing.",
        rich_help_panel=_WRITING,
    ),
]
ExtractJson = Annotated[
    Path | None,
    typer.Option(
        "--json",
        metavar="F",
        help="Write what was done, as JSON.",
        rich_help_panel=_WRITING,
    ),
]
Overwrite = Annotated[
    bool,
    typer.Option(
        "--overwrite",
        help="Compute everything anew and replace the file.",
        rich_help_panel=_WRITING,
    ),
]
BreakLock = Annotated[
    bool,
    typer.Option(
        "--break-lock",
        help="Take over the lock of a process that is gone for good.",
        rich_help_panel=_WRITING,
    ),
]
Seed = Annotated[
    int,
    typer.Option(
        "--seed", metavar="N", help="Seed of random weights and of the folds."
    ),
]

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
        min=2,
        help="Folds that choose C, and that judge where there is no split.",
        rich_help_panel=_PROTOCOL,
    ),
]
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
        help="What C and the recommended row are chosen by.",
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
        "--json", metavar="F", help="Write the scores.", rich_help_panel=_WRITING
    ),
]
Csv = Annotated[
    Path | None,
    typer.Option(
        "--csv",
        metavar="F",
        help="Write the scores as a flat table.",
        rich_help_panel=_WRITING,
    ),
]
Predictions = Annotated[
    Path | None,
    typer.Option(
        "--predictions",
        metavar="F",
        help="Write the prediction of every row for every held-out image, as CSV.",
        rich_help_panel=_WRITING,
    ),
]
