"""Compare what changes the numbers of codes: the fingerprints of two files or runs."""

import os
from collections.abc import Mapping
from typing import Any

from featpipe.codes.block import CodesError

__all__ = ["FINGERPRINT", "first_difference", "require_same_fingerprint"]

# What changes the numbers; device, workers, batch size, versions and paths do not.
FINGERPRINT = ("backbone", "weights_sha256", "preprocessing", "decoding", "precision")


def require_same_fingerprint(
    have: Mapping[str, Any], want: Mapping[str, Any], path: str | os.PathLike[str]
) -> None:
    """Raise unless two provenances agree in all that changes the numbers.

    Parameters
    ----------
    have : mapping
        Provenance or fingerprint of the codes in ``path``.
    want : mapping
        Provenance or fingerprint that is needed.
    path : path
        Named in the message.

    Raises
    ------
    CodesError
        Naming the first field that differs, with both values.

    Examples
    --------
    >>> from featpipe import codes
    >>> have = codes.read("flowers.h5").fingerprint
    >>> want = {**have, "precision": "bf16"}
    >>> codes.require_same_fingerprint(have, want, "flowers.h5")
    Traceback (most recent call last):
        ...
    featpipe.codes.block.CodesError: flowers.h5 was made with precision = ...
    """
    if difference := first_difference(have, want):
        where, old, new = difference
        raise CodesError(
            f"{path} was made with {where} = {old!r}, now it is {new!r}; choose "
            "another file, or --overwrite to make this one anew"
        )


def first_difference(
    one: Mapping[str, Any], two: Mapping[str, Any]
) -> tuple[str, Any, Any] | None:
    """Return the first entry that differs and changes the numbers, with both values.

    Parameters
    ----------
    one, two : mapping
        Provenances or fingerprints.

    Returns
    -------
    (name, value of one, value of two), or None
    """
    for name in FINGERPRINT:
        old, new = _decisive(one.get(name)), _decisive(two.get(name))
        if old != new and name == "weights_sha256":
            return "weights", _weights(one), _weights(two)
        if old != new:
            return _narrowed(name, old, new)
    return None


def _weights(provenance: Mapping[str, Any]) -> str:
    """Return the name of weights, and as much of the digest as tells two apart."""
    digest = f"SHA-256 {str(provenance.get('weights_sha256'))[:12]}…"
    name = provenance.get("weights")
    return digest if name is None else f"{name} ({digest})"


def _decisive(value: Any) -> Any:
    """Leave out the limit of pixels: it changes which images fail and no code."""
    if isinstance(value, dict) and "max_pixels" in value:
        return {k: v for k, v in value.items() if k != "max_pixels"}
    return value


def _narrowed(where: str, old: Any, new: Any) -> tuple[str, Any, Any]:
    """Return the innermost entry that differs, so that a message is short."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted({*old, *new}):
            if old.get(key) != new.get(key):
                return _narrowed(f"{where}.{key}", old.get(key), new.get(key))
    return where, old, new
