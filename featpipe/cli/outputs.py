"""Checks of the files that a command names, before it does any work."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from featpipe import files

__all__ = ["require_outputs"]


def require_outputs(
    outputs: Mapping[str, Path | None],
    inputs: Mapping[str, Any],
) -> None:
    """Raise if an output cannot be written, is an input, or is another output.

    Parameters
    ----------
    outputs : mapping of str to Path
        What each is called on the command line; None for what was not given.
    inputs : mapping of str to path, or list of paths
        The same.

    Raises
    ------
    ValueError, OSError
        Naming the path and what would do.
    """
    for path in outputs.values():
        if path is not None:
            files.require_writable(path)
    for name, given in inputs.items():
        for path in given if isinstance(given, list | tuple) else [given]:
            files.require_distinct(outputs, {name: path})
