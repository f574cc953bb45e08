"""Names of backbones: what each one is built from, and which weights it has.

A name belongs to a *family* (torchvision, the bundled one, timm, your own callable);
a family turns it into an `Architecture`. Nothing is built until a caller calls
`Architecture.build`, nothing downloaded until `Entry.read`. To add a family, write
one function and put it into `_FAMILIES`.
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

__all__ = ["Architecture", "Entry", "find", "names"]


def names() -> list[str]:
    """Return the names of the networks that need no further package, sorted.

    Examples
    --------
    >>> from featpipe import backbones
    >>> "resnet50" in backbones.names()
    True
    """
    from featpipe.backbones import torchvision_networks

    return sorted([*torchvision_networks.names(), "mini"])


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
    all_names = names()
    # "vit" is near no whole name, but four begin with it.
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
    """Return your own callable; it may lie in the current folder."""
    address, _, query = name.partition("?")
    module, colon, attribute = address.partition(":")
    if not colon or not module or not attribute:
        return None
    # The form of a URL: package.module:callable?width=64.
    arguments = {key: _value(text) for key, text in parse_qsl(query, True)}

    def builder() -> nn.Module:
        # Only while it is imported: the program's own imports must not change.
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


def _torchvision(name: str) -> Architecture | None:
    # Two seconds to import: only for names that no other family has.
    from featpipe.backbones import torchvision_networks

    return torchvision_networks.find(name)


_FAMILIES: tuple[Callable[[str], Architecture | None], ...] = (
    _bundled,
    timm_networks.find,
    _own,
    _torchvision,
)
