"""The options of more than one command, each defined once.

Each is a type, which typer reads from the signature of a command.
"""

from pathlib import Path
from typing import Annotated

import typer

from featpipe.cli.choices import (
    DecodingMode,
    Dtype,
    OnError,
    Precision,
)

__all__ = ["MACHINE", "NETWORK", "WRITING"]

# Panels of `--help`, since nobody reads a list of forty options.
NETWORK = "The network"
_PREPROCESSING = "Preprocessing (default: that of the weights)"
MACHINE = "The machine"
WRITING = "What is written"


# A text and not a path, since `torchvision:NAME` is a source too.
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
    typer.Argument(metavar="FILE.h5", help="Codes files of the same images."),
]
Output = Annotated[
    Path, typer.Option("-o", "--output", metavar="FILE.h5", help="The codes file.")
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
# A text, for names of entries and for paths.
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
        help="A depth to take codes at; may be repeated. POOL is avg, max, gem, "
        "flatten, cls, mean or map. Default: penultimate. `featpipe depths NAME` lists "
        "the nodes.",
        rich_help_panel=NETWORK,
    ),
]
# Off, since it doubles the time.
HFlip = Annotated[
    bool,
    typer.Option(
        "--hflip",
        help="Average the codes of each image and its mirror image.",
        rich_help_panel=NETWORK,
    ),
]
# A text, since torch has more devices than a list could name.
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
        help="auto: that of an existing file, else bf16 where the processor has "
        "instructions for it, else fp32.",
        rich_help_panel=MACHINE,
    ),
]
DecodingOption = Annotated[
    DecodingMode,
    typer.Option(
        "--decoding",
        help="scaled decodes large JPEGs at a smaller size, which is faster and "
        "changes codes about as much as bf16. auto: that of an existing file, else "
        "exact with fp32 and scaled otherwise.",
        rich_help_panel=MACHINE,
    ),
]
DtypeOption = Annotated[
    Dtype | None,
    typer.Option(
        "--dtype",
        help="Type of stored numbers. Default: that of an existing file, else float32.",
        rich_help_panel=WRITING,
    ),
]
# None: device and image size choose it, once the network is loaded.
BatchSize = Annotated[
    int | None,
    typer.Option(
        "--batch-size",
        metavar="N",
        min=1,
        help="Images in a batch, at most 128 (512 for more than 10,000 images). "
        "Default: the fastest in a short trial before a long run; else as many as the "
        "cache of the CPU holds, at most 32, and 128 on a GPU.",
        rich_help_panel=MACHINE,
    ),
]
Workers = Annotated[
    int | None,
    typer.Option(
        "--workers",
        metavar="N",
        min=1,
        help="Images that are read and decoded at once, by threads up to four and by "
        "processes beyond. Default: one for each processor.",
        rich_help_panel=MACHINE,
    ),
]
# None: weights give their best codes at the size that they were trained with.
InputSize = Annotated[
    int | None,
    typer.Option(
        "--input-size",
        metavar="PX",
        min=1,
        help="Side of the network's square input; sets resize and crop too.",
        rich_help_panel=_PREPROCESSING,
    ),
]
Resize = Annotated[
    int | None,
    typer.Option(
        "--resize",
        metavar="PX",
        min=0,
        help="Length of the shorter side before the crop; 0: no resizing.",
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
# One text, since an option that takes three values could not take one.
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
# A text, since `auto` and `file` are values too.
ValueRange = Annotated[
    str,
    typer.Option(
        "--value-range",
        metavar="LO:HI|auto|file",
        help="Values that become black and white, for images of more than 8 bits, such "
        "as 0:4095 for 12 bits. auto: the smallest and largest of each image; file: "
        "all that its bits can hold.",
        rich_help_panel=_PREPROCESSING,
    ),
]
MaxPixels = Annotated[
    str | None,
    typer.Option(
        "--max-pixels",
        metavar="N|none",
        help="Width times height of the largest image to decode; larger ones fail. "
        "none: no limit. Default: 89478485.",
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
# Off, since names of folders are labels nearly always.
Unlabelled = Annotated[
    bool,
    typer.Option("--unlabelled", help="Ignore labels and splits in folder names."),
]
Limit = Annotated[
    int | None,
    typer.Option(
        "--limit",
        metavar="N",
        min=1,
        help="Use at most N images, spread over the classes, for a first look.",
    ),
]
# skip, since one broken file must not cost a night's work; the codes file lists it.
OnErrorOption = Annotated[
    OnError,
    typer.Option(
        "--on-error",
        help="skip lists broken images in the file; fail stops at the first.",
    ),
]
Shard = Annotated[
    str | None,
    typer.Option(
        "--shard",
        metavar="i/n",
        help="Compute only the i-th of n parts, counted from 0; `featpipe merge` joins "
        "them.",
        rich_help_panel=MACHINE,
    ),
]
PlanOnly = Annotated[
    bool,
    typer.Option(
        "--plan",
        help="Show what would be done, and its time and memory; do nothing.",
        rich_help_panel=WRITING,
    ),
]
ExtractJson = Annotated[
    Path | None,
    typer.Option(
        "--json",
        metavar="F",
        help="Write what was done, as JSON.",
        rich_help_panel=WRITING,
    ),
]
# Off, since the codes in a file may have taken days.
Overwrite = Annotated[
    bool,
    typer.Option(
        "--overwrite",
        help="Compute all codes again and replace the file.",
        rich_help_panel=WRITING,
    ),
]
# Off, since this host cannot tell whether a process of another host still runs.
BreakLock = Annotated[
    bool,
    typer.Option(
        "--break-lock",
        help="Take over the lock of a process that has ended.",
        rich_help_panel=WRITING,
    ),
]
# Not drawn, so that a run can be repeated without noting its seed.
Seed = Annotated[
    int,
    typer.Option(
        "--seed", metavar="N", help="Seed of random weights and of the folds."
    ),
]
