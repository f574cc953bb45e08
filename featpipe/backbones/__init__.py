"""Load frozen networks by name, with their weights, preprocessing and named depths.

``load`` returns a `Backbone`, which turns uint8 images into codes; ``names``,
``catalogue`` and ``describe_depths`` list what can be loaded. These names import torch
when they are first used, so that ``--help``, stage two and processes that only decode
do not. `Preprocessing` does not need torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from featpipe.backbones.depths import Depth
    from featpipe.backbones.families import names
    from featpipe.backbones.loading import load, resolve
    from featpipe.backbones.network import Backbone
    from featpipe.backbones.parting import (
        TrainablePart,
        input_depth,
        node_names,
        trainable_tail,
        trainable_whole,
    )
    from featpipe.backbones.preprocessing import Preprocessing
    from featpipe.backbones.tables import (
        BackboneRow,
        DepthRow,
        catalogue,
        describe_depths,
    )
    from featpipe.backbones.weights import hash_weights

_FILE_OF = {
    "Backbone": "network",
    "BackboneRow": "tables",
    "Depth": "depths",
    "DepthRow": "tables",
    "Preprocessing": "preprocessing",
    "TrainablePart": "parting",
    "catalogue": "tables",
    "describe_depths": "tables",
    "hash_weights": "weights",
    "input_depth": "parting",
    "load": "loading",
    "names": "families",
    "node_names": "parting",
    "resolve": "loading",
    "trainable_tail": "parting",
    "trainable_whole": "parting",
}

__all__ = [
    "Backbone",
    "BackboneRow",
    "Depth",
    "DepthRow",
    "Preprocessing",
    "TrainablePart",
    "catalogue",
    "describe_depths",
    "hash_weights",
    "input_depth",
    "load",
    "names",
    "node_names",
    "resolve",
    "trainable_tail",
    "trainable_whole",
]


def __getattr__(name: str) -> Any:
    if name not in _FILE_OF:
        raise AttributeError(f"module 'featpipe.backbones' has no attribute {name!r}")
    return getattr(import_module(f"featpipe.backbones.{_FILE_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
