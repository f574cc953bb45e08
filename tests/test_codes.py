"""The codes file: what goes in comes out, and what does not fit is refused."""

import _thread
import os
import pickle
import resource
import time
from pathlib import Path

import h5py
import make_golden
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file
from trapping import apart

from featpipe import codes, files
from featpipe.codes import CodesError, FailureRecord, Row, layout


def contents(n=5, seed=0, **changes):
    """Return arguments for `codes.write` of a file with ``n`` rows."""
    rng = np.random.default_rng(seed)
    paths = [f"{seed}-{k:04}.png" for k in range(n)]
    results = {
        "codes": {"features:avg": rng.random((n, 3), dtype=np.float32)},
        "labels": np.arange(n) % 2,
        "class_names": ["ant", "bee"],
        "paths": paths,
        "provenance": {"backbone": "mini", "dtype": "float32"},
    }
    return results | changes


def make(path: Path, *args, **kwargs) -> Path:
    codes.write(path, **contents(*args, **kwargs))
    return path


def same_tables(one, two):
    for name in ("labels", "sizes", "mtimes", "sha256", "splits", "groups"):
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name))
    for name in ("paths", "class_names", "failures", "images_root", "depths"):
        assert getattr(one, name) == getattr(two, name)


def test_golden_file_of_format_1_is_read_for_ever():
    content, golden = make_golden.contents(), codes.verify(make_golden.GOLDEN)
    assert golden.depths == list(content["codes"])
    for spec, array in content["codes"].items():
        rows = golden.rows(spec, 0, 5)
        assert rows.dtype == array.dtype
        np.testing.assert_array_equal(rows, array)
    for name in ("labels", "splits", "groups", "sizes", "mtimes", "sha256"):
        np.testing.assert_array_equal(getattr(golden, name), content[name])
    for name in ("class_names", "paths", "images_root", "provenance"):
        assert getattr(golden, name) == content[name]
    assert golden.failures == [failure[:3] for failure in content["failures"]]
    assert golden.tables.failures[0][3:] == (17, 12345)
    assert golden.fingerprint["precision"] == "fp32"


def test_golden_file_is_what_this_version_writes(tmp_path):
    codes.write(tmp_path / "now.h5", **make_golden.contents())
    golden, now = codes.read(make_golden.GOLDEN), codes.read(tmp_path / "now.h5")
    same_tables(golden, now)
    for spec in golden.depths:
        np.testing.assert_array_equal(golden.rows(spec, 0, 5), now.rows(spec, 0, 5))


def test_plain_h5py_reads_codes_in_three_lines():
    # As docs/reference/format.md shows it.
    with h5py.File(make_golden.GOLDEN) as file:
        X, y = file["codes/penultimate"][:], file["labels"][:]
        paths = bytes(file["paths/bytes"][:]), file["paths/offsets"][:]
    np.testing.assert_array_equal(X, make_golden.contents()["codes"]["penultimate"])
    assert y.tolist() == [0, 1, 0, 1, -1]
    assert paths[0][paths[1][1] : paths[1][2]] == b"train/bee/b\xff.jpg"


def test_same_contents_give_the_same_bytes(tmp_path):
    one, two = make(tmp_path / "1.h5", 40), make(tmp_path / "2.h5", 40)
    assert one.read_bytes() == two.read_bytes()


# Any name a file system allows: no NUL, and bytes that are no UTF-8 as surrogates.
names = st.binary(min_size=1, max_size=20).map(
    lambda raw: os.fsdecode(raw.replace(b"\0", b"\1"))
)


@settings(max_examples=30, deadline=None)
@given(st.lists(names, min_size=1, max_size=5, unique=True), names)
def test_any_file_name_comes_back_unchanged(tmp_path_factory, paths, name):
    path = tmp_path_factory.mktemp("names") / "a.h5"
    n = len(paths)
    content = contents(n, paths=paths, class_names=[name, "x"], images_root=name)
    failures = [(name, "decode", "reason\n" + name)]
    codes.write(path, **content, groups=paths, failures=failures)
    file = codes.read(path)
    assert file.paths == paths
    assert file.groups.tolist() == paths
    assert file.class_names[0] == file.images_root == name
    assert file.failures == failures


def test_arrays_gives_float32_rows_of_a_split_in_file_order(tmp_path):
    splits = ["train", "val", "train", "", "val"]
    half = np.arange(10, dtype=np.float16).reshape(5, 2)
    content = contents(splits=splits, labels=[0, 1, -1, 1, 0])
    content["codes"]["late"] = half
    path = tmp_path / "a.h5"
    codes.write(path, **content)
    file = codes.read(path)
    X, y = file.arrays("late", "train")
    assert X.dtype == np.float32
    np.testing.assert_array_equal(X, half[[0, 2]])
    assert y.tolist() == [0, -1]
    both, _ = file.arrays("features+late")
    np.testing.assert_array_equal(
        both, np.hstack([content["codes"]["features:avg"], half])
    )
    assert file.width("features+late") == both.shape[1] == 5
    with pytest.raises(ValueError, match="'train', 'val', 'test'"):
        file.arrays("late", "dev")


def test_a_depth_is_found_by_its_node_and_a_wrong_one_shows_the_choices(tmp_path):
    content = contents()
    for spec in ("features:max", "head:avg", "neck:max", "neck:gem"):
        content["codes"][spec] = content["codes"]["features:avg"]
    codes.write(tmp_path / "a.h5", **content)
    file = codes.read(tmp_path / "a.h5")
    assert file.spec("head") == "head:avg"
    # A bare node is its default pool, as everywhere else.
    assert file.spec("features") == "features:avg"
    with pytest.raises(CodesError, match="several depths 'neck'"):
        file.spec("neck")
    with pytest.raises(CodesError, match=r"no depth 'layer4'.*features:max, head:avg"):
        file.arrays("layer4")


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 699), max_size=60))
def test_take_equals_numpy_indexing(tmp_path_factory, rows):
    path = tmp_path_factory.getbasetemp() / "take.h5"
    if not path.exists():
        make(path, 700)
    X = contents(700)["codes"]["features:avg"]
    result = codes.read(path).take("features", np.array(rows, np.int64))
    np.testing.assert_array_equal(result, X[rows])


def test_to_frame_has_a_row_an_image(tmp_path):
    pytest.importorskip("pandas", reason="pandas is an extra")
    content = contents(labels=[0, 1, 0, 1, -1], splits=["train"] * 4 + [""])
    codes.write(tmp_path / "a.h5", **content)
    frame = codes.read(tmp_path / "a.h5").to_frame("features")
    assert frame.index.tolist() == content["paths"]
    assert frame["label"].tolist()[:2] == ["ant", "bee"]
    assert frame["label"].isna().tolist() == [False] * 4 + [True]
    np.testing.assert_array_equal(
        frame[[0, 1, 2]].to_numpy(), content["codes"]["features:avg"]
    )


def test_codes_survive_pickling_and_notice_a_replaced_file(tmp_path):
    path = make(tmp_path / "a.h5")
    record = pickle.loads(pickle.dumps(codes.read(path)))
    assert record.rows("features", 1, 3).shape == (2, 3)
    make(path, seed=1)
    with pytest.raises(CodesError, match=r"a\.h5 has changed since it was read"):
        record.rows("features", 0, 1)
    unchecked = codes.read(path, check=False)
    make(path, seed=2)
    with pytest.raises(CodesError, match=r"a\.h5 has changed since it was read"):
        codes.checked(unchecked)


def test_the_digest_of_a_file_that_holds_none_names_the_file(tmp_path):
    path = make(tmp_path / "a.h5")
    assert len(codes.digest(path)) == 64
    with h5py.File(tmp_path / "b.h5", "w") as file:
        file["x"] = np.zeros(3)
    with pytest.raises(CodesError, match=r"b\.h5"):
        codes.digest(tmp_path / "b.h5")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": [0, 1]}, "5 paths came with .*rows"),
        ({"splits": ["train"] * 4 + ["dev"]}, "unknown split 'dev'"),
        ({"codes": {"a": np.zeros((4, 2), np.float32)}}, "4 codes at 'a'.*5 paths"),
        ({"codes": {"a": np.zeros((5, 2))}}, "'a' are float64; give them as float32"),
        ({"codes": {"a/b": np.zeros((5, 2), np.float32)}}, "cannot be named 'a/b'"),
        ({"codes": {"..": np.zeros((5, 2), np.float32)}}, "cannot be named"),
        ({"codes": {"a+b": np.zeros((5, 2), np.float32)}}, "cannot be named"),
        ({"codes": {"a\n": np.zeros((5, 2), np.float32)}}, "cannot be named"),
    ],
)
def test_what_does_not_fit_is_refused_and_leaves_no_file(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        codes.write(tmp_path / "a.h5", **contents(**changes))
    assert list(tmp_path.iterdir()) == []


def test_a_file_replaced_by_a_failing_write_stays_as_it_was(tmp_path):
    path = make(tmp_path / "a.h5")
    before = path.read_bytes()
    with pytest.raises(ValueError, match="rows"):
        codes.write(path, **contents(labels=[0]))
    assert path.read_bytes() == before


def test_a_link_stays_a_link_and_its_file_is_replaced(tmp_path):
    (tmp_path / "far").mkdir()
    link = tmp_path / "a.h5"
    link.symlink_to("far/b.h5")
    for seed in (0, 1):
        make(link, seed=seed)
        assert link.is_symlink()
        assert codes.read(tmp_path / "far" / "b.h5").paths[0] == f"{seed}-0000.png"
    assert len(list(tmp_path.rglob("*"))) == 3


def test_a_name_as_long_as_the_file_system_allows_can_be_written(tmp_path):
    for name in ("x" * 252 + ".h5", "é" * 126 + ".h5"):
        assert codes.read(make(tmp_path / name)).n_images == 5


def test_verify_finds_a_code_that_is_not_finite(tmp_path):
    content = contents()
    content["codes"]["features:avg"][3, 1] = np.nan
    codes.write(tmp_path / "a.h5", **content)
    assert codes.read(tmp_path / "a.h5").n_images == 5
    with pytest.raises(CodesError, match=r"not finite.*row 3 \(0-0003.png\)"):
        codes.verify(tmp_path / "a.h5")


def test_no_file_and_no_codes_file_are_said_in_one_sentence(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no codes file .*featpipe extract"):
        codes.read(tmp_path / "none.h5")
    with pytest.raises(CodesError, match="is not a file"):
        codes.read(tmp_path)
    (tmp_path / "text.h5").write_text("hello\n")
    with pytest.raises(CodesError, match=r"text\.h5 is not a featpipe codes file"):
        codes.read(tmp_path / "text.h5")
    for metadata, kind in (
        ({"format": "featpipe-model"}, "a model of `featpipe fit`"),
        ({"record": '{"C": 1, "class_names": []}'}, "a model of `featpipe fit`"),
        ({}, "a safetensors file"),
    ):
        save_file({"coef": np.zeros(3)}, tmp_path / "m.h5", metadata)
        with pytest.raises(CodesError, match=f"codes file but {kind}"):
            codes.read(tmp_path / "m.h5")
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["codes"] = np.zeros(3)
    with pytest.raises(CodesError, match=r"codes file but an HDF5 file of another"):
        codes.read(tmp_path / "other.h5")


def gather(path: Path, sources, rows, template) -> None:
    files = [codes.read(source) for source in sources]
    rows = [Row(*row) for row in rows]
    paths = [files[f].paths[r] for f, r in rows]
    pick = np.zeros(len(rows), np.int64)
    tables = layout.Tables(
        paths=paths,
        labels=pick - 1,
        class_names=[],
        splits=[""] * len(rows),
        groups=[""] * len(rows),
        images_root="",
        sizes=pick,
        mtimes=pick,
        sha256=np.zeros((len(rows), 32), np.uint8),
        failures=[FailureRecord("x", "decode", "y")],
        provenance=template,
    )
    codes.assemble(path, files, {"features:avg": rows}, tables)


def test_assembled_rows_are_those_asked_for(tmp_path):
    sources = [make(tmp_path / f"{k}.h5", 300, seed=k) for k in range(3)]
    rng = np.random.default_rng(0)
    rows = [(int(f), int(r)) for f, r in rng.integers(0, (3, 300), (500, 2))]
    gather(tmp_path / "all.h5", sources, rows, {})
    X = [contents(300, k)["codes"]["features:avg"] for k in range(3)]
    expected = np.array([X[f][r] for f, r in rows])
    file = codes.verify(tmp_path / "all.h5")
    np.testing.assert_array_equal(file.rows("features", 0, 500), expected)
    # The bytes do not depend on the road: in memory or from files.
    assert not list(tmp_path.glob(".*"))


def test_assembling_notices_a_damaged_source_and_leaves_the_target(tmp_path):
    source, target = make(tmp_path / "s.h5", 300), make(tmp_path / "t.h5")
    before = target.read_bytes()
    raw = bytearray(source.read_bytes())
    codes_file = codes.read(source)
    with h5py.File(source) as file:
        chunk = file["codes/features:avg"].id.get_chunk_info(0)
    raw[chunk.byte_offset + 17] ^= 4
    stamp = source.stat()
    source.write_bytes(raw)
    os.utime(source, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    # The header is sound, and the checksum of the chunk tells.
    assert codes.read(source, check=False).paths == codes_file.paths
    with pytest.raises(CodesError, match="do not match their SHA-256"):
        codes.read(source)
    files, rows = [codes.read(source, check=False)], [Row(0, k) for k in range(300)]
    with pytest.raises(CodesError, match=r"s\.h5 is damaged: its codes"):
        codes.assemble(target, files, {"features:avg": rows}, files[0].tables)
    assert target.read_bytes() == before
    assert not list(tmp_path.glob(".*"))


def assemble(source: Path, target: Path) -> None:
    files = [codes.read(source)]
    rows = {"features:avg": [codes.Row(0, k) for k in range(len(files[0]))]}
    codes.assemble(target, files, rows, files[0].tables)


@pytest.mark.parametrize("when", ["early", "late"])
def test_a_full_disk_is_an_error_and_no_signal(tmp_path, when):
    # Late: where the space cannot be reserved, libhdf5 must not hear of the error.
    source, target = make(tmp_path / "s.h5", 4000), make(tmp_path / "t.h5")
    before = target.read_bytes()
    for limit in (3000, 30_000, 60_000):

        def act(limit: int = limit) -> None:
            if when == "late":
                del os.posix_fallocate
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
            assemble(source, target)

        result = apart(act)
        assert (result["signal"], result.get("error")) == (0, "OSError"), result
        assert "make room there and run the same command" in result["text"]
        assert target.read_bytes() == before
        assert not list(tmp_path.glob(".*"))


def test_the_reserve_is_never_too_small(tmp_path):
    for n, width in ((1, 1), (300, 5), (3000, 700)):
        content = contents(n)
        array = np.ones((n, width), np.float32)
        tables = codes.Tables(
            splits=[""] * n,
            groups=["g" * 50] * n,
            images_root="r" * 1000,
            sizes=np.zeros(n),
            mtimes=np.zeros(n),
            sha256=np.zeros((n, 32)),
            failures=[FailureRecord("p" * 100, "decode", "r" * 100)] * n,
            **{k: content[k] for k in ("paths", "labels", "class_names", "provenance")},
        )
        made = len(codes.content({"a": array, "b": array}, tables))
        store = layout.Store(array.shape, array.dtype, lambda a, b, x=array: x[a:b])
        bound = layout.size_bound({"a": store, "b": store}, tables)
        assert made <= bound <= 2 * made + 2**18


def test_ctrl_c_while_libhdf5_writes_is_no_signal(tmp_path):
    source = make(tmp_path / "s.h5", 4000)
    for at in (1, 3):

        def act(at: int = at) -> None:
            plain, count = files.ReservedFile.write, 0

            def write(self: files.ReservedFile, content: object) -> int:
                nonlocal count
                count += 1
                if count == at:
                    # What Ctrl-C does, in the middle of a call from libhdf5.
                    _thread.interrupt_main()
                    time.sleep(0.01)
                return plain(self, content)

            files.ReservedFile.write = write
            assemble(source, tmp_path / "t.h5")

        result = apart(act)
        assert (result["signal"], result.get("error")) == (0, "KeyboardInterrupt"), (
            result
        )
        assert [path.name for path in tmp_path.iterdir()] == ["s.h5"]


def test_a_file_without_rows_is_a_file(tmp_path):
    arrays = {
        "a:avg": np.empty((0, 7), np.float16),
        "b:map": np.empty((0, 2, 3, 3), "f4"),
    }
    codes.write(tmp_path / "a.h5", **contents(0, codes=arrays))
    file = codes.verify(tmp_path / "a.h5")
    assert file.shapes == {"a:avg": (0, 7), "b:map": (0, 2, 3, 3)}
    X, y = file.arrays("a+b")
    assert X.shape == (0, 25)
    assert y.shape == (0,)
