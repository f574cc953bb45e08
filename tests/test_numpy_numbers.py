"""Numbers of numpy, as a search hands them over, are numbers; and JSON has Python's."""

import json
import warnings

import numpy as np
import pytest

import featpipe

MINI = {"backbone": "mini", "device": "cpu", "precision": "fp32"}


@pytest.fixture(scope="module")
def six(tmp_path_factory, draw):
    folder = tmp_path_factory.mktemp("numpy") / "six"
    for k in range(12):
        draw(folder / "ab"[k % 2] / f"{k}.png", k)
    return folder


EXTRACT = [
    {"seed": np.int64(3), "weights": "none"},
    {"input_size": np.int64(16)},
    {"resize": np.int32(20), "crop": np.uint8(16)},
    {"mean": np.array([0.5, 0.4, 0.3]), "std": np.array([0.2, 0.2, 0.2], np.float32)},
    {"mean": np.float32(0.5), "std": 0.25},
    {"value_range": np.array([0, 4095]), "workers": np.uint8(2)},
    {"batch_size": np.int64(2), "workers": np.int64(1), "limit": np.int64(8)},
    {"depth": np.array(["stage1", "penultimate"])},
    {"hflip": np.bool_(True)},
    {"shard": (np.int64(0), np.int64(2))},
]


@pytest.mark.parametrize("options", EXTRACT, ids=lambda o: ",".join(o))
def test_extract_takes_numbers_of_numpy(six, tmp_path, options):
    def plain(value):
        value = value.tolist() if isinstance(value, np.generic | np.ndarray) else value
        return tuple(map(int, value)) if isinstance(value, tuple) else value

    options = {"input_size": 16} | options
    warnings.simplefilter("ignore", UserWarning)  # of a range that changes nothing
    file = featpipe.extract(six, tmp_path / "a.h5", **MINI, **options)
    own = {name: plain(value) for name, value in options.items()}
    again = featpipe.extract(six, tmp_path / "b.h5", **MINI, **own)
    assert file.provenance == again.provenance
    assert np.array_equal(file.arrays()[0], again.arrays()[0])
    # To the next run it is the same request.
    kept = featpipe.extract(six, tmp_path / "a.h5", **MINI, **own)
    assert kept.stamp == file.stamp


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hflip": "yes"}, "hflip='yes' has to be True or False"),
        ({"shard": "0/2"}, "shard is '0/2'; use i/n"),
        ({"shard": (0.5, 2)}, "shard is '0.5/2'; use i/n"),
        ({"shard": 3}, "shard is 3; use i/n"),
        ({"mean": "0.5"}, "mean=.* must be one finite number or three"),
        ({"std": {"r": 1}}, "std=.* must be one finite number or three"),
    ],
)
def test_what_is_no_number_is_refused_before_any_work(six, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        featpipe.extract(six, tmp_path / "x.h5", **MINI, **options)
    assert list(tmp_path.iterdir()) == []


def test_scores_and_models_hold_numbers_of_python(six, tmp_path):
    codes = featpipe.extract(six, tmp_path / "x.h5", **MINI, input_size=16)
    numbers = {"folds": np.int64(3), "seed": np.int64(2)}
    comparison = featpipe.compare(
        codes,
        classifiers=["linear"],
        Cs=np.logspace(-2, 0, 3, dtype=np.float32),
        class_weight={"a": np.float32(2)},
        **numbers,
    )
    comparison.write_json(tmp_path / "scores.json")
    assert json.loads((tmp_path / "scores.json").read_text())["seed"] == 2
    model = featpipe.fit(codes, C=np.float32(0.1), **numbers)
    model.save(tmp_path / "x.model")
    assert featpipe.load(tmp_path / "x.model").model.training["seed"] == 2
    tuned = featpipe.finetune(
        six,
        tmp_path / "t.model",
        **MINI,
        train="head",
        input_size=np.int64(16),
        epochs=np.int64(1),
        lr=np.float32(0.01),
        batch_size=np.int32(4),
        views=np.int64(1),
        weight_decay=np.float64(0),
        class_weight={"a": np.float32(2)},
        seed=np.int64(1),
    )
    tuned.write_json(tmp_path / "tuned.json")
    transformer = featpipe.CNNCodes(
        **MINI,
        input_size=np.int64(16),
        seed=np.int64(1),
        mean=np.full(3, 0.5),
        cache=tmp_path / "cache.h5",
    )
    assert transformer.fit_transform([six / "a" / "0.png"]).shape == (1, 384)
