"""The folder ``MODEL.work`` of an unfinished training: one writer, gone at the end.

Knows which files of ours are in it, and nothing of what they mean.
"""

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from featpipe import codes
from featpipe.extraction import Parts
from featpipe.files import Lock, explained, remove_temporaries, require_own_name

__all__ = ["unfinished_work"]

_OURS = ("codes.h5", "views.h5", "checkpoint.pt", "model.safetensors")
# What a new folder takes on most file systems.
_FOLDER_BYTES = 4096


@contextmanager
def unfinished_work(path: Path | None) -> Iterator[Path]:
    """Make the folder of an unfinished training; remove it when the block ends well.

    Parameters
    ----------
    path : Path, optional
        The model to be, locked meanwhile. Without one the folder is temporary, and
        nothing can be gone on with.

    Yields
    ------
    Path
        The folder. After an exception it stays, unless it was made here and is empty.

    Raises
    ------
    LockedError
        If another process trains the same model.
    OSError
        If the folder cannot be made.
    """
    if path is None:
        with tempfile.TemporaryDirectory() as name:
            yield Path(name)
        return
    _require_writable(path)
    with ExitStack() as stack:
        stack.enter_context(Lock(path))
        folder = path.with_name(f"{path.name}.work")
        is_new = not folder.exists()
        with explained(folder, _FOLDER_BYTES):
            folder.mkdir(exist_ok=True)
        try:
            yield folder
        except BaseException:
            if is_new and not any(folder.iterdir()):
                folder.rmdir()
            raise
        _remove(folder)


def _remove(folder: Path) -> None:
    # Gone already, unless they could not be removed when the codes were whole.
    Parts(folder / "codes.h5").drop()
    # A lock may be left too; nobody holds it, since we hold the model's.
    for name in (*_OURS, *(f"{name}.lock" for name in _OURS)):
        # The model is whole without it; the next run tries again.
        with suppress(OSError):
            (folder / name).unlink(missing_ok=True)
        remove_temporaries(folder / name)
    # Unless there are files of others in it.
    with suppress(OSError):
        folder.rmdir()


def _require_writable(path: Path) -> None:
    require_own_name(path)
    codes.require_no_codes(path)
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder; give the model's file name")
    if not path.absolute().parent.is_dir():
        raise FileNotFoundError(
            f"no folder {path.absolute().parent} to write {path.name} to; make it"
        )
