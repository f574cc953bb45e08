"""Weights: which ones are meant, reading them, matching them to a network, hashing.

A file is known by its content, never by its suffix, and nothing in it is executed.
Building networks and choosing depths happen elsewhere.
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
from featpipe.backbones.weights_file import first_line, read_file

__all__ = ["Weights", "choose", "fill", "hash_weights", "read"]

State = Mapping[str, Tensor]

# Where a checkpoint usually keeps its state dict, likeliest first: it settles which
# one is meant when two in the same file would fit (`model` beside `model_ema`).
_WRAPPERS = (
    *("", "state_dict", "model", "model_state_dict", "net", "network", "backbone"),
    *("module", "encoder", "weights", "params", "teacher", "student"),
)
_PREFIXES = (
    *("", "module.", "_orig_mod.", "model.", "backbone.", "net.", "network."),
    *("encoder.", "trunk.", "teacher.", "student."),
)
# Counted by batch norm while training, without effect in eval mode, and absent from
# files written before torch 0.4.1.
_COUNTER = "num_batches_tracked"


@dataclass(frozen=True)
class Weights:
    """The weights that are meant, not yet read.

    Parameters
    ----------
    name : str
        Canonical: an entry's name, ``none``, ``own`` (as your own callable leaves
        them) or the file's name.
    entry : Entry or None
    path : Path or None
    """

    name: str
    entry: Entry | None = None
    path: Path | None = None

    @property
    def to_read(self) -> bool:
        """Whether they lie somewhere, rather than being what the builder leaves."""
        return self.entry is not None or self.path is not None

    @property
    def is_local(self) -> bool:
        """Whether they are read without a download, or not read at all."""
        return self.entry is None or self.entry.is_bundled


def choose(
    architecture: Architecture, weights: str | os.PathLike[str] | None
) -> Weights:
    """Return which weights are meant; read nothing but whether a file exists.

    Parameters
    ----------
    architecture : Architecture
    weights : str, path or None
        None, ``DEFAULT``, an entry's name (``ResNet50_Weights.IMAGENET1K_V2`` will do
        too), ``none``, or the path of a file.

    Raises
    ------
    ValueError
        If it is neither an entry nor a file.
    FileNotFoundError
        If it looks like a path and there is no such file.
    """
    entries = architecture.entries
    if weights is None or weights == "DEFAULT":
        entry = architecture.default if weights is None else architecture.newest
        return Weights(entry, entries[entry]) if entry else Weights("own")
    name = os.fspath(weights)
    if name.lower() == "none":
        return Weights("none")
    # Also as torchvision prints it: ResNet50_Weights.IMAGENET1K_V1.
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
    """Read the weights that were chosen: an entry's, or a file's.

    Returns
    -------
    dict
        What is there: a state dict, or dicts around one.

    Raises
    ------
    ConnectionError
        If an entry can be neither downloaded nor read.
    ValueError
        If a file is neither safetensors nor a torch file of tensors.
    """
    if weights.path is not None:
        return read_file(weights.path)
    assert weights.entry is not None
    try:
        # torch.hub announces downloads on stdout, which belongs to the caller; where
        # somebody watches there is a progress bar.
        with contextlib.redirect_stdout(io.StringIO()):
            return weights.entry.read()
    # Network, proxy, disk, hash and file errors all come by their own classes here.
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
    """Copy weights into a network, in place, as far as the depths need them.

    A state dict may be wrapped (``state_dict``, ``model``, ...) and its names may have
    a prefix (``module.``, ...). A head of another size, or none, is fine; everything
    in ``needed`` has to be there.

    Parameters
    ----------
    network : nn.Module
    tensors : dict
        As `read` gives it.
    needed : set of str
        State-dict keys of the layers up to the deepest depth.
    source : str
        What the weights are called in messages.
    renamed : callable
        From names in old files to those of the network.

    Returns
    -------
    set of str
        The keys that were filled.

    Raises
    ------
    ValueError
        If a needed key is missing, of another shape or not finite, or if the weights
        have layers in the midst of the network that it lacks; the message names them.
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
    """Hash weights: name, dtype, shape and bytes of each tensor, sorted by name.

    Parameters
    ----------
    network : nn.Module
    keys : set of str or None
        Of its state dict; None takes all. Batch norm's counters never count.

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
        # Bytes in one order, wherever the tensor is and however it is laid out.
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
    """Return the state dict, without its prefix, that fits the network best."""
    scored: list[tuple[int, tuple[int, int], int, State]] = []
    for wrapper, state in _state_dicts(tensors):
        for prefix in _prefixes(state, needed or own.keys()):
            plain = {
                renamed(key.removeprefix(prefix)): tensor
                for key, tensor in state.items()
                if key.startswith(prefix)
            }
            # Names and shapes both: two networks may use the same names for layers of
            # other width.
            score = sum(
                key in plain and plain[key].shape == own[key].shape for key in needed
            )
            order = _rank(wrapper, _WRAPPERS), _rank(prefix, _PREFIXES)
            scored.append((-score, order, len(scored), plain))
    if not scored:
        raise ValueError(
            f"weights {source!r} hold no tensors by name; save a state dict"
        )
    return min(scored, key=lambda item: item[:3])[-1]


def _state_dicts(
    tensors: Mapping[str, Any], name: str = ""
) -> Iterator[tuple[str, State]]:
    """Yield all dicts that hold named tensors, however deep, with their names."""
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
    """Return the prefixes that names may have: what precedes one of the first few."""
    prefixes = {""}
    # Three names suffice to find a prefix, and a large file has thousands.
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
    """Refuse what would leave random or foreign numbers in the way of a code."""
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
    # A nan in the weights would make every code nan, far from its cause.
    # An infinity that the network is built with is meant: a bound that bounds nothing.
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
    """Return whether an unexpected key lies in a part that is needed whole.

    Behind the cut, and in children of their own, foreign layers do no harm: another
    head. Inside, they tell of another network: resnet34's layer1.2 in resnet18.
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
