"""Hostile codes files, whose author vouches for every byte: `CodesError`, no more.

Anybody can seal anything, so `parsing` refuses what a codes file never holds.
"""

import io
from pathlib import Path

import h5py
import make_golden
import numpy as np
import pytest

from featpipe import codes
from featpipe.codes import CodesError, block, layout


def sealed(path: Path, change) -> None:
    """Write a codes file with something else in it, and vouch for every byte."""
    codes_file = codes.read(make_golden.GOLDEN)
    n = len(codes_file)
    rows = {spec: codes_file.rows(spec, 0, n) for spec in codes_file.depths[:1]}
    stores = {
        spec: layout.Store(array.shape, array.dtype, lambda a, b, x=array: x[a:b])
        for spec, array in rows.items()
    }
    file = io.BytesIO()
    layout.build(file, stores, codes_file.tables)
    with h5py.File(file, "r+") as h5:
        room = h5.userblock_size
        change(h5)
    block.seal(file, room, [])
    path.write_bytes(file.getvalue())


def replace(name: str, **kwargs):
    """Return a change that puts another dataset in the place of one."""

    def change(h5):
        del h5[name]
        h5.create_dataset(name, **kwargs)

    return change


def numbers(name: str, values, dtype):
    return replace(name, data=np.array(values, dtype))


def provenance_text(text: str):
    return replace("provenance", data=np.frombuffer(text.encode(), np.uint8))


def external_link(h5):
    del h5["labels"]
    h5["labels"] = h5py.ExternalLink("/etc/passwd", "/labels")


def soft_link(h5):
    del h5["sizes"]
    h5["sizes"] = h5py.SoftLink("/mtimes")


def soft_link_to_codes(h5):
    h5["codes/features:max"] = h5py.SoftLink("/codes/features:avg")


def external_storage(h5):
    del h5["images_root"]
    h5.create_dataset(
        "images_root", (64,), "u1", external=[("/etc/passwd", 0, h5py.h5f.UNLIMITED)]
    )


def virtual(h5):
    h5.move("codes/features:avg", "codes/other")
    layout = h5py.VirtualLayout((5, 8), "f4")
    layout[:] = h5py.VirtualSource("/etc/passwd", "codes", (5, 8))
    del h5["codes/other"]
    h5["codes"].create_virtual_dataset("features:avg", layout)


def short_chunk(h5):
    # libhdf5 would read on, beyond the 200 bytes that are there.
    del h5["codes/features:avg"]
    codes = h5["codes"].create_dataset(
        "features:avg",
        (5, 8),
        "f4",
        chunks=(500, 8),
        maxshape=(None, 8),
        fletcher32=True,
    )
    codes.id.write_direct_chunk((0, 0), b"\0" * 200)


def unchecked_chunk(h5):
    del h5["codes/features:avg"]
    codes = h5["codes"].create_dataset(
        "features:avg", (5, 8), "f4", chunks=(5, 8), fletcher32=True
    )
    codes.id.write_direct_chunk((0, 0), b"\0" * 164, 1)


def cyclic(h5):
    del h5["paths"]
    h5["paths"] = h5["/"]


def cyclic_codes(h5):
    h5["codes/again"] = h5["codes"]


def group_for_a_table(h5):
    del h5["labels"]
    h5.create_group("labels")


def type_for_a_table(h5):
    del h5["labels"]
    h5["labels"] = np.dtype("i8")


def table_for_a_group(h5):
    del h5["groups"]
    h5["groups"] = np.arange(3)


def no_format(h5):
    del h5.attrs["format"]


def odd_format(h5):
    h5.attrs["format"] = np.array(["featpipe-codes"] * 2, dtype=object)


def later_version(h5):
    h5.attrs["version"] = 2


def worded_version(h5):
    h5.attrs["version"] = "one"


def extra(h5):
    h5["more"] = 1


def odd_depth(h5):
    h5.move("codes/features:avg", "codes/..\x1b[31m")


def odd_attribute(name, value, **options):
    def change(h5):
        del h5.attrs[name]
        h5.attrs.create(name, value, **options)

    return change


HUGE = 2**50
CODES = "codes/features:avg"
HOSTILE = {
    "external link": (external_link, "holds a link, 'labels'"),
    "soft link": (soft_link, "holds a link, 'sizes'"),
    "soft link among codes": (soft_link_to_codes, "holds a link"),
    "external storage": (external_storage, "outside of itself"),
    "virtual dataset": (virtual, "outside of itself"),
    "unallocated": (replace("sizes", shape=(HUGE,), dtype="i8"), "more in /sizes"),
    "unallocated codes": (
        replace(CODES, shape=(HUGE, 8), dtype="f4", chunks=(9, 8)),
        "declares more",
    ),
    "gzip bomb": (
        replace(CODES, data=np.zeros((10**6, 8), "f4"), compression="gzip"),
        "filter",
    ),
    "gzip in a table": (
        replace("sizes", data=np.zeros(10**6, "i8"), compression="gzip"),
        "filter",
    ),
    "shuffle": (replace(CODES, data=np.zeros((5, 8), "f4"), shuffle=True), "filter"),
    "chunked table": (
        replace("sizes", data=np.zeros(5, "i8"), chunks=(2,)),
        "in chunks",
    ),
    "codes in one piece": (replace(CODES, data=np.zeros((5, 8), "f4")), "no array"),
    "chunk of another size": (short_chunk, "another size than declared"),
    "chunk without its checksum": (unchecked_chunk, "another size than declared"),
    "compound": (replace("sizes", data=np.zeros(5, "i4,f4")), "type in /sizes"),
    "strings": (replace("sizes", data=["a"] * 5), "type in /sizes"),
    "vlen": (
        replace("sizes", shape=(5,), dtype=h5py.vlen_dtype("i8")),
        "type in /sizes",
    ),
    "references": (replace("sizes", shape=(5,), dtype=h5py.ref_dtype), "/sizes"),
    "float64 codes": (
        replace(CODES, data=np.zeros((5, 8)), chunks=(5, 8)),
        "float64; they are float32",
    ),
    "integer codes": (
        replace(CODES, data=np.zeros((5, 8), "i4"), chunks=(5, 8)),
        "codes of type int32",
    ),
    "flat codes": (
        replace(CODES, data=np.zeros(5, "f4"), chunks=(5,)),
        "codes that are no array",
    ),
    "too few codes": (
        replace(CODES, data=np.zeros((4, 8), "f4"), chunks=(4, 8)),
        "codes and paths",
    ),
    "big-endian labels": (numbers("labels", [0] * 5, ">i8"), "type in 'labels'"),
    "float labels": (numbers("labels", [0] * 5, "f8"), "type in 'labels'"),
    "a label too high": (numbers("labels", [0, 1, 2, 0, 0], "i8"), "a label without"),
    "a label below -1": (numbers("labels", [0, 1, -2, 0, 0], "i8"), "a label without"),
    "too few labels": (numbers("labels", [0, 1], "i8"), "do not fit together"),
    "labels in a column": (numbers("labels", [[0]] * 5, "i8"), "'labels' in a shape"),
    "one label": (numbers("labels", 0, "i8"), "'labels' in a shape"),
    "short digests": (numbers("sha256", [[0] * 31] * 5, "u1"), "'sha256' in a shape"),
    "negative split": (numbers("splits", [-1] * 5, "i1"), "invalid split values"),
    "split out of range": (numbers("splits", [4] * 5, "i1"), "invalid split values"),
    "offsets beyond": (numbers("paths/offsets", [0, 1, 2, 3, 4, 9999], "i8"), "point"),
    "offsets backwards": (numbers("paths/offsets", [0, 9, 1, 3, 4, 74], "i8"), "point"),
    "offsets that overflow": (
        numbers("paths/offsets", [0, 2**63 - 1, -2, 3, 4, 74], "i8"),
        "point nowhere",
    ),
    "no offsets": (numbers("paths/offsets", [], "i8"), "point nowhere"),
    "float offsets": (numbers("paths/offsets", [0.0] * 6, "f8"), "type in /paths"),
    "fewer paths": (numbers("paths/offsets", [0, 75], "i8"), "nowhere|do not fit"),
    "failures of two lengths": (
        numbers("failures/size", [1, 2, 3], "i8"),
        "do not fit together",
    ),
    "provenance no object": (provenance_text("[1, 2]"), "provenance is no object"),
    "provenance no JSON": (provenance_text("{"), "do not fit together"),
    "provenance not text": (provenance_text("\x00\x01"), "do not fit together"),
    "deep JSON": (provenance_text("[" * 100_000), "do not fit together"),
    "long number": (
        provenance_text('{"a": ' + "9" * 9999 + "}"),
        "do not fit together",
    ),
    "depths no list": (
        provenance_text('{"depths": 5}'),
        "depths in its provenance is 5",
    ),
    "depths no names": (provenance_text('{"depths": [[1], {}]}'), "is no plain list"),
    "cyclic groups": (cyclic, "not laid out"),
    "cyclic codes": (cyclic_codes, "codes that are no array"),
    "group for a table": (group_for_a_table, "not laid out|type in"),
    "type for a table": (type_for_a_table, "type in 'labels'"),
    "table for a group": (table_for_a_group, "a group is missing"),
    "no format": (no_format, "is not a featpipe codes file"),
    "odd format": (odd_format, "cannot be read|is not a featpipe"),
    "later version": (later_version, "format version 2;.*update featpipe"),
    "worded version": (worded_version, "format version"),
    "format of fixed numbers": (odd_attribute("format", 7), "is not a featpipe"),
    "version of several numbers": (odd_attribute("version", [1, 1]), "is no number"),
    "version of one byte": (odd_attribute("version", np.int8(1)), "is no number"),
    "version of a float": (odd_attribute("version", 1.0), "is no number"),
    "version without a value": (
        odd_attribute("version", h5py.Empty("i8")),
        "is no number",
    ),
    "version of much text": (odd_attribute("version", "x" * 5000), "is no number"),
    "decoding no object": (
        provenance_text('{"decoding": 5}'),
        "decoding in its provenance is 5",
    ),
    "shard no object": (
        provenance_text('{"shard": "x"}'),
        "shard in its provenance is 'x'",
    ),
    "shard with odd numbers": (
        provenance_text('{"shard": {"number": "0"}}'),
        "number in its",
    ),
    "a mode that is no text": (
        provenance_text('{"decoding": {"mode": []}}'),
        "mode in its dec",
    ),
    "mean no list": (
        provenance_text('{"preprocessing": {"mean": 1}}'),
        "mean in its prepro",
    ),
    "crop true": (
        provenance_text('{"preprocessing": {"crop": true}}'),
        "crop in its prepro",
    ),
    "asked of lists": (
        provenance_text('{"asked": [[]]}'),
        "asked in its provenance is no plain",
    ),
    "something more": (extra, "not laid out as a codes file: / and 'more'"),
    "odd depth": (odd_depth, "which none can be called"),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_file_with_a_valid_seal_is_refused(tmp_path, what):
    change, sentence = HOSTILE[what]
    path = tmp_path / "hostile.h5"
    sealed(path, change)
    with pytest.raises(CodesError, match=rf"hostile\.h5 .*({sentence})"):
        codes.read(path)


def test_the_unchanged_copy_that_hostile_files_are_made_of_is_read(tmp_path):
    sealed(tmp_path / "a.h5", lambda h5: None)
    assert codes.read(tmp_path / "a.h5").depths == ["features:avg"]


def test_chunks_that_lie_over_one_another_declare_too_much(tmp_path):
    # 64 chunks at the end, all of them bent to the place of the first; the rest is cut
    # off, and the superblock told so. libhdf5 itself has nothing against this.
    path = tmp_path / "a.h5"
    sealed(path, replace(CODES, data=np.ones((320, 800), "f4"), chunks=(5, 800)))
    chunks = []
    with h5py.File(path) as h5:
        room = h5.userblock_size
        h5[CODES].id.chunk_iter(chunks.append)
    whole, places = path.read_bytes(), [chunk.byte_offset for chunk in chunks]
    for place in places[1:]:
        old, new = ((x - room).to_bytes(8, "little") for x in (place, places[0]))
        assert whole.count(old) == 1
        whole = whole.replace(old, new)
    bent = bytearray(whole[: places[1]])
    end_of_file = slice(room + 40, room + 48)
    assert int.from_bytes(bent[end_of_file], "little") > len(bent)
    bent[end_of_file] = len(bent).to_bytes(8, "little")
    file = io.BytesIO(bent)
    with h5py.File(file, "r") as h5:
        assert (h5[CODES][:] == 1).all()
    block.seal(file, room, [])
    path.write_bytes(file.getvalue())
    with pytest.raises(CodesError, match="declares more than it holds"):
        codes.read(path)


def test_reading_takes_no_more_memory_than_the_file_holds(tmp_path):
    # What is declared is held, dataset by dataset and in all.
    for what in ("unallocated", "unallocated codes"):
        sealed(tmp_path / "a.h5", HOSTILE[what][0])
        assert (tmp_path / "a.h5").stat().st_size < 2**17 < HUGE
        with pytest.raises(CodesError):
            codes.read(tmp_path / "a.h5", check=False)
