"""The largest image that is decoded: one limit, from every door, and no fingerprint."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_cli import featpipe_says, refused

import featpipe
from featpipe.images import MAX_PIXELS, ImageError, decode

MINI = {"backbone": "mini", "input_size": 24, "device": "cpu", "precision": "fp32"}
CLI = ["--backbone", "mini", "--input-size", 24, "--device", "cpu"]
SMALL = 16 * 20
LARGE = "train/a/large.png"


@pytest.fixture(scope="module")
def flowers(tmp_path_factory, draw) -> Path:
    """Twelve images of 16 x 20 pixels, and one of 40 x 50."""
    folder = tmp_path_factory.mktemp("pixels") / "flowers"
    for k in range(12):
        draw(folder / ("test" if k > 7 else "train") / "ab"[k % 2] / f"{k}.png", k)
    with Image.open(folder / "train/a/0.png") as image:
        assert image.size == (16, 20)
        image.resize((40, 50)).save(folder / LARGE)
    return folder


def paths_of(failures) -> list[str]:
    return [failure[0] for failure in failures]


@pytest.mark.parametrize("format", ["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM"])
def test_an_image_at_the_limit_is_decoded_and_one_row_more_is_not(tmp_path, format):
    path = tmp_path / "image"
    Image.new("RGB", (30, 20)).save(path, format)
    content = path.read_bytes()
    for limit in (600, None):
        assert decode(content, max_pixels=limit).size == (30, 20)
    with pytest.raises(ImageError, match="30 x 20 pixels, more than the limit of 599"):
        decode(content, max_pixels=599)
    with pytest.raises(ImageError, match="raise the limit"):
        decode(content, max_pixels=599, target=4)


def test_beyond_the_default_there_is_no_warning_either():
    # Pillow warns of an image of 89,500,000 pixels, and warnings are errors here.
    side = int(MAX_PIXELS**0.5) + 1
    header = b"P4 %d %d\n" % (side, side)
    content = header + bytes(-(-side // 8) * side)
    assert decode(content, max_pixels=None).size == (side, side)
    with pytest.raises(ImageError, match="more than the limit of 89,478,485"):
        decode(content)


def test_a_raised_limit_computes_what_was_refused_and_keeps_the_rest(flowers, tmp_path):
    path = tmp_path / "x.h5"
    low = featpipe.extract(flowers, path, **MINI, max_pixels=SMALL)
    assert paths_of(low.failures) == [LARGE]
    assert low.provenance["decoding"]["max_pixels"] == SMALL
    before = low.arrays()[0]
    again = featpipe.extract(flowers, path, **MINI, max_pixels=SMALL)
    assert again.stamp == low.stamp  # nothing to do: nothing is written
    for limit in (2000, None):
        file = featpipe.extract(flowers, path, **MINI, max_pixels=limit)
        assert file.failures == []
        assert file.provenance["decoding"]["max_pixels"] == limit
        kept = [k for k, name in enumerate(file.paths) if name != LARGE]
        assert np.array_equal(file.arrays()[0][kept], before)
    # Lowered again, rows that are there stay: no code depends on it.
    assert len(featpipe.extract(flowers, path, **MINI, max_pixels=SMALL)) == 13


def test_the_default_leaves_no_trace(flowers, tmp_path):
    file = featpipe.extract(flowers, tmp_path / "x.h5", **MINI)
    assert file.provenance["decoding"]["max_pixels"] == MAX_PIXELS
    assert "max_pixels" not in file.provenance["request"]
    assert " pixels" not in featpipe_says("inspect", file.path).stdout


def test_shards_of_different_limits_merge(flowers, tmp_path):
    for k, limit in enumerate((SMALL, None)):
        featpipe.extract(
            flowers, tmp_path / f"{k}.h5", **MINI, max_pixels=limit, shard=(k, 2)
        )
    merged = featpipe.merge([tmp_path / f"{k}.h5" for k in (0, 1)], tmp_path / "m.h5")
    assert len(merged) + len(merged.failures) == 13


def test_every_command_that_decodes_takes_the_limit(flowers, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    low = ["--max-pixels", SMALL]
    result = featpipe_says("extract", flowers, "-o", "x.h5", *CLI, *low)
    assert "1 failed" in result.stdout
    assert "40 x 50 pixels, more than the limit of 320" in result.stderr
    assert "up to 320 pixels" in featpipe_says("inspect", "x.h5").stdout
    result = featpipe_says(
        "extract", flowers, "-o", "x.h5", *CLI, "--max-pixels", "none"
    )
    assert "1 computed, 12 kept, 0 failed" in result.stdout, result.output
    assert "no limit of pixels" in featpipe_says("inspect", "x.h5").stdout
    assert featpipe_says("fit", "x.h5", "-o", "x.model", "--C", 1).exit_code == 0
    result = featpipe_says("predict", "x.model", flowers, *low)
    assert "12 of 13 images labelled, 1 failed" in result.stdout
    result = featpipe_says("predict", "x.model", flowers)
    assert "13 of 13 images labelled" in result.stdout
    result = featpipe_says(
        *("run", flowers, "-o", "out", *CLI, *low, "--classifiers", "nearest-mean"),
    )
    assert result.exit_code == 0, result.output
    assert paths_of(featpipe.read("out/codes.h5").failures) == [LARGE]
    tune = ["finetune", flowers, *CLI, "--train", "head", "--epochs", 1, "--lr", 0.01]
    result = featpipe_says(*tune, *low, "--codes", "t.h5", "--json", "t.json")
    assert result.exit_code == 0, result.output
    assert paths_of(featpipe.read("t.h5").failures) == [LARGE]
    (score,) = json.loads(Path("t.json").read_text())["scores"]
    assert score["n_train"] == 8


def test_finetune_judges_under_its_own_limit(flowers, tmp_path):
    held = {"max_pixels": 2001, "train": "head", "epochs": 1, "lr": 0.01}
    tuned = featpipe.finetune(flowers, tmp_path / "x.model", **MINI, **held)
    assert tuned.score.n_test == 4


def test_python_takes_the_limit(flowers, tmp_path):
    items = [flowers / LARGE]
    codes = featpipe.extract(flowers, tmp_path / "x.h5", **MINI)
    featpipe.fit(codes, C=1.0).save(tmp_path / "x.model")
    model = featpipe.load(tmp_path / "x.model", max_pixels=1999)
    for call in (
        model.predict,
        model.using(max_pixels=SMALL).predict,
        featpipe.CNNCodes(**MINI, max_pixels=1999).fit_transform,
        featpipe.CNNCodes(
            **MINI, max_pixels=1999, cache=tmp_path / "c.h5"
        ).fit_transform,
    ):
        with pytest.raises(ValueError, match=r"large\.png.* decode: 40 x 50 pixels"):
            call(items)
    assert len(model.using(max_pixels=None).predict(items)) == 1
    raised = featpipe.CNNCodes(**MINI, max_pixels=None, cache=tmp_path / "c.h5")
    assert np.allclose(
        raised.fit_transform(items),
        featpipe.CNNCodes(**MINI).fit_transform(items),
        atol=1e-5,
    )


def test_a_model_does_not_take_the_limit_away(flowers, tmp_path):
    codes = featpipe.extract(flowers, tmp_path / "x.h5", **MINI, max_pixels=None)
    featpipe.fit(codes, C=1.0).save(tmp_path / "x.model")
    stream = featpipe.load(tmp_path / "x.model").stream
    assert stream.recipe.max_pixels == MAX_PIXELS


def test_what_is_no_limit_is_one_sentence(tmp_path):
    for text in ("many", "", "1e9", "10 Mpx"):
        result = featpipe_says("extract", "x", "-o", "y.h5", "--max-pixels", text)
        assert result.exit_code == 2
        assert "whole number of pixels" in result.stderr
    line = refused("extract", tmp_path, "-o", tmp_path / "y.h5", "--max-pixels", "0")
    assert "max_pixels=0 has to be a whole number from 1 to 1e+11 or None" in line
