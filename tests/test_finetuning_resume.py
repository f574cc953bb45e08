"""A training killed at random and run again gives the very same weights."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import surviving
import torch
from predictor_models import draw

from featpipe.finetuning.checkpoint import Checkpoint

HERE = Path(__file__).parent


@pytest.mark.slow  # `test_survival.py` kills some of these runs each time
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_killed_at_random_and_run_again_it_gives_the_same_weights(tmp_path):
    photos, work = tmp_path / "photos", tmp_path / "work"
    work.mkdir()
    draw(photos, "train", 8, 0)
    draw(photos, "test", 2, 1)
    done = subprocess.run(
        [sys.executable, HERE / "tuning_killed.py", photos, work],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    whole, once, often = map(json.loads, done.stdout.splitlines())
    assert once["kills"] == 1
    assert often["kills"] >= 1
    assert {whole["digest"], once["digest"], often["digest"]} == {whole["digest"]}
    assert whole["rest"] == once["rest"] == often["rest"] == ["m"]


def test_a_journal_comes_back_as_it_was_but_only_for_its_own_training(tmp_path):
    path, cpu = tmp_path / "checkpoint.pt", torch.device("cpu")
    checkpoint = Checkpoint("mine", tried={0.01: 0.5, 0.1: 0.7}, epoch=3, best_epoch=2)
    checkpoint.now = {"head.linear.bias": torch.arange(3.0)}
    checkpoint.write(path)
    again = Checkpoint.read(path, "mine", cpu)
    assert (again.rate, again.epoch, again.best_epoch) == (0.01, 3, 2)
    assert torch.equal(again.now["head.linear.bias"], torch.arange(3.0))
    assert Checkpoint.read(path, "another", cpu).epoch == 0
    assert Checkpoint.read(tmp_path / "none", "mine", cpu).epoch == 0


def test_a_damaged_checkpoint_is_named(tmp_path):
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(b"cut short")
    with pytest.raises(ValueError, match=r"checkpoint.pt is damaged .* remove it"):
        Checkpoint.read(path, "mine", torch.device("cpu"))


def test_work_that_cannot_be_removed_costs_no_model(tmp_path, monkeypatch):
    surviving.photos(tmp_path, 8)
    here = tmp_path / "here"
    here.mkdir()
    plain = Path.unlink

    def unlink(path: Path, missing_ok: bool = False) -> None:
        if "t.work" in path.parts:
            raise PermissionError(13, "Permission denied")
        plain(path, missing_ok=missing_ok)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", unlink)
        surviving.finetuned(here)
    first = surviving.digest(here / "t")
    left = {path.name for path in (here / "t.work").iterdir()}
    assert {"checkpoint.pt", "codes.h5", "codes.h5.lock", "codes.h5.parts"} <= left
    surviving.finetuned(here)
    assert surviving.digest(here / "t") == first
    assert [str(path.relative_to(here)) for path in here.rglob("*")] == ["t"]
