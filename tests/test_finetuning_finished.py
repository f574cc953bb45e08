"""A finished training is not done again, and another one never replaces it unasked."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from test_cli import featpipe_says, refused

import featpipe

SMALL = {"backbone": "mini", "input_size": 32, "device": "cpu", "precision": "fp32"}
ASKED = {**SMALL, "train": "head", "epochs": 1, "lr": 0.01, "views": 0}
CLI = [
    *("--backbone", "mini", "--input-size", 32, "--device", "cpu", "--train", "head"),
    *("--precision", "fp32", "--epochs", 1, "--lr", 0.01, "--views", 0),
]


@pytest.fixture
def kinds(tmp_path, draw) -> Path:
    return drawn(tmp_path / "kinds", draw)


def drawn(folder: Path, draw) -> Path:
    """Draw some images of two classes, and a link that is a failure of the scan."""
    for k in range(16):
        draw(folder / ("train", "test")[k > 11] / "ab"[k % 2] / f"{k}.png", k)
    (folder / "train" / "a" / "loop").symlink_to("..")
    return folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory, draw) -> tuple[Path, bytes]:
    """Return images, and the content of the model trained on them."""
    folder = tmp_path_factory.mktemp("trained")
    path = folder / "m"
    featpipe.finetune(drawn(folder / "kinds", draw), path, **ASKED)
    return folder / "kinds", path.read_bytes()


def never(done: int, total: int, words: str) -> None:
    raise AssertionError(f"it trains: {words}")


def test_the_same_options_on_the_same_images_train_nothing(kinds, tmp_path):
    path = tmp_path / "m"
    first = featpipe.finetune(kinds, path, **ASKED)
    content = path.read_bytes()
    again = featpipe.finetune(kinds, path, **ASKED, workers=1, progress=never)
    assert (first.is_new, again.is_new) == (True, False)
    assert path.read_bytes() == content
    assert again.score == first.score
    assert (again.epoch, again.history) == (first.epoch, first.history)
    assert again.rate == first.rate
    assert again.path == path
    assert "nothing was trained now" in again.notes[0]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["kinds", "m"]
    anew = featpipe.finetune(kinds, path, **ASKED, overwrite=True)
    assert anew.is_new


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": 2}, r"epochs = 1, now 2\)"),
        ({"lr": 0.02, "init": "probe"}, "init = 'random', now 'probe'; lr = 0.01, now"),
        ({"seed": 3}, "seed = 0, now 3"),
        ({"depth": "stage3"}, r"depth = \['penultimate'\], now \['stage3'\]"),
        ({"weights": "none"}, "weights = None, now 'none'"),
        ({"input_size": 48}, "input_size = 32, now 48"),
        ({"value_range": "auto"}, "value_range = None, now 'auto'"),
        ({"limit": 12}, "other images or labels: 16 then, 12 now"),
        ({"class_weight": {"a": 2.0}}, "class_weight = None, now {'a': 2.0}"),
    ],
    ids=lambda change: str(next(iter(change))) if isinstance(change, dict) else "",
)
def test_other_options_are_refused_by_name(trained, tmp_path, change, message):
    path = tmp_path / "m"
    kinds, content = trained
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        featpipe.finetune(kinds, path, **{**ASKED, **change})
    assert "overwrite=True" in str(caught.value)
    assert path.read_bytes() == content
    assert [p.name for p in tmp_path.iterdir()] == ["m"]


@pytest.mark.parametrize("change", ["content", "label", "new"])
def test_other_images_are_told(trained, tmp_path, draw, change):
    kinds = shutil.copytree(trained[0], tmp_path / "kinds", symlinks=True)
    (tmp_path / "m").write_bytes(trained[1])
    assert not featpipe.finetune(kinds, tmp_path / "m", **ASKED).is_new
    image = kinds / "train" / "a" / "0.png"
    if change == "content":
        draw(image, 77)  # of the same size in bytes or not, its time is another
        os.utime(image, (1, 1))
    elif change == "label":
        image.rename(kinds / "train" / "b" / "0.png")
    else:
        draw(kinds / "train" / "a" / "new.png", 5)
    with pytest.raises(ValueError, match=r"other images or labels: 16 then, 1[67] no"):
        featpipe.finetune(kinds, tmp_path / "m", **ASKED)


def test_images_without_a_time_are_told_apart_by_content(tmp_path):
    from featpipe.images import from_arrays

    rng = np.random.default_rng(0)
    arrays = rng.integers(0, 256, (12, 20, 16, 3), dtype=np.uint8)
    labels = list("ab" * 6)
    path = tmp_path / "m"
    featpipe.finetune(from_arrays(arrays, labels=labels), path, **ASKED)
    again = featpipe.finetune(from_arrays(arrays, labels=labels), path, **ASKED)
    assert not again.is_new
    arrays[3, 0, 0, 0] ^= 255
    with pytest.raises(ValueError, match="other images or labels"):
        featpipe.finetune(from_arrays(arrays, labels=labels), path, **ASKED)


def test_the_command_line_says_that_nothing_was_trained(kinds, tmp_path):
    command = ["finetune", kinds, "-o", tmp_path / "m", *CLI]
    first = featpipe_says(*command, "--json", tmp_path / "1.json")
    assert first.exit_code == 0, first.output
    assert f"wrote {tmp_path / 'm'}" in first.stderr.replace("\n", "")
    again = featpipe_says(*command, "--json", tmp_path / "2.json")
    assert again.exit_code == 0, again.output
    assert "nothing was trained now" in again.stderr.replace("\n", " ")
    assert f"wrote {tmp_path / 'm'}" not in again.stderr.replace("\n", "")
    assert again.stdout == first.stdout
    one, two = (json.loads((tmp_path / f"{k}.json").read_text()) for k in (1, 2))
    assert one["scores"] == two["scores"]
    line = refused(*command, "--label-smoothing", 0.1)
    assert "label_smoothing = 0.0, now 0.1" in line
    assert "--overwrite" in line
    anew = featpipe_says(*command, "--overwrite")
    assert anew.exit_code == 0
    assert "nothing was trained" not in anew.output


def test_a_file_that_records_no_training_is_replaced_as_ever(kinds, tmp_path):
    path = tmp_path / "m"
    path.write_bytes(b"no model")
    assert featpipe.finetune(kinds, path, **ASKED).is_new
    assert featpipe.load(path).model.training["request"]["n_images"] == 16
