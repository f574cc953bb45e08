"""Choose weights, read them, match them to a network, and hash them.

A file is recognised by its content, not by its suffix, and no code in it is run.
"""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import io
import os
from collections.abc import Callable, Iterator, Mapping, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from featpipe.backbones.architecture import Architecture, Entry
from featpipe.backbones.weights_file import read_file
from featpipe.errors import first_line

__all__ = ["Weights", "choose", "fill", "hash_weights", "read"]

State = Mapping[str, Tensor]

# The usual keys of a state dict in a checkpoint, likeliest first, for files in which
# two state dicts fit, such as `model` and `model_ema`.
_WRAPPERS = (
    *("", "state_dict", "model", "model_state_dict", "net", "network", "backbone"),
    *("module", "encoder", "weights", "params", "teacher", "student"),
)
_PREFIXES = (
    *("", "module.", "_orig_mod.", "model.", "backbone.", "net.", "network."),
    *("encoder.", "trunk.", "teacher.", "student."),
)
# A counter of batch norm in training. It has no effect in eval mode, and files from
# before torch 0.4.1 lack it.
_COUNTER = "num_batches_tracked"


@dataclass(frozen=True)
class Weights:
    """Weights that are chosen, and not yet read.

    Parameters
    ----------
    name : str
        Canonical name: that of an entry, ``none``, ``own`` (those of the user's
        callable), or that of a file.
    entry : Entry or None
    path : Path or None
    """

    name: str
    entry: Entry | None = None
    path: Path | None = None

    @property
    def to_read(self) -> bool:
        """Whether they are read, from an entry or a file."""
        return self.entry is not None or self.path is not None

    @property
    def is_local(self) -> bool:
        """Whether they need no download."""
        return self.entry is None or self.entry.is_bundled


def choose(
    architecture: Architecture, weights: str | os.PathLike[str] | None
) -> Weights:
    """Return the weights that a name means; do not read them.

    Parameters
    ----------
    architecture : Architecture
    weights : str, path or None
        None, ``DEFAULT``, the name of an entry (also in the form
        ``ResNet50_Weights.IMAGENET1K_V2``), ``none``, or the path of a file.

    Returns
    -------
    Weights

    Raises
    ------
    ValueError
        If it is neither an entry nor a file.
    FileNotFoundError
        If it looks like a path, and there is no such file.
    """
    entries = architecture.entries
    if weights is None or weights == "DEFAULT":
        entry = architecture.default if weights is None else architecture.newest
        return Weights(entry, entries[entry]) if entry else Weights("own")
    name = os.fspath(weights)
    if name.lower() == "none":
        return Weights("none")
    # torchvision prints entries as ResNet50_Weights.IMAGENET1K_V1.
    # Entries first: a file named like one can be given as ./NAME.
    entry = name.rpartition("_Weights.")[2]
    if entry in entries:
        return Weights(entry, entries[entry])
    path = Path(name).expanduser()
    if path.is_file():
        return Weights(path.name, path=path)
    if path.is_dir():
        raise ValueError(f"weights {name!r} is a folder; name the file in it")
    if path.suffix or len(path.parts) > 1:
        raise FileNotFoundError(f"there is no weights file {name!r}; check the path")
    near = difflib.get_close_matches(name, entries, n=10, cutoff=0) or ["its own"]
    raise ValueError(
        f"backbone {architecture.name!r} has no weights {name!r}; choose from "
        f"{', '.join(near)}, DEFAULT, none, or name a file"
    )


def read(weights: Weights, backbone: str) -> Mapping[str, Any]:
    """Read the chosen weights from their entry or file.

    Returns
    -------
    dict
        A state dict, or a dict that holds one.

    Raises
    ------
    ConnectionError
        If an entry cannot be downloaded or read.
    ValueError
        If a file is neither safetensors nor a torch file of tensors.
    """
    if weights.path is not None:
        return read_file(weights.path)
    assert weights.entry is not None
    try:
        # torch.hub prints about downloads to stdout, which is for results.
        with contextlib.redirect_stdout(io.StringIO()):
            return weights.entry.read()
    # Errors of network, proxy, disk, hash and file have many classes.
    except Exception as err:
        if weights.entry.is_bundled:
            raise
        where = f" ({weights.entry.url})" if weights.entry.url else ""
        raise ConnectionError(
            f"weights {weights.name} of {backbone!r} could not be downloaded"
            f" ({first_line(err)}); give them as a file with --weights FILE{where}, "
            "or take the bundled backbone `mini`"
        ) from err


def fill(
    network: nn.Module,
    tensors: Mapping[str, Any],
    needed: Set[str],
    *,
    source: str,
    renamed: Callable[[str], str] = str,
) -> set[str]:
    """Copy weights into a network, in place.

    A state dict may be inside other dicts (``state_dict``, ``model``, ...), and its
    names may have a prefix (``module.``, ...). The head may have another size or be
    missing; all keys in ``needed`` must be there.

    Parameters
    ----------
    network : nn.Module
    tensors : dict
        From `read`.
    needed : set of str
        State-dict keys of the layers up to the deepest depth.
    source : str
        Name of the weights in messages.
    renamed : callable
        Takes a name in an old file, and returns that of the network.

    Returns
    -------
    set of str
        The keys whose weights were copied.

    Raises
    ------
    ValueError
        If a needed key is missing, of another shape or not finite, or if the weights
        have layers inside the network that it lacks; the message names them.
    """
    own = network.state_dict()
    needed = {key for key in needed if not key.endswith(_COUNTER)}
    state = _best_match(tensors, own, needed, renamed, source)
    fits = {key for key, x in state.items() if key in own and x.shape == own[key].shape}
    _check(own, state, needed, fits, source)
    with torch.no_grad():
        for key in fits:
            own[key].copy_(state[key])
    return {key for key in fits if not key.endswith(_COUNTER)}


def hash_weights(network: nn.Module, keys: Set[str] | None = None) -> str:
    """Return the SHA-256 of names, dtypes, shapes and bytes of weights, by name.

    Parameters
    ----------
    network : nn.Module
    keys : set of str or None
        Keys of its state dict; None is all. Batch norm's counters are left out.

    Returns
    -------
    str
        64 hexadecimal digits.

    Examples
    --------
    >>> layer = nn.Linear(2, 1)
    >>> len(hash_weights(layer)), hash_weights(layer) == hash_weights(nn.Linear(2, 1))
    (64, False)
    """
    digest = hashlib.sha256()
    for key, tensor in sorted(network.state_dict().items()):
        if key.endswith(_COUNTER) or (keys is not None and key not in keys):
            continue
        # The bytes must not depend on the device or the memory layout of a tensor.
        plain = tensor.detach().cpu().contiguous()
        digest.update(f"{key} {plain.dtype} {tuple(plain.shape)}\n".encode())
        digest.update(plain.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _best_match(
    tensors: Mapping[str, Any],
    own: State,
    needed: Set[str],
    renamed: Callable[[str], str],
    source: str,
) -> State:
    """Return the state dict that fits the network best, without its prefix."""
    scored: list[tuple[int, tuple[int, int], int, State]] = []
    for wrapper, state in _state_dicts(tensors):
        for prefix in _prefixes(state, needed or own.keys()):
            plain = {
                renamed(key.removeprefix(prefix)): tensor
                for key, tensor in state.items()
                if key.startswith(prefix)
            }
            # Shapes too, since networks of other widths may have the same names.
            score = sum(
                key in plain and plain[key].shape == own[key].shape for key in needed
            )
            order = _rank(wrapper, _WRAPPERS), _rank(prefix, _PREFIXES)
            scored.append((-score, order, len(scored), plain))
    if not scored:
        raise ValueError(f"weights {source!r} have no named tensors; save a state dict")
    return min(scored, key=lambda item: item[:3])[-1]


def _state_dicts(
    tensors: Mapping[str, Any], name: str = ""
) -> Iterator[tuple[str, State]]:
    """Yield the key and the tensors of all dicts with named tensors, at any depth."""
    state = {
        key: value
        for key, value in tensors.items()
        if isinstance(key, str) and isinstance(value, Tensor)
    }
    if state:
        yield name, state
    for key, value in tensors.items():
        if isinstance(key, str) and isinstance(value, Mapping):
            yield from _state_dicts(value, key)


def _prefixes(state: State, keys: Set[str]) -> list[str]:
    """Return the prefixes before the names of a network in a state dict."""
    prefixes = {""}
    # Three of thousands of names are enough.
    for own_name in sorted(keys)[:3]:
        for key in state:
            if key.endswith(f".{own_name}"):
                prefixes.add(key.removesuffix(own_name))
    return sorted(prefixes)


def _rank(name: str, known: tuple[str, ...]) -> int:
    return known.index(name) if name in known else len(known)


def _check(
    own: State, state: State, needed: Set[str], fits: Set[str], source: str
) -> None:
    """Raise if a code would be computed with random or wrong weights."""
    missing = sorted(needed - state.keys())
    other_shape = sorted(
        f"{key} {tuple(state[key].shape)} for {tuple(own[key].shape)}"
        for key in needed & state.keys()
        if key not in fits
    )
    foreign = sorted(
        key for key in state.keys() - own.keys() if _is_amid(key, own, needed)
    )
    facts = [
        f"{what}: {_some(keys)}"
        for what, keys in (
            ("missing", missing),
            ("of another shape", other_shape),
            ("unexpected", sorted(state.keys() - own.keys()) if missing else foreign),
        )
        if keys
    ]
    if missing or other_shape or foreign:
        raise ValueError(
            f"weights {source!r} do not fit this backbone ({'; '.join(facts)}); name "
            "the backbone they were trained with"
        )
    # A nan in the weights would make every code nan. An infinity that the network is
    # built with, such as a bound, is right.
    bad = sorted(
        key
        for key in needed
        if not torch.isfinite(state[key]).all()
        and not torch.equal(state[key], own[key])
    )
    if bad:
        raise ValueError(
            f"weights {source!r} are not finite in {_some(bad)}; choose a depth before "
            "these layers, or other weights"
        )


def _is_amid(key: str, own: State, needed: Set[str]) -> bool:
    """Return whether an unexpected key is in a module that is needed as a whole.

    An unexpected module after the cut, or one with a name of its own, does no harm: it
    may be another head. Inside a needed module it means another network, such as
    layer1.2 of resnet34 in resnet18.
    """
    if key.endswith(_COUNTER):
        return False
    parts = key.split(".")
    for n in range(len(parts) - 1, 0, -1):
        inside = ".".join(parts[:n]) + "."
        siblings = {k for k in own if k.startswith(inside) and not k.endswith(_COUNTER)}
        if siblings:
            return siblings <= needed
    return False


def _some(keys: list[str]) -> str:
    more = f" and {len(keys) - 10} more" if len(keys) > 10 else ""
    return ", ".join(keys[:10]) + more
