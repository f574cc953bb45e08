"""The networks of torchvision, and their weights."""

from __future__ import annotations

import functools
import re
import sys
from typing import Any

from torchvision import models

from featpipe.backbones import trunks
from featpipe.backbones.architecture import Architecture, Entry, State
from featpipe.backbones.preprocessing import Preprocessing

__all__ = ["find", "names"]


def names() -> list[str]:
    """Return the names of the classification networks."""
    names: list[str] = models.list_models(module=models)
    return names


def find(name: str) -> Architecture | None:
    """Return the architecture of a network of torchvision; None for other names.

    Of a detection or segmentation network it is that of the trunk.

    Parameters
    ----------
    name : str
        As in `torchvision.models.list_models`.

    Returns
    -------
    Architecture or None
    """
    return _classifier(name) or _trunk(name)


def _classifier(name: str) -> Architecture | None:
    if name not in names():
        return None
    choices = models.get_model_weights(name)
    entries = {choice.name: _classifier_entry(name, choice) for choice in choices}
    newest = choices.DEFAULT.name
    return Architecture(
        name=name,
        builder=functools.partial(models.get_model, name, weights=None),
        entries=entries,
        # Later recipes (label smoothing, mixup) classify better but give worse fixed
        # codes: Kornblith et al., "Why Do Better Loss Functions Lead to Less
        # Transferable Features?", NeurIPS 2021.
        default="IMAGENET1K_V1" if "IMAGENET1K_V1" in entries else newest,
        newest=newest,
        renamed=_densenet_key if name.startswith("densenet") else str,
    )


def _classifier_entry(name: str, choice: models.WeightsEnum) -> Entry:
    transform = choice.transforms()
    arguments: dict[str, Any] = {}
    if name in ("inception_v3", "googlenet"):
        # Those of torchvision for its weights, without auxiliary heads.
        arguments = {
            "transform_input": True,
            "aux_logits": False,
            "init_weights": False,
        }
    elif name.startswith("vit_"):
        arguments = {"image_size": transform.crop_size[0]}
    accuracy = choice.meta["_metrics"].get("ImageNet-1K", {}).get("acc@1")
    return Entry(
        name=choice.name,
        preprocessing=Preprocessing(
            resize=transform.resize_size[0],
            crop=transform.crop_size[0],
            interpolation=transform.interpolation.value,
            mean=tuple(transform.mean),
            std=tuple(transform.std),
        ),
        read=functools.partial(_download, choice),
        n_parameters=choice.meta["num_params"],
        accuracy=accuracy,
        build_arguments=arguments,
        url=choice.url,
    )


def _trunk(name: str) -> Architecture | None:
    """Return the architecture of the trunk of a detection or segmentation network."""
    if name not in trunks.names():
        return None
    choices = models.get_model_weights(name)
    entries = {
        choice.name: Entry(
            name=choice.name,
            preprocessing=trunks.preprocessing(name, choice.transforms()),
            read=functools.partial(_download, choice),
            build_arguments={"eps": trunks.epsilon(name, choice.name)},
            url=choice.url,
        )
        for choice in choices
    }
    return Architecture(
        name=name,
        builder=functools.partial(trunks.build, name=name),
        entries=entries,
        default=choices.DEFAULT.name,
        newest=choices.DEFAULT.name,
    )


def _download(choice: models.WeightsEnum) -> State:
    """Download weights into torch's cache, with a progress bar on a terminal."""
    state: State = choice.get_state_dict(progress=sys.stderr.isatty(), check_hash=True)
    return state


def _densenet_key(key: str) -> str:
    """Return the present name for one in densenet's old files (norm.1 is norm1)."""
    return re.sub(r"(denselayer\d+\.(?:norm|conv))\.([12]\.)", r"\1\2", key)
