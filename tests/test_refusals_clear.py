"""What cannot be done is told in one sentence, and before long work."""

import pickle
import shutil
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from test_cli import SMALL, featpipe_says, refused

import featpipe


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Draw 24 images of two classes."""
    folder = tmp_path_factory.mktemp("clear") / "images"
    rng = np.random.default_rng(0)
    for name, low in (("ants", 0), ("bees", 120)):
        for k in range(12):
            pixels = rng.integers(low, low + 135, (24, 30, 3), dtype=np.uint8)
            path = folder / name / f"{k}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
    return folder


@pytest.fixture(scope="module")
def fitted(images: Path) -> tuple[Path, Path]:
    """Return a codes file, and a model fitted on it."""
    file, model = images.with_name("c.h5"), images.with_name("c.model")
    result = featpipe_says("extract", images, "-o", file, *SMALL)
    assert result.exit_code == 0, result.output
    result = featpipe_says("fit", file, "-o", model, "--C", "0.1")
    assert result.exit_code == 0, result.output
    return file, model


@pytest.mark.parametrize("device", ["mps", "gpu", "cuda:99", "meta", ""])
def test_a_device_that_is_not_there_is_one_sentence(
    images: Path, tmp_path: Path, device: str
) -> None:
    if device == "mps" and torch.backends.mps.is_available():
        device = "cuda"
    line = refused("extract", images, "-o", tmp_path / "c.h5", *SMALL,
                   "--device", device)  # fmt: skip
    assert f"device {device!r} cannot be used: " in line
    assert "; give auto" in line
    assert len(line) < 160


@pytest.mark.parametrize("device", ["gpu", "cuda:99", "meta"])
@pytest.mark.parametrize("command", ["compare", "fit", "predict"])
def test_the_other_commands_tell_it_in_the_same_words(
    images: Path, fitted: tuple[Path, Path], tmp_path: Path, command: str, device: str
) -> None:
    file, model = fitted
    arguments = {
        "compare": (file,),
        "fit": (file, "-o", tmp_path / "a.model"),
        "predict": (model, images),
    }
    line = refused(command, *arguments[command], "--device", device)
    assert f"device {device!r} cannot be used: " in line
    assert "; give auto" in line


@pytest.mark.skipif(sys.platform != "linux", reason="/proc takes no file")
def test_an_error_of_the_system_begins_with_words(fitted: tuple[Path, Path]) -> None:
    line = refused("compare", fitted[0], "--json", "/proc/a.json",
                   "--classifiers", "nearest-mean", "--folds", "2")  # fmt: skip
    assert line.startswith("error: cannot write /proc/a.json: No such file")


def test_a_torchscript_file_is_one_sentence(images: Path, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the format is old, and still handed around
        program = torch.jit.trace(torch.nn.Linear(3, 2), torch.zeros(1, 3))
        program.save(str(tmp_path / "program.pt"))
    small = ("--backbone", "mini", "--weights", tmp_path / "program.pt")
    line = refused("extract", images, "-o", tmp_path / "c.h5", *small)
    assert "is a TorchScript program" in line


def test_images_that_cannot_be_compared_are_refused_before_extraction(
    images: Path, tmp_path: Path
) -> None:
    shutil.copytree(images / "ants", tmp_path / "flat")
    line = refused("run", tmp_path / "flat", "-o", tmp_path / "out", *SMALL)
    assert "without a label" in line
    shutil.copytree(images / "ants", tmp_path / "one" / "ants")
    line = refused("run", tmp_path / "one", "-o", tmp_path / "out", *SMALL)
    assert "all of class 'ants'" in line
    assert not (tmp_path / "out").exists()
    line = refused("finetune", tmp_path / "flat", *SMALL)
    assert "there are no labelled images" in line


def test_shards_of_different_precision_are_named(images: Path, tmp_path: Path) -> None:
    for k, precision in enumerate(("fp32", "bf16")):
        result = featpipe_says(
            *("extract", images, "-o", tmp_path / f"{k}.h5", *SMALL),
            *("--shard", f"{k}/2", "--precision", precision, "--decoding", "exact"),
        )
        assert result.exit_code == 0, result.output
    shards = (tmp_path / "0.h5", tmp_path / "1.h5")
    line = refused("merge", *shards, "-o", tmp_path / "c.h5")
    assert "were made with different precision, 'fp32' and 'bf16'" in line
    assert "--overwrite" not in line


def test_a_predictor_that_was_used_can_be_pickled(images: Path, tmp_path: Path) -> None:
    result = featpipe_says("extract", images, "-o", tmp_path / "c.h5", *SMALL)
    assert result.exit_code == 0, result.output
    model = featpipe.fit(tmp_path / "c.h5", "svm", C=0.1)
    labels = model.predict(images).tolist()
    again = pickle.loads(pickle.dumps(model))
    assert again.predict(images).tolist() == labels


def test_notes_name_rows_and_folds_and_one_tells_what_images_can_show(
    images: Path, tmp_path: Path
) -> None:
    result = featpipe_says("extract", images, "-o", tmp_path / "c.h5", *SMALL)
    assert result.exit_code == 0, result.output
    classifiers = ["linear", "nearest-mean", "knn"]
    comparison = featpipe.compare(
        tmp_path / "c.h5", classifiers=classifiers, Cs=[1e-9, 1e-8, 1e3]
    )
    edge = [note for note in comparison.notes if "of the grid" in note]
    assert edge
    assert all(note.startswith(("linear on ", "every row")) for note in edge)
    shows = [note for note in comparison.notes if "difference" in note]
    assert len(shows) <= 2  # the power of the images, and what the folds share


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"depth": 3}, "the depth is 3; give the name of a node"),
        ({"depth": None}, "the depth is None; give the name of a node"),
        ({"depth": [3]}, "the depth is 3; give the name of a node"),
        ({"weights": 5}, "weights=5 is no name of weights and no path; give"),
        ({"weights": {"a": 1}}, "weights={'a': 1} is no name of weights"),
        ({"device": 0}, "device '0' cannot be used: it is no device of torch; give"),
    ],
)
def test_an_option_of_another_type_is_one_sentence(
    images: Path, tmp_path: Path, options: dict, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        featpipe.extract(images, tmp_path / "c.h5", **{"backbone": "mini", **options})
    with pytest.raises(ValueError, match="train=5 is not known; use 'all'"):
        featpipe.finetune(images, backbone="mini", train=5)


def test_what_stage_two_is_given_may_be_one_or_a_list(
    fitted: tuple[Path, Path], tmp_path: Path
) -> None:
    file, few = featpipe.read(fitted[0]), {"classifiers": ["linear"], "folds": 2}
    with pytest.raises(FileNotFoundError, match=r"no file none\.json"):
        featpipe.compare(file, with_="none.json", **few)
    with pytest.raises(ValueError, match="depth=3 is no depth; give names"):
        featpipe.compare(file, depth=3, **few)
    with pytest.raises(ValueError, match="has no depth '3'; choose from penultimate"):
        file.arrays(3)
    codes = featpipe.extract(
        file.images_root, tmp_path / "c.h5", backbone="mini", weights="none",
        input_size=32, device=torch.device("cpu"), limit=4,
    )  # fmt: skip
    assert len(codes) == 4


def test_no_model_replaces_codes_from_python(
    images: Path, fitted: tuple[Path, Path], tmp_path: Path
) -> None:
    kept = shutil.copy(fitted[0], tmp_path / "kept")
    before = Path(kept).read_bytes()
    with pytest.raises(ValueError, match="kept is a codes file, which may have taken"):
        featpipe.load(fitted[1]).save(kept)
    with pytest.raises(ValueError, match="kept is a codes file, which may have taken"):
        featpipe.finetune(images, kept, backbone="mini", train="head", epochs=1)
    assert Path(kept).read_bytes() == before
