"""Write a model file that also holds the weights of its backbone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from featpipe.predictor import storing
from featpipe.predictor.model import Model

if TYPE_CHECKING:
    from featpipe.backbones import Backbone

__all__ = ["write_with_weights"]


def write_with_weights(
    path: Path,
    model: Model,
    backbone: Backbone,
    load: Callable[[Model, Path], object],
) -> None:
    """Write a model with its weights, and check that they can be read back.

    Parameters
    ----------
    path : Path
        Replaced once the weights have been read back.
    model : Model
    backbone : Backbone
        On the CPU, in float32.
    load : callable
        Takes the model and the file that was written; loads its backbone, or raises
        ValueError.

    Raises
    ------
    ValueError
        If a file makes another network of the weights; ``path`` stays what it was.
    """
    from featpipe.backbones import hash_weights

    needed = backbone.needed()
    # Of the tensors that are written, not of the whole network.
    digest = hash_weights(backbone.network, needed.keys())
    whole = replace(model, embedded_sha256=digest)
    arrays = {name: tensor.numpy() for name, tensor in needed.items()}

    def check(written: Path) -> None:
        try:
            load(whole, written)
        except ValueError as error:
            raise ValueError(
                f"the weights {model.weights!r} of {model.backbone!r} cannot be "
                "embedded, since a file makes another network of them; leave out "
                "--embed-weights"
            ) from error

    storing.write_model(path, whole, arrays, check)
