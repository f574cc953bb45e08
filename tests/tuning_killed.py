"""Trainings that are killed at random moments, and then run again.

`python tuning_killed.py PHOTOS WORK` prints one line of JSON an experiment: the digest
of the model that came out, and how often the run was killed. One process for all of
them: torch is imported once, and each run is a fork that may die.
"""

import gc
import hashlib
import json
import os
import random
import signal
import sys
from pathlib import Path

from predictor_models import SMALL
from safetensors import safe_open

import featpipe

OPTIONS = {
    **SMALL,
    "depth": "stage1",
    "epochs": 3,
    "device": "cpu",
    "augment": ("flip", "crop"),
}


def train(photos: Path, model: Path, kill_at: int) -> int:
    """Train; give how often something was done. At the given one the process dies."""
    count = 0

    def tell(done: int, total: int, words: str) -> None:
        nonlocal count
        count += 1
        if count == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    featpipe.finetune(photos, model, **OPTIONS, progress=tell)
    return count


def in_a_fork(photos: Path, model: Path, kill_at: int) -> bool:
    """Return whether it lived to the end."""
    child = os.fork()
    if child == 0:
        train(photos, model, kill_at)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return False
    assert os.WEXITSTATUS(status) == 0
    return True


def digest(model: Path) -> str:
    checksum = hashlib.sha256()
    with safe_open(model, framework="np") as file:
        for name in sorted(file.keys()):
            checksum.update(name.encode() + file.get_tensor(name).tobytes())
    return checksum.hexdigest()


def say(model: Path, kills: int) -> None:
    rest = sorted(path.name for path in model.parent.iterdir())
    print(json.dumps({"digest": digest(model), "kills": kills, "rest": rest}))


def main(photos: Path, work: Path) -> None:
    rng = random.Random(0)
    for name in ("whole", "once", "again and again"):
        (work / name).mkdir()
    model = work / "whole" / "m"
    count = train(photos, model, 0)
    say(model, 0)
    gc.collect()
    gc.freeze()  # or every fork copies what the collector touches
    model = work / "once" / "m"
    assert not in_a_fork(photos, model, rng.randrange(count // 2, count))
    train(photos, model, 0)
    say(model, 1)
    model = work / "again and again" / "m"
    kills = 0
    while not in_a_fork(photos, model, rng.randrange(count // 4, count)):
        kills += 1
    say(model, kills)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
