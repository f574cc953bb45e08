"""Damaged codes files: `CodesError`, or the very same reading.

The digests refuse damage before libhdf5 parses anything.
"""

import contextlib
import hashlib
import io
import json
import math
from pathlib import Path

import h5py
import make_golden
import numpy as np
import pytest

from featpipe import codes
from featpipe.codes import CodesError, block

WHOLE = make_golden.GOLDEN.read_bytes()
SPLICE = 600


def reading(path: Path, check: bool = True):
    file = codes.read(path, check=check)
    lines = [file.paths, file.failures, file.class_names, file.provenance]
    lines += [file.splits.tolist(), file.labels.tolist(), file.sha256.tobytes()]
    return lines + [file.rows(spec, 0, 5).tobytes() for spec in file.depths]


def damaged(rng: np.random.Generator, kind: str) -> bytes:
    raw = np.frombuffer(WHOLE, np.uint8).copy()
    start = int(rng.integers(len(raw)))
    stop = start + int(rng.integers(1, SPLICE))
    if kind == "flip":
        raw[start] ^= 1 << rng.integers(8)
    elif kind == "flips":
        raw[rng.integers(len(raw), size=20)] ^= np.uint8(1 << rng.integers(8))
    elif kind == "block":
        raw[rng.integers(512)] = rng.integers(256)
    elif kind == "zeros":
        raw[start:stop] = 0
    elif kind == "splice":
        piece = raw[start:stop].copy()
        raw[: len(piece)] = piece
    elif kind == "cut":
        return WHOLE[:start]
    elif kind == "inner cut":
        return WHOLE[:start] + WHOLE[stop:]
    else:
        return WHOLE + rng.bytes(int(rng.integers(1, SPLICE)))
    return raw.tobytes()


KINDS = ("flip", "flips", "block", "zeros", "splice", "cut", "inner cut", "appended")


@pytest.mark.parametrize("kind", KINDS)
def test_damage_is_refused_or_changes_nothing(tmp_path, kind):
    path = tmp_path / "a.h5"
    path.write_bytes(WHOLE)
    expected, refused = reading(path), 0
    rng = np.random.default_rng(KINDS.index(kind))
    for _ in range(100):
        raw = damaged(rng, kind)
        path.write_bytes(raw)
        if raw == WHOLE:
            continue
        with pytest.raises(CodesError):
            codes.read(path)
        refused += 1
        # Without the digest of the codes, their own checksums stand in.
        with contextlib.suppress(CodesError):
            assert reading(path, check=False) == expected
    # Some damage changes nothing, such as zeros over zeros.
    assert refused > 50


def test_every_byte_of_the_first_block_counts(tmp_path):
    path = tmp_path / "a.h5"
    for at in range(0, 512, 7):
        raw = bytearray(WHOLE)
        raw[at] ^= 1
        path.write_bytes(raw)
        with pytest.raises(CodesError, match=r"a\.h5 (is|has)"):
            codes.read(path)


def test_a_cut_file_says_how_much_is_missing(tmp_path):
    path = tmp_path / "a.h5"
    path.write_bytes(WHOLE[:-100])
    with pytest.raises(CodesError, match=r"has .* bytes where .* were written"):
        codes.read(path)


@pytest.mark.parametrize(
    "facts",
    [
        '{"room":512}',
        '{"room":512,"size":"big","payload":[]}',
        '{"room":1e300,"size":NaN,"payload":[]}',
        '{"room":true,"size":99999,"payload":[[1,2]]}',
        '{"room":512,"size":99999,"payload":[[512,1e999]]}',
        '{"room":512,"size":99999,"payload":[[512,-1]]}',
        '{"room":512,"size":99999,"payload":[[1,2,3]]}',
        '{"room":512,"size":99999,"payload":{"a":"b"}}',
        '{"room":67108864,"size":99999,"payload":[]}',
        "[" * 100_000,
        '{"room":' + "9" * 5000 + "}",
        "null",
        "[]",
    ],
)
def test_a_first_block_of_nonsense_is_refused(tmp_path, facts):
    digests = f',"payload_sha256":"{"0" * 64}","header_sha256":"{"0" * 64}"}}\n'
    path = tmp_path / "a.h5"
    for message in (facts + "\n", facts[:-1] + digests):
        path.write_bytes(block.MAGIC + message.encode() + WHOLE[400:])
        with pytest.raises(CodesError, match="first block cannot be read"):
            codes.read(path)


def test_the_digests_are_those_that_the_specification_gives():
    # As docs/reference/format.md says it, and by no code of ours.
    record = json.loads(WHOLE[len(block.MAGIC) :].split(b"\n")[0])
    stretches = [WHOLE[start : start + length] for start, length in record["payload"]]
    payload = hashlib.sha256(b"".join(stretches)).hexdigest()
    assert record["payload_sha256"] == payload
    rest, position = b"", record["room"]
    for start, length in record["payload"]:
        rest += WHOLE[position:start]
        position = start + length
    facts = {key: record[key] for key in ("payload", "payload_sha256", "room", "size")}
    first = json.dumps(facts, sort_keys=True).encode()
    header = hashlib.sha256(first + rest + WHOLE[position:]).hexdigest()
    assert record["header_sha256"] == header


def test_the_block_lists_where_the_codes_lie():
    with make_golden.GOLDEN.open("rb") as file:
        file.seek(len(block.MAGIC))
        facts = json.loads(file.readline())
        with h5py.File(file) as h5:
            stored = sum(d.id.get_storage_size() for d in h5["codes"].values())
            assert h5.userblock_size == facts["room"]
    assert sum(length for _, length in facts["payload"]) == stored
    assert facts["size"] == len(WHOLE)


def test_room_for_is_a_power_of_two_that_holds_the_longest_list():
    for n in (0, 1, 13, 1000, 50_000):
        room = block.room_for(n)
        assert math.log2(room) % 1 == 0
        file = io.BytesIO(b"\0" * room)
        # The largest numbers, and none that touch.
        extents = [(10**14 + 7 * k, 5) for k in range(n)]
        if n <= 13:
            file = io.BytesIO(b"\0" * room + b"x" * 100)
            extents = [(room + 7 * k, 5) for k in range(n)]
            block.seal(file, room, extents)
            block.check(file)
        assert len(json.dumps(extents, separators=(",", ":"))) < room - 400 or not n
