"""The long proof: kills, errors of the disk, damaged and hostile files, counted.

`python tests/soak.py --minutes 60 --record R.json --page R.md` runs every harness, a
process a processor, until all is tried or its share of the time is over. Each run is
appended to the record, and the page is written from all that is recorded: runs add up.
A run goes on where the last one of its stage ended, in the order that the seed draws;
once all is tried, the next seed draws another.
"""

import argparse
import hashlib
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mutants import GOOD

import featpipe

HERE = Path(__file__).parent
# Shares of the time, and how many to try before the next seed: all points there are,
# and of what has no end 100,000.
STAGES = {"kills": 0.25, "faults": 0.35, "codes": 0.25, "models": 0.1, "images": 0.05}
SURVIVAL = ("kills", "faults")
VOLUME = 100_000
Run = dict[str, Any]


def run(
    stage: str, seconds: float, seed: int, first: int, n: int, jobs: int
) -> dict[str, Any]:
    """Run one harness in several processes; return what they counted."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(HERE)}
    share = -(-n // jobs)
    # Syncing memory costs nothing, and whoever is killed there leaves as much as on a
    # disk: what was written stays.
    memory = "/dev/shm" if Path("/dev/shm").is_dir() else None
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        running = []
        for k in range(jobs):
            if stage in SURVIVAL:
                command = ["surviving.py", f"{folder}/{k}", stage, seconds, seed, n]
                command += [k, jobs, first]
            else:
                command = ["mutants.py", stage, seconds, seed, share, first + k * share]
            words = [sys.executable, str(HERE / str(command[0]))]
            words += map(str, command[1:])
            running.append(
                subprocess.Popen(
                    words, stdout=subprocess.PIPE, text=True, env=environment
                )
            )
        # All at once: a process whose pipe is full waits until somebody reads it.
        with ThreadPoolExecutor(jobs) as threads:
            outputs = threads.map(lambda process: process.communicate()[0], running)
            text = [output.splitlines() for output in outputs]
    if any(process.returncode for process in running):
        raise SystemExit(f"the harness for {stage} ended with an error")
    lines = [[json.loads(line) for line in each] for each in text]
    return survival_counts(lines) if stage in SURVIVAL else mutant_counts(lines)


def survival_counts(runs: Sequence[list[dict[str, Any]]]) -> dict[str, Any]:
    """Count what was tried, by command; keep what went wrong word for word."""
    tried = [each for lines in runs for each in lines[1:]]
    jobs: dict[str, Any] = {}
    for each in tried:
        mine = jobs.setdefault(each["job"], {"tried": 0, "wrong": 0, "steps": {}})
        mine["tried"] += 1
        mine["wrong"] += bool(each["wrong"])
        mine["steps"][each["step"]] = mine["steps"].get(each["step"], 0) + 1
    wrong = [
        f"{each['job']}, {each['act']} at {each['step']} ({each['call']} {each['k']}): "
        f"{text}"
        for each in tried
        for text in each["wrong"]
    ]
    facts = {"points": runs[0][0]["points"], "n": len(tried)}
    return {**facts, "jobs": jobs, "wrong": wrong}


def mutant_counts(runs: Sequence[list[dict[str, Any]]]) -> dict[str, Any]:
    """Add up the outcomes of the processes."""
    outcomes: dict[str, Counter[str]] = {}
    for [counted] in runs:
        for sort, each in counted["outcomes"].items():
            outcomes.setdefault(sort, Counter()).update(each)
    facts = {
        key: sum(counted[key] for [counted] in runs) for key in ("n", "tried_again")
    }
    facts["next"] = max(counted["next"] for [counted] in runs)
    return {**facts, "outcomes": {sort: dict(each) for sort, each in outcomes.items()}}


def where_to_go_on(runs: Sequence[Run], stage: str) -> tuple[int, int]:
    """Return the seed of the next run of a stage, and where in its order it begins."""
    last = next((each for each in reversed(runs) if each["stage"] == stage), None)
    if last is None:
        return 1, 0
    done = last.get("next", last["first"] + last["n"])
    whole = last.get("points", VOLUME)
    return (last["seed"], done) if done < whole else (last["seed"] + 1, 0)


def survival(runs: Sequence[Run]) -> Iterator[str]:
    """Write a table of a command a line: what was tried, and what went wrong."""
    steps = {step for each in runs for job in each["jobs"].values()
             for step in job["steps"]}  # fmt: skip
    longest = max(runs, key=lambda each: each["first"] + each["n"])
    yield f"{sum(each['n'] for each in runs):,} points were tried, in an order that the"
    yield "seed draws (a point inside a write of many comes last); the longest was"
    yield f"followed to its point {longest['first'] + longest['n']:,} of the"
    yield f"{longest['points']:,} there are. They lie at {len(steps)} steps:"
    yield f"{', '.join(sorted(steps))}."
    yield ""
    yield "| command | tried | steps | wrong |"
    yield "|---|---|---|---|"
    for job in sorted({job for each in runs for job in each["jobs"]}):
        mine = [each["jobs"][job] for each in runs if job in each["jobs"]]
        named = {step for each in mine for step in each["steps"]}
        tried, wrong = (sum(each[what] for each in mine) for what in ("tried", "wrong"))
        yield f"| {job} | {tried:,} | {len(named)} | {wrong} |"
    yield ""
    # A run with code that has been mended since keeps what it found.
    old = [text for each in runs if "mended" in each for text in each["wrong"]]
    new = [text for each in runs if "mended" not in each for text in each["wrong"]]
    yield f"Wrong: {len(new):,}; mended since it was found: {len(old):,}."
    yield ""
    yield from (f"- wrong: {text}" for text in new)
    yield from (f"- mended: {text}" for text in old)


def mutants(runs: Sequence[Run]) -> Iterator[str]:
    """Write a table of the outcomes, a column each sort of file."""
    outcomes = mutant_counts([[each] for each in runs])["outcomes"]
    sorts = sorted(outcomes)
    total: Counter[str] = Counter()
    for each in outcomes.values():
        total.update(each)
    yield f"{sum(each['n'] for each in runs):,} files."
    yield ""
    yield f"| outcome | {' | '.join(sorts)} | all |"
    yield "|---|" + "---|" * (len(sorts) + 1)
    for outcome, n in total.most_common():
        row = " | ".join(f"{outcomes[sort].get(outcome, 0):,}" for sort in sorts)
        yield f"| {outcome} | {row} | {n:,} |"
    row = " | ".join(f"{sum(outcomes[sort].values()):,}" for sort in sorts)
    yield f"| all | {row} | {sum(total.values()):,} |"
    yield ""
    yield f"Wrong: {sum(n for name, n in total.items() if name not in GOOD):,}."
    slow = sum(each["tried_again"] for each in runs)
    yield f"Tried again, for more than 5 s by the clock: {slow:,}."


TITLES = {
    "kills": (
        "Killed at every change to the disk",
        "`kill -9` before and after each system call with which a command changes the "
        "disk, and at moments drawn at random. After it no file may be unreadable, and "
        "each is the old one or the new; the same command, run again, must keep every "
        "row of a finished part, give what an unbroken run gives, and leave nothing "
        "behind.",
    ),
    "faults": (
        "Errors of the disk",
        "ENOSPC, EIO, EDQUOT and EACCES at each of those calls, at locks and where "
        "what was written is read back, and writes cut to half their length. No "
        "signal, no damaged file, one line that names a path; a rerun finishes.",
    ),
    "codes": (
        "Damaged and hostile codes files",
        "Half of them with their digests made right again. Each is refused with "
        "`CodesError` and its path, or reads as the whole file did. A sealed one may "
        "also be another sound file: whoever seals a file may put other numbers in it. "
        "A death by a signal, more than 5 s, or a GiB of memory more than before would "
        "be wrong. The machine may have other work, so what took more than 5 s by the "
        "clock is tried again, alone in its process: it is wrong if it then takes 5 s "
        "of a processor's time, or has not ended in a minute.",
    ),
    "models": (
        "Damaged and hostile models",
        "The same, of model files; the error is a `ValueError` with the path.",
    ),
    "images": (
        "Damaged images",
        "Small images of every format that is decoded, and variants of it, cut and "
        "changed; a column a format. Each is decoded or fails with stage and reason. "
        "JPEG and some others have no checksum: what decodes may look damaged.",
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
    yield "Each names the code that it tried, by a digest of the package's sources."
    yield ""
    yield "| what | began (UTC) | minutes | seed | tried | machine |"
    yield "|---|---|---|---|---|---|"
    for each in runs:
        cells = [each["stage"], each["began"], f"{each['seconds'] / 60:.1f}"]
        cells += [each["seed"], f"{each['n']:,}", each["machine"]]
        yield f"| {' | '.join(map(str, cells))} |"

    yield ""
    yield from (f"- {each['began']}: {each['note']}" for each in runs if "note" in each)


def machine() -> str:
    """Describe where this runs, and by a digest which sources of the package."""
    sources = hashlib.sha256()
    for path in sorted(Path(featpipe.__file__).parent.rglob("*.py")):
        sources.update(path.read_bytes())
    return (
        f"{platform.system()} {platform.machine()}, {os.cpu_count()} processors, "
        f"Python {platform.python_version()}, featpipe {featpipe.__version__} "
        f"(sources {sources.hexdigest()[:8]})"
    )


def main() -> None:
    """Run the stages; record each and write the page after it, so that none is lost."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--only", default="", help="kills, faults, codes, …, by commas")
    parser.add_argument("--seed", type=int, help="begin anew with it")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--record", type=Path)
    parser.add_argument("--page", type=Path)
    options = parser.parse_args()
    stages = options.only.split(",") if options.only else list(STAGES)
    if unknown := set(stages) - set(STAGES):
        parser.error(f"no harness {unknown.pop()!r}; there are {', '.join(STAGES)}")
    kept = options.record is not None and options.record.exists()
    runs: list[Run] = json.loads(options.record.read_text()) if kept else []
    end, here = time.monotonic() + 60 * options.minutes, machine()
    for k, stage in enumerate(stages):
        share = STAGES[stage] / sum(STAGES[name] for name in stages[k:])
        start, began = time.monotonic(), f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S}"
        left = max(1.0, share * (end - start))
        seed, first = where_to_go_on(runs, stage)
        if options.seed is not None:
            seed, first = options.seed, 0
        n = 10**6 if stage in SURVIVAL else VOLUME - first
        result = run(stage, left, seed, first, n, options.jobs)
        seconds = round(time.monotonic() - start, 1)
        facts = {"stage": stage, "began": began, "seconds": seconds, "seed": seed}
        runs.append({**facts, "first": first, "machine": here, **result})
        if options.record:
            options.record.write_text(json.dumps(runs, indent=1) + "\n")
        if options.page:
            options.page.write_text(page(runs))
    print(page(runs))


if __name__ == "__main__":
    main()
