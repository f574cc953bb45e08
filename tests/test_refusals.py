"""Arguments and files that make no sense: one sentence, with the value or the path."""

import io
import json
import struct
import subprocess
import sys
import time
import zipfile
import zlib

import numpy as np
import pytest
import torch
from PIL import Image
from test_cli import SMALL, featpipe_says, refused

import featpipe
from featpipe import codes, images, scores
from featpipe.files import visible
from featpipe.images import frames
from featpipe.inference import Machine, Recipe


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"depth": 5}, "depth is 5; give the name of a node"),
        ({"depth": None}, "depth is None; give the name of a node"),
        ({"backbone": None}, "backbone is None; give the name of a network"),
        ({"backbone": ""}, "backbone is ''; give the name of a network"),
        ({"batch_size": -1}, "batch_size=-1 has to be a whole number from 1 to 65,536"),
        ({"batch_size": 0}, "batch_size=0 has to be"),
        ({"batch_size": 2.5}, "batch_size=2.5 has to be a whole number"),
        ({"workers": True}, "workers=True has to be a whole number"),
    ],
)
def test_an_odd_argument_is_named(options, sentence):
    network = {"backbone": "mini", "weights": "none", **options}
    with pytest.raises(ValueError, match=sentence):
        featpipe.CNNCodes(**network).fit([])


def test_recipes_and_machines_refuse_them_too():
    with pytest.raises(ValueError, match="the depth is 5"):
        Recipe(backbone="mini", depths=(5,))
    with pytest.raises(ValueError, match="batch_size='4' has to be"):
        Machine(batch_size="4")
    assert Machine(batch_size=np.int64(4)).batch_size == 4


def test_a_file_that_does_not_tell_how_it_was_decoded_agrees_with_auto_alone():
    results = {"precision": "fp32", "decoding": {}}
    assert Recipe("mini").resolve_auto(results).decoding == "auto"
    assert Recipe("mini", precision="fp32").agrees(results)
    assert not Recipe("mini", decoding="exact").agrees(results)


@pytest.mark.parametrize("C", [True, False, "large", -1, np.nan, None])
@pytest.mark.parametrize("name", ["Linear", "SVM", "Logistic"])
def test_a_C_that_is_no_number_above_zero_is_refused(name, C):
    classifier = getattr(featpipe, f"{name}Classifier")(C=C)
    with pytest.raises(ValueError, match="must be 'auto' or a number above zero"):
        classifier.fit(np.eye(6), [0, 1] * 3)


@pytest.mark.parametrize("row", ["header", "line"])
def test_a_field_beyond_the_limit_of_csv_is_an_error_with_the_line(tmp_path, row):
    path = tmp_path / "t.csv"
    long = "x" * 200_000
    path.write_text(f"path,label{long}\n" if row == "header" else f"path\n{long}\n")
    result = refused("extract", path, "-o", tmp_path / "a.h5", *SMALL)
    number = 1 if row == "header" else 2
    assert f"t.csv', line {number}: field larger" in result


def test_scores_nested_too_deep_are_an_error_with_the_path(tmp_path):
    path = tmp_path / "s.json"
    path.write_text('{"scores":' + "[" * 100_000)
    with pytest.raises(ValueError, match=r"s\.json' is not a scores file"):
        scores.read_json(path)


def itself():
    whole = {"a": torch.zeros(1)}
    whole["whole"] = whole
    return whole


ODD_WEIGHTS = {
    "itself": (itself, "more than once or in itself"),
    "sparse": (lambda: {"a": torch.eye(3).to_sparse()}, "a sparse_coo tensor of float"),
    "complex": (lambda: {"a": torch.zeros(2, dtype=torch.complex64)}, "of complex64"),
    "float8": (lambda: {"a": torch.zeros(2).to(torch.float8_e4m3fn)}, "float8_e4m3fn"),
    "quantised": (
        lambda: {"a": torch.quantize_per_tensor(torch.zeros(2), 1.0, 0, torch.qint8)},
        "qint8",
    ),
}


@pytest.mark.parametrize("kind", ODD_WEIGHTS)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_weights_that_are_no_plain_tensors_are_an_error_with_the_path(tmp_path, kind):
    make, sentence = ODD_WEIGHTS[kind]
    path = tmp_path / "w.pth"
    torch.save(make(), path)
    with pytest.raises(ValueError, match=rf"w\.pth'.*{sentence}"):
        featpipe.CNNCodes("mini", weights=str(path)).fit([])


def test_control_characters_are_shown_and_not_sent(tmp_path, draw):
    for k in range(6):
        name = ("a\x1b[31mnt", "b\u202eee")[k % 2]
        draw(tmp_path / "photos" / name / f"{k}.png", k)
    (tmp_path / "photos" / "a\x1b[31mnt" / "bad\x1b]0;x\x07.png").write_text("no image")
    path = tmp_path / "a.h5"
    for command in (
        ["extract", tmp_path / "photos", "-o", path, *SMALL],
        ["-v", "inspect", path],
        ["compare", path, "--classifiers", "linear", "--folds", "2"],
        ["fit", path, "-o", tmp_path / "m", "--C", "1"],
        ["predict", tmp_path / "m", tmp_path / "photos"],
    ):
        result = featpipe_says(*command)
        assert result.exit_code == 0, result.output
        for odd in "\x1b\x07\u202e":
            assert odd not in result.output, command
    assert "\x1b" in codes.read(path).class_names[0]
    assert visible("é\n\udcff\u2028") == "é\\n\\udcff\\u2028"


def tiff(n_pages: int) -> bytes:
    """Return a TIFF of equal pages by hand: Pillow takes seconds for 2,000."""
    file = io.BytesIO()
    Image.new("L", (3, 2)).save(file, "TIFF")
    (start,) = struct.unpack("<I", file.getvalue()[4:8])
    size = 2 + 12 * struct.unpack_from("<H", file.getvalue(), start)[0]
    page = file.getvalue()[start : start + size]
    file.seek(start)
    for k in range(1, n_pages + 1):
        after = 0 if k == n_pages else start + k * (size + 4)
        file.write(page + struct.pack("<I", after))
    return file.getvalue()


def test_pages_are_counted_up_to_a_bound():
    assert images.decode(tiff(1)).notes == ()
    assert images.decode(tiff(7)).notes == ("first of 7 frames",)
    many = tiff(2000)
    start = time.perf_counter()
    assert images.decode(many).notes == ("first of more than 100 frames",)
    assert time.perf_counter() - start < 1


def test_a_large_gif_says_that_its_frames_are_not_counted(monkeypatch):
    one, two = io.BytesIO(), io.BytesIO()
    image = Image.new("RGB", (20, 20), "red")
    image.save(one, "GIF")
    image.save(two, "GIF", save_all=True, append_images=[Image.new("RGB", (20, 20))])
    assert images.decode(one.getvalue()).notes == ()
    assert images.decode(two.getvalue()).notes == ("first of 2 frames",)
    monkeypatch.setattr(frames, "_LONG_GIF", 16)
    for file in (one, two):  # whatever it holds, nothing is claimed of a number
        [note] = images.decode(file.getvalue()).notes
        assert note.startswith("first frame; of a GIF over")


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2])
def test_a_member_that_unpacks_a_hundredfold_is_a_failure(tmp_path, draw, method):
    picture = draw(tmp_path / "1.png", 1)
    with zipfile.ZipFile(tmp_path / "a.zip", "w", method) as archive:
        archive.write(picture, "ant/1.png")
        archive.writestr("ant/bomb.bmp", bytes(2**25))
    image_set = images.scan(tmp_path / "a.zip")
    assert image_set.paths == ["1.png"]  # the one folder around everything is taken off
    [(path, stage, reason)] = [failure[:3] for failure in image_set.failures]
    assert (path, stage) == ("bomb.bmp", "scan")
    assert "more than 100 times as many" in reason


def rgba16(side: int) -> bytes:
    def chunk(kind, content):
        crc = zlib.crc32(kind + content).to_bytes(4, "big")
        return len(content).to_bytes(4, "big") + kind + content + crc

    size = side.to_bytes(4, "big") * 2
    row = b"\0" + (b"\x12\x34" * 3 + b"\x80\0") * side
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", size + bytes([16, 6, 0, 0, 0]))
        + chunk(b"IDAT", zlib.compress(row * side, 1))
        + chunk(b"IEND", b"")
    )


# Not `ru_maxrss`, which begins with the peak of the process that started this one.
MEASURED = """
import re, sys
from pathlib import Path
from featpipe import images

def peak():
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\\s*(\\d+)", status)[1]) * 1024

content = Path(sys.argv[1]).read_bytes()
options = {"value_range": (0, 65535)} if sys.argv[3] == "range" else {}
images.decode(Path(sys.argv[2]).read_bytes(), **options)
before = peak()
images.decode(content, **options)
print(peak() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("kind", ["rgba16", "range", "float"])
def test_an_image_takes_twelve_bytes_a_pixel_at_most(tmp_path, kind):
    side = 3000

    def content(side):
        if kind != "float":
            return rgba16(side)
        file = io.BytesIO()
        Image.fromarray(np.linspace(0, 1, side**2, dtype="f4").reshape(side, -1)).save(
            file, "TIFF"
        )
        return file.getvalue()

    for name, n in (("small", 4), ("large", side)):
        (tmp_path / name).write_bytes(content(n))
    command = [sys.executable, "-c", MEASURED, tmp_path / "large", tmp_path / "small"]
    command += [kind]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    # What is decoded alone takes three.
    assert 3 * side**2 < int(text) < 12 * side**2 + 2**24


def test_a_model_with_a_mean_of_words_fails_when_it_is_loaded(tmp_path, draw):
    from featpipe.predictor import storing

    for k in range(6):
        draw(tmp_path / "photos" / ("ant", "bee")[k % 2] / f"{k}.png", k)
    options = {"backbone": "mini", "weights": "none", "input_size": 32}
    file = featpipe.extract(tmp_path / "photos", tmp_path / "a.h5", **options)
    model = featpipe.fit(file, "linear", C=1.0).model
    for bad in (["a", "b", "c"], [0.5], [0.5, 0.5, True], [1, 2, [3]], [1e999] * 3):
        record = json.loads(json.dumps(model.as_record()))
        record["fingerprint"]["preprocessing"]["mean"] = bad
        with pytest.raises(ValueError, match="preprocessing has mean="):
            storing._model(
                json.dumps(record).replace("Infinity", "1e999"),
                {"coef": model.coef, "intercept": model.intercept},
                ("coef", "intercept"),
            )
