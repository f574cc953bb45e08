"""The networks of timm, with its own preprocessing and its own `penultimate`.

timm is an extra package, imported only when a name needs it.
"""

from __future__ import annotations

import difflib
import functools
import importlib
import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from featpipe.backbones.architecture import Architecture, Entry
from featpipe.backbones.depths import PENULTIMATE
from featpipe.backbones.preprocessing import Preprocessing

__all__ = ["find"]


def find(name: str) -> Architecture | None:
    """Return the architecture of ``timm:NAME``; None for names of other families.

    Raises
    ------
    ModuleNotFoundError
        If timm is not installed.
    ValueError
        If timm has no such network, or its images are not square or not RGB.
    """
    if not name.startswith("timm:"):
        return None
    try:
        # Only for names of timm, since the import takes a second.
        timm = importlib.import_module("timm")
    except ModuleNotFoundError as err:
        raise ModuleNotFoundError(
            f"backbone {name!r} needs the package timm, which is not installed; "
            "`pip install featpipe[timm]`"
        ) from err
    model = name.removeprefix("timm:")
    if not timm.is_model(model):
        near = difflib.get_close_matches(model, timm.list_models(), n=10, cutoff=0.3)
        raise ValueError(
            f"timm has no network {model!r}; did you mean {', '.join(near)}? "
            "`timm.list_models()` lists all"
        )
    configuration = timm.get_pretrained_cfg(model)
    preprocessing = _preprocessing(timm, name, configuration)
    entries = {}
    if configuration is not None and configuration.has_weights:

        def read() -> Mapping[str, Tensor]:
            state: Mapping[str, Tensor] = timm.create_model(
                model, pretrained=True
            ).state_dict()
            return state

        entries = {"DEFAULT": Entry("DEFAULT", preprocessing, read)}
    return Architecture(
        name=name,
        builder=functools.partial(_build, timm, model),
        entries=entries,
        default="DEFAULT" if entries else None,
        newest="DEFAULT" if entries else None,
        trusted=False,
        preprocessing=preprocessing,
    )


def _preprocessing(timm: Any, name: str, configuration: Any) -> Preprocessing:
    """Return the preprocessing of timm.data.create_transform for evaluation."""
    own = {} if configuration is None else configuration.to_dict()
    facts = timm.data.resolve_data_config(pretrained_cfg=own)
    channels, height, width = facts["input_size"]
    if channels != 3 or height != width:
        raise ValueError(
            f"backbone {name!r} takes images of {height}x{width} px with {channels} "
            "channels; featpipe computes with square RGB images, choose another"
        )
    return Preprocessing(
        # The crop is this share of the resize.
        resize=math.floor(height / facts["crop_pct"]),
        crop=height,
        interpolation=facts["interpolation"],
        mean=tuple(facts["mean"]),
        std=tuple(facts["std"]),
        crop_mode=facts["crop_mode"],
    )


def _build(timm: Any, model: str) -> nn.Module:
    network: nn.Module = timm.create_model(model, pretrained=False)
    if not (hasattr(network, "forward_features") and hasattr(network, "forward_head")):
        return network
    # A module of this name is a depth for `tracing` and for `hooking`.
    network.add_module(PENULTIMATE, nn.Identity())
    # On the class, since torch.fx records the forward of the class.
    network.__class__ = type(
        type(network).__name__, (type(network),), {"forward": _pre_logits}
    )
    return network


def _pre_logits(self: Any, x: Tensor) -> Tensor:
    """Return the codes before the classifier, as timm defines them for each network.

    In networks that average several heads (levit, distilled deit) they are not the
    input of a single layer.
    """
    features = self.forward_features(x)
    codes = self.forward_head(features, pre_logits=True)
    pooled: Tensor = getattr(self, PENULTIMATE)(codes)
    return pooled
