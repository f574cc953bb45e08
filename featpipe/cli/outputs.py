"""Output files: checked before any work, written before anything is printed."""

from collections.abc import Callable, Collection, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from featpipe import files

__all__ = ["require_outputs", "run_all"]


def require_outputs(
    outputs: Mapping[str, Path | None],
    inputs: Mapping[str, Any],
    *,
    codes: Collection[str] = (),
) -> None:
    """Raise if an output cannot be written, is an input, an image, or another output.

    Parameters
    ----------
    outputs : mapping of str to Path
        What each is called on the command line; None for what was not given.
    inputs : mapping of str to path, or list of paths
        The same.
    codes : collection of str
        The outputs that replace codes files only, which is checked elsewhere.

    Raises
    ------
    ValueError, OSError
        Naming the path and what would do.
    """
    for name, path in outputs.items():
        if path is not None:
            files.require_writable(path)
            if name not in codes:
                _require_no_image(name, path)
            _require_outside(name, path, outputs)
    for name, paths in inputs.items():
        for path in paths if isinstance(paths, list | tuple) else [paths]:
            files.require_distinct(outputs, {name: path})


def _require_no_image(name: str, path: Path) -> None:
    """Raise if an output would replace an image, for it may be one of the source."""
    if not path.exists():
        return
    # Not for `--help`, which has to be quick.
    from featpipe.images import is_image_file

    if is_image_file(path):
        raise ValueError(
            f"{name} would replace {path}, which is an image; give {name} another name"
        )


def _require_outside(name: str, path: Path, outputs: Mapping[str, Path | None]) -> None:
    """Raise if an output would lie among the unfinished parts of another one."""
    for other, there in outputs.items():
        if files.belongs_to(there)(str(path.absolute().parent)):
            raise ValueError(
                f"{name} would lie in {path.parent}, which goes when {other} is done; "
                f"give {name} another folder"
            )


def run_all(*steps: Callable[[], None]) -> None:
    """Run each step, also after one that has failed; raise the last error in the end.

    Results take long: a full disk must not keep a table from being printed, nor a
    broken terminal a file from being written.
    """
    with ExitStack() as stack:
        # An ExitStack runs its callbacks last in, first out, also after one has failed.
        for step in reversed(steps):
            stack.callback(step)
