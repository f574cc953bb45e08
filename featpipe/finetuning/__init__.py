"""Train the network itself, on the same split as classifiers on cached codes.

`finetune` trains a backbone, or its last part, or a head alone, and judges it as
`featpipe.compare` judges classifiers. `docs/reference/finetuning.md` explains the
choices.

| module | what lives there |
|---|---|
| `settings` | the options, checked |
| `network`, `head` | the layers that learn and those that are frozen; the new head |
| `augment`, `augmentation_check` | random views of a picture, and which of them fit |
| `pictures`, `views` | decoded pictures in memory, and views as images for the cache |
| `feeds`, `inputs` | batches: of images for the whole network, or from the cache |
| `training` | one epoch, one measurement |
| `learning_rate` | the learning rate: its choice, its schedule |
| `training_loop`, `checkpoint` | all epochs of a training, and its checkpoint |
| `ready`, `finished` | the inputs of a training, and trainings that are finished |
| `job`, `result` | a fine-tuning from images to a judged model |
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from featpipe import images
from featpipe.defaults import N_FOLDS
from featpipe.files import belongs_to
from featpipe.finetuning.job import Finetuning
from featpipe.finetuning.result import Finetuned
from featpipe.finetuning.settings import Settings
from featpipe.inference import Recipe, Source, image_set_of, require_different_paths

__all__ = ["Finetuned", "Finetuning", "Settings", "finetune"]


def finetune(
    source: Source,
    path: str | os.PathLike[str] | None = None,
    *,
    backbone: str = "resnet50",
    weights: str | None = None,
    depth: str = "penultimate",
    train: str = "all",
    init: str = "random",
    epochs: int = 10,
    lr: float | None = None,
    backbone_lr: float = 0.1,
    optimiser: str = "adamw",
    schedule: str = "cosine",
    warmup: float = 0.1,
    weight_decay: float = 1e-4,
    clip: float = 1.0,
    batch_size: int | None = None,
    augment: str | Sequence[str] = "auto",
    label_smoothing: float = 0.0,
    class_weight: str | Mapping[str, float] | None = None,
    views: int | None = None,
    refit: bool = True,
    budget: float | None = None,
    codes: str | os.PathLike[str] | None = None,
    folds: int = N_FOLDS,
    metric: str = "accuracy",
    device: str = "auto",
    precision: str = "auto",
    workers: int | None = None,
    input_size: int | None = None,
    resize: int | None = None,
    crop: int | None = None,
    interpolation: str | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    value_range: str | tuple[float, float] = "file",
    max_pixels: int | None = images.MAX_PIXELS,
    unlabelled: bool = False,
    limit: int | None = None,
    seed: int = 0,
    overwrite: bool = False,
    progress: Callable[[int, int, str], None] | None = None,
) -> Finetuned:
    """Train a network on labelled images, and judge it as `compare` does.

    A new head replaces all layers after ``depth``: pool, standardisation as on the
    training images, Linear. Learning rate and epoch are chosen on a part of the
    training images; then the network is trained anew on all of them. The held-out
    images are those of `compare`, and are used once, at the end.

    Parameters
    ----------
    source : path, str or ImageSet, or images
        As `featpipe.extract` takes it.
    path : path, optional
        The model file. With it every epoch writes a checkpoint, and a stopped training
        goes on from there; without it only the score is kept. An existing model that
        was trained with the same options on the same images is returned as it is; any
        other is refused.
    backbone, weights, input_size, resize, crop, interpolation, mean, std
        As in `featpipe.extract`; ``weights="none"`` trains from scratch.
    value_range, max_pixels
        As in `featpipe.extract`.
    depth : str
        The input of the head, ``NODE[:POOL]``.
    train : str
        ``"all"``; ``"from:NODE"``, which freezes all layers that run before the node;
        or ``"head"``. Frozen layers keep the statistics of their batch norm.
    init : {"random", "probe"}
        ``"probe"``: the head starts from the logistic classifier on the cached codes
        (LP-FT [1]_), so that before its first step the network predicts as that
        classifier does.
    epochs : int
    lr : float, optional
        The head's learning rate; default the best of a few short trials.
    backbone_lr : float
        The backbone's, as a share of the head's.
    optimiser : {"adamw", "sgd"}
        SGD has Nesterov's momentum of 0.9.
    schedule : {"cosine", "step"}
        Down to zero, or to a tenth after each third of the epochs.
    warmup : float
        Share of the steps in which the rate rises.
    weight_decay : float
        On filters and matrices only.
    clip : float
        Largest norm of the gradient; 0 does not clip.
    batch_size : int, optional
        Default 32, down to 8 where images are few.
    augment : str or sequence of str
        ``"flip"``, ``"vflip"``, ``"crop"``, ``"colour"``; ``"none"``; or ``"auto"``:
        flip and crop, as far as a probe still recognises such images.
    label_smoothing : float
    class_weight : "balanced" or dict of class name to weight, optional
    views : int, optional
        With ``from:NODE`` and ``head``: views of each image whose maps or codes are
        cached, the first of them as `predict` sees it; 0 runs the whole network in
        every epoch. Default 4, or 1 where 4 would be more than 1 GB.
    refit : bool
        Train anew on all training images once rate and epoch are chosen.
    budget : float, optional
        Seconds of training, with ``init="probe"``. Training ends once the network is
        significantly better than the probe on the images that choose, at once where it
        cannot become so, and before the time is over; the result is the best epoch, or
        the probe.
    codes : path, optional
        The codes file; kept, and used if it exists. Default: a temporary file.
    folds : int
        Number of folds, of which one chooses rate and epoch.
    metric : {"accuracy", "balanced_accuracy", "macro_f1"}
        By which the epoch is chosen.
    device, precision, workers, unlabelled, limit
        As in `featpipe.extract`.
    seed : int
        The same seed gives the same network (on the CPU to the last bit).
    overwrite : bool
        Whether to train anew and replace an existing model.
    progress : callable, optional
        Called as ``progress(n_done, n_images, what)``.

    Returns
    -------
    Finetuned

    Raises
    ------
    ValueError
        If an option is invalid, there are not two classes to learn, training diverges
        before anything was learned, or ``path`` is a model that was trained with other
        options.
    FileNotFoundError
        If there is no such source or weights file.
    CodesError
        If the codes file was made otherwise.
    LockedError
        If another process is making the model.

    References
    ----------
    .. [1] A. Kumar et al., "Fine-Tuning can Distort Pretrained Features and
       Underperform Out-of-Distribution", ICLR 2022. arXiv:2202.10054.

    Examples
    --------
    >>> import featpipe
    >>> tuned = featpipe.finetune(
    ...     "flowers", backbone="mini", input_size=32, train="head", init="probe",
    ...     epochs=1, lr=0.01, augment="none",
    ... )
    >>> tuned.score.accuracy, tuned.score.n_test
    (1.0, 12)
    >>> featpipe.finetune("flowers", epochs=0)
    Traceback (most recent call last):
        ...
    ValueError: epochs=0 has to be a whole number from 1 to 100,000
    """
    # Checked before the images are listed, which may take minutes.
    settings = Settings(
        train=train,
        init=init,
        epochs=epochs,
        lr=lr,
        backbone_lr=backbone_lr,
        optimiser=optimiser,
        schedule=schedule,
        warmup=warmup,
        weight_decay=weight_decay,
        clip=clip,
        batch_size=batch_size,
        augment=augment if isinstance(augment, str) else tuple(augment),
        label_smoothing=label_smoothing,
        class_weight=class_weight,
        views=views,
        refit=refit,
        budget=budget,
        folds=folds,
        metric=metric,
        seed=seed,
    )
    recipe = Recipe(
        backbone=backbone,
        weights=weights,
        # One depth, since the head has one input.
        depths=(depth,),
        precision=precision,
        seed=seed,
        input_size=input_size,
        resize=resize,
        crop=crop,
        interpolation=interpolation,
        mean=mean,
        std=std,
        value_range=value_range,
        max_pixels=max_pixels,
    )
    job = Finetuning(
        settings,
        recipe,
        # An image that is listed twice could be on both sides of a split.
        require_different_paths(
            image_set_of(
                source,
                unlabelled=unlabelled,
                limit=limit,
                # The outputs may lie inside the folder of images.
                ignore=belongs_to(path, codes),
            )
        ),
        None if path is None else Path(path),
        codes_path=None if codes is None else Path(codes),
        device=device,
        workers=workers,
        progress=progress,
    )
    return job.run(overwrite=overwrite)
