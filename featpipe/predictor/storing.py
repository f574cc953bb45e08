"""The model file: safetensors with one strict JSON record, every byte under a digest.

``docs/reference/models.md`` specifies it. No code in a file is executed or imported,
and no more memory is allocated than the file has bytes. `model` has the fields of the
record.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from featpipe import files
from featpipe.errors import one_line
from featpipe.kinds import HEAD, describe_kind
from featpipe.predictor.model import ARRAYS, Model

__all__ = ["PREFIX", "read_model", "write_model"]

FORMAT = "featpipe-model"
VERSION = 2
_READ = {"1": ARRAYS[:2], "2": ARRAYS}  # the arrays of a model, by format version
PREFIX = "backbone."
"""The prefix of the names of a backbone's tensors. `backbones` removes this prefix, so
that a model file is a weights file as well."""


def write_model(
    path: Path,
    model: Model,
    backbone: Mapping[str, np.ndarray],
    check: Callable[[Path], None] = lambda written: None,
) -> None:
    """Write a model atomically.

    Parameters
    ----------
    path : Path
    model : Model
    backbone : dict of str to array
        The backbone's tensors; empty if they are not embedded.
    check : callable, optional
        Called with the file while it still has its temporary name; if it raises,
        ``path`` stays what it was.

    Raises
    ------
    OSError
        If it cannot be written.

    Examples
    --------
    >>> model = read_model(Path("flowers.model"))
    >>> write_model(Path("copy.model"), model, {})
    >>> read_model(Path("copy.model")).as_record() == model.as_record()
    True
    """
    arrays = {
        **{
            name: np.ascontiguousarray(array, np.float64)
            for name, array in model.arrays.items()
        },
        **{PREFIX + name: array for name, array in backbone.items()},
    }
    # Sorted, so that the same model gives the same bytes.
    record = json.dumps(model.as_record(), allow_nan=False, sort_keys=True)
    metadata = {
        "format": FORMAT,
        "version": str(VERSION),
        "record": record,
        "sha256": _digest(record, arrays),
    }
    content = _ordered(save(arrays, metadata=metadata))
    with files.explained(path, len(content)), files.replacing(path) as file:
        file.write(content)
        file.flush()
        # The old file is still in place.
        check(Path(file.name))


def _ordered(content: bytes) -> bytes:
    """Return a safetensors file with its metadata sorted; `save` draws their order."""
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    # Tensors begin at a multiple of eight.
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + content[8 + size :]


def read_model(path: Path) -> Model:
    """Read a model that may come from anywhere.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is not a model file, of an unknown version, damaged, or malformed; names
        the file.

    Examples
    --------
    >>> read_model(Path("flowers.model")).class_names
    ['daisy', 'rose', 'tulip']
    """
    if not path.exists():
        raise FileNotFoundError(
            f"no model file {path}; `featpipe fit FILE.h5 -o {path}` makes one"
        )
    if not path.is_file():
        raise ValueError(f"{path} is not a file; give the model that fit wrote")
    try:
        # The record first: the tensors of another kind of file are not read.
        with safe_open(path, framework="np") as file:
            metadata = _check_format(file.metadata() or {})
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    except (SafetensorError, TypeError, KeyError) as error:
        raise ValueError(
            f"{path} is no model file{_otherwise(path, error)}; give one that "
            "`featpipe fit` wrote"
        ) from error
    except ValueError as error:
        raise ValueError(f"{path} {error}") from error
    # safetensors has no checksum of its own.
    if _digest(metadata["record"], arrays) != metadata["sha256"]:
        raise ValueError(
            f"{path} is damaged: its content is not what its SHA-256 says; copy it "
            "again, or fit anew"
        )
    try:
        return _model(metadata["record"], arrays, _READ[metadata["version"]])
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError(
            f"{path} holds no model of version {metadata['version']}: {error}"
        ) from error


def _otherwise(path: Path, error: Exception) -> str:
    """Return the kind of a file that could not be read as a model."""
    with path.open("rb") as file:
        kind = describe_kind(file.read(HEAD))
    if kind:
        return f" but {kind}"
    return f", or was cut short ({one_line(error)})"


def _check_format(metadata: Mapping[str, str]) -> Mapping[str, str]:
    if metadata.get("format") != FORMAT or not {"record", "sha256"} <= set(metadata):
        raise ValueError(
            "holds tensors but no model; give one that `featpipe fit` wrote"
        )
    if metadata.get("version") not in _READ:
        raise ValueError(
            f"is a model of format version {metadata.get('version')!r}, and this "
            f"featpipe reads versions up to {VERSION}; update featpipe, or fit anew"
        )
    return metadata


def _model(
    text: str, arrays: Mapping[str, np.ndarray], allowed: tuple[str, ...]
) -> Model:
    record = json.loads(text, parse_constant=_refuse)
    mine = {n: array for n, array in arrays.items() if not n.startswith(PREFIX)}
    if not {"coef", "intercept"} <= set(mine) <= set(allowed):
        raise ValueError(f"its tensors are {sorted(arrays)!r:.200}")
    model = Model.from_record(record, mine)
    # A record with embedded weights but no tensors would load the DEFAULT weights.
    if (len(arrays) > len(mine)) != (model.embedded_sha256 is not None):
        raise ValueError("its record and its tensors differ on embedded weights")
    return model


def _refuse(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _digest(record: str, arrays: Mapping[str, np.ndarray]) -> str:
    """Return the SHA-256 of the record, then of the tensors, sorted by name."""
    digest = hashlib.sha256(record.encode("utf-8", "surrogateescape"))
    for name, array in sorted(arrays.items()):
        # With name, dtype and shape, which change the meaning of the bytes.
        digest.update(f"\n{name} {array.dtype} {array.shape}\n".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
