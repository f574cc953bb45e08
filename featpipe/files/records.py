"""Read a small JSON document that another program may have written or damaged."""

import json
import math
import os
from pathlib import Path
from typing import Any

__all__ = ["read_json"]


def read_json(path: str | os.PathLike[str]) -> Any:
    """Read a JSON document from a regular file.

    Parameters
    ----------
    path : path

    Returns
    -------
    object
        As `json.loads` returns it.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is not a regular file (reading a FIFO may wait, and a device may never
        end), not UTF-8, not JSON, holds a number that is not finite or has more than
        64 bits, or is nested too deep. The message does not name the file.

    Examples
    --------
    >>> read_json("flowers.json")["seed"]
    0
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"there is no file {path}; check its path")
    if not path.is_file():
        raise ValueError("it is not a file")
    try:
        return json.loads(
            path.read_bytes(),
            parse_constant=_refuse_constant,
            parse_float=_finite,
            parse_int=_bounded,
        )
    # Python's parser recurses, and a hostile file can nest without end.
    except RecursionError:
        raise ValueError("it is nested too deep") from None
    except UnicodeDecodeError:
        raise ValueError("it is not text") from None


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"{text:.20} is not finite")
    return number


def _bounded(text: str) -> int:
    # The length first, since `int` of a million digits takes minutes.
    if len(text) > 20 or abs(number := int(text)) >= 2**64:
        raise ValueError(f"{text:.20} has more than 64 bits")
    return number
