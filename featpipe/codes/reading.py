"""Read and check a codes file that may come from anywhere.

`block` checks the digests first, then `parsing` reads the header; `access` has the
`Codes` that are returned.
"""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np

from featpipe.codes import block, parsing
from featpipe.codes.access import Codes
from featpipe.codes.block import CodesError
from featpipe.codes.opening import opened_file, stamp_of

__all__ = ["checked", "digest", "read", "verify"]


def read(path: str | os.PathLike[str], *, check: bool = True) -> Codes:
    """Read a codes file: its tables at once, its codes on request.

    Parameters
    ----------
    path : path
        The file.
    check : bool
        Whether to check every byte against its SHA-256 first. False checks all but the
        codes, for which only HDF5's checksum per chunk (Fletcher-32) is left. It misses
        some damage: 0000 and ffff have the same sum, so a 0.0 that became a NaN passes.
        Use False to inspect a file, and `checked` before using its codes.

    Returns
    -------
    Codes

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    CodesError
        If it is not a codes file, truncated, damaged, or not laid out as one.

    Examples
    --------
    >>> import featpipe
    >>> codes = featpipe.read("flowers.h5")
    >>> X, y = codes.arrays("penultimate", split="train")
    >>> X.shape, y.shape
    ((30, 8), (30,))
    """
    path = Path(path)
    with opened_file(path) as file:
        try:
            block.check(file, payload=check)
            shapes, tables = parsing.header(file)
        # The functions below do not know the name of the open file.
        except CodesError as error:
            raise CodesError(f"{path} {error}") from None
        # Of the open file: another may have taken its name meanwhile.
        return Codes(path, shapes, tables, stamp_of(file), is_checked=check)


def checked(codes: Codes) -> Codes:
    """Return the same codes file with its codes checked against their SHA-256.

    Parameters
    ----------
    codes : Codes
        Perhaps read with ``check=False``; returned as it is if it was checked before.

    Returns
    -------
    Codes

    Raises
    ------
    CodesError
        If the codes are damaged, or the file has changed since it was read.

    Examples
    --------
    >>> from featpipe import codes
    >>> file = codes.read("flowers.h5", check=False)
    >>> file.is_checked, codes.checked(file).is_checked
    (False, True)
    """
    if codes.is_checked:
        return codes
    with opened_file(codes.path) as file:
        if stamp_of(file) != codes.stamp:
            raise CodesError(
                f"{codes.path} has changed since it was read; read it again"
            )
        try:
            # The header was checked when the file was read; now the payload is as well.
            block.check(file)
        except CodesError as error:
            raise CodesError(f"{codes.path} {error}") from None
    return replace(codes, is_checked=True)


def digest(path: str | os.PathLike[str]) -> str:
    """Return the SHA-256 that covers every byte of a codes file, 64 hex digits.

    It is read from the first block and not computed; `read` compares it with the bytes.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    CodesError
        If it is no codes file.

    Examples
    --------
    >>> from featpipe import codes
    >>> len(codes.digest("flowers.h5"))
    64
    """
    with opened_file(Path(path)) as file:
        try:
            return block.digest(file)
        except CodesError as error:
            raise CodesError(f"{path} {error}") from None


def verify(path: str | os.PathLike[str]) -> Codes:
    """Check a whole codes file: digests, structure, and that every code is finite.

    Parameters
    ----------
    path : path

    Returns
    -------
    Codes

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    CodesError
        With what is wrong.

    Examples
    --------
    >>> import featpipe
    >>> len(featpipe.verify("flowers.h5"))
    42
    """
    codes = read(path)
    for spec in codes.depths:
        # About 128 MB of float32 at a time: a file may be larger than the memory.
        step = max(1, 2**25 // max(1, codes.width(spec)))
        for start in range(0, len(codes), step):
            rows = codes.rows(spec, start, min(start + step, len(codes)))
            # featpipe writes finite codes only, so another program made this one.
            bad = np.flatnonzero(~np.isfinite(rows).reshape(len(rows), -1).all(axis=1))
            if len(bad):
                row = start + int(bad[0])
                raise CodesError(
                    f"{path} holds a code that is not finite at depth {spec!r}, row "
                    f"{row} ({codes.paths[row]}); extract it again with --overwrite"
                )
    return codes
