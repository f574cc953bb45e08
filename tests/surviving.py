"""Every command killed, and made to fail, at every change it makes to a disk.

`python surviving.py WORK KINDS SECONDS SEED N [K OF [FIRST]]` prints a line of JSON an
experiment, judged already: what is wrong with it is in ``wrong``. KINDS is ``kills``,
``faults`` or ``kills,faults``; of each, N are tried in so many SECONDS. One process
for all of them: torch is imported once, and each run is a fork that may die. Of several
processes side by side, number K takes every OF-th experiment. The order is drawn by the
seed; FIRST skips those that were done before.
"""

import functools
import gc
import hashlib
import json
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from extracting import OPTIONS, run
from PIL import Image
from safetensors import safe_open
from trapping import Trap, Traps, apart, counted, faults, kills

import featpipe
from featpipe import backbones, codes, files
from featpipe.extraction import plan, runner

N_IMAGES = 12
TRAINING = {
    "backbone": "mini",
    "weights": "none",
    "input_size": 32,
    "precision": "fp32",
    "depth": "stage1",
    "epochs": 1,
    "lr": 0.01,
    "device": "cpu",
    "augment": ("flip",),
}


class Job(NamedTuple):
    """A command: what it needs, what it does, and a digest of what it writes."""

    act: Callable[[Path], Any]
    outputs: tuple[str, ...]
    given: tuple[str, ...] = ()


def photos(work: Path, n: int = N_IMAGES) -> Path:
    folder = work / f"photos{n}"
    for k in range(n):
        path = folder / ("ant", "bee")[k % 2] / f"{k:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(k).integers(0, 256, (18, 20, 3), np.uint8)
        Image.fromarray(pixels + np.uint8(60) * (k % 2)).save(path)
    return folder


def extracted(here: Path, n: int = N_IMAGES, **options: Any) -> dict[str, int]:
    seen = run(here.parent / f"photos{n}", here / "c.h5", workers=1, **options)[1]
    return {"computed": seen.computed, "kept": seen.kept}


def compared(here: Path) -> None:
    comparison = featpipe.compare(here / "c.h5", classifiers=["linear"], folds=2)
    comparison.write_json(here / "s.json")
    comparison.write_csv(here / "s.csv")
    comparison.write_predictions(here / "p.csv")


def fitted(here: Path) -> None:
    featpipe.fit(here / "c.h5", "linear", depth="stem:avg", C=1.0).save(here / "m")


def predicted(here: Path) -> None:
    model = featpipe.load(here / "m", backbone="networks:tiny", device="cpu", workers=1)
    model.classify(here.parent / "photos12").write_csv(here / "f.csv")


def exported(here: Path) -> None:
    # The network itself takes seconds to make, and nothing is written meanwhile.
    files.write_bytes(here / "m.onnx", b"onnx" * 50_000)


def finetuned(here: Path) -> None:
    featpipe.finetune(here.parent / "photos8", here / "t", workers=1, **TRAINING)


JOBS: dict[str, Job] = {
    "extract": Job(extracted, ("c.h5",)),
    "extract, update": Job(lambda here: extracted(here, 14), ("c.h5",), ("c.h5",)),
    "extract, a depth more": Job(
        lambda here: extracted(here, depth=["stem:avg", "penultimate", "body:max"]),
        ("c.h5",),
        ("c.h5",),
    ),
    "extract --overwrite": Job(
        lambda here: extracted(here, overwrite=True), ("c.h5",), ("c.h5",)
    ),
    "merge": Job(
        lambda here: codes.merge([here / "c.h5"], here / "all.h5").n_images,
        ("all.h5",),
        ("c.h5",),
    ),
    "compare": Job(compared, ("s.json", "s.csv", "p.csv"), ("c.h5",)),
    "fit": Job(fitted, ("m",), ("c.h5",)),
    "predict": Job(predicted, ("f.csv",), ("m",)),
    "export": Job(exported, ("m.onnx",)),
    "finetune": Job(finetuned, ("t",)),
}
# Seconds a run where the others take hundredths: not in a short run, which has no time
# for trainings; `tuning_killed.py` kills those.
SLOW = ("finetune",)
# Of each job, moments that are drawn at random, beside the named steps.
MOMENTS = 40
MOMENT = "at random"


def digest(path: Path) -> str:
    """Return what must be the same however the file came to be; raise if unreadable."""
    checksum = hashlib.sha256()
    if path.suffix == ".h5":
        file = codes.verify(path)
        assert len(set(file.paths)) == len(file.paths), "an image twice"
        checksum.update(repr((file.paths, file.failures, file.class_names)).encode())
        for spec in file.depths:
            checksum.update(spec.encode() + file.rows(spec, 0, len(file)).tobytes())
    elif path.name in ("m", "t"):
        featpipe.load(path)
        with safe_open(path, framework="np") as file:
            for name in sorted(file.keys()):
                checksum.update(name.encode() + file.get_tensor(name).tobytes())
    elif path.suffix == ".json":
        document = json.loads(path.read_text())
        for score in document["scores"]:
            score.update(fit_seconds=0, predict_seconds=0, codes="")
        checksum.update(json.dumps(document).encode())
    elif path.name == "s.csv":
        lines = [line.split(",") for line in path.read_text().splitlines()]
        seconds = [k for k, name in enumerate(lines[0]) if "seconds" in name]
        checksum.update(repr([[c for k, c in enumerate(line) if k not in seconds and k]
                           for line in lines]).encode())  # fmt: skip
    else:
        checksum.update(path.read_bytes())
    return checksum.hexdigest()


def digests(here: Path, job: Job) -> dict[str, str]:
    return {name: digest(here / name) for name in job.outputs if (here / name).exists()}


def rows_in_parts(here: Path) -> int:
    folder = here / "c.h5.parts"
    whole = folder.glob("[!.]*.h5") if folder.is_dir() else ()
    return sum(len(codes.read(path)) for path in whole)


class Trial:
    """One job in one folder, with what it gives when nothing happens to it."""

    def __init__(self, work: Path, name: str) -> None:
        self.name, self.job, self.work = name, JOBS[name], work
        self.ready = work / f"ready {name}"
        self.ready.mkdir()
        for path in self.job.given:
            shutil.copy(work / path, self.ready / path)
        self.before = digests(self.ready, self.job)
        clean = self._fresh("clean")
        whole = apart(lambda: self.job.act(clean) and None)
        assert "value" in whole, whole
        self.seconds = whole["seconds"]
        self.after = digests(clean, self.job)
        again = self._fresh("counted")
        self.steps = counted(lambda: self.job.act(again))

    def _fresh(self, name: str) -> Path:
        here = self.work / name
        shutil.rmtree(here, ignore_errors=True)
        shutil.copytree(self.ready, here)
        return here

    def run(self, trap: Trap) -> dict[str, Any]:
        here = self._fresh("here")

        def act() -> Any:
            Traps(trap).set()
            return self.job.act(here)

        if trap.call == MOMENT:
            first = apart(act, trap.k / 1000 * self.seconds, signal.SIGKILL)
        else:
            first = apart(act)
        wrong = [*self._judge_end(first, trap), *self._judge_files(here)]
        acknowledged = rows_in_parts(here)
        again = apart(lambda: self.job.act(here))
        wrong += self._judge_rerun(here, again, acknowledged)
        return {"job": self.name, **trap._asdict(), "wrong": wrong}

    def _judge_end(self, first: dict[str, Any], trap: Trap) -> Iterator[str]:
        expected = 9 if trap.act.startswith("kill") else 0
        if first["signal"] not in (expected, 0):
            yield f"signal {first['signal']}"
        if "error" in first and (
            first["error"] not in ("OSError", "PermissionError", "LockedError")
            or (trap.number and "/" not in first["text"])
            or "\n" in first["text"]
        ):
            yield f"{first['error']}: {first['text']}"
        if trap.act == "short" and "error" in first:
            yield f"a short write became {first['text']}"

    def _judge_files(self, here: Path) -> Iterator[str]:
        try:
            now = digests(here, self.job)
        except Exception as error:
            yield f"unreadable: {error}"
            return
        for name in self.job.outputs:
            if now.get(name) not in (self.before.get(name), self.after.get(name)):
                yield f"{name} is neither the old file nor the new"

    def _judge_rerun(
        self, here: Path, again: dict[str, Any], acknowledged: int
    ) -> Iterator[str]:
        if "value" not in again:
            yield f"the rerun ended with {again}"
            return
        if digests(here, self.job) != self.after:
            yield "the rerun gave something else"
        counts = again["value"]
        kept = counts["kept"] if isinstance(counts, dict) else N_IMAGES
        if kept < min(acknowledged, N_IMAGES) and "overwrite" not in self.name:
            yield f"{acknowledged} rows were acknowledged, {kept} kept"
        left = {path.name for path in here.iterdir()}
        if left - {*self.job.outputs, *self.job.given, "f.failures.csv"}:
            yield f"left behind: {sorted(left)}"


def load_once(jobs: Sequence[Callable[[], Any]]) -> None:
    """Load every network once, not in every fork: loading changes nothing on a disk.

    The jobs run in forks, for a training changes the network that it was given.
    """
    items: list[dict[str, Any]] = []
    plain, once = backbones.load, functools.cache(backbones.load)

    def load(name: str, **named: Any) -> Any:
        if "/" in str(named.get("weights")):
            return plain(name, **named)  # a file that another run may have written
        items.append({"name": name, **named})
        return once(**items[-1])

    backbones.load = load
    for job in jobs:
        result = apart(lambda job=job: (job() and None) or items)
        for named in result["value"]:
            once(**{key: tuple(value) if isinstance(value, list) else value
                    for key, value in named.items()})  # fmt: skip


def prepare(work: Path, names: Sequence[str]) -> None:
    """Make the images, a codes file and a model, and import whatever comes late."""
    torch.set_num_threads(1)
    plan.SLICE = 4
    runner._SECONDS = 0.0  # every slice ends a part
    OPTIONS["workers"] = 1
    for n in (8, N_IMAGES, 14):
        photos(work, n)
    warm = work / "warm"
    warm.mkdir()
    extracted(warm)
    fitted(warm)
    for name in ("c.h5", "m"):
        shutil.copy(warm / name, work / name)
    for act in (compared, predicted):
        act(warm)
    load_once([functools.partial(JOBS[name].act, warm) for name in names])


def points(kinds: str, trials: dict[str, Trial], seed: int) -> list[tuple[str, Trap]]:
    """List all that can be tried, in an order drawn at random."""
    some = random.Random(seed)
    listed = [
        (name, trap)
        for name, trial in trials.items()
        for trap in (kills if kinds == "kills" else faults)(trial.steps)
    ]
    if kinds == "kills":
        listed += [
            (name, Trap(MOMENT, some.randrange(1, 1000), "kill", MOMENT))
            for name in trials
            for _ in range(MOMENTS)
        ]
    some.shuffle(listed)
    # Of the many writes of one file a few tell as much as all: they come last.
    return sorted(listed, key=lambda each: each[1].call in ("write", "hdf5 write"))


def experiments(
    work: Path,
    kinds: str,
    seconds: float,
    seed: int,
    n: int,
    k: int = 0,
    of: int = 1,
    first: int = 0,
) -> Iterator[dict[str, Any]]:
    """Yield experiments in an order drawn at random, until the time is over."""
    names = [name for name in JOBS if n > 100 or name not in SLOW]
    prepare(work, names)
    trials = {name: Trial(work, name) for name in names}
    gc.collect()
    gc.freeze()  # or every fork copies what the collector touches
    for kind in kinds.split(","):
        listed = points(kind, trials, seed)
        yield {"points": len(listed)}
        end = time.monotonic() + seconds
        for name, trap in listed[first : first + n][k::of]:
            if time.monotonic() > end:
                break
            yield trials[name].run(trap)


def main() -> None:
    work, kinds, seconds, *numbers = sys.argv[1:]
    Path(work).mkdir(parents=True, exist_ok=True)
    for result in experiments(Path(work), kinds, float(seconds), *map(int, numbers)):
        print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
