"""Turn the name of a backbone into an `Architecture`.

A name belongs to a *family*: torchvision, the bundled network, timm, or your own
callable. Each family is a function that returns the `Architecture` of a name, or None.
To add a family, write a function and put it into `_FAMILIES`.
"""

from __future__ import annotations

import ast
import difflib
import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from operator import attrgetter
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from torch import nn

from featpipe.backbones import mini, timm_networks
from featpipe.backbones.architecture import Architecture, Entry
from featpipe.backbones.preprocessing import Preprocessing
from featpipe.errors import named_line

__all__ = ["Architecture", "Entry", "find", "names"]


def names() -> list[str]:
    """Return the names of the networks that need no extra package, sorted.

    Examples
    --------
    >>> from featpipe import backbones
    >>> "resnet50" in backbones.names()
    True
    """
    from featpipe.backbones import torchvision_networks

    return sorted([*torchvision_networks.names(), "mini"])


def find(name: str) -> Architecture:
    """Return the architecture of a name.

    Parameters
    ----------
    name : str
        A torchvision network (of detection and segmentation networks, its image trunk
        is used), ``mini``, ``timm:NAME``, or ``package.module:callable``. The callable
        is a class or function that returns an ``nn.Module``; its arguments may follow,
        as in ``?width=32&pretrained=false``.

    Returns
    -------
    Architecture

    Raises
    ------
    ValueError
        If there is no such network; the message has similar names.
    ModuleNotFoundError
        If it needs a package that is not installed.
    """
    for family in _FAMILIES:
        architecture = family(name)
        if architecture is not None:
            return architecture
    all_names = names()
    # "vit" resembles no name closely enough, but several names begin with it.
    near = [*difflib.get_close_matches(name, all_names, n=10)]
    near = near or [full for full in all_names if full.startswith(name)][:10]
    near = near or ["resnet50", "mini"]
    raise ValueError(
        f"unknown backbone {name!r}; did you mean {', '.join(near)}? "
        "`featpipe backbones` lists all; your own network is 'package.module:callable'"
    )


def _bundled(name: str) -> Architecture | None:
    if name != "mini":
        return None
    entry = Entry(
        name="DEFAULT",
        preprocessing=Preprocessing.from_dict(mini.PREPROCESSING),
        read=mini.load_weights,
        is_bundled=True,
    )
    return Architecture(
        name="mini",
        builder=mini.Mini,
        entries={"DEFAULT": entry},
        default="DEFAULT",
        newest="DEFAULT",
    )


def _own(name: str) -> Architecture | None:
    """Return the architecture of the user's callable, also of the current folder."""
    address, _, query = name.partition("?")
    module, colon, attribute = address.partition(":")
    if not colon or not module or not attribute:
        return None
    arguments = {key: _value(text) for key, text in parse_qsl(query, True)}

    def builder() -> nn.Module:
        # Only for this import, so that other imports do not change.
        with _current_folder_importable():
            try:
                network = attrgetter(attribute)(importlib.import_module(module))(
                    **arguments
                )
            # The user's code may raise any error.
            except Exception as err:
                raise ValueError(
                    f"backbone {name!r} could not be built ({named_line(err)}); "
                    f"try it in Python: `from {module} import {attribute}`"
                ) from err
        if not isinstance(network, nn.Module):
            raise ValueError(
                f"backbone {name!r} returned {network!r:.60}, not an nn.Module; name a "
                "class or a function that returns the network"
            )
        return network

    return Architecture(name=name, builder=builder, trusted=False)


def _value(text: str) -> Any:
    """Return the value of an argument: true, false, none, a Python literal, or text."""
    constants = {"true": True, "false": False, "none": None}
    if text.lower() in constants:
        return constants[text.lower()]
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


@contextmanager
def _current_folder_importable() -> Iterator[None]:
    here = str(Path.cwd())
    # In front, so that the user's own module wins over an installed one.
    sys.path.insert(0, here)
    try:
        yield
    finally:
        sys.path.remove(here)


def _torchvision(name: str) -> Architecture | None:
    # The last family, since its import takes two seconds.
    from featpipe.backbones import torchvision_networks

    return torchvision_networks.find(name)


_FAMILIES: tuple[Callable[[str], Architecture | None], ...] = (
    _bundled,
    timm_networks.find,
    _own,
    _torchvision,
)
