"""12 bits in 16, from the images to the classifier: told, mended, and kept."""

import io
import json
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from test_cli import featpipe_says, refused
from test_images_values import png

import featpipe
from featpipe.codes import CodesError

MINI = {"backbone": "mini", "input_size": 24, "device": "cpu", "precision": "fp32"}
CLI = ["--backbone", "mini", "--input-size", 24, "--device", "cpu"]


def as_8_bits(values: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray((values >> 4).astype(np.uint8)).save(file, "PNG")
    return file.getvalue()


def write_stripes(folder: Path, write) -> Path:
    """Write 180 faint stripes, upright or level, as a camera of 12 bits sees them."""
    rng = np.random.default_rng(0)
    at = np.arange(32)
    for i in range(180):
        wave = np.sin(at * rng.uniform(0.5, 1.5) + rng.uniform(0, 6))
        values = rng.uniform(1000, 3000) + 90 * np.tile(wave, (32, 1))
        values = np.clip(values + rng.normal(0, 20, (32, 32)), 0, 4095)
        path = folder / ("train", "train", "test")[i % 3] / "ab"[i % 2] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(write((values if i % 2 else values.T).astype(np.uint16)))
    return folder


@pytest.fixture(scope="module")
def stripes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_stripes(tmp_path_factory.mktemp("range") / "stripes", png)


def extracted(source: Path, path: Path, **options) -> featpipe.codes.Codes:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return featpipe.extract(source, path, **{**MINI, **options})


def accuracy(codes) -> float:
    """Return scikit-learn's, so that only the codes are judged."""
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.01))
    probe.fit(*codes.arrays("penultimate", "train"))
    return probe.score(*codes.arrays("penultimate", "test"))


def test_a_range_gives_12_bits_the_accuracy_of_8(stripes, tmp_path):
    eight = write_stripes(tmp_path / "eight", as_8_bits)
    best = accuracy(extracted(eight, tmp_path / "8.h5"))
    dark = accuracy(extracted(stripes, tmp_path / "dark.h5"))
    items = [
        accuracy(extracted(stripes, tmp_path / f"{k}.h5", value_range=value_range))
        for k, value_range in enumerate([(0, 4095), "auto"])
    ]
    assert best > 0.9
    assert dark < best - 0.1
    assert min(items) > best - 0.05


SENTENCE = "30 images of more than 8 bits do not fill their range (brightest value 3,"


def test_it_is_said_an_image_and_once_in_the_end(stripes, tmp_path):
    with pytest.warns(UserWarning, match="do not fill their range") as caught:
        file = featpipe.extract(stripes, tmp_path / "x.h5", limit=30, **MINI)
    assert len(caught) == 1
    assert len([text for *_, text in file.notes if text.startswith("brightest")]) == 30
    result = featpipe_says(
        "extract", stripes, "-o", tmp_path / "y.h5", "--limit", 30, *CLI
    )
    assert result.exit_code == 0
    assert result.stderr.count(SENTENCE) == 1
    assert "value range 0:4095 (--value-range) keeps it" in result.stderr
    with pytest.warns(UserWarning, match="1 image of more than 8 bits does not fill"):
        featpipe.CNNCodes(**MINI).fit_transform([stripes / "train" / "a" / "0.png"])


def test_a_range_belongs_to_the_fingerprint(stripes, tmp_path):
    plain = extracted(stripes, tmp_path / "x.h5", limit=8)
    assert "value_range" not in plain.provenance["decoding"]
    assert "value_range" not in plain.provenance["request"]
    ranged = extracted(stripes, tmp_path / "y.h5", limit=8, value_range="0:4095")
    assert ranged.provenance["decoding"]["value_range"] == [0, 4095]
    again = extracted(stripes, tmp_path / "y.h5", limit=8, value_range=[0, 4095])
    assert again.stamp == ranged.stamp
    with pytest.raises(CodesError, match=r"value_range = \[0.0, 4095.0\], now it is N"):
        extracted(stripes, tmp_path / "y.h5", limit=8)
    with pytest.raises(CodesError, match="value_range = None, now it is 'auto'"):
        extracted(stripes, tmp_path / "x.h5", limit=8, value_range="auto")


def test_all_doors_give_the_same_codes(stripes, tmp_path):
    codes = extracted(stripes, tmp_path / "x.h5", value_range=(0, 4095), limit=20)
    paths = [stripes / path for path in codes.paths[:9]]
    X, _ = codes.arrays("penultimate")
    for items in (paths, [Image.open(path) for path in paths]):
        rows = featpipe.CNNCodes(**MINI, value_range="0:4095").fit_transform(items)
        assert np.allclose(rows, X[:9], atol=1e-4)
    cached = featpipe.CNNCodes(**MINI, value_range="0:4095", cache=codes.path)
    assert np.array_equal(cached.fit_transform(paths), X[:9])
    with pytest.raises(CodesError, match="value_range"):
        featpipe.CNNCodes(**MINI, cache=codes.path).fit_transform(paths)


def test_a_model_predicts_with_the_range_of_its_codes(stripes, tmp_path):
    codes = extracted(stripes, tmp_path / "x.h5", value_range=(0, 4095))
    featpipe.fit(codes, C=0.1).save(tmp_path / "x.model")
    model = featpipe.load(tmp_path / "x.model")
    assert model.model.recipe(None).value_range == (0.0, 4095.0)
    test = codes.splits == "test"
    X, _ = codes.arrays("penultimate")
    predictions = model.classify([stripes / p for p in np.array(codes.paths)[test]])
    expected = model.model.estimator().decision_function(X[test])
    assert np.allclose(predictions.scores[:, 1], expected, atol=1e-3)
    result = featpipe_says("predict", tmp_path / "x.model", stripes / "test")
    assert "accuracy 100.0 %" in result.stdout, result.output


def test_a_model_of_a_range_that_is_none_is_refused(stripes, tmp_path):
    codes = extracted(stripes, tmp_path / "x.h5", limit=12, value_range="auto")
    model = featpipe.fit(codes, C=0.1).model
    record = json.loads(json.dumps(model.as_record()))
    arrays = {"coef": model.coef, "intercept": model.intercept}
    assert type(model).from_record(record, arrays) is not None
    for bad in ("none", [1], [2, 1], ["0", "x"], 7, {"a": 1}):
        record["fingerprint"]["decoding"]["value_range"] = bad
        with pytest.raises(ValueError, match="value range"):
            type(model).from_record(record, arrays)


def test_finetune_takes_the_range(stripes, tmp_path):
    options = {**MINI, "train": "head", "epochs": 1, "lr": 0.01, "limit": 60}
    tuned = featpipe.finetune(
        stripes, tmp_path / "t.model", **options, value_range="0:4095"
    )
    model = featpipe.load(tuned.path)
    assert model.model.fingerprint["decoding"]["value_range"] == [0, 4095]


def test_run_takes_the_range_and_refuses_what_is_none(stripes, tmp_path):
    out = tmp_path / "out"
    outcome = featpipe_says(
        *("run", stripes, "-o", out, *CLI, "--value-range", "0:4095"),
        *("--classifiers", "nearest-mean", "--limit", 60),
    )
    assert outcome.exit_code == 0, outcome.output
    assert "do not fill" not in outcome.stderr
    result = featpipe.read(out / "codes.h5").provenance["decoding"]
    assert result["value_range"] == [0, 4095]
    shown = featpipe_says("inspect", out / "codes.h5").stdout
    assert ", value range 0:4095" in shown
    line = refused("extract", stripes, "-o", tmp_path / "z.h5", "--value-range", "4095")
    assert "the value range is '4095'; use LO:HI" in line
