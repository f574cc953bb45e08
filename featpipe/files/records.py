"""Reading a small JSON document that may come from anywhere."""

import json
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
        If it is no regular file (a FIFO would be waited for, a device never ends), no
        UTF-8, no JSON, holds NaN or an infinity, or is nested too deep; the message
        does not name the file.

    Examples
    --------
    >>> files.read_json("scores.json")["seed"]                   # doctest: +SKIP
    0
    """
    path = Path(path)
    if path.exists() and not path.is_file():
        raise ValueError("it is not a file")
    try:
        return json.loads(path.read_bytes(), parse_constant=_refuse_constant)
    except RecursionError:
        raise ValueError("it is nested too deep") from None


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")
