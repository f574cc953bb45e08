"""The long proof: kills, errors of the disk, damaged and hostile files, counted.

`python tests/soak.py --minutes 60 --record R.json --page R.md` runs every harness, a
process a processor, until it has tried as many as it should or its share of the time is
over. Each run is appended to the record, and the page is written from all that is
recorded: runs add up.
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
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import featpipe

HERE = Path(__file__).parent
# Shares of the time, and how many to try in one run.
STAGES = {"kills": 0.3, "faults": 0.3, "codes": 0.3, "models": 0.05, "images": 0.05}
VOLUMES = {"kills": 1000, "faults": 10**6} | dict.fromkeys(
    ("codes", "models", "images"), 100_000
)
GOOD = ("refused", "read identically", "another sound file, sealed", "decoded")
Run = dict[str, Any]


def run(stage: str, seconds: float, seed: int, n: int, jobs: int) -> dict[str, Any]:
    """Run one harness in several processes; return what they counted."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(HERE)}
    survival = stage in ("kills", "faults")
    share = -(-n // jobs)
    with tempfile.TemporaryDirectory() as folder:
        running = []
        for k in range(jobs):
            if survival:
                command = ["surviving.py", f"{folder}/{k}", stage, seconds, seed, n]
                command += [k, jobs]
            else:
                command = ["mutants.py", stage, seconds, seed, share, k * share]
            words = [sys.executable, str(HERE / str(command[0]))]
            words += map(str, command[1:])
            running.append(
                subprocess.Popen(
                    words, stdout=subprocess.PIPE, text=True, env=environment
                )
            )
        said = [process.communicate()[0].splitlines() for process in running]
    if any(process.returncode for process in running):
        raise SystemExit(f"the harness for {stage} ended with an error")
    lines = [[json.loads(line) for line in each] for each in said]
    return survival_counts(lines) if survival else mutant_counts(lines)


def survival_counts(said: Sequence[list[dict[str, Any]]]) -> dict[str, Any]:
    """Count what was tried, by command; keep what went wrong word for word."""
    tried = [each for lines in said for each in lines[1:]]
    jobs: dict[str, Any] = {}
    for each in tried:
        mine = jobs.setdefault(each["job"], {"tried": 0, "wrong": 0, "calls": {}})
        mine["tried"] += 1
        mine["wrong"] += bool(each["wrong"])
        mine["calls"][each["call"]] = mine["calls"].get(each["call"], 0) + 1
    wrong = [
        f"{each['job']}, {each['act']} at {each['call']} {each['k']}: {text}"
        for each in tried
        for text in each["wrong"]
    ]
    return {"points": said[0][0]["points"], "n": len(tried), "jobs": jobs,
            "wrong": wrong}  # fmt: skip


def mutant_counts(said: Sequence[list[dict[str, Any]]]) -> dict[str, Any]:
    """Add up the outcomes of the processes."""
    outcomes: Counter[str] = Counter()
    for [counted] in said:
        outcomes.update(counted["outcomes"])
    return {"n": sum(counted["n"] for [counted] in said), "outcomes": dict(outcomes)}


def survival(runs: Sequence[Run]) -> Iterator[str]:
    """Write a table of a command a line: what was tried, and what went wrong."""
    yield f"{sum(each['n'] for each in runs):,} points were tried, drawn at random from"
    yield f"the {max(each['points'] for each in runs):,} there are; a point inside a"
    yield "write of many comes last."
    yield ""
    yield "| command | tried | kinds of call | wrong |"
    yield "|---|---|---|---|"
    for job in sorted({job for each in runs for job in each["jobs"]}):
        mine = [each["jobs"][job] for each in runs if job in each["jobs"]]
        calls = ", ".join(sorted({call for each in mine for call in each["calls"]}))
        tried, wrong = (sum(each[what] for each in mine) for what in ("tried", "wrong"))
        yield f"| {job} | {tried:,} | {calls} | {wrong} |"
    yield ""
    yield from (f"- wrong: {text}" for each in runs for text in each["wrong"])


def mutants(runs: Sequence[Run]) -> Iterator[str]:
    """Write a table of the outcomes."""
    outcomes: Counter[str] = Counter()
    for each in runs:
        outcomes.update(each["outcomes"])
    yield f"{sum(each['n'] for each in runs):,} files."
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


def page(runs: Sequence[Run]) -> str:
    """Return the page: what ran, when, and what all runs counted."""
    lines = [
        "# Reliability: what was tried, and what came of it",
        "",
        "Written by `make soak` (`tests/soak.py`) from the counters of its runs, which "
        "are in `reliability.json`; `make test` tries some of the same points each "
        "time. More: `make soak MINUTES=240`, or a part, `make soak ONLY=kills`; each "
        "run adds to the record.",
        "",
        "`coverage.txt` has the branch coverage of `codes`, `extraction`, `files` and "
        "`inference` by their own tests, as `make coverage` measured it.",
        "",
    ]
    for stage, (title, text) in TITLES.items():
        mine = [each for each in runs if each["stage"] == stage]
        if mine:
            lines += [f"## {title}", "", text, ""]
            lines += survival(mine) if stage in ("kills", "faults") else mutants(mine)
            lines.append("")
    return "\n".join([*lines, *listing(runs)]).rstrip() + "\n"


def listing(runs: Sequence[Run]) -> Iterator[str]:
    """Write a line for every run."""
    yield "## The runs"
    yield ""
    yield "| what | began (UTC) | minutes | seed | tried | machine |"
    yield "|---|---|---|---|---|---|"
    for each in runs:
        minutes = f"{each['seconds'] / 60:.1f}"
        yield f"| {each['stage']} | {each['began']} | {minutes} | {each['seed']} | " + (
            f"{each['n']:,} | {each['machine']} |"
        )


def main() -> None:
    """Run the stages; record each and write the page after it, so that none is lost."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--only", default="", help="kills, faults, codes, …, by commas")
    parser.add_argument("--seed", type=int, help="default: one that was not used yet")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--record", type=Path)
    parser.add_argument("--page", type=Path)
    asked = parser.parse_args()
    stages = asked.only.split(",") if asked.only else list(STAGES)
    if unknown := set(stages) - set(STAGES):
        parser.error(f"no harness {unknown.pop()!r}; there are {', '.join(STAGES)}")
    kept = asked.record is not None and asked.record.exists()
    runs: list[Run] = json.loads(asked.record.read_text()) if kept else []
    seed = asked.seed
    if seed is None:
        seed = 1 + max((each["seed"] for each in runs), default=0)
    end = time.monotonic() + 60 * asked.minutes
    machine = (
        f"{platform.system()} {platform.machine()}, {os.cpu_count()} processors, "
        f"Python {platform.python_version()}, featpipe {featpipe.__version__}"
    )
    for k, stage in enumerate(stages):
        share = STAGES[stage] / sum(STAGES[name] for name in stages[k:])
        start, began = time.monotonic(), f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S}"
        left = max(1.0, share * (end - start))
        found = run(stage, left, seed, VOLUMES[stage], asked.jobs)
        seconds = round(time.monotonic() - start, 1)
        facts = {"stage": stage, "began": began, "seconds": seconds, "seed": seed}
        runs.append({**facts, "machine": machine, **found})
        if asked.record:
            asked.record.write_text(json.dumps(runs, indent=1) + "\n")
        if asked.page:
            asked.page.write_text(page(runs))
    print(page(runs))


if __name__ == "__main__":
    main()
