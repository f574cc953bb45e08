"""A short run of what `make soak` runs for long; see docs/inside/reliability.md."""

import json
import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import mutants
import pytest
import soak
import surviving
import trapping
from trapping import apart

from featpipe import codes, images


@pytest.fixture(scope="module", params=[16, pytest.param(40, marks=pytest.mark.slow)])
def tried_of(request, tmp_path_factory) -> dict[str, list[dict[str, Any]]]:
    """Return some kills and as many faults, tried in a fork: it changes featpipe."""
    work = tmp_path_factory.mktemp("survival")

    def act() -> list[dict[str, Any]]:
        return [*surviving.experiments(work, "kills,faults", 300, 11, request.param)]

    result = apart(act, 600)
    assert "value" in result, result
    kills, faults = (k for k, each in enumerate(result["value"]) if "points" in each)
    tried = {"kills": result["value"][kills + 1 : faults]}
    tried["faults"] = result["value"][faults + 1 :]
    assert {len(each) for each in tried.values()} == {request.param}
    return tried


@pytest.mark.parametrize("kinds", ["kills", "faults"])
def test_kills_and_faults_lose_nothing(tried_of, kinds):
    tried = tried_of[kinds]
    assert [each for each in tried if each["wrong"]] == []
    assert len({each["step"] for each in tried}) > len(tried) / 3
    assert len({each["job"] for some in tried_of.values() for each in some}) >= 6


@pytest.mark.filterwarnings("ignore")  # Pillow's, about EXIF and TIFF tags
@pytest.mark.parametrize(("kind", "n"), [("codes", 200), ("models", 1000),
                                         ("images", 2000)])  # fmt: skip
def test_mutants_are_refused_or_sound(kind, n):
    counts = mutants.count(kind, 120, 11, n)
    assert counts["n"] == n
    counted = soak.mutant_counts([[counts]])["outcomes"]
    assert {outcome for each in counted.values() for outcome in each} <= {*mutants.GOOD}
    assert sum(each.get("refused", 0) for each in counted.values()) > n / 5
    if kind == "images":
        assert {*counted} == {*images.DECODING["formats"]}
    else:
        assert sum(counted["sealed"].values()) > n / 3


def test_a_harness_that_cannot_fail_is_none(tmp_path, monkeypatch):
    # A writer that does not care: not whole, not renamed. The harness has to see it.
    def careless(here: Path) -> None:
        with trapping.atomic.create(here / "m.onnx") as file:
            file.write(b"onnx" * 50_000)

    monkeypatch.setitem(surviving.JOBS, "export", surviving.Job(careless, ("m.onnx",)))
    trial = surviving.Trial(tmp_path, "export")
    result = trial.run(trapping.Trap("create", 1, "kill after"))
    assert any("neither the old file nor the new" in text for text in result["wrong"])

    def set_reader(read) -> None:
        kind = mutants.Kind(mutants.codes_mutant, read)
        monkeypatch.setitem(mutants.KINDS, "codes", kind)

    def outcomes(n: int = 2, first: int = 0) -> Counter[str]:
        result = mutants.count("codes", 60, 0, n, first)["outcomes"]
        return sum(map(Counter, result.values()), Counter())

    def die(mutant: mutants.Mutant, path: Path) -> None:
        os.kill(os.getpid(), 9)

    def hang(mutant: mutants.Mutant, path: Path) -> None:
        time.sleep(60)

    def count_on(mutant: mutants.Mutant, path: Path) -> None:
        while True:
            pass

    def stand_still_once(mutant: mutants.Mutant, path: Path) -> str:
        if not (tmp_path / "stood").exists():
            (tmp_path / "stood").touch()
            time.sleep(60)
        return "refused"

    def take_all(mutant: mutants.Mutant, path: Path) -> str:
        return str(len(bytes(2 * mutants.MEMORY)))

    monkeypatch.setattr(mutants, "LIMIT", 0.5)
    monkeypatch.setattr(mutants, "PATIENCE", 1)
    set_reader(die)
    assert outcomes() == {"signal 9": 2}
    for endless in (hang, count_on):
        set_reader(endless)
        assert outcomes(1) == {"over 0.5 s": 1}
    set_reader(stand_still_once)
    assert outcomes() == {"refused": 2}
    set_reader(take_all)
    assert outcomes() == {"MemoryError:": 2}
    # Two of these 30 are damaged where nothing but the digests can tell.
    monkeypatch.setattr(codes, "verify", lambda path: codes.read(path, check=False))
    monkeypatch.setattr(mutants.block, "check", lambda file, payload: None)
    set_reader(mutants.read_codes)
    assert outcomes(30, first=182)["silently wrong"] == 2


def test_the_page_adds_up_what_the_runs_counted():
    tried = {"job": "fit", "call": "fsync", "k": 1, "act": "EIO", "wrong": ["it is"]}
    tried["step"] = "fsync model"
    first = [{"points": 7}, {**tried, "wrong": []}, tried]
    second = [{"points": 7}, {**tried, "step": "link lock", "wrong": []}]
    facts = {"began": "now", "seconds": 60.0, "seed": 5, "machine": "one", "first": 0}
    sealed = {
        "n": 4,
        "next": 4,
        "tried_again": 1,
        "outcomes": {"sealed": {"refused": 4}},
    }
    plain = {"plain": {"refused": 2, "signal 11": 1}}
    counts = [
        ("kills", soak.survival_counts([first, second])),
        ("kills", soak.survival_counts([second])),
        ("codes", {"n": 3, "next": 3, "tried_again": 0, "outcomes": plain}),
        ("codes", soak.mutant_counts([[sealed]] * 2)),
    ]
    runs = [{"stage": stage, **facts, **result} for stage, result in counts]
    text = soak.page(json.loads(json.dumps(runs)))
    assert "| fit | 4 | 2 | 1 |" in text
    assert "4 points were tried, in an order" in text
    assert "followed to its point 3 of the\n7 there are. They lie at 2 steps:\n" in text
    assert "\nfsync model, link lock.\n" in text
    assert "wrong: fit, EIO at fsync model (fsync 1): it is" in text
    assert "| signal 11 | 1 | 0 | 1 |" in text
    assert "| refused | 2 | 8 | 10 |" in text
    assert "11 files." in text
    assert "Wrong: 1; mended since it was found: 0." in text
    assert "Wrong: 1." in text
    mended = soak.page([{**each, "mended": True} for each in runs])
    assert "Wrong: 0; mended since it was found: 1." in mended
    assert "- mended: fit, EIO" in mended
    assert "for more than 5 s by the clock: 2." in text
    assert text.count("| now | 1.0 | 5 |") == 4


def test_a_soak_goes_on_where_it_ended():
    one = {"stage": "codes", "seed": 1, "first": 0, "n": 40, "next": 40}
    assert soak.where_to_go_on([], "codes") == (1, 0)
    assert soak.where_to_go_on([one], "codes") == (1, 40)
    assert soak.where_to_go_on([one], "models") == (1, 0)
    last = {**one, "first": 40, "next": soak.VOLUME}
    assert soak.where_to_go_on([one, last], "codes") == (2, 0)
    points = {"stage": "kills", "seed": 3, "first": 5, "n": 4, "points": 9}
    assert soak.where_to_go_on([points], "kills") == (4, 0)
    assert soak.where_to_go_on([{**points, "n": 3}], "kills") == (3, 8)


@pytest.mark.slow
def test_a_soak_adds_to_its_record(tmp_path):
    record, page = tmp_path / "r.json", tmp_path / "r.md"
    for _ in range(2):
        command = [sys.executable, soak.__file__, "--only", "models", "--minutes"]
        command += ["0.001", "--jobs", "1", "--record", record, "--page", page]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    runs = json.loads(record.read_text())
    assert [each["seed"] for each in runs] == [1, 1]
    assert all(each["n"] >= 500 for each in runs)  # a batch
    assert [each["first"] for each in runs] == [0, runs[0]["n"]]
    assert f"{sum(each['n'] for each in runs):,} files." in page.read_text()
    done = subprocess.run([sys.executable, soak.__file__, "--only", "x"], text=True,
                          stderr=subprocess.PIPE)  # fmt: skip
    assert done.returncode == 2
    assert "no harness 'x'" in done.stderr
