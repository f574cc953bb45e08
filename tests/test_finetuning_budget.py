"""A budget ends a training: the probe beaten, unbeatable, or the time over."""

import numpy as np
import pytest
from predictor_models import SMALL
from scipy.stats import binomtest
from typer.testing import CliRunner

import featpipe
from featpipe.cli.app import app
from featpipe.finetuning.stopping import decided, out_of_time, unbeatable

ASKED = {**SMALL, "train": "head", "augment": "none", "depth": "stage1", "lr": 1e-3}


def right(n, n_wrong):
    return [k >= n_wrong for k in range(n)]


def test_six_errors_are_the_fewest_that_can_be_beaten():
    assert unbeatable(right(40, 6)) is None
    assert "gets 5 of the 40 images that choose wrong" in unbeatable(right(40, 5))


def test_the_probe_is_beaten_beyond_noise_or_not():
    probe, network = right(40, 10), right(40, 1)
    p = binomtest(9, 9).pvalue
    assert f"p = {p:.2g}" in decided(probe, network, 1)
    assert decided(probe, network, 20) is None  # twenty looks at the same images
    assert decided(network, probe, 1) is None  # worse is not better
    assert decided(probe, right(40, 7), 1) is None


def test_an_epoch_that_does_not_fit_is_not_begun():
    assert out_of_time(10, 4, 2, 4, 1) is None
    assert "budget of 10 s" in out_of_time(10, 4, 2, 4.1, 1)


@pytest.fixture(scope="module")
def noise(tmp_path_factory, draw):
    """Images whose labels nothing tells: a probe errs on half of them."""
    folder = tmp_path_factory.mktemp("noise")
    for k in range(100):
        draw(folder / ("train" if k < 80 else "test") / "ab"[k % 2] / f"{k}.png", k)
    return folder


def test_with_no_time_the_probe_is_what_comes_out(noise, tmp_path):
    h5 = tmp_path / "n.h5"
    path = tmp_path / "m"
    options = {**ASKED, "codes": h5, "epochs": 3, "init": "probe", "budget": 1e-3}
    result = featpipe.finetune(noise, path, **options)
    assert any("budget of 0.001 s" in text for text in result.score.warnings)
    assert [entry["epoch"] for entry in result.history] == [0]
    probe = featpipe.fit(h5, "logistic").predict_proba(noise / "test")
    tuned = featpipe.load(path).predict_proba(noise / "test")
    np.testing.assert_allclose(tuned, probe, atol=1e-5)


def test_with_time_enough_a_budget_changes_nothing(noise):
    options = {**ASKED, "epochs": 2, "init": "probe"}
    free = featpipe.finetune(noise, **options)
    tuned = featpipe.finetune(noise, **options, budget=3600)
    keys = ("epoch", "loss", "held_out_loss")
    assert [[e[k] for k in keys] for e in tuned.history] == [
        [e[k] for k in keys] for e in free.history
    ]
    assert tuned.score.test_predicted == free.score.test_predicted


def test_an_easy_set_is_not_trained_at_all(tmp_path):
    from predictor_models import draw

    draw(tmp_path / "kinds", "train", 12, 0)
    draw(tmp_path / "kinds", "test", 4, 1)
    options = {**ASKED, "lr": None, "epochs": 3, "init": "probe", "budget": 600}
    tuned = featpipe.finetune(tmp_path / "kinds", **options)
    assert any("not trained: the probe gets" in text for text in tuned.score.warnings)
    assert [entry["epoch"] for entry in tuned.history] == [0]


def test_a_budget_without_the_probe_is_refused(noise):
    options = ["--backbone", "mini", "--budget", "10"]
    done = CliRunner().invoke(app, ["finetune", str(noise), *options])
    assert done.exit_code == 1
    assert "budget=10.0 compares with the probe" in done.output
