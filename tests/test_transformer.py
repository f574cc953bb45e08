"""`CNNCodes` keeps scikit-learn's contract, and computes no image twice."""

import pickle
import subprocess
import sys
import threading
import time
from pathlib import Path

import joblib
import numpy as np
import pytest
from PIL import Image
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline

import featpipe
from featpipe import CNNCodes, codes, files
from featpipe.extraction import LockedError
from featpipe.files import Lock
from featpipe.inference.engine import Engine

SMALL = {
    "backbone": "mini",
    "weights": "none",
    "input_size": 32,
    "precision": "fp32",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return 20 images of two classes of brightness."""
    folder = tmp_path_factory.mktemp("transformer")
    rng = np.random.default_rng(0)
    for k in range(20):
        low = 120 * (k % 2)
        pixels = rng.integers(low, low + 135, (30 + k % 3, 40, 3), dtype=np.uint8)
        path = folder / ("dark", "light")[k % 2] / f"{k:02d}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(pixels).save(path)
    return folder


@pytest.fixture(scope="module")
def paths(folder: Path) -> list[str]:
    return [str(path) for path in sorted(folder.rglob("*.png"))]


@pytest.fixture(scope="module")
def y(paths: list[str]) -> list[str]:
    return [Path(path).parent.name for path in paths]


@pytest.fixture(scope="module")
def extracted(folder: Path) -> codes.Codes:
    return featpipe.extract(
        folder, folder / "x.h5", depth=["stage1", "penultimate"], **SMALL
    )


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that grows by the size of every batch that the network sees."""
    sizes: list[int] = []
    run = Engine.run

    def counted(self, backbone, pixels, rows):
        sizes.append(len(rows))
        return run(self, backbone, pixels, rows)

    monkeypatch.setattr(Engine, "run", counted)
    return sizes


def close(a: np.ndarray, b: np.ndarray) -> None:
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("depth", "cached"),
    [("penultimate", True), ("stage1", False), ("stage1+penultimate", True)],
)
def test_codes_are_those_of_extract(
    extracted: codes.Codes, paths: list[str], tmp_path: Path, depth: str, cached: bool
) -> None:
    cache = tmp_path / "c.h5" if cached else None
    rows = CNNCodes(depth=depth, cache=cache, **SMALL).fit_transform(paths)
    assert rows.dtype == np.float32
    close(rows, extracted.arrays(depth)[0])


@pytest.mark.parametrize("cached", [False, True])
def test_paths_pictures_and_arrays_may_be_mixed_in_any_order(
    extracted: codes.Codes, paths: list[str], tmp_path: Path, cached: bool
) -> None:
    order = [7, 0, 3, 7, 12]
    items = [Path(paths[7]), Image.open(paths[0]), np.asarray(Image.open(paths[3]))]
    items += [paths[7], paths[12]]
    cache = tmp_path / "c.h5" if cached else None
    rows = CNNCodes(cache=cache, **SMALL).fit_transform(items)
    close(rows, extracted.arrays("penultimate")[0][order])


def test_cross_validation_computes_each_image_once(
    paths: list[str], y: list[str], tmp_path: Path, computed: list[int]
) -> None:
    made = CNNCodes(cache=tmp_path / "c.h5", **SMALL)
    pipeline = make_pipeline(made, featpipe.LogisticClassifier(C=0.1))
    scores = cross_val_score(pipeline, paths, y, cv=4)
    assert sum(computed) == 20
    assert scores.mean() > 0.9
    cross_val_score(pipeline, paths, y, cv=5)
    assert sum(computed) == 20
    assert len(featpipe.read(tmp_path / "c.h5")) == 20


def test_codes_without_a_cache_go_through_a_pipeline(
    paths: list[str], y: list[str]
) -> None:
    pipeline = make_pipeline(CNNCodes(**SMALL), LogisticRegression())
    assert pipeline.fit(paths[:16], y[:16]).score(paths[16:], y[16:]) > 0.5


# As forks, the processes have all imported that others import anew.
@pytest.mark.parametrize(
    "backend", ["multiprocessing", pytest.param("loky", marks=pytest.mark.slow)]
)
def test_a_parallel_search_shares_one_cache(
    paths: list[str], y: list[str], extracted: codes.Codes, tmp_path: Path, backend: str
) -> None:
    pipeline = make_pipeline(
        CNNCodes(cache=tmp_path / "c.h5", **SMALL), LogisticRegression()
    )
    grid = {"logisticregression__C": [0.01, 1.0]}
    search = GridSearchCV(pipeline, grid, cv=2, n_jobs=2, refit=False)
    with joblib.parallel_config(backend=backend):
        search.fit(paths, y)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    cache = featpipe.read(tmp_path / "c.h5")
    assert len(cache) == 20
    assert {row.tobytes() for row in cache.sha256} == {
        row.tobytes() for row in extracted.sha256
    }


def test_a_search_over_depths_keeps_a_file_a_depth(
    paths: list[str], y: list[str], tmp_path: Path, computed: list[int]
) -> None:
    pipeline = make_pipeline(
        CNNCodes(cache=tmp_path / "c.h5", **SMALL), LogisticRegression()
    )
    grid = {"cnncodes__depth": ["stage1", "stage1:max", "penultimate"]}
    search = GridSearchCV(pipeline, grid, cv=2, refit=False).fit(paths, y)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    assert sum(computed) == 3 * 20
    names = {path.name for path in tmp_path.glob("*.h5")}
    assert names == {"c.h5", "c-stage1-max.h5", "c-penultimate.h5"}
    before = sum(computed)
    GridSearchCV(pipeline, grid, cv=4, refit=False).fit(paths, y)
    assert sum(computed) == before


def test_an_extracted_file_is_a_cache_and_keeps_what_it_holds(
    folder: Path, paths: list[str], tmp_path: Path, computed: list[int]
) -> None:
    (folder / "dark" / "broken.jpg").write_text("no image")
    try:
        before = featpipe.extract(folder, tmp_path / "x.h5", **SMALL)
    finally:
        (folder / "dark" / "broken.jpg").unlink()
    assert sum(computed) == 20
    X_before = before.arrays("penultimate")[0]
    made = CNNCodes(cache=tmp_path / "x.h5", **SMALL)
    close(made.fit_transform(paths), X_before)
    assert sum(computed) == 20
    new = np.full((30, 30, 3), 200, np.uint8)
    row = made.transform([new, paths[4]])
    assert sum(computed) == 21
    after = featpipe.read(tmp_path / "x.h5")
    assert len(after) == 21
    assert after.failures == before.failures
    at = [after.paths.index(path) for path in before.paths]
    X, labels = after.arrays("penultimate")
    np.testing.assert_array_equal(X[at], X_before)
    np.testing.assert_array_equal(labels[at], before.labels)
    np.testing.assert_array_equal(row[1], X_before[4])


def test_a_cached_transform_imports_no_torch(
    folder: Path, paths: list[str], tmp_path: Path
) -> None:
    made = CNNCodes(cache=tmp_path / "c.h5", **SMALL)
    made.fit_transform(paths)
    joblib.dump(made, tmp_path / "made.joblib")
    code = (
        "import sys, joblib; made = joblib.load(sys.argv[1]); "
        "made.transform(sys.argv[2:]); print('torch' in sys.modules)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "made.joblib", *paths],
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout == "False\n"


def test_a_pickle_is_small_and_a_clone_is_unfitted(paths: list[str]) -> None:
    made = CNNCodes(**SMALL).fit(paths)
    expected = made.transform(paths[:2])
    content = pickle.dumps(made)
    assert len(content) < 2000
    np.testing.assert_array_equal(pickle.loads(content).transform(paths[:2]), expected)
    copy = clone(made)
    assert copy.get_params() == made.get_params()
    assert not hasattr(copy, "width_")


def test_set_output_names_the_columns(paths: list[str]) -> None:
    made = CNNCodes(depth="stage1", **SMALL).set_output(transform="pandas")
    frame = made.fit(paths).transform(paths)
    assert frame.shape == (20, made.width_)
    assert frame.columns.tolist() == made.get_feature_names_out().tolist()
    assert frame.columns[1] == "cnncodes1"


def test_an_image_that_cannot_be_read_is_named(
    paths: list[str], tmp_path: Path
) -> None:
    (tmp_path / "broken.jpg").write_text("no image")
    items = [paths[0], tmp_path / "broken.jpg"]
    for cache in (None, tmp_path / "c.h5"):
        made = CNNCodes(cache=cache, **SMALL)
        with pytest.raises(ValueError, match=r"broken\.jpg: decode: "):
            made.fit_transform(items)
        with pytest.raises(ValueError, match=r"broken\.jpg"):
            made.fit_transform(items[1:])
        with pytest.raises(ValueError, match=r"gone\.jpg: read: "):
            made.fit_transform([tmp_path / "gone.jpg"])
    assert len(CNNCodes(cache=tmp_path / "c.h5", **SMALL).fit_transform(paths)) == 20


def test_a_cache_of_another_network_is_refused(
    paths: list[str], tmp_path: Path
) -> None:
    CNNCodes(cache=tmp_path / "c.h5", **SMALL).fit_transform(paths[:2])
    other = CNNCodes(cache=tmp_path / "c.h5", seed=1, **SMALL)
    with pytest.raises(codes.CodesError, match="weights"):
        other.fit_transform(paths[:2])


def hold(path: Path, ready: threading.Event) -> None:
    with Lock(path):
        ready.set()
        time.sleep(0.5)


@pytest.mark.parametrize("name", ["c.h5", "c.h5.cache"])
def test_another_writer_is_waited_for(
    paths: list[str], tmp_path: Path, name: str
) -> None:
    ready = threading.Event()
    # A lock belongs to whoever took it, be it in this process.
    holder = threading.Thread(target=hold, args=(tmp_path / name, ready))
    holder.start()
    ready.wait(60)
    made = CNNCodes(cache=tmp_path / "c.h5", timeout=60, **SMALL)
    assert made.fit_transform(paths[:2]).shape[0] == 2
    holder.join()


def test_a_file_replaced_between_two_looks_is_read_again(
    paths: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = CNNCodes(cache=tmp_path / "c.h5", **SMALL)
    expected = made.fit_transform(paths)
    take, left = codes.Codes.take, [2]

    def replacing(self, depth, rows):
        if left[0]:
            left[0] -= 1
            files.write_bytes(self.path, self.path.read_bytes())
        return take(self, depth, rows)

    monkeypatch.setattr(codes.Codes, "take", replacing)
    np.testing.assert_array_equal(made.transform(paths), expected)
    assert left == [0]


def test_a_writer_that_never_ends_is_an_error_in_the_end(
    paths: list[str], tmp_path: Path
) -> None:
    made = CNNCodes(cache=tmp_path / "c.h5", timeout=0.1, **SMALL)
    with (
        Lock(tmp_path / "c.h5"),
        pytest.raises(LockedError, match="is being written by process"),
    ):
        made.fit_transform(paths[:2])


def test_transform_wants_a_fit_first(paths: list[str]) -> None:
    with pytest.raises(ValueError, match="not fitted"):
        CNNCodes(**SMALL).transform(paths)
