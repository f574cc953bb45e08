"""Recognise a training that is finished by the request in its model file.

`checkpoint` has unfinished trainings.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from featpipe.finetuning.result import Finetuned
from featpipe.finetuning.settings import Settings
from featpipe.images import ImageError, ImageSet
from featpipe.inference import Recipe
from featpipe.predictor import FINETUNE, Model, read_model

__all__ = ["plain_settings", "read_finished", "request_of"]


def plain_settings(settings: Settings) -> dict[str, Any]:
    """Return the settings for JSON."""
    return {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in asdict(settings).items()
    }


def request_of(settings: Settings, recipe: Recipe, images: ImageSet) -> dict[str, Any]:
    """Return all options of a training that decide its model, for JSON, without torch.

    Versions, devices and workers are left out: they do not invalidate a model.

    Parameters
    ----------
    settings : Settings
    recipe : Recipe
        Of the network before training.
    images : ImageSet

    Returns
    -------
    dict
        ``settings``, ``network``, ``n_images``, and ``images``, the SHA-256 of their
        paths, sizes, times, labels, splits and groups.
    """
    network = recipe.request()
    # Another version of torch changes last bits, but not the request.
    for name in ("versions", "decoding"):
        del network[name]
    network["depth"] = list(recipe.depths)
    network["precision"] = recipe.precision
    return {
        "settings": plain_settings(settings),
        "network": network,
        "n_images": len(images),
        "images": _digest(images),
    }


def read_finished(path: Path, request: dict[str, Any]) -> Finetuned | None:
    """Return the finished training of a request, if the file holds it.

    Parameters
    ----------
    path : Path
        The model file.
    request : dict
        As `request_of` makes it.

    Returns
    -------
    Finetuned or None
        None if there is no such file, or it does not record a request.

    Raises
    ------
    ValueError
        If the file holds a network that was trained for another request; names the
        differences.
    """
    # Writing the model refuses a device or a folder of this name.
    if not path.is_file():
        return None
    try:
        model = read_model(path)
    # Not a model: the check of the output decides whether it may be replaced.
    except ValueError:
        return None
    recorded = model.training.get("request")
    if model.classifier != FINETUNE or model.score is None or not recorded:
        return None
    # Training it may have taken days, so it is not replaced without being asked.
    differ = list(_differences(recorded, request))
    if differ:
        what = "; ".join(differ[:3]) + "; …" * (len(differ) > 3)
        raise ValueError(
            f"{path} is a network that was trained otherwise ({what}); choose another "
            "file, or --overwrite (in Python overwrite=True) to train anew"
        )
    return _finetuned(path, model)


def _differences(recorded: Any, request: dict[str, Any]) -> Iterator[str]:
    """Name each option that differs, with both values."""
    if not isinstance(recorded, dict):
        yield "its record is damaged"
        return
    for part in ("settings", "network"):
        old, new = recorded.get(part), request[part]
        for name in sorted({*old, *new}) if isinstance(old, dict) else [part]:
            before = old.get(name) if isinstance(old, dict) else old
            if before != new.get(name):
                yield f"{name} = {before!r:.60}, now {new.get(name)!r:.60}"
    if recorded.get("images") != request["images"]:
        before, now = recorded.get("n_images"), request["n_images"]
        yield f"other images or labels: {before} then, {now} now"


def _finetuned(path: Path, model: Model) -> Finetuned:
    training, score = model.training, model.score
    assert score is not None
    return Finetuned(
        score=score,
        rates={
            # JSON has no nan, so the loss of a rate that was given is null.
            float(rate): math.nan if loss is None else float(loss)
            for rate, loss in training["rates"]
        },
        epoch=training["epoch"],
        history=training["history"],
        notes=[
            f"{path} was trained with these options on these images before: nothing "
            "was trained now (--overwrite, in Python overwrite=True, trains anew)"
        ],
        path=path,
        seed=training["settings"]["seed"],
        is_new=False,
    )


def _digest(images: ImageSet) -> str:
    digest = hashlib.sha256()
    names = [*images.class_names, ""]
    for i, path in enumerate(images.paths):
        size, mtime = int(images.sizes[i]), int(images.mtimes[i])
        # Images without a time are compared by content.
        stamp = str(mtime) if mtime else _content_digest(images, i)
        facts = (names[images.labels[i]], images.splits[i], images.groups[i])
        for text in (path, str(size), stamp, *facts):
            # File names may hold any bytes; with their lengths, different lists give
            # different bytes.
            content = os.fsencode(text)
            digest.update(b"%d " % len(content) + content)
    return digest.hexdigest()


def _content_digest(images: ImageSet, i: int) -> str:
    try:
        return hashlib.sha256(images.read(i)).hexdigest()
    except ImageError as error:
        return error.reason
