"""The image trunks of torchvision's detection and segmentation networks.

A trunk is the first part of such a network: the layers of a classifier, trained on
COCO, without the parts for pyramids, boxes and masks.
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

# Only torchvision's builders set the epsilon of batch norm to 0 for these weights,
# which come from Detectron; no file tells it.
_WITHOUT_EPSILON = (
    *("fasterrcnn_resnet50_fpn", "keypointrcnn_resnet50_fpn"),
    *("maskrcnn_resnet50_fpn", "retinanet_resnet50_fpn"),
)

# 0 in float32; torch 2.11 refuses 0 itself.
_NO_EPSILON = math.ulp(0.0)


@functools.cache
def names() -> tuple[str, ...]:
    """Return the names of the networks in torchvision."""
    packages = models.detection, models.segmentation
    return tuple(
        name for package in packages for name in models.list_models(module=package)
    )


def build(*, name: str, eps: float | None = None) -> nn.Module:
    """Build the trunk of a network, with random weights.

    Parameters
    ----------
    name : str
        One of `names`.
    eps : float, optional
        Epsilon of its batch norms.

    Returns
    -------
    nn.Module
    """
    trunk: nn.Module = _whole(name).backbone
    # Detection networks have the trunk in `body`, before a pyramid; SSD in `features`.
    for part in ("body", "features"):
        trunk = getattr(trunk, part, trunk)
    if isinstance(trunk, IntermediateLayerGetter):
        # It calls its children in order, and returns several maps as a dict.
        trunk = nn.Sequential(OrderedDict(trunk.items()))
    if eps is not None:
        for module in trunk.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eps = eps
    return trunk


def epsilon(name: str, entry: str) -> float | None:
    """Return the epsilon that a weights entry needs; None for that of the builder."""
    return _NO_EPSILON if name in _WITHOUT_EPSILON and entry == "COCO_V1" else None


def preprocessing(name: str, transform: Any) -> Preprocessing:
    """Return the preprocessing of the weights, for square images.

    Parameters
    ----------
    name : str
    transform : callable
        That of the weights entry. For detection it has no sizes; the network has them.

    Returns
    -------
    Preprocessing
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
