"""The command `finetune`: train the network itself."""

from typing import TYPE_CHECKING

from featpipe.cli import options as o
from featpipe.cli import protocol_options as po
from featpipe.cli import training_options as to
from featpipe.cli.choices import Init, Metric, Optimiser, Precision, Schedule
from featpipe.cli.extracting import numbers, pixel_limit
from featpipe.cli.outputs import require_outputs
from featpipe.cli.progress import training_progress
from featpipe.cli.terminal import terminal
from featpipe.defaults import N_FOLDS

if TYPE_CHECKING:
    from featpipe.finetuning import Finetuned

__all__ = ["finetune"]


def finetune(
    # The defaults are those of `featpipe.finetune`.
    source: o.Source,
    output: to.TunedModel = None,
    backbone: o.Backbone = "resnet50",
    weights: o.Weights = None,
    depth: to.HeadDepth = "penultimate",
    train: to.Train = "all",
    init: to.InitOption = Init.random,
    epochs: to.Epochs = 10,
    budget: to.Budget = None,
    lr: to.LearningRate = None,
    backbone_lr: to.BackboneRate = 0.1,
    optimiser: to.OptimiserOption = Optimiser.adamw,
    schedule: to.ScheduleOption = Schedule.cosine,
    warmup: to.Warmup = 0.1,
    weight_decay: to.WeightDecay = 1e-4,
    clip: to.Clip = 1.0,
    batch_size: to.TrainingBatch = None,
    augment: to.Augment = "auto",
    label_smoothing: to.LabelSmoothing = 0.0,
    class_weight: po.ClassWeightOption = None,
    refit: to.Refit = True,
    views: to.Views = None,
    codes: to.CachedCodes = None,
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
    overwrite: to.TrainAnew = False,
) -> None:
    """Train the network itself, on the same split as `compare`.

    A part of the training images chooses learning rate and epoch. The held-out images
    are those of `compare`, which shows the scores beside its own with `--with`.

    For example:

        featpipe finetune flowers -o flowers.model --init probe
        featpipe finetune flowers --train from:layer4 --json tuned.json
        featpipe compare flowers.h5 --with tuned.json
    """
    from featpipe.finetuning import finetune as train_network

    require_outputs(
        {"-o": output, "--json": json_path, "--codes": codes},
        {"SOURCE": source, "--weights": weights},
        codes=["--codes"],
        models=["-o"],
    )
    with training_progress() as progress:
        result = train_network(
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
    # After the file is written: a closed terminal must not lose a score.
    _print_result(result)
    if json_path:
        terminal.info(f"wrote {json_path}")


def _print_result(result: "Finetuned") -> None:
    score = result.score
    for text in result.notes:
        terminal.info(text)
    # All rates that were tried, since the best at an end of them may lie beyond it.
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
