"""The user block: the bytes before the HDF5 part, with digests of every byte.

HDF5 leaves the first bytes of a file to its user. Here they hold the length of the file
and two SHA-256 digests, so that a damaged, truncated or foreign file is refused before
libhdf5 parses anything. The *payload* (the raw chunks of the codes) and the *header*
(all the rest) have a digest each, so that checking the header of a large file is quick.
This module does not interpret the HDF5 part.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from featpipe.kinds import HEAD, describe_kind

__all__ = [
    "CodesError",
    "check",
    "digest",
    "is_replaceable",
    "require_no_codes",
    "require_replaceable",
    "room_for",
    "seal",
]

MAGIC = b"featpipe-codes 1\n"
_SMALLEST = 512
_LARGEST = 2**26
_PIECE = 2**22
# Two numbers of at most 15 digits, brackets and a comma.
_BYTES_PER_EXTENT = 36


class CodesError(ValueError):
    """A codes file is damaged, foreign, or does not fit the request.

    Examples
    --------
    >>> from featpipe import codes
    >>> _ = Path("notes.h5").write_text("no codes")
    >>> codes.read("notes.h5")
    Traceback (most recent call last):
        ...
    featpipe.codes.block.CodesError: notes.h5 is not a featpipe codes file
    """


def room_for(n_extents: int) -> int:
    """Return the bytes to reserve for a block that lists ``n_extents`` extents.

    Parameters
    ----------
    n_extents : int
        An upper bound of the number of extents of payload in the file.

    Returns
    -------
    int
        A power of two of at least 512, as HDF5 requires of its user block.
    """
    needed = _SMALLEST + _BYTES_PER_EXTENT * n_extents
    # HDF5 takes user blocks of 512 bytes times a power of two only.
    return 1 << (needed - 1).bit_length()


def seal(file: BinaryIO, room: int, payload: Sequence[tuple[int, int]]) -> None:
    """Write the block of a finished file.

    Parameters
    ----------
    file : binary file, open for reading and writing
        The whole file; its first ``room`` bytes are replaced.
    room : int
        Bytes reserved for the block.
    payload : sequence of (offset, length)
        The raw chunks of the codes, in bytes from the start of the file.
    """
    size = file.seek(0, 2)
    facts: dict[str, Any] = {"room": room, "size": size, "payload": _joined(payload)}
    # First, because the header's digest covers this one.
    facts["payload_sha256"] = _digest(file, facts["payload"])
    facts["header_sha256"] = _header_digest(file, facts)
    block = _block(facts)
    if len(block) > room:
        raise AssertionError(f"a block of {len(block)} bytes in a room of {room}")
    file.seek(0)
    file.write(block)


def check(file: BinaryIO, *, payload: bool = True) -> None:
    """Check a file against its block, without parsing its HDF5 part.

    Parameters
    ----------
    file : binary file
    payload : bool
        Whether to check the codes too (about 0.6 s a gigabyte), not the header alone.

    Raises
    ------
    CodesError
        If the file is no codes file, was cut, or has a changed byte.
    """
    facts = _facts(file)
    size = file.seek(0, 2)
    # Finds a truncated copy before gigabytes are hashed.
    if size != facts["size"]:
        raise CodesError(
            f"has {size:,} bytes where {facts['size']:,} were written: it was cut "
            "or added to"
        )
    if _header_digest(file, facts) != facts["header_sha256"]:
        raise CodesError("is damaged: its header does not match its SHA-256")
    if payload and _digest(file, facts["payload"]) != facts["payload_sha256"]:
        raise CodesError("is damaged: its codes do not match their SHA-256")


def digest(file: BinaryIO) -> str:
    """Return the SHA-256 that covers every byte of a file, its codes included."""
    header_digest: str = _facts(file)["header_sha256"]
    return header_digest


def is_replaceable(path: Path) -> bool:
    """Return whether ``path`` is free, empty, or begins as a codes file does.

    Examples
    --------
    >>> from pathlib import Path
    >>> from featpipe import codes
    >>> codes.is_replaceable(Path("flowers.h5")), codes.is_replaceable(Path("new.h5"))
    (True, True)
    """
    if not path.exists():
        return True
    if not path.is_file():
        return False
    with path.open("rb") as file:
        # A damaged codes file still begins so and may be replaced; a thesis called
        # codes.h5 does not.
        return file.read(len(MAGIC)) in (MAGIC, b"")


def require_no_codes(path: Path) -> None:
    """Raise if an output of another kind would replace a codes file.

    Raises
    ------
    CodesError
        With the path and the remedy.

    Examples
    --------
    >>> from pathlib import Path
    >>> from featpipe import codes
    >>> codes.require_no_codes(Path("flowers.model"))
    """
    if not path.is_file():
        return
    with path.open("rb") as file:
        if file.read(len(MAGIC)) == MAGIC:
            raise CodesError(
                f"{path} is a codes file, which may have taken days; give another "
                "name, or remove it first"
            )


def require_replaceable(path: Path) -> None:
    """Raise if there is something other than a codes file at ``path``.

    Raises
    ------
    CodesError
        Naming the path.

    Examples
    --------
    >>> from pathlib import Path
    >>> from featpipe import codes
    >>> codes.require_replaceable(Path("flowers.h5"))
    """
    if not is_replaceable(path):
        raise CodesError(
            f"{path} is not a featpipe codes file, and only those are replaced; choose "
            "another name, or remove it yourself"
        )


def _block(facts: dict[str, Any]) -> bytes:
    written = MAGIC + json.dumps(facts, separators=(",", ":")).encode() + b"\n"
    return written.ljust(facts["room"], b"\0")


def _facts(file: BinaryIO) -> dict[str, Any]:
    file.seek(0)
    if file.read(len(MAGIC)) != MAGIC:
        file.seek(0)
        kind = describe_kind(file.read(HEAD))
        raise CodesError("is not a featpipe codes file" + f" but {kind}" * bool(kind))
    start = file.read(_SMALLEST)
    if b"\n" not in start:
        start += file.read(_LARGEST)
    try:
        facts = json.loads(start[: start.index(b"\n")])
        sound = _is_sound(facts)
    except (ValueError, KeyError, TypeError, RecursionError):
        sound = False
    if sound:
        # No digest covers the block itself, so every byte of it must be as written.
        file.seek(0)
        sound = file.read(facts["room"]) == _block(facts)
    if not sound:
        raise CodesError("is damaged: its first block cannot be read")
    checked: dict[str, Any] = facts
    return checked


def _is_sound(facts: dict[str, Any]) -> bool:
    room, size, payload = facts["room"], facts["size"], facts["payload"]
    numbers = [room, size, *(number for extent in payload for number in extent)]
    # Not isinstance: true and false would pass for numbers.
    return (
        {type(number) for number in numbers} == {int}
        and _SMALLEST <= room <= _LARGEST
        and all(
            room <= start and 0 <= length <= size - start for start, length in payload
        )
        and payload == _joined(payload)
        and {"header_sha256", "payload_sha256"} <= facts.keys()
    )


def _joined(extents: Sequence[Sequence[int]]) -> list[list[int]]:
    """Sort extents and join those that touch; overlapping ones stay apart."""
    joined: list[list[int]] = []
    for offset, length in sorted(map(tuple, extents)):
        if joined and sum(joined[-1]) == offset:
            joined[-1][1] += length
        else:
            joined.append([offset, length])
    return joined


def _header_digest(file: BinaryIO, facts: dict[str, Any]) -> str:
    """Return the digest of all but the payload, the facts in the block included."""
    covered = {key: facts[key] for key in ("room", "size", "payload", "payload_sha256")}
    rest, position = [], facts["room"]
    for offset, length in facts["payload"]:
        if offset < position:
            raise CodesError("is damaged: stretches of its codes overlap")
        rest.append((position, offset - position))
        position = offset + length
    rest.append((position, facts["size"] - position))
    return _digest(file, rest, json.dumps(covered, sort_keys=True).encode())


def _digest(
    file: BinaryIO, extents: Sequence[Sequence[int]], first: bytes = b""
) -> str:
    digest = hashlib.sha256(first)
    for offset, length in extents:
        for piece in _pieces(file, offset, length):
            digest.update(piece)
    return digest.hexdigest()


def _pieces(file: BinaryIO, offset: int, length: int) -> Iterator[bytes]:
    file.seek(offset)
    while length > 0:
        piece = file.read(min(length, _PIECE))
        if not piece:
            raise CodesError("was cut while it was read")
        length -= len(piece)
        yield piece
