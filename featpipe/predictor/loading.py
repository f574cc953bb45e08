"""Load a model file as a `Predictor`."""

from __future__ import annotations

import os
from pathlib import Path

from featpipe.images import MAX_PIXELS
from featpipe.predictor import storing
from featpipe.predictor.predicting import Predictor

__all__ = ["load"]


def load(
    path: str | os.PathLike[str],
    *,
    weights: str | os.PathLike[str] | None = None,
    backbone: str | None = None,
    device: str = "auto",
    batch_size: int | None = None,
    workers: int | None = None,
    max_pixels: int | None = MAX_PIXELS,
) -> Predictor:
    """Read a model that `featpipe fit` or `Predictor.save` wrote.

    No code in the file is run. The network is loaded with the first image.

    Parameters
    ----------
    path : path
    weights : path, optional
        The present place of the backbone's weights, if they have moved.
    backbone : str, optional
        The present name of the backbone. Required where it is your own callable: a
        file alone never gets code to run.
    device, batch_size, workers, max_pixels
        As `featpipe.extract`. The limit of pixels does not come from the file.

    Returns
    -------
    Predictor

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is not a model, of an unknown format version, or damaged.

    Examples
    --------
    >>> import featpipe
    >>> model = featpipe.load("flowers.model")
    >>> model.class_names, model.model.depth
    (['daisy', 'rose', 'tulip'], 'penultimate')
    >>> model.top(["flowers/test/tulip/38.png"], k=2)
    [[('tulip', 0.9...), ('daisy', 0.0...)]]
    """
    # Only the file is read; the network is loaded with the first image.
    path = Path(path)
    return Predictor(
        storing.read_model(path),
        path=path,
        weights=weights,
        backbone=backbone,
        device=device,
        batch_size=batch_size,
        workers=workers,
        max_pixels=max_pixels,
    )
