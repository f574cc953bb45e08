"""`finetune`: training the network itself, on the command line."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from featpipe.cli import options as o
from featpipe.cli import protocol_options as po
from featpipe.cli.choices import Init, Metric, Optimiser, Precision, Schedule
from featpipe.cli.extracting import numbers, pixel_limit
from featpipe.cli.outputs import require_outputs
from featpipe.cli.progress import training_progress
from featpipe.cli.terminal import terminal
from featpipe.defaults import N_FOLDS

if TYPE_CHECKING:
    from featpipe.finetuning import Finetuned

__all__ = ["finetune"]

# Its own panels: the options of `extract` come after those of training.
_TRAINING = "The training"
_CACHE = "The cache"


def finetune(
    source: o.Source,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            metavar="MODEL",
            help="The model file. With it, a stopped training goes on where it was.",
        ),
    ] = None,
    backbone: o.Backbone = "resnet50",
    weights: o.Weights = None,
    depth: Annotated[
        str,
        typer.Option(
            "--depth",
            metavar="NODE[:POOL]",
            help="What the new head sits on.",
            rich_help_panel=o.NETWORK,
        ),
    ] = "penultimate",
    train: Annotated[
        str,
        typer.Option(
            "--train",
            metavar="all|from:NODE|head",
            help="What learns; all that runs before NODE is frozen.",
            rich_help_panel=_TRAINING,
        ),
    ] = "all",
    init: Annotated[
        Init,
        typer.Option(
            "--init",
            help="probe: the head starts from the logistic classifier on the codes.",
            rich_help_panel=_TRAINING,
        ),
    ] = Init.random,
    epochs: Annotated[
        int,
        typer.Option(
            "--epochs",
            min=1,
            metavar="N",
            help="Passes over the training images; the best of them is kept.",
            rich_help_panel=_TRAINING,
        ),
    ] = 10,
    budget: Annotated[
        float | None,
        typer.Option(
            "--budget",
            metavar="SECONDS",
            help="Stop when the probe is beaten beyond noise, cannot be, or time is "
            "over; with --init probe.",
            rich_help_panel=_TRAINING,
        ),
    ] = None,
    lr: Annotated[
        float | None,
        typer.Option(
            "--lr",
            metavar="x",
            help="The head's learning rate. Default: the best of a few short trials.",
            rich_help_panel=_TRAINING,
        ),
    ] = None,
    backbone_lr: Annotated[
        float,
        typer.Option(
            "--backbone-lr",
            metavar="SHARE",
            help="The backbone's learning rate, as a share of the head's.",
            rich_help_panel=_TRAINING,
        ),
    ] = 0.1,
    optimiser: Annotated[
        # Defaults are those of `featpipe.finetune`, so that both do the same.
        Optimiser,
        typer.Option(
            "--optimiser", help="sgd has momentum.", rich_help_panel=_TRAINING
        ),
    ] = Optimiser.adamw,
    schedule: Annotated[
        Schedule,
        typer.Option(
            "--schedule",
            help="step: a tenth after each third of the epochs.",
            rich_help_panel=_TRAINING,
        ),
    ] = Schedule.cosine,
    warmup: Annotated[
        float,
        typer.Option(
            "--warmup",
            metavar="SHARE",
            help="Share of the steps in which the rate rises.",
            rich_help_panel=_TRAINING,
        ),
    ] = 0.1,
    weight_decay: Annotated[
        float,
        typer.Option(
            "--weight-decay",
            metavar="x",
            help="How much each step draws the weights to 0.",
            rich_help_panel=_TRAINING,
        ),
    ] = 1e-4,
    clip: Annotated[
        float,
        typer.Option(
            "--clip",
            metavar="x",
            help="Largest norm of the gradient; 0: no clipping.",
            rich_help_panel=_TRAINING,
        ),
    ] = 1.0,
    batch_size: Annotated[
        int | None,
        typer.Option(
            "--batch-size",
            metavar="N",
            min=1,
            help="Images a step. Default: 32, down to 8 where images are few.",
            rich_help_panel=_TRAINING,
        ),
    ] = None,
    augment: Annotated[
        str,
        typer.Option(
            "--augment",
            metavar="A,B,…",
            help="flip, vflip, crop, colour; none; or auto: flip and crop, as far as "
            "a probe still recognises such images.",
            rich_help_panel=_TRAINING,
        ),
    ] = "auto",
    label_smoothing: Annotated[
        float,
        typer.Option(
            "--label-smoothing",
            metavar="x",
            help="Share of each label that is spread over all classes.",
            rich_help_panel=_TRAINING,
        ),
    ] = 0.0,
    class_weight: po.ClassWeightOption = None,
    refit: Annotated[
        bool,
        typer.Option(
            "--refit/--no-refit",
            help="Train anew on all training images once rate and epoch are chosen.",
            rich_help_panel=_TRAINING,
        ),
    ] = True,
    views: Annotated[
        int | None,
        typer.Option(
            "--views",
            metavar="N",
            min=0,
            help="With from:NODE and head: how many views of each image are cached; 0 "
            "runs the whole network in every epoch. Default: 4.",
            rich_help_panel=_CACHE,
        ),
    ] = None,
    codes: Annotated[
        Path | None,
        typer.Option(
            "--codes",
            metavar="FILE.h5",
            help="The codes file: kept, and used if it is there.",
            rich_help_panel=_CACHE,
        ),
    ] = None,
    folds: po.Folds = N_FOLDS,
    metric: po.MetricOption = Metric.accuracy,
    json_path: po.CompareJson = None,
    input_size: o.InputSize = None,
    resize: o.Resize = None,
    crop: o.Crop = None,
    mean: o.Mean = None,
    std: o.Std = None,
    interpolation: o.Interpolation = None,
    value_range: o.ValueRange = "file",
    max_pixels: o.MaxPixels = None,
    device: o.Device = "auto",
    precision: o.PrecisionOption = Precision.auto,
    workers: o.Workers = None,
    limit: o.Limit = None,
    seed: o.Seed = 0,
    overwrite: Annotated[
        bool,
        typer.Option(
            "--overwrite",
            help="Train anew, whatever model is there.",
            rich_help_panel=_TRAINING,
        ),
    ] = False,
) -> None:
    """Train the network itself: the rival of cached codes, on the same split.

    Learning rate and epoch are chosen on a part of the training images; held-out images
    are those of `compare`, which takes the scores with `--with`.

    For example:

        featpipe finetune flowers -o flowers.model --init probe
        featpipe finetune flowers --train from:layer4 --json tuned.json
        featpipe compare flowers.h5 --with tuned.json
    """
    from featpipe.finetuning import finetune as finetuned

    require_outputs(
        {"-o": output, "--json": json_path, "--codes": codes},
        {"SOURCE": source, "--weights": weights},
    )
    with training_progress() as progress:
        result = finetuned(
            source,
            output,
            backbone=backbone,
            weights=weights,
            depth=depth,
            train=train,
            init=init.value,
            epochs=epochs,
            budget=budget,
            lr=lr,
            backbone_lr=backbone_lr,
            optimiser=optimiser.value,
            schedule=schedule.value,
            warmup=warmup,
            weight_decay=weight_decay,
            clip=clip,
            batch_size=batch_size,
            augment=augment,
            label_smoothing=label_smoothing,
            class_weight=class_weight and class_weight.value,
            refit=refit,
            views=views,
            codes=codes,
            folds=folds,
            metric=metric.value,
            input_size=input_size,
            resize=resize,
            crop=crop,
            mean=numbers(mean, "--mean"),
            std=numbers(std, "--std"),
            interpolation=interpolation,
            value_range=value_range,
            max_pixels=pixel_limit(max_pixels),
            device=device,
            precision=precision.value,
            workers=workers,
            limit=limit,
            seed=seed,
            overwrite=overwrite,
            progress=progress,
        )
    if json_path:
        result.write_json(json_path)
    _print_result(result)
    if json_path:
        terminal.info(f"wrote {json_path}")


def _print_result(result: "Finetuned") -> None:
    score = result.score
    for text in result.notes:
        terminal.info(text)
    tried = ", ".join(f"{rate:g}" for rate in sorted(result.rates))
    chosen = f"of {tried} " if len(result.rates) > 1 else ""
    epochs = "epoch" + "s" * (result.epoch != 1)
    terminal.info(f"learning rate {result.rate:g} {chosen}and {result.epoch} {epochs}")
    if terminal.verbose:
        for entry in result.history:
            loss = "" if entry["loss"] is None else f"loss {entry['loss']:.3f}, "
            terminal.info(
                f"epoch {entry['epoch']}: {loss}on the images that choose: loss "
                f"{entry['held_out_loss']:.3f}, {100 * entry['held_out_score']:.1f} %"
            )
    for text in result.warnings:
        terminal.info(text)
    if result.path is not None and result.is_new:
        terminal.info(f"wrote {result.path}")
    low, high = 100 * score.accuracy_low, 100 * score.accuracy_high
    terminal.result(
        f"{score.trained}, {score.backbone} {score.depth}: accuracy on the "
        f"{score.n_test:,} held out {100 * score.accuracy:.1f} % [{low:.1f}, "
        f"{high:.1f}]; {score.fit_seconds:.1f} s, {score.image_passes:,} image passes"
    )
