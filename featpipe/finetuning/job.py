"""One fine-tuning from images to a judged model.

Extraction makes the codes, `protocol` divides their rows, `inputs` chooses the input of
training, `training_loop` trains, and `result` writes and judges the model.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from featpipe import codes
from featpipe.backbones import Backbone
from featpipe.codes import Codes
from featpipe.extraction import Extraction
from featpipe.finetuning import result
from featpipe.finetuning.checkpoint import Checkpoint
from featpipe.finetuning.finished import plain_settings, read_finished, request_of
from featpipe.finetuning.head import head_initialiser
from featpipe.finetuning.inputs import DataContext, Inputs, choose
from featpipe.finetuning.network import Tuned
from featpipe.finetuning.ready import Ready
from featpipe.finetuning.result import Finetuned
from featpipe.finetuning.settings import Settings
from featpipe.finetuning.training import Trainer
from featpipe.finetuning.training_loop import TrainingLoop
from featpipe.finetuning.unfinished import unfinished_work
from featpipe.images import ImageSet
from featpipe.inference import Decoding, Machine, Network, Recipe
from featpipe.inference import Progress as ImageProgress
from featpipe.predictor import Predictor, write_model
from featpipe.protocol import (
    TuningRows,
    describe_rows,
    tuning_rows,
    unseen_classes,
)

__all__ = ["Finetuning"]

Progress = Callable[[int, int, str], None]
_SMALLEST_BATCH, _LARGEST_BATCH, _STEPS_AN_EPOCH = 8, 32, 12


class Finetuning:
    """A fine-tuning of one network on some images.

    Parameters
    ----------
    settings : Settings
    recipe : Recipe
        Of the network before training, with one depth.
    image_set : ImageSet
    path : path, optional
        Of the model.
    codes_path : path, optional
        Of the codes.
    device, workers, progress
        As in `featpipe.finetune`.

    Examples
    --------
    >>> from featpipe.finetuning import Finetuning, Settings
    >>> from featpipe.images import scan
    >>> from featpipe.inference import Recipe
    >>> flowers = scan("flowers")
    >>> settings = Settings(train="head", epochs=1, lr=0.01, augment=("none",))
    >>> recipe = Recipe("mini", input_size=32)
    >>> Finetuning(settings, recipe, flowers, device="cpu").run()
    <Finetuned mini (head, new head): ... % of 12 images, epoch 1, rate 0.01>
    """

    def __init__(
        self,
        settings: Settings,
        recipe: Recipe,
        image_set: ImageSet,
        path: Path | None = None,
        *,
        codes_path: Path | None = None,
        device: str = "auto",
        workers: int | None = None,
        progress: Progress | None = None,
    ) -> None:
        self._settings = settings
        self._recipe = recipe
        self._images = image_set
        self._path = path
        self._codes_path = codes_path
        self._machine = Network(recipe, Machine(device))
        self._workers = workers
        self._tell = progress or (lambda done, total, words: None)
        self._notes: list[str] = []
        self._request: dict[str, Any] = {}

    def run(self, *, overwrite: bool = False) -> Finetuned:
        """Train, or return a finished training; see `featpipe.finetune`."""
        self._request = request_of(self._settings, self._recipe, self._images)
        with unfinished_work(self._path) as folder:
            # A user's own code may have changed, so its model is trained anew.
            own = self._recipe.uses_custom_code
            if self._path is not None and not overwrite and not own:
                finished = read_finished(self._path, self._request)
                if finished is not None:
                    return finished
            start = time.perf_counter()
            backbone = self._machine.backbone(self._recipe.depths)
            _require_vector(backbone)
            settings = self._settings
            # Before anything is computed, to raise if the images cannot be divided.
            self._divide(self._images)
            inputs = choose(settings, backbone, len(self._images), self._specs())
            file = self._extracted(folder, inputs.specs)
            rows = self._divide(file)
            ready = Ready.of(folder, backbone, file, rows)
            network, checkpoint = self._trained(ready, inputs, start)
            return self._judged(ready, network, checkpoint)

    def _divide(self, images: Codes | ImageSet) -> TuningRows:
        settings = self._settings
        return tuning_rows(images, n_folds=settings.folds, seed=settings.seed)

    def _specs(self) -> list[str]:
        """Return the depths of the user's codes file, if it exists."""
        if self._codes_path is None or not self._codes_path.exists():
            return []
        file = codes.read(self._codes_path, check=False)
        _require_no_others(file, self._images)
        return file.depths

    def _extracted(self, folder: Path, specs: tuple[str, ...]) -> Codes:
        # Without the user's file the codes are removed with the unfinished work.
        path = self._codes_path or folder / "codes.h5"
        return self._extract(replace(self._recipe, depths=specs), self._images, path)

    def _extract_views(
        self,
        provenance: dict[str, Any],
        specs: tuple[str, ...],
        image_set: ImageSet,
        path: Path,
    ) -> Codes:
        """Extract depths of views by the options of a provenance."""
        # As the codes of the images were, even where "auto" would now decide
        # differently. Views are made here, so no limit of pixels applies.
        recipe = replace(
            self._recipe.resolve_auto(provenance), depths=specs, max_pixels=None
        )
        return self._extract(recipe, image_set, path)

    def _extract(self, recipe: Recipe, image_set: ImageSet, path: Path) -> Codes:
        def progress(done: ImageProgress) -> None:
            self._tell(done.done, done.n_images, "extracting codes")

        extraction = Extraction(
            recipe,
            image_set,
            path,
            Machine(self._machine.device, workers=self._workers),
            progress=progress,
        )
        # A run with nothing to do has not checked the codes.
        return codes.checked(extraction.run())

    def _trained(
        self, ready: Ready, inputs: Inputs, start: float
    ) -> tuple[Tuned, Checkpoint]:
        """Train, or resume a training; return the network with its final weights."""
        settings, rows, labels = self._settings, ready.rows, ready.labels
        # After the extraction, which has the device to itself.
        placed = ready.backbone.to(self._machine.device)
        part, feed = inputs.make(settings, self._where(ready, placed))
        self._notes += inputs.notes
        weights = _weights(settings, labels[rows.train], ready.names)
        head = head_initialiser(
            settings, ready.codes, ready.depth, rows, labels, weights
        )
        network = Tuned(part, head(rows.fit), train=settings.train != "head")
        trainer = Trainer(
            network,
            feed,
            labels,
            settings,
            batch_size=settings.batch_size or _batch_size(len(rows.fit)),
            weights=weights,
            device=placed.device,
            precision=ready.codes.provenance["precision"],
        )
        # Rates are tried one after another, each from the same weights.
        before = network.learned()

        def begin(fitted: np.ndarray) -> None:
            network.put_back(before)
            network.head.load_state_dict(head(fitted).state_dict())

        # Without an output there is no checkpoint.
        path = None if self._path is None else ready.folder / "checkpoint.pt"
        digest = ready.digest(settings, type(feed).__name__)
        checkpoint = Checkpoint.read(path, digest, placed.device)
        if not checkpoint.seconds:
            # A resumed run has counted the extraction already.
            checkpoint.seconds = time.perf_counter() - start
            checkpoint.n_passes = max(1, inputs.n_views) * len(rows.train)
        course = TrainingLoop(
            trainer,
            settings,
            rows,
            labels,
            begin,
            checkpoint=checkpoint,
            path=path,
            tell=self._tell,
        )
        course.run()
        return network, checkpoint

    def _where(self, ready: Ready, placed: Backbone) -> DataContext:
        provenance = ready.codes.provenance
        return DataContext(
            images=self._images,
            codes=ready.codes,
            rows=ready.rows,
            labels=ready.labels,
            backbone=placed,
            folder=ready.folder,
            decoding=Decoding.recorded(provenance["decoding"]),
            workers=self._workers,
            extract=partial(self._extract_views, provenance),
        )

    def _judged(
        self, ready: Ready, network: Tuned, checkpoint: Checkpoint
    ) -> Finetuned:
        """Write the model, read it back, and judge it by the held-out images."""
        backbone, file, rows = ready.backbone, ready.codes, ready.rows
        best = checkpoint.best_epoch
        assert best is not None
        facts = {
            "request": self._request,
            "settings": plain_settings(self._settings),
            "rates": [[rate, _finite(loss)] for rate, loss in checkpoint.tried.items()],
            "epoch": best,
            "history": checkpoint.history,
            "image_passes": checkpoint.n_passes,
            "n_images": len(rows.train if self._settings.refit else rows.fit),
            "seconds": checkpoint.seconds,
            "warnings": checkpoint.warnings,
        }
        model, weights = result.bind(backbone, network, file, ready.classes, facts)
        # The model that is judged is read from the file, and run as `predict` does.
        draft = ready.folder / "model.safetensors"
        write_model(draft, model, weights)
        predictor = Predictor(
            model,
            path=draft,
            backbone=self._recipe.backbone,
            device=self._machine.device,
            workers=self._workers,
            max_pixels=self._recipe.max_pixels,
        )
        # The codes file may lack images of the source that failed.
        position = {path: i for i, path in enumerate(self._images.paths)}
        held = self._images.take(position[file.paths[row]] for row in rows.held)
        truth = np.asarray(file.labels)[rows.held]
        record: dict[str, Any] = {
            "codes": os.fspath(self._codes_path or self._images.source),
            "backbone": backbone.name,
            "weights": backbone.weights,
            "depth": ready.depth,
            "width": backbone.depths[0].width,
            "classifier": "finetune",
            "C": None,
            "protocol": rows.protocol,
            "n_train": facts["n_images"],
            # Of the training images that chose the epoch.
            "cv_accuracy": checkpoint.history[best]["held_out_score"],
            "fit_seconds": checkpoint.seconds,
            "warnings": [
                *unseen_classes(file.class_names, ready.classes, truth),
                *checkpoint.warnings,
            ],
            "trained": self._settings.words,
            "image_passes": checkpoint.n_passes,
        }
        score = result.judge(predictor, held, truth, file.class_names, record)
        if self._path is not None:
            # Only now, with its score, since a model file means a finished training.
            write_model(self._path, replace(model, score=score), weights)
        return Finetuned(
            score=score,
            rates=dict(checkpoint.tried),
            epoch=best,
            history=checkpoint.history,
            notes=[*self._notes, *describe_rows(rows, refit=self._settings.refit)],
            path=self._path,
            seed=self._settings.seed,
        )


def _batch_size(n_fit: int) -> int:
    return int(np.clip(n_fit // _STEPS_AN_EPOCH, _SMALLEST_BATCH, _LARGEST_BATCH))


def _weights(
    settings: Settings, labels: np.ndarray, names: list[str]
) -> np.ndarray | None:
    """Return the weight of each class in the loss."""
    class_weight = settings.class_weight
    if class_weight is None:
        return None
    if class_weight == "balanced":
        # scikit-learn's formula.
        return len(labels) / (len(names) * np.bincount(labels, minlength=len(names)))
    if isinstance(class_weight, str) or not set(class_weight) <= set(names):
        raise ValueError(
            f"class_weight={class_weight!r} is neither 'balanced' nor weights by class "
            f"name; the classes are {', '.join(names[:10])}"
        )
    return np.array([class_weight.get(name, 1.0) for name in names])


def _require_vector(backbone: Backbone) -> None:
    depth = backbone.depths[0]
    # A linear head on a whole map would have millions of weights.
    if len(backbone.depths) > 1 or len(depth.shape) > 1:
        raise ValueError(
            f"a head needs one depth of vectors, not {depth.spec!r}; choose a pooled "
            "depth such as 'NODE:avg'"
        )


def _require_no_others(file: Codes, image_set: ImageSet) -> None:
    """Raise if extraction would remove images from the codes file."""
    others = set(file.paths) - set(image_set.paths)
    if others:
        raise ValueError(
            f"{file.path} holds {len(others)} images that the source does not have, "
            f"such as {min(others)!r}; give the codes of the same source, or none"
        )


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
