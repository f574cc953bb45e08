"""Check output files before any work, and write all of them even if one fails."""

from collections.abc import Callable, Collection, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from featpipe import files
from featpipe.kinds import CODES, HEAD, MODEL, describe_kind

__all__ = ["require_outputs", "run_all"]


def require_outputs(
    outputs: Mapping[str, Path | None],
    inputs: Mapping[str, Any],
    *,
    codes: Collection[str] = (),
    models: Collection[str] = (),
) -> None:
    """Raise if an output cannot be written, or would replace what should be kept.

    These are inputs, other outputs, and images, codes and models of other work.

    Parameters
    ----------
    outputs : mapping of str to Path
        Each file by its option; None for one that was not given.
    inputs : mapping of str to path, or list of paths
        The files to read, by option.
    codes : collection of str
        Options of codes files: `extract` checks that they replace no other file.
    models : collection of str
        Options of model files, which may replace a model.

    Raises
    ------
    ValueError, OSError
        With the path and the remedy.
    """
    for name, path in outputs.items():
        if path is not None:
            files.require_writable(path)
            # An output among the parts would be removed with them.
            _require_outside(name, path, outputs)
    for name, paths in inputs.items():
        for path in paths if isinstance(paths, list | tuple) else [paths]:
            files.require_distinct(outputs, {name: path})
    for name, path in outputs.items():
        if path is not None and name not in codes:
            _require_not_kept(name, path, models)


def _require_not_kept(name: str, path: Path, models: Collection[str]) -> None:
    """Raise if an output would replace an image, codes or a model.

    An image may be one of the source; codes and models may have taken days.
    """
    # To read a FIFO would wait.
    if not path.is_file():
        return
    from featpipe.images import is_image_file

    with path.open("rb") as file:
        kind = describe_kind(file.read(HEAD))
    if is_image_file(path):
        kind = "an image"
    elif kind != CODES and (kind != MODEL or name in models):
        return
    raise ValueError(
        f"{name} would replace {path}, which is {kind}; give {name} another name, or "
        "remove the file first"
    )


def _require_outside(name: str, path: Path, outputs: Mapping[str, Path | None]) -> None:
    """Raise if an output would lie among the unfinished parts of another one."""
    for other, output in outputs.items():
        if files.belongs_to(output)(str(path.absolute().parent)):
            raise ValueError(
                f"{name} would lie in {path.parent}, which is removed when {other} is "
                f"complete; give {name} another folder"
            )


def run_all(*steps: Callable[[], None]) -> None:
    """Run every step, also after one that fails; then raise the last error.

    Results take long to compute: a full disk must not prevent a table from being
    printed, nor a broken terminal a file from being written.
    """
    with ExitStack() as stack:
        # It runs the callback that was added last first, and the rest after an error.
        for step in reversed(steps):
            stack.callback(step)
