"""Do the tasks of a comparison: one by one, in threads, or in other processes."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextvars import Context, copy_context
from dataclasses import replace
from itertools import count, zip_longest
from threading import Event
from typing import Any

from sklearn.exceptions import ConvergenceWarning

from featpipe import codes
from featpipe.classifiers import budget
from featpipe.comparison import ensemble
from featpipe.comparison.contest import (
    Contest,
    FitTask,
    Outcome,
    TaskKey,
    count_fits,
    fit_task,
    read_codes,
    split_task,
)
from featpipe.comparison.judging import Contender
from featpipe.comparison.sources import Source
from featpipe.parallel import Jobs, threads_here, worker_name

__all__ = ["compute", "fit_all", "require_room"]

# Codes of at most so many numbers, over all depths, are kept in memory together and
# fitted in threads.
SMALL = 2**23

Progress = Callable[[int, int, str], None]


def fit_all(
    contest: Contest, progress: Progress, jobs: Jobs | None = None
) -> tuple[list[Contender], list[str]]:
    """Fit every contender, in the order of the options.

    Parameters
    ----------
    contest : Contest
    progress : callable
        As for `compare`.
    jobs : Jobs or None
        Processes that do the fits; None for this process alone, which keeps large codes
        in memory one depth at a time and fits small ones in threads.

    Returns
    -------
    rows : list of Contender
    notes : list of str
    """
    sources, tasks = contest.sources, dict(contest.tasks())
    if jobs is not None and not jobs.is_here:
        outcomes = _elsewhere(tasks, sources, progress, jobs)
    elif (n_threads := _n_threads(tasks, sources)) > 1:
        outcomes = _in_threads(tasks, sources, progress, n_threads)
    else:
        outcomes = _here(tasks, sources, progress)
    rows: list[Contender] = []
    notes: list[str] = []
    for k, source, depths in contest.by_source():
        each = [(depth, outcomes[k, depth]) for depth in depths]
        rows += [
            Contender(source, depth, outcome.width, name, outcome.fitted[name])
            for depth, outcome in each
            for name in contest.names
        ]
        members = [outcome.member for _, outcome in each if outcome.member is not None]
        if members:
            depth, width, together = ensemble.combine(
                members, contest.y, contest.protocol, contest.settings
            )
            rows.append(Contender(source, depth, width, "ensemble", together))
        elif contest.has_ensemble:
            notes.append(f"no ensemble for {source.name}: it takes at least two depths")
    if not rows:
        raise ValueError(
            f"an ensemble takes at least two depths, {sources[0].name!r} gives "
            f"{contest.depths[0]}; extract another depth to it"
        )
    total = sum(map(count_fits, tasks.values()))
    progress(total, total, "done")
    return rows, notes


def _here(
    tasks: dict[TaskKey, FitTask], sources: Sequence[Source], progress: Progress
) -> dict[TaskKey, Outcome]:
    total, number = sum(map(count_fits, tasks.values())), count()

    def announce(what: str) -> None:
        progress(next(number), total, what)

    outcomes = {}
    for key, task in tasks.items():
        X, task = read_codes(task, sources[key[0]])
        outcomes[key] = fit_task(task, X, announce)
    return outcomes


def _elsewhere(
    tasks: dict[TaskKey, FitTask],
    sources: Sequence[Source],
    progress: Progress,
    jobs: Jobs,
) -> dict[TaskKey, Outcome]:
    digests = [codes.digest(source.codes.path) for source in sources]
    gathered = _Gathered(sum(map(count_fits, tasks.values())), progress)
    progress(0, gathered.total, "sending the fits")
    with jobs.open() as pool:
        pieces = [
            pickle.dumps((key, piece))
            for key, task in tasks.items()
            for piece in split_task(
                replace(task, digest=digests[key[0]], n_processes=pool.n_here)
            )
        ]
        for key, outcome in pool.run(compute, pieces):
            gathered.add(key, outcome)
    return gathered.outcomes


def _in_threads(
    tasks: dict[TaskKey, FitTask],
    sources: Sequence[Source],
    progress: Progress,
    n_threads: int,
) -> dict[TaskKey, Outcome]:
    """Fit small codes side by side, each fit in one thread of torch.

    A pass over little data is too short to be shared among threads; whole fits are long
    enough, and two of them take little longer than one.
    """
    import torch

    from featpipe.solvers import cancellable, share_codes

    cancelled = Event()
    columns = []
    for key, task in tasks.items():
        X, task = read_codes(task, sources[key[0]])
        with share_codes(), cancellable(cancelled):
            context = copy_context()
        # Of the defaults the last one, logistic, takes longest: were it begun last, one
        # thread would end long after the others.
        pieces = list(split_task(task))[::-1]
        columns.append([(key, piece, X, context) for piece in pieces])
    # Widest first, and depths in turn: fits of one depth wait for its eigenbasis.
    columns.sort(key=lambda column: -column[0][2].shape[1])
    rows = zip_longest(*columns)

    def work(piece: tuple[TaskKey, FitTask, Any, Context]) -> tuple[TaskKey, Outcome]:
        key, task, X, context = piece
        # A context serves one thread at a time; its copies share what was made in it.
        return key, context.copy().run(fit_task, task, X, lambda what: None)

    gathered = _Gathered(sum(map(count_fits, tasks.values())), progress)
    progress(0, gathered.total, f"{n_threads} fits side by side")
    pool = ThreadPoolExecutor(n_threads, "fit", torch.set_num_threads, (1,))
    # All threads share the filters of warnings, so those of the fits are set here.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        warnings.filterwarnings("ignore", "The least populated class")
        try:
            futures = [
                pool.submit(work, piece) for row in rows for piece in row if piece
            ]
            for future in as_completed(futures):
                gathered.add(*future.result())
        finally:
            # After an error or Ctrl-C, fits under way end at their next step.
            cancelled.set()
            pool.shutdown(cancel_futures=True)
    # New threads get the number of this one again.
    torch.set_num_threads(torch.get_num_threads())
    return gathered.outcomes


def _n_threads(tasks: dict[TaskKey, FitTask], sources: Sequence[Source]) -> int:
    """Return how many fits go side by side; one where the codes are large."""
    import torch

    size, n_pieces, on_gpu = 0, 0, False
    for (k, depth), task in tasks.items():
        shape = len(task.rows), sources[k].codes.width(depth)
        if budget(*shape, task.settings.memory).streams:
            return 1
        size, n_pieces = (
            size + shape[0] * shape[1],
            n_pieces + len(list(split_task(task))),
        )
        on_gpu |= task.settings.device != "cpu" and torch.cuda.is_available()
    if on_gpu or size > SMALL:
        return 1
    return max(1, min(torch.get_num_threads(), n_pieces))


class _Gathered:
    """The outcomes of tasks, joined by depth as they come."""

    def __init__(self, total: int, progress: Progress) -> None:
        self.total, self.progress, self.done = total, progress, 0
        self.outcomes: dict[TaskKey, Outcome] = {}

    def add(self, key: TaskKey, outcome: Outcome) -> None:
        """Add the outcome of a task, and report how many fits are done."""
        before = self.outcomes.get(key, Outcome(outcome.width, {}, None))
        self.outcomes[key] = Outcome(
            outcome.width,
            before.fitted | outcome.fitted,
            before.member or outcome.member,
        )
        self.done += len(outcome.fitted) + (outcome.member is not None)
        names = ", ".join(outcome.fitted) or "ensemble"
        self.progress(self.done, self.total, f"{names} on {key[1]}")


def compute(piece: bytes) -> tuple[TaskKey, Outcome]:
    """Do a pickled `FitTask` in another process.

    Raises
    ------
    RuntimeError
        If this process does not see the codes file, or sees another one.
    Exception
        As `fit_and_predict`.
    """
    key, task = pickle.loads(piece)
    digest = codes.digest(task.path) if task.path.is_file() else None
    if digest != task.digest:
        problem = "does not see" if digest is None else "sees another file as"
        raise RuntimeError(
            f"worker {worker_name()} {problem} {task.path}; put the codes into a "
            "folder that every worker has at the same place"
        )
    n_threads = threads_here()
    if n_threads is not None:
        import torch

        torch.set_num_threads(n_threads)
    # The process that sent the task has checked the codes.
    source = Source(codes.read(task.path, check=False), task.rows)
    X, task = read_codes(task, source)
    return key, fit_task(task, X, lambda what: None)


def require_room(
    sources: Sequence[Source],
    chosen: Sequence[Sequence[str]],
    baselines: Sequence[str],
    memory: int | str | None,
) -> None:
    """Raise if codes are too large for a classifier that cannot read them in blocks.

    Raises
    ------
    ValueError
    """
    for source, depths in zip(sources, chosen, strict=True):
        for depth in depths:
            shape = len(source.rows), source.codes.width(depth)
            if baselines and budget(*shape, memory).streams:
                size = 16 * shape[0] * shape[1] / 1e9
                raise ValueError(
                    f"{', '.join(baselines)} need the codes of {depth!r} in memory, "
                    f"about {size:.3g} GB with their copies; raise the memory, or "
                    "compare only linear, svm and logistic, which read them in blocks"
                )
