"""Codes files of any shape and name, read, viewed, merged: as plain numpy has it."""

import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from featpipe import codes
from featpipe.codes import CodesError, CodesView, FailureRecord
from featpipe.codes.layout import pack, unpack

quick = settings(
    deadline=None,
    max_examples=15,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
# Any bytes but NUL and the slash are a name; those that are no UTF-8 are surrogates.
NAMES = st.binary(min_size=1, max_size=12).map(
    lambda content: (
        content.replace(b"\0", b"0")
        .replace(b"/", b"_")
        .decode(errors="surrogateescape")
    )
)
SPLITS = ["", "train", "val", "test"]
DTYPES = st.sampled_from([np.float32, np.float16])
SHAPES = st.lists(st.integers(1, 4), min_size=1, max_size=1) | st.lists(
    st.integers(1, 3), min_size=3, max_size=3
)
# Examples that write files, and sync them to the disk.
fewer = settings(quick, max_examples=8)
counter = itertools.count()


def new(folder: Path) -> Path:
    """Return a path that no other example has used."""
    return folder / f"{next(counter)}.h5"


def drawn_codes(n: int, shape: list[int], dtype: type, seed: int) -> np.ndarray:
    """Return codes of all sizes, signed zeros and the smallest numbers among them."""
    rng = np.random.default_rng(seed)
    codes_ = rng.normal(size=(n, *shape)) * 10.0 ** rng.integers(-8, 4, (n, *shape))
    codes_[rng.random(codes_.shape) < 0.1] = -0.0
    return codes_.astype(dtype)


@fewer
@given(st.data())
def test_all_that_is_written_is_read(tmp_path, data):
    n = data.draw(st.integers(0, 6))
    paths = data.draw(st.lists(NAMES, min_size=n, max_size=n, unique=True))
    class_names = data.draw(st.lists(NAMES, min_size=1, max_size=3, unique=True))

    def column(values):
        return data.draw(st.lists(values, min_size=n, max_size=n))

    tables = {
        "labels": column(st.integers(-1, len(class_names) - 1)),
        "splits": column(st.sampled_from(SPLITS)),
        "groups": column(NAMES | st.just("")),
        "sizes": column(st.integers(0, 2**62)),
        "mtimes": column(st.integers(0, 2**62)),
    }
    digests = np.array(column(st.binary(min_size=32, max_size=32)), "S32")
    sha256 = np.frombuffer(digests.tobytes(), np.uint8).reshape(n, 32)
    failures = [
        FailureRecord(path, "read", reason, 3, 4)
        for path, reason in data.draw(st.lists(st.tuples(NAMES, NAMES), max_size=2))
    ]
    depths = data.draw(
        st.dictionaries(
            st.sampled_from(["a:avg", "a:max", "b", "c:map"]), SHAPES, max_size=3
        )
    )
    dtype = data.draw(DTYPES)
    by_depth = {spec: drawn_codes(n, s, dtype, 0) for spec, s in depths.items()}
    codes.write(
        path := new(tmp_path),
        codes=by_depth,
        paths=paths,
        class_names=class_names,
        sha256=sha256,
        failures=failures,
        provenance={"note": class_names[0], "n": n},
        **tables,
    )
    file = codes.read(path)
    assert (file.paths, file.class_names) == (paths, class_names)
    assert file.labels.tolist() == tables["labels"]
    assert file.splits.tolist() == tables["splits"]
    assert file.groups.tolist() == tables["groups"]
    assert file.sizes.tolist() == tables["sizes"]
    assert file.mtimes.tolist() == tables["mtimes"]
    assert file.sha256.tobytes() == sha256.tobytes()
    assert file.tables.failures == failures
    assert file.provenance == {"note": class_names[0], "n": n, "depths": [*depths]}
    assert file.depths == list(depths)
    for spec, X in by_depth.items():
        # By bytes, so that -0.0 is not 0.0.
        assert file.rows(spec, 0, n).tobytes() == X.tobytes()
        assert file.rows(spec, 0, n).dtype == dtype
        assert file.shapes[spec] == X.shape


@pytest.fixture(scope="module")
def forty(tmp_path_factory) -> tuple[codes.Codes, dict[str, np.ndarray]]:
    """Return a file of 40 rows, and its codes."""
    by_depth = {
        "a": drawn_codes(40, [3], np.float32, 1),
        "b": drawn_codes(40, [2], np.float16, 2),
    }
    codes.write(
        path := tmp_path_factory.mktemp("forty") / "x.h5",
        codes=by_depth,
        labels=np.arange(40) % 3,
        class_names=["ant", "bee", "cat"],
        paths=[f"{k:02d}.png" for k in range(40)],
        splits=[SPLITS[k % 4] for k in range(40)],
    )
    return codes.read(path), by_depth


ENDS = st.integers(-50, 50)
INDICES = st.one_of(
    st.lists(st.integers(-40, 39), max_size=9),
    st.integers(-40, 39),
    st.lists(st.booleans(), min_size=40, max_size=40),
    st.lists(
        st.lists(st.integers(0, 39), min_size=2, max_size=2), min_size=1, max_size=3
    ),
)


@quick
@given(INDICES, ENDS, ENDS)
@example([0, -1, -40, 39], -1, 0)
def test_rows_are_those_that_numpy_takes(forty, index, start, stop):
    file, by_depth = forty
    for spec, X in by_depth.items():
        wholly = np.asarray(index) if np.size(index) else np.empty(0, np.int64)
        np.testing.assert_array_equal(file.take(spec, index), X[wholly])
        np.testing.assert_array_equal(file.rows(spec, start, stop), X[start:stop])


@quick
@given(st.integers(40, 99) | st.integers(-99, -41), st.floats(0.5, 9))
def test_rows_that_are_not_there_are_refused(forty, outside, fraction):
    file, _ = forty
    with pytest.raises(IndexError, match=f"row {outside} of"):
        file.take("a", [0, outside])
    with pytest.raises(IndexError, match="are no positions"):
        file.take("a", [fraction])


def test_whole_numbers_of_any_size_are_rows(tmp_path):
    X = drawn_codes(300, [1], np.float32, 1)
    codes.write(
        path := tmp_path / "x.h5",
        codes={"a": X},
        labels=np.arange(300) % 2,
        class_names=["ant", "bee"],
        paths=[f"{k:03d}.png" for k in range(300)],
    )
    for kind in (np.int8, np.uint8, np.int16, np.uint64):  # 300 is no uint8
        index = np.array([3, 0], kind)
        np.testing.assert_array_equal(codes.read(path).take("a", index), X[index])


@quick
@given(st.sampled_from([*SPLITS, None]), st.sampled_from(["a", "b", "a+b", "b+a"]))
def test_arrays_are_the_columns_of_a_split_side_by_side(forty, split, depth):
    file, by_depth = forty
    X, y = file.arrays(depth, split=split)
    rows = [k for k in range(40) if split in (None, SPLITS[k % 4])]
    whole = np.hstack([by_depth[spec].astype(np.float32) for spec in depth.split("+")])
    np.testing.assert_array_equal(X, whole[rows])
    assert (X.dtype, y.tolist()) == (np.float32, [k % 3 for k in rows])


CHOICES = st.one_of(
    st.slices(40),
    st.lists(st.integers(0, 999), max_size=30),
    st.lists(st.booleans(), min_size=40, max_size=40),
)


@quick
@given(st.lists(CHOICES, max_size=3), st.sampled_from(["a", "b", "a+b"]), ENDS, ENDS)
def test_a_view_of_a_view_is_numpys(forty, choices, depth, start, stop):
    file, by_depth = forty
    view = CodesView(file, depth)
    X = np.hstack([by_depth[spec] for spec in depth.split("+")])
    for choice in choices:
        if isinstance(choice, list):
            # Numbers and bools that fit what the earlier choices left.
            is_mask = len(choice) == 40 and all(type(k) is bool for k in choice)
            numbers = [k % max(1, len(X)) for k in choice] if len(X) else []
            choice = choice[: len(X)] if is_mask else numbers
            choice = np.array(choice, bool if is_mask else np.int64)
            if is_mask and len(choice) < len(X):
                continue
        view, X = view[choice], X[choice]
    assert (view.shape, len(view)) == (X.shape, len(X))
    np.testing.assert_array_equal(view.rows(start, stop), X[start:stop])


@fewer
@given(st.lists(NAMES, min_size=1, max_size=8, unique=True), st.data())
def test_files_merged_are_the_rows_in_the_order_of_their_bytes(tmp_path, paths, data):
    n, names = len(paths), ["wasp", "ant", "bee"]
    X = drawn_codes(n, [2], np.float32, 3)
    labels = data.draw(st.lists(st.integers(-1, 2), min_size=n, max_size=n))
    where = data.draw(st.lists(st.integers(0, 2), min_size=n, max_size=n))
    files = []
    for number in sorted(set(where)):
        rows = [k for k in range(n) if where[k] == number]
        # Each file numbers its own classes, in an order of its own.
        present = sorted({names[labels[k]] for k in rows if labels[k] >= 0})
        present = present[:: (-1) ** number]
        files.append(new(tmp_path))
        codes.write(
            files[-1],
            codes={"fc": X[rows]},
            labels=[
                present.index(names[labels[k]]) if labels[k] >= 0 else -1 for k in rows
            ],
            class_names=present,
            paths=[paths[k] for k in rows],
            groups=[f"g{k}" for k in rows],
        )
    merged = codes.merge(data.draw(st.permutations(files)), new(tmp_path))
    order = sorted(range(n), key=lambda k: paths[k].encode(errors="surrogateescape"))
    assert merged.paths == [paths[k] for k in order]
    assert merged.groups.tolist() == [f"g{k}" for k in order]
    np.testing.assert_array_equal(merged.rows("fc", 0, n), X[order])
    assert merged.class_names == sorted({names[k] for k in labels if k >= 0})
    of_row = [merged.class_names[k] if k >= 0 else "" for k in merged.labels]
    assert of_row == [names[labels[k]] if labels[k] >= 0 else "" for k in order]


@quick
@given(st.lists(NAMES, max_size=6))
def test_packed_texts_are_unpacked(texts):
    content, offsets = pack(texts)
    assert unpack(content, offsets) == texts
    assert (
        len(content)
        == offsets[-1]
        == sum(len(text.encode(errors="surrogateescape")) for text in texts)
    )


@quick
@given(
    st.dictionaries(st.sampled_from("abcd"), st.integers(0, 2), min_size=1), st.data()
)
def test_provenances_that_differ_are_told_by_their_first_field(values, data):
    fields = ("backbone", "weights_sha256", "preprocessing", "decoding", "precision")
    have = dict.fromkeys(fields) | {"preprocessing": values}
    changed = data.draw(st.sampled_from(fields))
    # Versions, devices and paths are no part of it.
    want = {**have, "device": "cuda", changed: "another"}
    # Weights are told by their name, which says more than a digest.
    told = "weights" if changed == "weights_sha256" else changed
    with pytest.raises(CodesError, match=f"made with {told} = "):
        codes.require_same_fingerprint(have, want, "x.h5")
    key = data.draw(st.sampled_from(sorted(values)))
    want = {**have, "preprocessing": {**values, key: -1}}
    with pytest.raises(CodesError, match=rf"preprocessing\.{key} = {values[key]}, now"):
        codes.require_same_fingerprint(have, want, "x.h5")
    codes.require_same_fingerprint(have, {**have, "device": "cuda"}, "x.h5")
