"""Loading a model file as a `Predictor`."""

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

    Nothing in the file is run, and the network is loaded only with the first image.

    Parameters
    ----------
    path : path
    weights : path, optional
        Where the backbone's weights are now, if not where they were.
    backbone : str, optional
        What the backbone is called now; needed where it is your own callable, which
        no file alone gets to run.
    device, batch_size, workers, max_pixels
        As `featpipe.extract`. The limit of pixels is not that of the codes: no file
        alone takes it away.

    Returns
    -------
    Predictor

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is no model, one of another format version, or damaged.

    Examples
    --------
    >>> import featpipe
    >>> model = featpipe.load("flowers.model")
    >>> model.class_names, model.model.depth
    (['daisy', 'rose', 'tulip'], 'penultimate')
    >>> model.top(["flowers/test/tulip/38.png"], k=2)
    [[('tulip', 0.9...), ('daisy', 0.0...)]]
    """
    # Only the file is read: the network comes with the first image.
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
