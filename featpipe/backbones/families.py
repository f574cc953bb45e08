"""Names of backbones: what each one is built from, and which weights it has.

A name belongs to a *family* (torchvision, the bundled one, timm, your own callable);
a family turns it into an `Architecture`. Nothing is built until somebody calls
`Architecture.build`, nothing downloaded until `Entry.read`. To add a family, write
one function and put it into `_FAMILIES`.
"""

from __future__ import annotations

import ast
import difflib
import functools
import importlib
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from operator import attrgetter
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from torch import nn
from torchvision import models

from featpipe.backbones import mini, timm_networks, trunks
from featpipe.backbones.architecture import Architecture, Entry, State
from featpipe.backbones.preprocessing import Preprocessing

__all__ = ["Architecture", "Entry", "find", "names"]


def names() -> list[str]:
    """Names of the networks that need no further package, sorted; builds nothing."""
    return sorted([*models.list_models(module=models), "mini"])


def find(name: str) -> Architecture:
    """Look a name up.

    Parameters
    ----------
    name : str
        A torchvision classification network, or detection or segmentation network
        (its image trunk), ``mini``, ``timm:NAME``, or ``package.module:callable``, the
        callable being a class or a function that gives an ``nn.Module``; arguments
        follow as ``?width=32&pretrained=false``.

    Raises
    ------
    ValueError
        If there is no such network; near matches are in the message. Also if your
        own callable cannot be found or called, or gives no ``nn.Module``.
    ModuleNotFoundError
        If it takes a package that is not installed.
    """
    for family in _FAMILIES:
        architecture = family(name)
        if architecture is not None:
            return architecture
    near = difflib.get_close_matches(name, names(), n=10) or ["resnet50", "mini"]
    raise ValueError(
        f"unknown backbone {name!r}; did you mean {', '.join(near)}? "
        "`featpipe backbones` lists all; your own network is 'package.module:callable'"
    )


def _torchvision(name: str) -> Architecture | None:
    if name not in models.list_models(module=models):
        return None
    choices = models.get_model_weights(name)
    entries = {choice.name: _torchvision_entry(name, choice) for choice in choices}
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


def _torchvision_entry(name: str, choice: models.WeightsEnum) -> Entry:
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
    """Fetch into torch's own cache, with a progress bar where somebody watches."""
    state: State = choice.get_state_dict(progress=sys.stderr.isatty(), check_hash=True)
    return state


def _densenet_key(key: str) -> str:
    """Bring names in densenet's files, of before 2018, up to date (norm.1: norm1)."""
    return re.sub(r"(denselayer\d+\.(?:norm|conv))\.([12]\.)", r"\1\2", key)


def _bundled(name: str) -> Architecture | None:
    if name != "mini":
        return None
    entry = Entry(
        name="DEFAULT",
        preprocessing=Preprocessing.from_dict(mini.PREPROCESSING),
        read=mini.load_weights,
    )
    return Architecture(
        name="mini",
        builder=mini.Mini,
        entries={"DEFAULT": entry},
        default="DEFAULT",
        newest="DEFAULT",
    )


def _own(name: str) -> Architecture | None:
    """Your own callable, the current folder being importable."""
    address, _, query = name.partition("?")
    module, colon, attribute = address.partition(":")
    if not colon or not module or not attribute:
        return None
    arguments = {key: _value(text) for key, text in parse_qsl(query, True)}

    def builder() -> nn.Module:
        with _current_folder_importable():
            try:
                network = attrgetter(attribute)(importlib.import_module(module))(
                    **arguments
                )
            # Whatever a stranger's code raises, the user needs the name and the reason.
            except Exception as err:
                reason = f"{type(err).__name__}: {err}".splitlines()[0]
                raise ValueError(
                    f"backbone {name!r} could not be built ({reason}); "
                    f"try it in Python: `from {module} import {attribute}`"
                ) from err
        if not isinstance(network, nn.Module):
            raise ValueError(
                f"backbone {name!r} gave {network!r:.60}, not an nn.Module; name a "
                "class or a function that returns the network"
            )
        return network

    return Architecture(name=name, builder=builder, trusted=False)


def _value(text: str) -> Any:
    """Read an argument: true, false, none, a Python literal, else text."""
    words = {"true": True, "false": False, "none": None}
    if text.lower() in words:
        return words[text.lower()]
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


@contextmanager
def _current_folder_importable() -> Iterator[None]:
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        yield
    finally:
        sys.path.remove(here)


_FAMILIES: tuple[Callable[[str], Architecture | None], ...] = (
    _torchvision,
    _trunk,
    _bundled,
    timm_networks.find,
    _own,
)
