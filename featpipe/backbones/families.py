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
import math
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from operator import attrgetter
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from torch import Tensor, nn
from torchvision import models

from featpipe.backbones import mini, trunks
from featpipe.backbones.preprocessing import Preprocessing

__all__ = ["Architecture", "Entry", "find", "names"]

State = Mapping[str, Tensor]


@dataclass(frozen=True)
class Entry:
    """Weights that can be had by name.

    Parameters
    ----------
    name : str
        ``IMAGENET1K_V1``.
    preprocessing : Preprocessing
        What these weights were trained to see.
    read : callable
        Gives the state dict; may download it.
    n_parameters : int or None
    accuracy : float or None
        Top-1 on ImageNet in percent.
    build_arguments : dict
        What the builder has to be told for these weights.
    url : str or None
        Where they are downloaded from.
    """

    name: str
    preprocessing: Preprocessing
    read: Callable[[], State]
    n_parameters: int | None = None
    accuracy: float | None = None
    build_arguments: Mapping[str, Any] = field(default_factory=dict)
    url: str | None = None


@dataclass(frozen=True)
class Architecture:
    """A network that can be built, and the weights entries it has.

    Parameters
    ----------
    name : str
        Canonical name.
    builder : callable
        Gives the network with random weights, whatever keyword arguments it takes.
    entries : dict of str to Entry
        Empty for your own networks.
    default : str or None
        The entry taken when no weights are named; None: as the builder leaves them.
    newest : str or None
        The entry that ``DEFAULT`` names: torchvision's own choice.
    trusted : bool
        Its recorded graph is known to compute what the network computes.
    renamed : callable
        From the names of old weights files to today's.
    """

    name: str
    builder: Callable[..., nn.Module]
    entries: Mapping[str, Entry] = field(default_factory=dict)
    default: str | None = None
    newest: str | None = None
    trusted: bool = True
    renamed: Callable[[str], str] = str

    def build(self, entry: Entry | None) -> nn.Module:
        """Build the network as these weights need it, filled at random.

        ``entry`` None takes the arguments of the newest entry, so that a weights
        file, and no weights, meet the network that the entry is made for.
        """
        if entry is None and self.newest is not None:
            entry = self.entries[self.newest]
        return self.builder(**(entry.build_arguments if entry else {}))


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
    return choice.get_state_dict(progress=sys.stderr.isatty(), check_hash=True)


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


def _timm(name: str) -> Architecture | None:
    if not name.startswith("timm:"):
        return None
    try:
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
    builder = functools.partial(timm.create_model, model, pretrained=False)
    configuration = timm.get_pretrained_cfg(model)
    if configuration is None or not configuration.has_weights:
        return Architecture(name=name, builder=builder, trusted=False)

    def read() -> State:
        return timm.create_model(model, pretrained=True).state_dict()

    side = configuration.input_size[-1]
    entry = Entry(
        name="DEFAULT",
        preprocessing=Preprocessing(
            # timm's evaluation transform: the crop is this share of the resize.
            resize=math.floor(side / configuration.crop_pct),
            crop=side,
            interpolation=configuration.interpolation,
            mean=tuple(configuration.mean),
            std=tuple(configuration.std),
        ),
        read=read,
    )
    return Architecture(
        name=name,
        builder=builder,
        entries={"DEFAULT": entry},
        default="DEFAULT",
        newest="DEFAULT",
        trusted=False,
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
    _timm,
    _own,
)
