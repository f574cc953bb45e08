"""The study scripts run from photos to a table, through the public names."""

import importlib.util
from pathlib import Path

import pytest

import featpipe
from featpipe import backbones

PIPELINES = Path(__file__).parents[1] / "pipelines"
SMALL = ["--backbone", "squeezenet1_1", "--weights", "none", "--device", "cpu"]


@pytest.fixture
def flowers(tmp_path, draw):
    for k in range(12):
        draw(tmp_path / "flowers" / ("aster", "briar")[k % 2] / f"{k}.png", k)
    return tmp_path / "flowers"


def load(name):
    spec = importlib.util.spec_from_file_location(name, PIPELINES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_compare_classifiers_leaves_its_numbers_in_files(flowers, tmp_path, capsys):
    study = tmp_path / "study"
    options = ["-o", str(study), *SMALL, "--classifiers", "nearest-mean", "knn"]
    result = load("compare_classifiers").main([str(flowers), *options, "--folds", "2"])
    assert {score.classifier for score in result.scores} == {"nearest-mean", "knn"}
    assert "nearest-mean" in capsys.readouterr().out
    assert sorted(path.name for path in study.iterdir()) == [
        "codes.h5", "predictions.csv", "scores.csv", "scores.json",
    ]  # fmt: skip


def test_sweep_depths_shows_each_depth_in_the_networks_order(flowers, tmp_path, capsys):
    options = ["-o", str(tmp_path / "study"), *SMALL, "--classifier", "nearest-mean"]
    result = load("sweep_depths").main([str(flowers), *options, "--n-depths", "3"])
    depths = {score.depth for score in result.scores}
    assert len(depths) == 3
    assert "penultimate" in depths
    shown = capsys.readouterr().out
    assert shown.index("features.0:avg") < shown.index("penultimate")
    assert (tmp_path / "study" / "depths.csv").exists()


def test_fixed_or_finetuned_trains_from_nodes_whose_input_can_be_cached():
    study = load("fixed_or_finetuned")
    small = ["photos", "-o", "study", "--backbone", "mini", "--input-size", "32"]
    nodes = study.places(study.parse(small))
    assert len(nodes) == len(study.PLACES)
    rows = {row.node: row for row in backbones.describe_depths("mini", input_size=32)}
    shares = [rows[node].cost_share for node in nodes]
    assert shares == sorted(shares)
    for node in nodes:
        backbone = backbones.load("mini", weights="none", input_size=32)
        assert backbones.input_depth(backbone, node) is not None


@pytest.mark.slow
def test_fixed_or_finetuned_leaves_a_table_a_picture_and_models(tmp_path, draw, capsys):
    pytest.importorskip("matplotlib", reason="needs the extra featpipe[plot]")
    for k in range(16):
        split = "test" if k < 4 else "train"
        draw(tmp_path / "photos" / split / ("ant", "bee")[k % 2] / f"{k}.png", k)
    study = tmp_path / "study"
    options = [str(tmp_path / "photos"), "-o", str(study), "--backbone", "mini"]
    options += ["--depth", "stage2", "--input-size", "32", "--epochs", "1"]
    options += ["--device", "cpu", "--from", "stage1", "--from", "stage2.1"]
    result = load("fixed_or_finetuned").main(options)
    assert list(result) == [
        "probe", "head", "from stage1", "from stage2.1", "all", "all, probe first",
        "from scratch",
    ]  # fmt: skip
    assert all(score.n_test == 4 for score in result.values())
    assert all(result[name].p_value is not None for name in list(result)[1:])
    assert result["from scratch"].weights == "none"
    shown = capsys.readouterr().out
    assert "all, probe first" in shown
    assert (study / "study.png").stat().st_size > 10_000
    assert featpipe.load(study / "from-stage1.model").class_names == ["ant", "bee"]


@pytest.mark.parametrize("jobs", ["1", pytest.param("2", marks=pytest.mark.slow)])
def test_scaling_out_takes_four_steps_to_the_same_codes_and_one_model(
    flowers, tmp_path, capsys, jobs
):
    study = tmp_path / "study"
    options = ["-o", str(study), "--jobs", jobs, "--memory", "50MB"]
    model = load("scale_out").main([str(flowers), *options])
    text = capsys.readouterr().out
    assert "12 images: about" in text
    assert "3 ways, the same 12 rows to the byte" in text
    assert model.model.classifier in ("linear", "svm", "logistic")
    assert (study / "scores.json").exists()
    assert (study / "model").exists()
