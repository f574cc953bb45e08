"""The options of `finetune` alone."""

from pathlib import Path
from typing import Annotated

import typer

from featpipe.cli.choices import Init, Optimiser, Schedule
from featpipe.cli.options import NETWORK

__all__: list[str] = []

_TRAINING = "The training"
_CACHE = "The cache"

# Optional, since a training may be for its scores alone.
TunedModel = Annotated[
    Path | None,
    typer.Option(
        "-o",
        "--output",
        metavar="MODEL",
        help="The model file. With it, an interrupted training can go on.",
    ),
]
# One depth, since the head has one input.
HeadDepth = Annotated[
    str,
    typer.Option(
        "--depth",
        metavar="NODE[:POOL]",
        help="The depth whose codes the new head takes.",
        rich_help_panel=NETWORK,
    ),
]
# A text, since the nodes are known only when the network is loaded.
Train = Annotated[
    str,
    typer.Option(
        "--train",
        metavar="all|from:NODE|head",
        help="The layers to train; those before NODE are frozen.",
        rich_help_panel=_TRAINING,
    ),
]
InitOption = Annotated[
    Init,
    typer.Option(
        "--init",
        help="probe: the head starts from the logistic classifier on the codes.",
        rich_help_panel=_TRAINING,
    ),
]
Epochs = Annotated[
    int,
    typer.Option(
        "--epochs",
        min=1,
        metavar="N",
        help="Passes over the training images; the best epoch is kept.",
        rich_help_panel=_TRAINING,
    ),
]
Budget = Annotated[
    float | None,
    typer.Option(
        "--budget",
        metavar="SECONDS",
        help="Stop after this time, or sooner: when the network is significantly "
        "better than the probe, or cannot become so. Needs --init probe.",
        rich_help_panel=_TRAINING,
    ),
]
# None, since no rate suits all networks and depths; a few are tried.
LearningRate = Annotated[
    float | None,
    typer.Option(
        "--lr",
        metavar="x",
        help="The head's learning rate. Default: the best of a few short trials.",
        rich_help_panel=_TRAINING,
    ),
]
# A share, since pretrained layers need smaller steps than a new head.
BackboneRate = Annotated[
    float,
    typer.Option(
        "--backbone-lr",
        metavar="SHARE",
        help="The backbone's learning rate, as a share of the head's.",
        rich_help_panel=_TRAINING,
    ),
]
OptimiserOption = Annotated[
    Optimiser,
    typer.Option("--optimiser", help="sgd has momentum.", rich_help_panel=_TRAINING),
]
ScheduleOption = Annotated[
    Schedule,
    typer.Option(
        "--schedule",
        help="step: divide the rate by ten after each third of the epochs.",
        rich_help_panel=_TRAINING,
    ),
]
# Not 0, since the first gradients of a new head are large, and would spoil pretrained
# layers.
Warmup = Annotated[
    float,
    typer.Option(
        "--warmup",
        metavar="SHARE",
        help="Share of the steps in which the rate rises.",
        rich_help_panel=_TRAINING,
    ),
]
WeightDecay = Annotated[
    float,
    typer.Option(
        "--weight-decay",
        metavar="x",
        help="How strongly each step pulls the weights towards 0.",
        rich_help_panel=_TRAINING,
    ),
]
# Not 0, since one odd batch could undo an epoch.
Clip = Annotated[
    float,
    typer.Option(
        "--clip",
        metavar="x",
        help="Largest norm of the gradient; 0: no clipping.",
        rich_help_panel=_TRAINING,
    ),
]
# None, since 32 of few images would be too few steps in an epoch.
TrainingBatch = Annotated[
    int | None,
    typer.Option(
        "--batch-size",
        metavar="N",
        min=1,
        help="Images in a step. Default: 32, down to 8 where images are few.",
        rich_help_panel=_TRAINING,
    ),
]
# auto, since a mirrored bee is a bee, and a mirrored 2 is no 2.
Augment = Annotated[
    str,
    typer.Option(
        "--augment",
        metavar="A,B,…",
        help="flip, vflip, crop, colour; none; or auto: flip and crop, if a probe "
        "still recognises such images.",
        rich_help_panel=_TRAINING,
    ),
]
LabelSmoothing = Annotated[
    float,
    typer.Option(
        "--label-smoothing",
        metavar="x",
        help="Share of each label that is spread over all classes.",
        rich_help_panel=_TRAINING,
    ),
]
# On, since few users can spare the labelled images that choose.
Refit = Annotated[
    bool,
    typer.Option(
        "--refit/--no-refit",
        help="Train again on all training images once rate and epoch are chosen.",
        rich_help_panel=_TRAINING,
    ),
]
# None means four, or one if four would take more than a gigabyte.
Views = Annotated[
    int | None,
    typer.Option(
        "--views",
        metavar="N",
        min=0,
        help="With from:NODE and head: number of views of each image to cache; 0 runs "
        "the whole network in every epoch. Default: 4.",
        rich_help_panel=_CACHE,
    ),
]
# Kept, since codes take most of the time if nearly all layers are frozen.
CachedCodes = Annotated[
    Path | None,
    typer.Option(
        "--codes",
        metavar="FILE.h5",
        help="A codes file to use if it exists, and to keep the codes in.",
        rich_help_panel=_CACHE,
    ),
]
# Off, since the model in the file may have taken days.
TrainAnew = Annotated[
    bool,
    typer.Option(
        "--overwrite",
        help="Train again and replace the model.",
        rich_help_panel=_TRAINING,
    ),
]
