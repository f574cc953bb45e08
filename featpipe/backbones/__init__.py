"""Names to frozen networks: their weights, preprocessing and named depths.

``load`` gives a `Backbone`, which turns uint8 images into codes; ``names``,
``catalogue`` and ``describe_depths`` say what there is. Importing this package imports
torch, so stage two and ``--help`` import it only where they need it.
"""

from featpipe.backbones.depths import Depth
from featpipe.backbones.families import names
from featpipe.backbones.loading import load, resolve
from featpipe.backbones.network import Backbone
from featpipe.backbones.preprocessing import Preprocessing
from featpipe.backbones.tables import (
    BackboneRow,
    DepthRow,
    catalogue,
    describe_depths,
)

__all__ = [
    "Backbone",
    "BackboneRow",
    "Depth",
    "DepthRow",
    "Preprocessing",
    "catalogue",
    "describe_depths",
    "load",
    "names",
    "resolve",
]
