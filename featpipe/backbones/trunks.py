"""The image trunks of torchvision's detection and segmentation networks.

What such a network does first to an image: a classifier's layers, trained on COCO. Its
pyramid, boxes and masks never come in here; nor does what weights are.
"""

from __future__ import annotations

import functools
import math
from collections import OrderedDict
from typing import Any

import torch
from torch import nn
from torchvision import models
from torchvision.models._utils import IntermediateLayerGetter

from featpipe.backbones.preprocessing import Preprocessing

__all__ = ["build", "epsilon", "names", "preprocessing"]

# torchvision sets the epsilon of batch norm to 0 for these weights, which came from
# Detectron, and only in its builders: no file says so.
_WITHOUT_EPSILON = (
    *("fasterrcnn_resnet50_fpn", "keypointrcnn_resnet50_fpn"),
    *("maskrcnn_resnet50_fpn", "retinanet_resnet50_fpn"),
)

# torch 2.11 refuses 0; in float32 this is 0.
_NO_EPSILON = math.ulp(0.0)


@functools.cache
def names() -> tuple[str, ...]:
    """Return the names of the networks, as torchvision has them."""
    packages = models.detection, models.segmentation
    return tuple(
        name for package in packages for name in models.list_models(module=package)
    )


def build(*, name: str, eps: float | None = None) -> nn.Module:
    """Build the trunk alone, with random weights: its layers one after another.

    Parameters
    ----------
    name : str
        Of `names`.
    eps : float, optional
        Of its batch norms.
    """
    trunk: nn.Module = _whole(name).backbone
    # Detection: behind the body is a pyramid; SSD has its first stage as `features`.
    for part in ("body", "features"):
        trunk = getattr(trunk, part, trunk)
    if isinstance(trunk, IntermediateLayerGetter):
        # It calls its children in their order, and gives several maps as a dict.
        trunk = nn.Sequential(OrderedDict(trunk.items()))
    if eps is not None:
        for module in trunk.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eps = eps
    return trunk


def epsilon(name: str, entry: str) -> float | None:
    """Return the epsilon that a weights entry needs; None: the builder's own."""
    return _NO_EPSILON if name in _WITHOUT_EPSILON and entry == "COCO_V1" else None


def preprocessing(name: str, transform: Any) -> Preprocessing:
    """Return what the weights were trained to see, as a square.

    Parameters
    ----------
    name : str
    transform : callable
        That of the weights entry. Segmentation's knows; for detection it lies in the
        network.
    """
    if hasattr(transform, "resize_size"):
        side = transform.resize_size[0]
        mean, std = transform.mean, transform.std
    else:
        with torch.device("meta"):
            inside = _whole(name).transform
        side = inside.min_size[-1]
        mean, std = inside.image_mean, inside.image_std
    return Preprocessing(resize=side, crop=side, mean=tuple(mean), std=tuple(std))


def _whole(name: str) -> Any:
    return models.get_model(name, weights=None, weights_backbone=None)
