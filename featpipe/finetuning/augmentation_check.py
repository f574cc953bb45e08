"""Find the augmentations that leave the images recognisable.

A mirrored 2 is no 2, a mirrored bee is a bee. A classifier on the codes of the frozen
network, which has seen no mirrored image, shows the difference before any training.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor

from featpipe import classifiers
from featpipe.backbones import Backbone
from featpipe.codes import Codes
from featpipe.finetuning.augment import centre, view
from featpipe.finetuning.pictures import Pictures
from featpipe.protocol import TuningRows

__all__ = ["CANDIDATES", "check_augmentations"]

CANDIDATES = ("flip", "crop")
_MOST_IMAGES = 500
_BATCH = 32
# A usual value for standardised codes; the check looks for losses of many points.
_C = 0.01
_TOLERATED = 0.1


def check_augmentations(
    codes: Codes,
    rows: TuningRows,
    labels: np.ndarray,
    backbone: Backbone,
    pictures: Pictures,
    positions: np.ndarray,
    *,
    seed: int = 0,
) -> dict[str, tuple[float, bool]]:
    """Check by a probe which augmentations keep images recognisable.

    A logistic classifier learns from the codes of the rows that fit, and predicts the
    images that choose, plain and augmented. An augmentation fits if the accuracy falls
    by at most a tenth of its excess over the most frequent class, and a standard error.

    Parameters
    ----------
    codes : Codes
        Of the backbone's depth.
    rows : TuningRows
    labels : (n_rows,) int64
        Class numbers of the rows that train.
    backbone : Backbone
        On its device.
    pictures : Pictures
    positions : (n_rows,) int64
        The picture of each row.
    seed : int
        Of the crops, and of the sample where there are many images.

    Returns
    -------
    dict of str to (accuracy, fits)
        For ``""``, the images as they are, and for each of `CANDIDATES`.
    """
    spec = backbone.depths[0].spec
    # Fitted on plain codes, which have to predict the augmented images.
    X = codes.take(spec, rows.fit).astype(np.float32, copy=False)
    probe = classifiers.make("logistic", C=_C)
    with warnings.catch_warnings():
        # Rough coefficients are enough for this check.
        warnings.simplefilter("ignore", ConvergenceWarning)
        probe.fit(X, labels[rows.fit])
    # Rows that the probe has not seen; a sample, since each takes passes through the
    # network.
    images = np.random.default_rng(seed).permutation(rows.select)[:_MOST_IMAGES]
    truth = labels[images]

    def accuracy(draw: Callable[[Tensor, np.random.Generator], Tensor]) -> float:
        squares = [
            draw(
                pictures.get(int(positions[row])),
                np.random.default_rng([seed, int(row)]),
            )
            for row in images
        ]
        correct = [
            backbone(torch.stack(squares[start : start + _BATCH]))[spec].cpu().numpy()
            for start in range(0, len(squares), _BATCH)
        ]
        return float((probe.predict(np.concatenate(correct)) == truth).mean())

    side = backbone.preprocessing.crop
    ways: dict[str, Callable[[Tensor, np.random.Generator], Tensor]] = {
        "": lambda picture, rng: centre(picture, side),
        "flip": lambda picture, rng: centre(picture, side).flip(-1),
        "crop": lambda picture, rng: view(picture, side, ("crop",), rng),
    }
    accuracies = {name: accuracy(draw) for name, draw in ways.items()}
    plain = accuracies[""]
    # The tolerated loss is a share of the excess over guessing.
    guess = np.bincount(labels[rows.fit]).max() / len(rows.fit)
    error = np.sqrt(plain * (1 - plain) / len(images))
    least = plain - _TOLERATED * max(plain - guess, 0.0) - error
    return {name: (score, score >= least) for name, score in accuracies.items()}
