"""The options of `finetune`: what learns, how, and from which cache."""

from pathlib import Path
from typing import Annotated

import typer

from featpipe.cli.choices import Init, Optimiser, Schedule
from featpipe.cli.options import NETWORK

__all__: list[str] = []

# Panels of their own: the options of `extract` come after those of training.
_TRAINING = "The training"
_CACHE = "The cache"

# Optional: a training may be for its score alone.
TunedModel = Annotated[
    Path | None,
    typer.Option(
        "-o",
        "--output",
        metavar="MODEL",
        help="The model file. With it, a stopped training goes on where it was.",
    ),
]
# One depth, unlike that of `extract`: the head has one input.
HeadDepth = Annotated[
    str,
    typer.Option(
        "--depth",
        metavar="NODE[:POOL]",
        help="What the new head sits on.",
        rich_help_panel=NETWORK,
    ),
]
# Text: whether there is such a node shows only once the network is loaded.
Train = Annotated[
    str,
    typer.Option(
        "--train",
        metavar="all|from:NODE|head",
        help="What learns; all that runs before NODE is frozen.",
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
        help="Passes over the training images; the best of them is kept.",
        rich_help_panel=_TRAINING,
    ),
]
Budget = Annotated[
    float | None,
    typer.Option(
        "--budget",
        metavar="SECONDS",
        help="Stop after this time; sooner where the probe is beaten beyond noise, or "
        "cannot be. Needs --init probe.",
        rich_help_panel=_TRAINING,
    ),
]
# None: no rate suits all networks and depths, so a few are tried.
LearningRate = Annotated[
    float | None,
    typer.Option(
        "--lr",
        metavar="x",
        help="The head's learning rate. Default: the best of a few short trials.",
        rich_help_panel=_TRAINING,
    ),
]
# A share: pretrained layers need smaller steps than a new head.
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
        help="step: a tenth after each third of the epochs.",
        rich_help_panel=_TRAINING,
    ),
]
# The first gradients of a new head are large, and would spoil pretrained layers.
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
        help="How much each step draws the weights to 0.",
        rich_help_panel=_TRAINING,
    ),
]
# One odd batch must not undo an epoch.
Clip = Annotated[
    float,
    typer.Option(
        "--clip",
        metavar="x",
        help="Largest norm of the gradient; 0: no clipping.",
        rich_help_panel=_TRAINING,
    ),
]
# None: 32 of few images would leave too few steps in an epoch.
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
# By default a probe decides: a mirrored bee is a bee, a mirrored 2 is no 2.
Augment = Annotated[
    str,
    typer.Option(
        "--augment",
        metavar="A,B,…",
        help="flip, vflip, crop, colour; none; or auto: flip and crop, as far as "
        "a probe still recognises such images.",
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
# The images that choose are labelled too, and few users can spare them.
Refit = Annotated[
    bool,
    typer.Option(
        "--refit/--no-refit",
        help="Train anew on all training images once rate and epoch are chosen.",
        rich_help_panel=_TRAINING,
    ),
]
# None: four, or one where four would take more than a gigabyte.
Views = Annotated[
    int | None,
    typer.Option(
        "--views",
        metavar="N",
        min=0,
        help="With from:NODE and head: how many views of each image are cached; 0 "
        "runs the whole network in every epoch. Default: 4.",
        rich_help_panel=_CACHE,
    ),
]
# Where nearly all layers are frozen, the codes take most of the time.
CachedCodes = Annotated[
    Path | None,
    typer.Option(
        "--codes",
        metavar="FILE.h5",
        help="The codes file: kept, and used if it is there.",
        rich_help_panel=_CACHE,
    ),
]
# Never implied: the model in the file may have taken days.
TrainAnew = Annotated[
    bool,
    typer.Option(
        "--overwrite",
        help="Train anew, whatever model is there.",
        rich_help_panel=_TRAINING,
    ),
]
