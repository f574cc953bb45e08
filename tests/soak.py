"""The long proof: kills, I/O faults, damaged and hostile files, counted.

`python tests/soak.py --minutes 60 --seed 1 --page docs/inside/reliability.md` runs
every harness for its share of the time and writes the page from their counters. What
ran in a shorter time is a smaller number on the page, never another one.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
# Shares of the time. One process each, one after another.
STAGES = {"kills": 0.35, "faults": 0.25, "codes": 0.2, "models": 0.1, "images": 0.1}
GOOD = ("refused", "read identically", "another sound file, sealed", "decoded")


def run(stage: str, seconds: float, seed: int) -> list[dict[str, Any]]:
    """Run one harness; return the lines of JSON that it printed."""
    with tempfile.TemporaryDirectory() as folder:
        if stage in ("kills", "faults"):
            command = ["surviving.py", f"{folder}/work", stage, seconds, seed, 10**6]
        else:
            command = ["mutants.py", stage, seconds, seed, 10**6]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(HERE)}
        done = subprocess.run(
            [sys.executable, HERE / command[0], *map(str, command[1:])],
            stdout=subprocess.PIPE,
            text=True,
            check=True,
            env=environment,
        )
    return [json.loads(line) for line in done.stdout.splitlines()]


def survival(lines: list[dict[str, Any]]) -> Iterator[str]:
    """Write a table of a job a line: what was tried, and what went wrong."""
    points, tried = lines[0]["points"], lines[1:]
    yield f"{len(tried):,} of {points:,} points were tried, drawn at random; a point"
    yield "inside a write of many last."
    yield ""
    yield "| command | tried | kinds of call | wrong |"
    yield "|---|---|---|---|"
    for job in sorted({each["job"] for each in tried}):
        mine = [each for each in tried if each["job"] == job]
        calls = ", ".join(sorted({each["call"] for each in mine}))
        wrong = sum(bool(each["wrong"]) for each in mine)
        yield f"| {job} | {len(mine):,} | {calls} | {wrong} |"
    yield ""
    for each in tried:
        for text in each["wrong"]:
            yield f"- wrong: {each['job']}, {each['act']} at {each['call']} "
            yield f"{each['k']}: {text}"


def mutants(found: dict[str, Any]) -> Iterator[str]:
    """Write a table of the outcomes."""
    outcomes = Counter(found["outcomes"])
    yield f"{found['n']:,} files, seed {found['seed']}."
    yield ""
    yield "| outcome | files |"
    yield "|---|---|"
    for outcome, n in outcomes.most_common():
        yield f"| {outcome} | {n:,} |"
    wrong = sum(n for outcome, n in outcomes.items() if outcome not in GOOD)
    yield ""
    yield f"Wrong: {wrong:,}."


TITLES = {
    "kills": (
        "Killed at every change to the disk",
        "`kill -9` before and after each system call with which a command changes the "
        "disk. After it no file may be unreadable, and each is the old one or the new; "
        "the same command, run again, must keep every row of a finished part, give "
        "what an unbroken run gives, and leave nothing behind.",
    ),
    "faults": (
        "Errors of the disk",
        "ENOSPC, EIO, EDQUOT and EACCES at each of those calls, and writes cut to half "
        "their length. No signal, no damaged file, one line that names a path; a rerun "
        "finishes.",
    ),
    "codes": (
        "Damaged and hostile codes files",
        "Half of them with their digests made right again. Each is refused with "
        "`CodesError` and its path, or reads as the whole file did. A sealed one may "
        "also be another sound file: whoever seals a file may put other numbers in it.",
    ),
    "models": ("Damaged and hostile models", "The same, of model files."),
    "images": (
        "Damaged images",
        "JPEG, PNG, GIF, WebP, BMP, TIFF, AVIF, PPM and JPEG 2000, cut and changed. "
        "Each is decoded or fails with stage and reason. JPEG and some others have no "
        "checksum: what decodes may look damaged.",
    ),
}


def page(results: dict[str, Any], facts: dict[str, str]) -> str:
    """Return the page: what ran, when, and what was counted."""
    lines = [
        "# Reliability: what was tried, and what came of it",
        "",
        "Written by `make soak` (`tests/soak.py`) from its own counters; `make test` "
        "tries some of the same points each time. Longer: `make soak MINUTES=240`.",
        "",
        *(f"- {name}: {value}" for name, value in facts.items()),
        "",
    ]
    for stage, found in results.items():
        title, text = TITLES[stage]
        lines += [f"## {title}", "", text, ""]
        survived = stage in ("kills", "faults")
        lines += [*(survival(found) if survived else mutants(found[0])), ""]
    return "\n".join(lines).rstrip() + "\n"


def main() -> None:
    """Run the stages, and write the page after each, so that none is lost."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--page", type=Path)
    asked = parser.parse_args()
    start = f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S}"
    results: dict[str, Any] = {}
    begin = time.monotonic()
    for stage, share in STAGES.items():
        results[stage] = run(stage, 60 * asked.minutes * share, asked.seed)
        facts = {
            "began": f"{start}, ended {datetime.now(UTC):%Y-%m-%d %H:%M:%S} (UTC)",
            "took": f"{(time.monotonic() - begin) / 60:.1f} of {asked.minutes:g} min",
            "seed": str(asked.seed),
            "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} "
            f"processors, Python {platform.python_version()}",
        }
        text = page(results, facts)
        if asked.page:
            asked.page.write_text(text)
    print(text)


if __name__ == "__main__":
    main()
