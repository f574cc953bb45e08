"""Find and read the codes file that an extraction will replace or update."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from featpipe import codes
from featpipe.codes import Codes, CodesError
from featpipe.files import follow_links, is_stream, require_writable

__all__ = ["read_existing", "remedy", "target_of"]


def target_of(path: str | os.PathLike[str]) -> Path:
    """Return the file that a link leads to: lock and parts lie beside that file.

    Raises
    ------
    ValueError
        If it exists and is not a regular file.
    OSError
        If nothing can be written there.
    """
    target = follow_links(path)
    require_writable(target)
    if is_stream(target):
        raise ValueError(
            f"{target} is not a file; codes are read back, so give -o the name of one"
        )
    return target


def read_existing(path: Path) -> Codes | None:
    """Return the codes file that is there; None if there is none.

    Raises
    ------
    CodesError
        If it is damaged, or not a codes file.
    """
    if not path.exists():
        return None
    with remedy(path):
        # A run with nothing to do need not read the codes; they are checked before any
        # of them is copied.
        return codes.read(path, check=False)


@contextmanager
def remedy(path: Path) -> Iterator[None]:
    """Add the remedy to the error of a damaged file."""
    try:
        yield
    except CodesError as error:
        advice = "choose another file"
        if codes.is_replaceable(path):
            advice += ", or --overwrite to replace this one"
        raise CodesError(f"{error}; {advice}") from None
