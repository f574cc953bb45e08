"""The ONNX network gives what the model gives, on images that Pillow decoded."""

import contextlib
import doctest
import json
import re
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from PIL import Image

import featpipe
from featpipe import codes, images
from featpipe.predictor import exporting

SMALL = {
    "backbone": "mini",
    "weights": "none",
    "input_size": 32,
    "precision": "fp32",
}
DOCS = Path(__file__).parents[1] / "docs" / "reference" / "models.md"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return 12 images of three classes, and beside them a GIF, a grey and an alpha."""
    folder = tmp_path_factory.mktemp("export")
    rng = np.random.default_rng(0)
    for k in range(12):
        low = 80 * (k % 3)
        pixels = rng.integers(low, low + 90, (50, 44 + k, 3), dtype=np.uint8)
        path = folder / "kinds" / "abc"[k % 3] / f"{k}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    photo = Image.fromarray(rng.integers(0, 255, (60, 70, 3), dtype=np.uint8))
    (folder / "odd").mkdir()
    clear = photo.convert("RGBA")
    clear.putalpha(Image.linear_gradient("L").resize(photo.size))
    clear.save(folder / "odd" / "alpha.png")
    photo.convert("L").save(folder / "odd" / "grey.png")
    photo.save(folder / "odd" / "frames.gif", save_all=True, append_images=[clear])
    photo.save(folder / "odd" / "photo.jpg")
    return folder


@pytest.fixture(scope="module")
def kinds_h5(folder: Path) -> codes.Codes:
    depths = ["stage1", "penultimate"]
    return featpipe.extract(folder / "kinds", folder / "k.h5", depth=depths, **SMALL)


@pytest.fixture(scope="module")
def logistic(kinds_h5: codes.Codes) -> featpipe.Predictor:
    return featpipe.fit(kinds_h5, depth="stage1", C=0.1)


@pytest.fixture(scope="module")
def exported(logistic: featpipe.Predictor, folder: Path) -> Path:
    """Run the example in the docstring of `export`, and return what it writes."""
    logistic.save(folder / "flowers.model")
    text = exporting.export.__doc__ or ""
    example = doctest.DocTestParser().get_doctest(text, {}, "export", None, 0)
    output: list[str] = []
    with contextlib.chdir(folder):
        doctest.DocTestRunner().run(example, out=output.append)
    assert not output, "".join(output)
    return folder / "flowers.onnx"


def pixels_of(predictor: featpipe.Predictor, folder: Path) -> np.ndarray:
    apply = predictor.load_backbone().preprocessing.apply
    image_set = images.scan(folder)
    decoded = [images.decode(image_set.read(i)).image for i in range(len(image_set))]
    return np.stack([apply(image) for image in decoded])


def test_onnxruntime_gives_labels_and_probabilities_of_odd_images(
    logistic: featpipe.Predictor, exported: Path, folder: Path
) -> None:
    session = onnxruntime.InferenceSession(exported)
    for some in ("odd", "kinds"):
        predictions = logistic.classify(folder / some)
        label, score, probability = session.run(
            ["label", "score", "probability"],
            {"images": pixels_of(logistic, folder / some)},
        )
        names = np.array(logistic.class_names)[label]
        assert names.tolist() == predictions.labels.tolist()
        np.testing.assert_allclose(probability, predictions.probabilities, atol=1e-4)
        np.testing.assert_allclose(score, predictions.scores, rtol=1e-3, atol=1e-3)


def test_batches_of_any_size_give_the_same(
    logistic: featpipe.Predictor, exported: Path, folder: Path
) -> None:
    session = onnxruntime.InferenceSession(exported)
    pixels = pixels_of(logistic, folder / "kinds")
    (whole,) = session.run(["probability"], {"images": pixels})
    for size in (1, 5):
        (part,) = session.run(["probability"], {"images": pixels[:size]})
        np.testing.assert_allclose(part, whole[:size], atol=1e-5)


def test_one_file_holds_the_graph_and_says_what_it_is(
    logistic: featpipe.Predictor, exported: Path
) -> None:
    assert not list(exported.parent.glob("*.onnx.data"))
    session = onnxruntime.InferenceSession(exported)
    (value,) = session.get_inputs()
    assert (value.name, value.type) == ("images", "tensor(uint8)")
    assert value.shape[1:] == [3, 32, 32]
    custom_metadata_map = session.get_modelmeta().custom_metadata_map
    assert json.loads(custom_metadata_map["class_names"]) == ["a", "b", "c"]
    model = logistic.model
    assert (
        json.loads(custom_metadata_map["preprocessing"])
        == model.fingerprint["preprocessing"]
    )
    assert custom_metadata_map["weights_sha256"] == model.fingerprint["weights_sha256"]


@pytest.mark.slow  # two exports more, of odd kinds
def test_two_classes_mirror_images_float16_and_two_depths_are_in_the_graph(
    folder: Path,
) -> None:
    file = featpipe.extract(
        folder / "kinds",
        folder / "two.h5",
        depth=["stage1", "penultimate"],
        dtype="float16",
        hflip=True,
        **SMALL,
    )
    labels = np.where(file.labels == 2, -1, file.labels)
    file = replace(file, tables=replace(file.tables, labels=labels))
    model = featpipe.fit(file, "svm", depth="stage1+penultimate", C=1e-3)
    agreement = exporting.export(
        model, folder / "two.onnx", check=folder / "kinds" / "a"
    )
    assert agreement.n_images == 4
    assert agreement.largest_difference < 1e-4
    session = onnxruntime.InferenceSession(folder / "two.onnx")
    names = ["label", "score", "probability"]
    assert [output.name for output in session.get_outputs()] == names
    # One depth alone, an early one: the smallest graph that shows it.
    model = featpipe.fit(file, "svm", depth="stage1", C=1e-3)
    model.model = replace(model.model, calibration=None)
    exporting.export(model, folder / "bare.onnx", check=folder / "kinds" / "a")
    session = onnxruntime.InferenceSession(folder / "bare.onnx")
    assert [output.name for output in session.get_outputs()] == names[:2]


def test_a_network_that_disagrees_is_not_written(
    logistic: featpipe.Predictor,
    exported: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = logistic.model
    other = logistic.using()
    other.model = replace(model, coef=model.coef[::-1].copy())
    monkeypatch.setattr(exporting, "_onnx", lambda predictor: exported.read_bytes())
    with pytest.raises(ValueError, match=r"differ by .* nothing was written"):
        exporting.export(other, tmp_path / "x.onnx")
    assert not list(tmp_path.iterdir())


def test_an_extra_that_is_missing_is_named(
    logistic: featpipe.Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ModuleNotFoundError, match=r"featpipe\[export\]"):
        exporting.export(logistic, tmp_path / "x.onnx")


def test_images_to_check_on_have_to_be_readable(
    logistic: featpipe.Predictor,
    exported: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "bad.jpg").write_text("no image")
    monkeypatch.setattr(exporting, "_onnx", lambda predictor: exported.read_bytes())
    with pytest.raises(ValueError, match="not one of 1 images to check on"):
        exporting.export(logistic, tmp_path / "x.onnx", check=[tmp_path / "bad.jpg"])


def test_the_example_of_the_docs_gives_the_label_of_predict(
    logistic: featpipe.Predictor,
    exported: Path,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    text = DOCS.read_text(encoding="utf-8")
    (example,) = re.findall(r"```python\n(import json\n.*?)```", text, re.DOTALL)
    assert len(example.strip().splitlines()) <= 15
    monkeypatch.chdir(tmp_path)
    Path("flowers.onnx").write_bytes(exported.read_bytes())
    for path in sorted((folder / "odd").glob("*.jpg")):
        Path("new.jpg").write_bytes(path.read_bytes())
        names: dict = {}
        exec(example, names)
        expected = logistic.predict_proba([path])
        np.testing.assert_allclose(names["probability"], expected, atol=1e-4)
        assert names["name"] == logistic.predict([path])[0]
