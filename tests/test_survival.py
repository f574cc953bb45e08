"""A short run of what `make soak` runs for long; see docs/inside/reliability.md."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import mutants
import pytest
import soak
import surviving
import trapping


def lines(script: str, *arguments: object) -> list[dict[str, Any]]:
    done = subprocess.run(
        [sys.executable, Path(soak.__file__).with_name(script), *map(str, arguments)],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize("kinds", ["kills", "faults"])
def test_forty_kills_and_forty_faults_lose_nothing(tmp_path, kinds):
    _, *tried = lines("surviving.py", tmp_path / "work", kinds, 300, 11, 40)
    assert len(tried) == 40
    assert [each for each in tried if each["wrong"]] == []
    assert len({each["job"] for each in tried}) >= 6
    assert len({each["call"] for each in tried}) >= 6


@pytest.mark.parametrize(("kind", "n"), [("codes", 200), ("models", 1000),
                                         ("images", 2000)])  # fmt: skip
def test_mutants_are_refused_or_sound(kind, n):
    [found] = lines("mutants.py", kind, 120, 11, n)
    assert found["n"] == n
    assert set(found["outcomes"]) <= set(soak.GOOD), found
    assert found["outcomes"]["refused"] > n / 5


def test_a_harness_that_cannot_fail_is_none(tmp_path, monkeypatch):
    # A writer that does not care: not whole, not renamed. The harness has to see it.
    def careless(here: Path) -> None:
        with trapping.atomic.create(here / "m.onnx") as file:
            file.write(b"onnx" * 50_000)

    monkeypatch.setitem(surviving.JOBS, "export", surviving.Job(careless, ("m.onnx",)))
    trial = surviving.Trial(tmp_path, "export")
    found = trial.run(trapping.Trap("create", 1, "kill after"))
    assert any("neither the old file nor the new" in text for text in found["wrong"])

    class Hanging(Exception):
        pass

    def die(content: bytes, path: Path) -> str:
        os.kill(os.getpid(), 11)
        raise Hanging

    monkeypatch.setitem(mutants.KINDS, "codes", mutants.Kind(mutants.codes_mutant, die))
    assert mutants.count("codes", 60, 0, 2)["outcomes"] == {"signal 11": 2}


def test_the_page_adds_up_what_the_runs_counted():
    tried = {"job": "fit", "call": "fsync", "k": 1, "act": "EIO", "wrong": ["it is"]}
    first = [{"points": 7}, {**tried, "wrong": []}, tried]
    second = [{"points": 7}, {**tried, "call": "link", "wrong": []}]
    facts = {"began": "now", "seconds": 60.0, "seed": 5, "machine": "one"}
    counts = [
        ("kills", soak.survival_counts([first, second])),
        ("kills", soak.survival_counts([second])),
        ("codes", {"n": 3, "outcomes": {"refused": 2, "signal 11": 1}}),
        ("codes", soak.mutant_counts([[{"n": 4, "outcomes": {"refused": 4}}]] * 2)),
    ]
    runs = [{"stage": stage, **facts, **found} for stage, found in counts]
    text = soak.page(json.loads(json.dumps(runs)))
    assert "| fit | 4 | fsync, link | 1 |" in text
    assert "4 points were tried, drawn at random from\nthe 7 there are" in text
    assert "wrong: fit, EIO at fsync 1: it is" in text
    assert "| signal 11 | 1 |" in text
    assert "| refused | 10 |" in text
    assert "11 files." in text
    assert "Wrong: 1." in text
    assert text.count("| now | 1.0 | 5 |") == 4


def test_a_soak_adds_to_its_record(tmp_path):
    record, page = tmp_path / "r.json", tmp_path / "r.md"
    for _ in range(2):
        command = [sys.executable, soak.__file__, "--only", "models", "--minutes"]
        command += ["0.001", "--jobs", "1", "--record", record, "--page", page]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    runs = json.loads(record.read_text())
    assert [each["seed"] for each in runs] == [1, 2]
    assert all(each["n"] >= 500 for each in runs)  # a batch
    assert f"{sum(each['n'] for each in runs):,} files." in page.read_text()
    done = subprocess.run([sys.executable, soak.__file__, "--only", "x"], text=True,
                          stderr=subprocess.PIPE)  # fmt: skip
    assert done.returncode == 2
    assert "no harness 'x'" in done.stderr
