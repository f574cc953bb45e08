"""A model that was saved labels images as the codes it was fitted on."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from predictor_models import SMALL, checkpoint
from safetensors.numpy import load_file

import featpipe
from featpipe import codes, protocol
from featpipe.backbones import load as load_backbone

pytest_plugins = ("predictor_fixtures",)


def stored(kinds_h5: codes.Codes, depth: str, split: str) -> np.ndarray:
    return kinds_h5.arrays(depth, split)[0].astype(np.float64)


@pytest.mark.parametrize(
    ("classifier", "depth"),
    [
        ("linear", "penultimate"),
        ("svm", "stage1:avg"),
        ("logistic", "stage1+penultimate"),
    ],
)
def test_decision_values_of_images_are_those_of_their_codes(
    kinds: Path, kinds_h5: codes.Codes, tmp_path: Path, classifier: str, depth: str
) -> None:
    featpipe.fit(kinds_h5, classifier, depth=depth, C=0.01).save(tmp_path / "m")
    model = featpipe.load(tmp_path / "m")
    X = stored(kinds_h5, depth, "test")
    expected = X @ model.model.coef.T + model.model.intercept
    scores = model.decision_function(kinds / "test")
    np.testing.assert_allclose(scores, expected, rtol=1e-4, atol=1e-4)
    names = np.array(kinds_h5.class_names)[expected.argmax(1)]
    assert model.predict(kinds / "test").tolist() == names.tolist()


def test_a_loaded_model_is_the_one_saved(
    logistic: featpipe.Predictor, saved: Path, kinds: Path
) -> None:
    loaded = featpipe.load(saved)
    assert loaded.model.as_record() == logistic.model.as_record()
    before = logistic.predict_proba(kinds / "test")
    np.testing.assert_array_equal(loaded.predict_proba(kinds / "test"), before)
    np.testing.assert_allclose(before.sum(1), 1)


def test_fit_is_the_row_of_compare(kinds_h5: codes.Codes) -> None:
    Cs = [1e-3, 1e-1]
    comparison = featpipe.compare(
        kinds_h5, classifiers=["linear"], depths=["stage1"], Cs=Cs
    )
    row = comparison.scores[0]
    model = featpipe.fit(kinds_h5, "linear", depth="stage1", Cs=Cs).model
    assert model.score is not None
    assert model.C == row.C
    for name in ("accuracy", "cv_accuracy", "n_train", "n_test", "protocol", "width"):
        assert getattr(model.score, name) == getattr(row, name)


@pytest.mark.parametrize(
    "value",
    [("val", "test"), ("test", ""), ("train", "")],
    ids=["no train", "test and none", "train and none"],
)
def test_fit_compare_and_finetune_refuse_the_same_splits(
    kinds_h5: codes.Codes, value: tuple[str, ...]
) -> None:
    n = len(kinds_h5)
    splits = np.random.default_rng(0).choice(value, n).tolist()
    file = replace(kinds_h5, tables=replace(kinds_h5.tables, splits=splits))
    says = "need 'train' and one of 'val' and 'test', or no splits at all"
    with pytest.raises(ValueError, match=says):
        featpipe.fit(file)
    with pytest.raises(ValueError, match=says):
        featpipe.compare(file)
    with pytest.raises(ValueError, match=says):
        protocol.tuning_rows(file)


@pytest.mark.parametrize("value", [("train", "test", ""), ("",)])
def test_fit_tells_where_nothing_is_learned_and_rows_take_no_part(
    kinds_h5: codes.Codes, value: tuple[str, ...]
) -> None:
    n, rng = len(kinds_h5), np.random.default_rng(0)
    splits = [value[k % len(value)] for k in range(n)]
    # Labels that have nothing to do with the images, one of them frequent.
    labels = rng.permutation(np.arange(n) % 4 == 0).astype(np.int64)
    tables = replace(kinds_h5.tables, splits=splits, labels=labels)
    training = featpipe.fit(replace(kinds_h5, tables=tables), C=1e-6).model.training
    text = "; ".join(training["warnings"])
    assert "not told apart from always naming the most frequent class" in text
    n_without = splits.count("") * (len(value) > 1)
    assert (f"{n_without} labelled images without a split" in text) == (n_without > 0)


@pytest.mark.parametrize(
    "value", [("train", "val", "test"), ("train", "val"), ("train", "test"), ("",)]
)
@pytest.mark.parametrize("grouped", [False, True])
def test_fit_chooses_and_learns_as_compare_does(
    kinds_h5: codes.Codes, value: tuple[str, ...], grouped: bool
) -> None:
    n = len(kinds_h5)
    rng = np.random.default_rng(0)
    tables = replace(
        kinds_h5.tables,
        splits=rng.choice(value, n).tolist(),
        groups=[f"g{k % 12}" if grouped else "" for k in range(n)],
    )
    file = replace(kinds_h5, tables=tables)
    options = {"Cs": [1e-4, 1e-2, 1.0], "seed": 3}
    training = featpipe.fit(file, "linear", depth="stage1", **options).model.training
    (row,) = featpipe.compare(
        file, classifiers=["linear"], depths=["stage1"], **options
    ).scores
    assert training["n_images"] == row.n_train
    assert training["C_curve"] == row.C_curve
    assert training["cv_score"] == row.cv_accuracy


def test_fit_on_one_image_a_class_needs_a_single_C(kinds_h5: codes.Codes) -> None:
    labels = np.asarray(kinds_h5.labels)
    first = {int(np.flatnonzero(labels == label)[0]) for label in set(labels)}
    splits = ["train" if row in first else "test" for row in range(len(labels))]
    file = replace(kinds_h5, tables=replace(kinds_h5.tables, splits=splits))
    with pytest.raises(ValueError, match=r"too few to choose C .* give a single C"):
        featpipe.fit(file, "linear", depth="stage1")
    for options in ({"C": 0.37}, {"Cs": [0.37]}):
        model = featpipe.fit(file, "linear", depth="stage1", **options).model
        assert model.C == 0.37
        assert model.training["n_images"] == len(first)
        assert model.training["cv_score"] is None


def test_paths_pil_images_and_arrays_get_the_same_label(
    logistic: featpipe.Predictor, kinds: Path
) -> None:
    paths = sorted((kinds / "test").rglob("*.png"))
    expected = logistic.decision_function(paths)
    opened = [Image.open(path) for path in paths]
    arrays = [np.asarray(image) for image in opened]
    mixed = [paths[0], opened[1], arrays[2], str(paths[3])]
    for value in (opened, arrays):
        np.testing.assert_array_equal(logistic.decision_function(value), expected)
    np.testing.assert_allclose(
        logistic.decision_function(mixed), expected[:4], rtol=1e-5, atol=1e-5
    )
    backwards = logistic.decision_function(paths[::-1])[::-1]
    np.testing.assert_allclose(backwards, expected, rtol=1e-5, atol=1e-5)


def test_top_gives_the_likeliest_first(
    logistic: featpipe.Predictor, kinds: Path
) -> None:
    odds = logistic.predict_proba(kinds / "test")
    for row, message in zip(odds, logistic.top(kinds / "test", 2), strict=True):
        order = np.argsort(-row)[:2]
        assert message == [(logistic.class_names[c], row[c]) for c in order]


def test_two_classes_have_one_column_and_two_scores(
    kinds_h5: codes.Codes, kinds: Path
) -> None:
    labels = kinds_h5.labels.copy()
    labels[labels == 2] = -1
    file = replace(kinds_h5, tables=replace(kinds_h5.tables, labels=labels))
    model = featpipe.fit(file, C=1.0)
    assert model.class_names == ["dark", "grey"]
    assert model.model.coef.shape[0] == 1
    scores = model.decision_function(kinds / "test" / "dark")
    np.testing.assert_array_equal(scores[:, 0], -scores[:, 1])
    odds = model.predict_proba(kinds / "test" / "dark")
    np.testing.assert_allclose(odds, 1 / (1 + np.exp(-scores)))


def test_float16_and_hflip_are_part_of_the_recipe(kinds: Path, tmp_path: Path) -> None:
    file = featpipe.extract(
        kinds, tmp_path / "k.h5", dtype="float16", hflip=True, **SMALL
    )
    model = featpipe.fit(file, "svm", C=0.01)
    X = stored(file, "penultimate", "test")
    expected = X @ model.model.coef.T + model.model.intercept
    scores = model.decision_function(kinds / "test")
    np.testing.assert_allclose(scores, expected, rtol=1e-3, atol=1e-3)


def test_every_image_is_labelled_or_a_failure(
    logistic: featpipe.Predictor, kinds: Path, tmp_path: Path
) -> None:
    shutil.copytree(kinds / "test", tmp_path / "some")
    (tmp_path / "some" / "dark" / "broken.jpg").write_text("no image")
    (tmp_path / "some" / "dark" / "gone.png").symlink_to("nowhere")
    predictions = logistic.classify(tmp_path / "some")
    assert len(predictions) == 12
    assert {failure.path: failure.stage for failure in predictions.failures} == {
        "dark/broken.jpg": "decode",
        "dark/gone.png": "scan",
    }
    with pytest.raises(ValueError, match=r"dark/gone.png.*2 of 14 images"):
        logistic.predict(tmp_path / "some")


def test_the_csv_holds_every_image_and_beside_it_every_failure(
    logistic: featpipe.Predictor, kinds: Path, tmp_path: Path
) -> None:
    import csv

    predictions = logistic.classify(kinds / "test")
    odd = replace(
        predictions,
        paths=["a,\udcff\n.png", *predictions.paths[1:]],
        failures=[codes.FailureRecord("x\udcff", "decode", "empty file")],
    )
    odd.write_csv(tmp_path / "f.csv", top=2)
    text = (tmp_path / "f.csv").read_bytes().decode("utf-8", "surrogateescape")
    rows = list(csv.DictReader(text.splitlines(keepends=True)))
    assert [row["path"] for row in rows] == odd.paths
    assert [row["label"] for row in rows] == predictions.labels.tolist()
    for row, top in zip(rows, predictions.top(2), strict=True):
        assert [row["label"], row["label_2"]] == [name for name, _ in top]
        assert float(row["probability"]) == pytest.approx(top[0][1], rel=1e-4)
        assert float(row["probability_2"]) == pytest.approx(top[1][1], rel=1e-4)
    failures = (tmp_path / "f.failures.csv").read_bytes()
    assert failures == b"path,stage,reason\nx\xff,decode,empty file\n"
    predictions.write_csv(tmp_path / "f.csv")
    assert not (tmp_path / "f.failures.csv").exists()


def test_measures_and_confusion_count_by_hand(
    logistic: featpipe.Predictor, kinds: Path
) -> None:
    predictions = logistic.classify(kinds)
    truth, labels = np.array(predictions.truth), predictions.labels
    measures = predictions.measures("test")
    test = np.array(predictions.splits) == "test"
    assert measures is not None
    assert measures["n"] == 12
    assert measures["accuracy"] == np.mean(truth[test] == labels[test])
    names, counts = predictions.confusion()
    for t, name in enumerate(names):
        for p, other in enumerate(predictions.class_names):
            assert counts[t, p] == ((truth == name) & (labels == other)).sum()


def test_a_class_the_model_does_not_know_counts_as_wrong(
    logistic: featpipe.Predictor, kinds: Path
) -> None:
    predictions = logistic.classify(kinds / "test")
    renamed = replace(predictions, truth=["violet"] * 6 + predictions.truth[6:])
    right = (np.array(renamed.truth) == predictions.labels).mean()
    measures = renamed.measures()
    assert measures is not None
    assert measures["accuracy"] == right
    assert measures["log_loss"] is None


def test_a_table_of_labels_has_a_column_a_class(
    logistic: featpipe.Predictor, kinds: Path
) -> None:
    predictions = logistic.classify(kinds / "test")
    frame = predictions.to_frame()
    assert frame.index.tolist() == predictions.paths
    assert frame["label"].tolist() == predictions.labels.tolist()
    np.testing.assert_array_equal(
        frame[predictions.class_names], predictions.probabilities
    )


def test_a_classifier_without_probabilities_says_so(
    kinds_h5: codes.Codes, kinds: Path
) -> None:
    # As a model of format version 1, or of too few images for folds.
    fitted = featpipe.fit(kinds_h5, "linear", C=1.0)
    model = featpipe.Predictor(replace(fitted.model, calibration=None))
    with pytest.raises(ValueError, match="linear model gives no probabilities"):
        model.predict_proba(kinds / "test")
    assert model.classify(kinds / "test").probabilities is None


def test_loading_a_model_runs_no_network(saved: Path) -> None:
    import subprocess
    import sys

    code = (
        "import sys, featpipe; model = featpipe.load(sys.argv[1]); "
        "assert 'torch' not in sys.modules; print(model.class_names)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, saved], capture_output=True, text=True, check=True
    )
    assert result.stdout == "['dark', 'grey', 'light']\n"


@pytest.fixture
def from_file(kinds: Path, tmp_path: Path) -> featpipe.Predictor:
    """Return a model whose weights came from a file."""
    weights = str(checkpoint(tmp_path / "w.pth", 3))
    path = tmp_path / "w.h5"
    file = featpipe.extract(kinds, path, **{**SMALL, "weights": weights})
    model = featpipe.fit(file, C=0.1)
    model.save(tmp_path / "w.model")
    return model


def test_weights_of_a_file_are_found_where_they_were_and_beside(
    from_file: featpipe.Predictor, kinds: Path, tmp_path: Path
) -> None:
    expected = from_file.predict_proba(kinds / "test")
    model = featpipe.load(tmp_path / "w.model")
    np.testing.assert_array_equal(model.predict_proba(kinds / "test"), expected)
    (tmp_path / "else").mkdir()
    for name in ("w.model", "w.pth"):
        (tmp_path / name).rename(tmp_path / "else" / name)
    moved = featpipe.load(tmp_path / "else" / "w.model")
    np.testing.assert_array_equal(moved.predict_proba(kinds / "test"), expected)


def test_weights_that_moved_are_asked_for_and_given(
    from_file: featpipe.Predictor, kinds: Path, tmp_path: Path
) -> None:
    expected = from_file.predict_proba(kinds / "test")
    (tmp_path / "w.pth").rename(tmp_path / "new.bin")
    with pytest.raises(FileNotFoundError, match=r"w\.pth.*--weights FILE"):
        featpipe.load(tmp_path / "w.model").predict(kinds / "test")
    model = featpipe.load(tmp_path / "w.model", weights=tmp_path / "new.bin")
    np.testing.assert_array_equal(model.predict_proba(kinds / "test"), expected)


def test_other_weights_are_refused(
    from_file: featpipe.Predictor, kinds: Path, tmp_path: Path
) -> None:
    other = checkpoint(tmp_path / "other.pth", 4)
    with pytest.raises(ValueError, match=r"other\.pth' are not those that .*w\.model"):
        featpipe.load(tmp_path / "w.model", weights=other).predict(kinds / "test")
    checkpoint(tmp_path / "w.pth", 5)
    with pytest.raises(ValueError, match="not those that"):
        featpipe.load(tmp_path / "w.model").predict(kinds / "test")


def test_random_weights_are_made_again_from_their_seed(
    kinds: Path, tmp_path: Path
) -> None:
    file = featpipe.extract(kinds, tmp_path / "k.h5", seed=7, **SMALL)
    featpipe.fit(file, C=0.1).save(tmp_path / "m")
    model = featpipe.load(tmp_path / "m")
    assert model.model.seed == 7
    expected = stored(file, "penultimate", "test") @ model.model.coef.T
    value = model.decision_function(kinds / "test") - model.model.intercept
    np.testing.assert_allclose(value, expected, rtol=1e-4, atol=1e-4)


def test_embedded_weights_make_the_file_the_whole_model(
    from_file: featpipe.Predictor, kinds: Path, tmp_path: Path
) -> None:
    expected = from_file.predict_proba(kinds / "test")
    from_file.save(tmp_path / "whole.model", embed_weights=True)
    (tmp_path / "w.pth").unlink()
    whole = featpipe.load(tmp_path / "whole.model")
    np.testing.assert_array_equal(whole.predict_proba(kinds / "test"), expected)
    whole.save(tmp_path / "again.model")
    again = featpipe.load(tmp_path / "again.model")
    np.testing.assert_array_equal(again.predict_proba(kinds / "test"), expected)
    again.save(tmp_path / "light.model", embed_weights=False)
    with pytest.raises(FileNotFoundError, match=r"w\.pth"):
        featpipe.load(tmp_path / "light.model").predict(kinds / "test")


def test_only_the_weights_up_to_the_depth_are_embedded(
    kinds_h5: codes.Codes, tmp_path: Path
) -> None:
    sizes = {}
    for depth in ("stage1", "penultimate"):
        model = featpipe.fit(kinds_h5, depth=depth, C=0.1)
        model.save(tmp_path / depth, embed_weights=True)
        sizes[depth] = (tmp_path / depth).stat().st_size
    assert sizes["stage1"] < sizes["penultimate"] / 5
    names = load_file(tmp_path / "stage1")
    assert not [name for name in names if "stage2" in name or "tracked" in name]


def test_a_model_file_with_weights_is_a_weights_file_too(
    logistic: featpipe.Predictor, kinds: Path, tmp_path: Path
) -> None:
    logistic.save(tmp_path / "m", embed_weights=True)
    mine = load_backbone("mini", weights=tmp_path / "m", input_size=32)
    other = load_backbone("mini", weights="none", input_size=32)
    pixels = torch.zeros(1, 3, 32, 32, dtype=torch.uint8)
    assert torch.equal(mine(pixels)["penultimate"], other(pixels)["penultimate"])
