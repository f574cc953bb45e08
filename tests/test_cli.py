"""What a person sees: tables, one-line errors, exit statuses, help."""

import csv
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

import featpipe
from featpipe import codes
from featpipe.cli.app import app

SMALL = ["--backbone", "mini", "--weights", "none", "--input-size", "32"]


def featpipe_says(*arguments: object) -> Result:
    # Colours and folding would only get in the way of comparing text.
    return CliRunner(env={"COLUMNS": "200", "NO_COLOR": "1"}).invoke(
        app, [str(argument) for argument in arguments]
    )


def refused(*arguments: object) -> str:
    """Run a command that cannot do its job; give its one line."""
    result = featpipe_says(*arguments)
    lines = [line for line in result.stderr.splitlines() if line.startswith("error:")]
    assert result.exit_code == 1, result.output
    assert len(lines) == 1, result.output
    assert "Traceback" not in result.output
    assert "unexpected" not in lines[0]
    assert "[Errno" not in lines[0]
    return lines[0]


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory, draw) -> Path:
    """Return 20 train and 12 test images of two classes that differ in brightness."""
    from PIL import Image

    folder = tmp_path_factory.mktemp("cli") / "shapes"
    rng = np.random.default_rng(0)
    for split, count in (("train", 10), ("test", 6)):
        for name, level in (("dark", 0), ("light", 120)):
            for k in range(count):
                pixels = rng.integers(level, level + 135, (24, 30, 3), dtype=np.uint8)
                path = folder / split / name / f"{k}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(path)
    (folder / "train" / "dark" / "broken.jpg").write_text("no image")
    return folder


@pytest.fixture(scope="module")
def shapes_h5(shapes: Path) -> Path:
    path = shapes.parent / "shapes.h5"
    depths = ["--depth", "stage1", "--depth", "penultimate"]
    result = featpipe_says("extract", shapes, "-o", path, *SMALL, *depths)
    assert result.exit_code == 0, result.output
    return path


def test_help_names_every_command_and_loads_no_torch() -> None:
    code = (
        "import sys; from typer.testing import CliRunner; "
        "from featpipe.cli.app import app; "
        "said = CliRunner().invoke(app, ['--help']).output; "
        "assert 'torch' not in sys.modules and 'h5py' not in sys.modules; print(said)"
    )
    text = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    for command in ("run", "extract", "compare", "backbones", "depths", "inspect"):
        assert f" {command} " in text
    for command in ("verify", "merge", "demo"):
        assert f" {command} " in text


COMMANDS = "run extract compare backbones depths inspect verify merge demo"


@pytest.mark.parametrize("command", COMMANDS.split())
def test_help_of_each_command_shows_an_example(command: str) -> None:
    result = featpipe_says(command, "--help")
    assert result.exit_code == 0
    assert f"featpipe {command}" in result.output.partition("For example")[2]


def test_version_is_that_of_the_package() -> None:
    assert featpipe_says("--version").output == f"featpipe {featpipe.__version__}\n"


def test_extract_accounts_for_every_input(shapes: Path, shapes_h5: Path) -> None:
    file = codes.read(shapes_h5)
    n_files = sum(path.is_file() for path in shapes.rglob("*"))
    assert len(file) + len(file.failures) == n_files == 33
    assert file.failures[0][:2] == ("train/dark/broken.jpg", "decode")


def test_a_second_extract_says_that_nothing_was_computed(
    shapes: Path, shapes_h5: Path
) -> None:
    before = shapes_h5.stat()
    result = featpipe_says(
        "extract", shapes, "-o", shapes_h5, *SMALL, "--depth", "stage1"
    )
    assert "32 of 33 images have codes: 0 computed, 32 kept, 1 failed" in result.stdout
    assert shapes_h5.stat().st_mtime_ns == before.st_mtime_ns


def test_plan_computes_and_writes_nothing(shapes: Path, tmp_path: Path) -> None:
    path = tmp_path / "planned.h5"
    result = featpipe_says("extract", shapes, "-o", path, *SMALL, "--plan")
    assert result.exit_code == 0
    assert "33 images to compute" in result.stdout
    assert "precision" in result.stdout
    assert re.search(r"compare +linear under \d+ s, svm .*, logistic ", result.stdout)
    assert list(tmp_path.iterdir()) == []
    result = featpipe_says("extract", shapes / "val", "-o", path, *SMALL, "--plan",
                         "--unlabelled")  # fmt: skip
    assert "GFLOP" not in result.stdout


def test_extract_json_says_what_was_done(shapes: Path, tmp_path: Path) -> None:
    path = tmp_path / "done.json"
    featpipe_says("extract", shapes, "-o", tmp_path / "a.h5", *SMALL, "--json", path)
    record = json.loads(path.read_text())
    assert (record["n_images"], record["computed"], record["failed"]) == (33, 32, 1)
    assert record["bottleneck"] in ("read", "decode", "network", "write")
    assert record["failures"][0][0] == "train/dark/broken.jpg"


def test_compare_writes_the_same_scores_to_json_and_csv(
    shapes_h5: Path, tmp_path: Path
) -> None:
    paths = [tmp_path / name for name in ("s.json", "s.csv", "p.csv")]
    result = featpipe_says(
        "compare",
        *(shapes_h5, "--classifiers", "linear,nearest-mean", "--C-grid", "1e-3:1:3"),
        *("--json", paths[0], "--csv", paths[1], "--predictions", paths[2]),
    )
    assert result.exit_code == 0, result.output
    scores = json.loads(paths[0].read_text())["scores"]
    with paths[1].open(newline="") as file:
        flat = list(csv.DictReader(file))
    assert [row["classifier"] for row in flat] == [s["classifier"] for s in scores]
    assert {s["depth"] for s in scores} == {"stage1:avg", "penultimate"}
    assert len(scores) == 4
    assert [len(s["C_curve"]) for s in scores if s["classifier"] == "linear"] == [3, 3]
    with paths[2].open(newline="") as file:
        assert len(list(csv.DictReader(file))) == 12


def test_run_leaves_codes_and_scores_behind(shapes: Path, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    grid = ["--C-grid", "1e-3:1:3", "--classifiers", "linear"]
    result = featpipe_says("run", shapes, "-o", folder, *SMALL, *grid)
    assert result.exit_code == 0, result.output
    assert sorted(path.name for path in folder.iterdir()) == [
        *("codes.h5", "run.json", "scores.csv", "scores.json")
    ]
    assert "linear" in result.stdout


def test_run_on_bad_input_leaves_no_folder(tmp_path: Path) -> None:
    refused("run", tmp_path / "nowhere", "-o", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_inspect_counts_images_of_each_class_and_split(shapes_h5: Path) -> None:
    text = featpipe_says("inspect", shapes_h5).stdout
    rows = [line.split() for line in text.splitlines()]
    assert ["dark", "10", "6"] in rows
    assert ["light", "10", "6"] in rows
    assert "stage1:avg" in text
    assert "failed: train/dark/broken.jpg: decode:" in text


def test_inspect_tells_of_an_unfinished_file(tmp_path: Path) -> None:
    (tmp_path / "x.h5.parts").mkdir()
    result = featpipe_says("inspect", tmp_path / "x.h5")
    assert result.exit_code == 0
    assert "unfinished" in result.stdout


def test_verify_accepts_a_whole_file_and_refuses_a_changed_byte(
    shapes_h5: Path, tmp_path: Path
) -> None:
    assert "is whole: 32 rows" in featpipe_says("verify", shapes_h5).stdout
    damaged = tmp_path / "damaged.h5"
    content = bytearray(shapes_h5.read_bytes())
    content[len(content) // 2] ^= 1
    damaged.write_bytes(content)
    assert "damaged" in refused("verify", damaged)


def test_shards_are_merged_to_the_whole(shapes: Path, shapes_h5: Path) -> None:
    folder = shapes.parent
    for k in (0, 1):
        featpipe_says(
            *("extract", shapes, "-o", folder / f"{k}.h5", *SMALL),
            *("--depth", "stage1", "--depth", "penultimate", "--shard", f"{k}/2"),
        )
    result = featpipe_says(
        "merge", folder / "0.h5", folder / "1.h5", "-o", folder / "whole.h5"
    )
    assert result.exit_code == 0, result.output
    whole, direct = codes.read(folder / "whole.h5"), codes.read(shapes_h5)
    assert whole.paths == direct.paths
    np.testing.assert_array_equal(
        whole.arrays("penultimate")[0], direct.arrays("penultimate")[0]
    )


def test_depths_lists_what_extract_accepts(tmp_path: Path) -> None:
    text = featpipe_says("depths", "mini", "--input-size", "32").stdout
    assert "stage3:avg" in text
    assert "penultimate" in text


def test_backbones_can_be_searched() -> None:
    text = featpipe_says("backbones", "squeezenet").stdout
    assert "squeezenet1_0" in text
    assert "resnet18" not in text


def test_missing_and_empty_sources_are_named(tmp_path: Path) -> None:
    assert "nowhere" in refused("extract", tmp_path / "nowhere", "-o", tmp_path / "x")
    (tmp_path / "empty").mkdir()
    assert "no image" in refused("extract", tmp_path / "empty", "-o", tmp_path / "x")


def test_unknown_split_names_are_shown(shapes: Path, tmp_path: Path) -> None:
    shutil.copytree(shapes, tmp_path / "copy")
    (tmp_path / "copy" / "test").rename(tmp_path / "copy" / "exam")
    result = refused("extract", tmp_path / "copy", "-o", tmp_path / "x.h5", *SMALL)
    assert "'exam'" in result


def test_unknown_names_come_with_near_ones(shapes: Path, tmp_path: Path) -> None:
    out = ["-o", tmp_path / "x.h5"]
    assert "resnet50" in refused("extract", shapes, *out, "--backbone", "resnet51")
    assert "stage3" in refused("extract", shapes, *out, *SMALL, "--depth", "stage33")
    assert "logistic" in refused("compare", "x.h5", "--classifiers", "logistik")


def test_weights_that_cannot_be_downloaded_name_two_ways_out(
    shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A closed port of this machine stands for a network that is cut.
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "hub"))
    result = refused(
        "extract", shapes, "-o", tmp_path / "x.h5", "--backbone", "squeezenet1_1"
    )
    assert "--weights FILE" in result
    assert "mini" in result


def test_a_text_file_named_jpg_alone_is_no_work_done(tmp_path: Path) -> None:
    (tmp_path / "photos" / "ant").mkdir(parents=True)
    (tmp_path / "photos" / "ant" / "x.jpg").write_text("no image")
    result = refused("extract", tmp_path / "photos", "-o", tmp_path / "x.h5", *SMALL)
    assert "not one of 1 images" in result
    assert "ant/x.jpg" in result
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]


def test_an_output_folder_that_is_not_there_is_named(
    shapes: Path, tmp_path: Path
) -> None:
    result = refused("extract", shapes, "-o", tmp_path / "gone" / "x.h5", *SMALL)
    assert "gone" in result


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="no /proc here")
def test_a_folder_that_takes_no_file_is_named(shapes: Path) -> None:
    # Not even root can make a file there, though the folder says it is writable.
    result = refused("extract", shapes, "-o", "/proc/x.h5", *SMALL)
    assert "no file can be made in /proc" in result
    assert "x.h5" in result


def test_other_preprocessing_is_refused_by_name(shapes: Path, shapes_h5: Path) -> None:
    result = refused("extract", shapes, "-o", shapes_h5, *SMALL, "--crop", "24")
    assert "preprocessing.crop" in result
    assert "--overwrite" in result


def test_what_is_no_codes_file_is_refused(shapes_h5: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.h5"
    text.write_text("hello")
    assert "not a featpipe codes file" in refused("compare", text)
    cut = tmp_path / "cut.h5"
    cut.write_bytes(shapes_h5.read_bytes()[:2000])
    assert "cut" in refused("compare", cut)
    assert "extract SOURCE" in refused("compare", tmp_path / "missing.h5")


def test_one_class_cannot_be_compared(shapes: Path, tmp_path: Path) -> None:
    path = tmp_path / "one.h5"
    featpipe_says("extract", shapes / "train" / "dark", "-o", path, *SMALL)
    assert refused("compare", path)


@pytest.mark.parametrize(
    "wrong",
    [
        ["compare", "x.h5", "--C-grid", "1:2"],
        ["extract", "x", "-o", "x.h5", "--mean", "a,b,c"],
        ["extract", "x", "-o", "x.h5", "--shard", "3"],
        ["extract", "x"],
        ["frobnicate"],
        ["extract", "x", "-o", "x.h5", "--precision", "fp8"],
    ],
)
def test_wrong_usage_ends_with_status_2(
    wrong: list[str], shapes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(shapes.parent)
    (shapes.parent / "x").mkdir(exist_ok=True)
    shutil.copy(shapes / "test" / "dark" / "0.png", shapes.parent / "x" / "0.png")
    result = featpipe_says(*wrong)
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.output


def test_debug_gives_the_traceback(tmp_path: Path) -> None:
    result = featpipe_says("--debug", "verify", tmp_path / "gone.h5")
    assert isinstance(result.exception, FileNotFoundError)


def test_quiet_leaves_only_what_came_out(shapes: Path, tmp_path: Path) -> None:
    result = featpipe_says("-q", "extract", shapes, "-o", tmp_path / "x.h5", *SMALL)
    assert result.stderr == ""
    assert "32 computed" in result.stdout
