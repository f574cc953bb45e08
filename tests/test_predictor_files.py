"""A model file that is none, or not the one it says, is refused in a sentence."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from predictor_models import checkpoint
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

import featpipe
from featpipe import codes, images
from featpipe.predictor import storing

pytest_plugins = ("predictor_fixtures",)


def record_of(path: Path) -> dict:
    with safe_open(path, framework="np") as file:
        return json.loads(file.metadata()["record"])


def forge(path: Path, change, extra: dict | None = None, arrays=None) -> Path:
    """Write a model file with a right digest and a wrong content."""
    with safe_open(path, framework="np") as file:
        metadata = dict(file.metadata())
    tensors = {**load_file(path), **(arrays or {})}
    record = json.loads(metadata["record"])
    change(record)
    metadata["record"] = json.dumps(record)
    metadata["sha256"] = storing._digest(metadata["record"], tensors)
    forged = path.with_name("forged.model")
    save_file(tensors, forged, metadata={**metadata, **(extra or {})})
    return forged


def test_the_same_model_is_the_same_bytes(saved: Path, tmp_path: Path) -> None:
    model = featpipe.load(saved)
    for k in range(4):
        model.save(tmp_path / str(k))
        assert (tmp_path / str(k)).read_bytes() == saved.read_bytes()


def test_no_damaged_copy_is_read(saved: Path, tmp_path: Path) -> None:
    content = saved.read_bytes()
    rng = np.random.default_rng(0)
    whole = featpipe.load(saved).model
    for trial in range(300):
        copy = bytearray(content)
        if trial % 3 == 0:
            copy = copy[: rng.integers(0, len(copy))]
        else:
            copy[rng.integers(0, len(copy))] ^= 1 << int(rng.integers(0, 8))
        (tmp_path / "damaged").write_bytes(bytes(copy))
        try:
            model = featpipe.load(tmp_path / "damaged").model
        except ValueError:
            continue
        # A flipped bit in padding, or one that leaves the record what it was.
        assert model.as_record() == whole.as_record()
        np.testing.assert_array_equal(model.coef, whole.coef)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda r: r.update(classifier="forest"), "classifier 'forest'"),
        (lambda r: r.pop("depth"), "has to have the fields"),
        (lambda r: r.update(more=1), "has to have the fields"),
        (lambda r: r.update(C="x"), "C='x'"),
        (lambda r: r.update(seed=True), "seed=True"),
        (lambda r: r.update(class_names=["a", "a", "b"]), "class name twice"),
        (lambda r: r.update(class_names=[1, 2, 3]), "class name that is no text"),
        (lambda r: r.update(class_names=["a", "b"]), "do not fit 2 classes"),
        (lambda r: r.update(dtype="int8"), "dtype 'int8'"),
        (lambda r: r["fingerprint"].update(precision="fp8"), "precision 'fp8'"),
        (lambda r: r["fingerprint"].pop("decoding"), "fingerprint has to have"),
        (lambda r: r["fingerprint"]["preprocessing"].update(crop="9"), "crop='9'"),
        (lambda r: r["fingerprint"]["preprocessing"].update(hflip=2), "hflip=2"),
        (lambda r: r["fingerprint"]["preprocessing"].pop("mean"), "preprocessing has"),
        (lambda r: r.update(embedded_sha256="0" * 64), "differ on embedded weights"),
        (lambda r: r.update(score={"accuracy": 1}), "score lacks fields"),
    ],
)
def test_a_record_that_is_none_is_refused(saved: Path, change, match: str) -> None:
    with pytest.raises(ValueError, match=match) as message:
        featpipe.load(forge(saved, change))
    assert "forged.model" in str(message.value)


@pytest.mark.parametrize(
    ("name", "array", "match"),
    [
        ("coef", np.zeros((3, 0)), "do not fit"),
        ("coef", np.zeros((3, 4), np.float32), "do not fit|float64"),
        ("intercept", np.full(3, np.nan), "finite"),
        ("other", np.zeros(3), "its tensors are"),
        ("backbone.x", np.zeros(3), "differ on embedded"),
    ],
)
def test_arrays_that_are_no_classifier_are_refused(
    saved: Path, name: str, array: np.ndarray, match: str
) -> None:
    with pytest.raises(ValueError, match=match):
        featpipe.load(forge(saved, lambda record: None, arrays={name: array}))


def test_files_that_are_no_model_get_one_sentence_each(
    saved: Path, tmp_path: Path
) -> None:
    with pytest.raises(FileNotFoundError, match="featpipe fit"):
        featpipe.load(tmp_path / "nothing")
    with pytest.raises(ValueError, match="not a file"):
        featpipe.load(tmp_path)
    (tmp_path / "text").write_text("hello")
    with pytest.raises(ValueError, match="no model file"):
        featpipe.load(tmp_path / "text")
    checkpoint(tmp_path / "w.pth", 0)
    with pytest.raises(ValueError, match="no model file"):
        featpipe.load(tmp_path / "w.pth")
    save_file({"x": np.zeros(3)}, tmp_path / "tensors")
    with pytest.raises(ValueError, match="tensors but no model"):
        featpipe.load(tmp_path / "tensors")
    later = forge(saved, lambda record: None, extra={"version": "3"})
    with pytest.raises(ValueError, match=r"version '3'.*update featpipe"):
        featpipe.load(later)


def test_a_model_made_by_other_rules_of_decoding_is_refused(
    saved: Path, kinds: Path
) -> None:
    def change(record: dict) -> None:
        record["fingerprint"]["decoding"]["alpha"] = "dropped"

    model = featpipe.load(forge(saved, change))
    with pytest.raises(ValueError, match=r"other rules now \(alpha\)"):
        model.predict(kinds / "test")


def test_preprocessing_that_makes_no_sense_is_refused(saved: Path) -> None:
    def change(record: dict) -> None:
        record["fingerprint"]["preprocessing"]["crop"] = 0

    with pytest.raises(ValueError, match=r"forged\.model holds no model.*crop=0"):
        featpipe.load(forge(saved, change))


def test_a_backbone_that_is_gone_is_named(saved: Path, kinds: Path) -> None:
    def change(record: dict) -> None:
        record["fingerprint"]["backbone"] = "resnet51"

    model = featpipe.load(forge(saved, change))
    with pytest.raises(ValueError, match=r"forged.model cannot be made.*resnet51"):
        model.predict(kinds / "test")


def test_no_file_alone_gets_code_to_run(
    saved: Path, kinds: Path, tmp_path: Path
) -> None:
    trap = tmp_path / "sprung"

    def change(record: dict) -> None:
        record["fingerprint"]["backbone"] = f"os:mkdir?path={trap}"
        record["weights"] = "own"

    model = featpipe.load(forge(saved, change))
    with pytest.raises(ValueError, match="code that would be run"):
        model.predict(kinds / "test")
    assert not trap.exists()


def test_codes_that_do_not_say_how_they_were_made_are_refused(tmp_path: Path) -> None:
    import drawn_codes

    labels, made = drawn_codes.draw(30)
    path = drawn_codes.write(tmp_path / "c.h5", labels, made)
    with pytest.raises(codes.CodesError, match="does not record how its codes were"):
        featpipe.fit(path)


def test_fit_needs_two_classes_and_a_depth_that_is_there(
    kinds_h5: codes.Codes,
) -> None:
    one = replace(kinds_h5.tables, labels=np.minimum(kinds_h5.labels, 0))
    with pytest.raises(ValueError, match="at least two classes"):
        featpipe.fit(replace(kinds_h5, tables=one))
    with pytest.raises(codes.CodesError, match="no depth 'stage9'"):
        featpipe.fit(kinds_h5, depth="stage9")
    with pytest.raises(ValueError, match="no classifier 'forest'"):
        featpipe.fit(kinds_h5, "forest")


@pytest.mark.parametrize(
    ("value", "match"),
    [
        ([], "no images were given"),
        ([3], "image 0 is 3"),
        ([np.zeros((4, 4), np.float32)], "float32"),
        (b"x", "image 0: decode: a text file"),
    ],
)
def test_what_is_no_image_is_refused(
    logistic: featpipe.Predictor, value, match: str
) -> None:
    with pytest.raises(ValueError, match=match):
        logistic.predict(value)


def test_an_image_set_is_taken_as_it_is(
    logistic: featpipe.Predictor, kinds: Path
) -> None:
    some = images.scan(kinds / "test").take([3, 1])
    predictions = logistic.classify(some)
    assert predictions.paths == [some.paths[0], some.paths[1]]
