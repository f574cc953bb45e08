"""The codes file that an extraction is to make or update, as it is before."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from featpipe import codes
from featpipe.codes import Codes, CodesError
from featpipe.files import follow_links, is_stream, require_writable

__all__ = ["read_existing", "remedy", "target_of"]


def target_of(path: str | os.PathLike[str]) -> Path:
    """Follow a link, so that lock and parts are those of the file it leads to.

    Raises
    ------
    ValueError
        If codes could not be read back from there.
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
        If it is damaged, or no codes file; says what to do.
    """
    if not path.exists():
        return None
    with remedy(path):
        # The codes themselves need not be read for a run that may have nothing to do;
        # they are checked before any of them is copied.
        return codes.read(path, check=False)


@contextmanager
def remedy(path: Path) -> Iterator[None]:
    """Add to the error of a damaged file what to do about it."""
    try:
        yield
    except CodesError as error:
        advice = "choose another file"
        if codes.is_replaceable(path):
            advice += ", or --overwrite to replace this one"
        raise CodesError(f"{error}; {advice}") from None
