"""torchvision's networks: what each is built from, and which weights it has."""

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
    listed: list[str] = models.list_models(module=models)
    return listed


def find(name: str) -> Architecture | None:
    """Look up a classification network, or the trunk of another; None if not here.

    Parameters
    ----------
    name : str
        As `torchvision.models.list_models` has it.
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
        # As torchvision builds them for its weights, less the auxiliary heads.
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
    """Find what a detection or segmentation network does first to an image."""
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
    """Download into torch's own cache, with a progress bar on a terminal."""
    state: State = choice.get_state_dict(progress=sys.stderr.isatty(), check_hash=True)
    return state


def _densenet_key(key: str) -> str:
    """Bring names in densenet's files, of before 2018, up to date (norm.1: norm1)."""
    return re.sub(r"(denselayer\d+\.(?:norm|conv))\.([12]\.)", r"\1\2", key)
