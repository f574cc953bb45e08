"""Read a file of weights, recognised by its content, without running code in it."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors import torch as safetensors
from torch import Tensor

from featpipe.errors import first_line

__all__ = ["read_file"]


def read_file(path: Path) -> Mapping[str, Any]:
    """Read a file of tensors, recognised by its content, without running code in it.

    Parameters
    ----------
    path : Path

    Returns
    -------
    dict
        A state dict, or a dict that holds one.

    Raises
    ------
    ValueError
        If it is neither safetensors nor a torch file of plain tensors.
    """
    try:
        if _is_safetensors(path):
            return safetensors.load_file(path)
        # With a path, torch goes by the suffix. It warns of pickles that it refuses.
        with path.open("rb") as file, warnings.catch_warnings(action="ignore"):
            tensors = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as err:
        raise ValueError(
            f"weights file {str(path)!r} holds Python objects or is no torch file, and "
            "code in files is not run; save its tensors alone: "
            "`torch.save(network.state_dict(), path)`"
        ) from err
    except (SafetensorError, RuntimeError, EOFError, ValueError, KeyError) as err:
        if "TorchScript" in str(err):
            raise ValueError(
                f"weights file {str(path)!r} is a TorchScript program, and code in "
                "files is not run; save its tensors: "
                "`torch.save(torch.jit.load(path).state_dict(), path)`"
            ) from err
        raise ValueError(
            f"weights file {str(path)!r} is neither a torch nor a safetensors file, or "
            f"is cut short ({first_line(err)}); fetch or save it again"
        ) from err
    if not isinstance(tensors, Mapping):
        raise ValueError(
            f"weights file {str(path)!r} holds a {type(tensors).__name__}, not a state "
            "dict; save `network.state_dict()`"
        )
    _require_plain(tensors, path)
    return tensors


def _require_plain(tensors: Mapping[str, Any], path: Path) -> None:
    """Raise if a dict holds itself, or a tensor does not hold plain numbers."""
    # A stack, since a deeply nested file would break a recursion.
    stack, seen = [tensors], {id(tensors)}
    while stack:
        for key, value in stack.pop().items():
            if isinstance(value, Tensor) and not _is_plain(value):
                raise ValueError(
                    f"weights file {str(path)!r} holds {key!r} as a "
                    f"{str(value.layout).removeprefix('torch.')} tensor of "
                    f"{str(value.dtype).removeprefix('torch.')}; save dense tensors of "
                    "float32, float16, bfloat16 or float64"
                )
            if isinstance(value, Mapping):
                if id(value) in seen:
                    raise ValueError(
                        f"weights file {str(path)!r} holds a dict, {key!r}, more than "
                        "once or in itself; save `network.state_dict()`"
                    )
                seen.add(id(value))
                stack.append(value)


def _is_plain(tensor: Tensor) -> bool:
    # Floats of 8 bits have no arithmetic on a CPU.
    numbers = not tensor.is_floating_point() or tensor.dtype.itemsize > 1
    return (
        tensor.layout == torch.strided
        and not (tensor.is_quantized or tensor.is_complex() or tensor.is_meta)
        and numbers
    )


def _is_safetensors(path: Path) -> bool:
    """Return whether a file begins with the length of a header, and JSON."""
    with path.open("rb") as file:
        start = file.read(9)
    length = int.from_bytes(start[:8], "little")
    return start[8:] == b"{" and length <= path.stat().st_size - 8
