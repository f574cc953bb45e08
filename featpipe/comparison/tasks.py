"""Fitting what is compared: depth by depth here, or as tasks for other processes.

A task is one classifier on one depth. It reads the codes from the file, so it can be
done anywhere that the file is seen, and doing it twice changes nothing.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from featpipe import codes
from featpipe.classifiers import budget
from featpipe.comparison import ensemble
from featpipe.comparison.contenders import FitSettings, Fitted, fit_and_predict
from featpipe.comparison.ensemble import EnsembleMember
from featpipe.comparison.judging import Contender
from featpipe.comparison.sources import Source
from featpipe.parallel import Jobs, threads_here, worker_name
from featpipe.protocol import Protocol

__all__ = ["Contest", "compute", "fit_all", "require_room"]

Progress = Callable[[int, int, str], None]
# A source by its number, and a depth.
Where = tuple[int, str]


@dataclass(frozen=True, eq=False)
class FitTask:
    """Classifiers on one depth of one file.

    Parameters
    ----------
    path : Path
        The codes file, absolute.
    digest : str
        Of the codes file.
    rows : (n,) int64
        Its rows that take part.
    depth : str
    names : tuple of str
        The classifiers.
    is_member : bool
        Whether the depth may enter an ensemble, which takes its logistic row.
    y : (n,) int64
    protocol : Protocol
    settings : FitSettings
    n_processes : int
        That share the memory of one machine.
    """

    path: Path
    digest: str
    rows: np.ndarray
    depth: str
    names: tuple[str, ...]
    is_member: bool
    y: np.ndarray
    protocol: Protocol
    settings: FitSettings
    n_processes: int = 1


@dataclass(frozen=True, eq=False)
class Outcome:
    """What came of a task: its fits by name, and what an ensemble takes."""

    width: int
    fitted: dict[str, Fitted]
    member: EnsembleMember | None


@dataclass(frozen=True, eq=False)
class Contest:
    """All contenders of a comparison, and what they are fitted on.

    Parameters
    ----------
    sources : sequence of Source
    depths : sequence of sequences of str
        Of each source.
    classifiers : sequence of str
    y : (n,) int64
        Without the labels of held-out rows.
    protocol : Protocol
    settings : FitSettings
    """

    sources: Sequence[Source]
    depths: Sequence[Sequence[str]]
    classifiers: Sequence[str]
    y: np.ndarray
    protocol: Protocol
    settings: FitSettings

    @property
    def names(self) -> tuple[str, ...]:
        """The classifiers of every depth, each once."""
        return tuple(
            dict.fromkeys(name for name in self.classifiers if name != "ensemble")
        )

    @property
    def has_ensemble(self) -> bool:
        """Whether an ensemble over depths takes part."""
        return "ensemble" in self.classifiers

    def by_source(self) -> Iterator[tuple[int, Source, Sequence[str]]]:
        """Yield each source with its number and its depths."""
        for k, source in enumerate(self.sources):
            yield k, source, self.depths[k]

    def tasks(self) -> Iterator[tuple[Where, FitTask]]:
        """Yield a task for every depth of every source."""
        for k, source, depths in self.by_source():
            # A concatenation would give its parts a second vote.
            alone = [depth for depth in depths if "+" not in depth]
            for depth in depths:
                is_alone = depth in alone and len(alone) > 1
                yield (
                    (k, depth),
                    FitTask(
                        path=source.codes.path.absolute(),
                        digest="",
                        rows=source.rows,
                        depth=depth,
                        names=self.names,
                        is_member=self.has_ensemble and is_alone,
                        y=self.y,
                        protocol=self.protocol,
                        settings=self.settings,
                    ),
                )


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
        Who works; None for this process, which keeps the codes of one depth at a time.

    Returns
    -------
    rows : list of Contender
    notes : list of str
    """
    sources, tasks = contest.sources, dict(contest.tasks())
    if jobs is None or jobs.is_here:
        outcomes = _here(tasks, sources, progress)
    else:
        outcomes = _elsewhere(tasks, sources, progress, jobs)
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
    total = sum(map(_n_fits, tasks.values()))
    progress(total, total, "done")
    return rows, notes


def _n_fits(task: FitTask) -> int:
    return len(task.names) + task.is_member


def _here(
    tasks: dict[Where, FitTask], sources: Sequence[Source], progress: Progress
) -> dict[Where, Outcome]:
    total, number = sum(map(_n_fits, tasks.values())), count()

    def tell(what: str) -> None:
        progress(next(number), total, what)

    return {where: _fit(task, sources[where[0]], tell) for where, task in tasks.items()}


def _elsewhere(
    tasks: dict[Where, FitTask],
    sources: Sequence[Source],
    progress: Progress,
    jobs: Jobs,
) -> dict[Where, Outcome]:
    total, done = sum(map(_n_fits, tasks.values())), 0
    digests = [codes.digest(source.codes.path) for source in sources]
    outcomes: dict[Where, Outcome] = {}
    progress(0, total, "sending the fits")
    with jobs.open() as pool:
        pieces = [
            pickle.dumps((where, piece))
            for where, task in tasks.items()
            for piece in _split(
                replace(task, digest=digests[where[0]], n_processes=pool.n_here)
            )
        ]
        for where, outcome in pool.run(compute, pieces):
            known = outcomes.get(where, Outcome(outcome.width, {}, None))
            outcomes[where] = Outcome(
                outcome.width,
                known.fitted | outcome.fitted,
                known.member or outcome.member,
            )
            done += len(outcome.fitted) + (outcome.member is not None)
            names = ", ".join(outcome.fitted) or "ensemble"
            progress(done, total, f"{names} on {where[1]}")
    return outcomes


def _split(task: FitTask) -> Iterator[FitTask]:
    """Yield a task for each classifier; that of logistic prepares the ensemble too."""
    for name in task.names:
        is_member = task.is_member and name == "logistic"
        yield replace(task, names=(name,), is_member=is_member)
    if task.is_member and "logistic" not in task.names:
        yield replace(task, names=())


def compute(piece: bytes) -> tuple[Where, Outcome]:
    """Do a pickled `FitTask` in another process.

    Raises
    ------
    RuntimeError
        If this process does not see the codes file, or sees another one.
    Exception
        As `fit_and_predict`.
    """
    where, task = pickle.loads(piece)
    seen = codes.digest(task.path) if task.path.is_file() else None
    if seen != task.digest:
        problem = "does not see" if seen is None else "sees another file as"
        raise RuntimeError(
            f"worker {worker_name()} {problem} {task.path}; put the codes into a "
            "folder that every worker has at the same place"
        )
    n_threads = threads_here()
    if n_threads is not None:
        import torch

        torch.set_num_threads(n_threads)
    # Its codes were checked by whoever sent the task.
    source = Source(codes.read(task.path, check=False), task.rows)
    return where, _fit(task, source, lambda what: None)


def _fit(task: FitTask, source: Source, tell: Callable[[str], None]) -> Outcome:
    """Fit the classifiers of a task on codes that are read once."""
    from featpipe.solvers import share_codes

    y, protocol = task.y, task.protocol
    n_rows, width = len(task.rows), source.codes.width(task.depth)
    plan = budget(n_rows, width, task.settings.memory, task.n_processes)
    settings = replace(task.settings, memory=plan.memory)
    X: Any = source.view(task.depth) if plan.streams else source.arrays(task.depth)
    fitted: dict[str, Fitted] = {}
    # Standardised once, and in one eigenbasis, for all classifiers.
    with share_codes():
        for name in task.names:
            tell(f"{name} on {task.depth}")
            fitted[name] = fit_and_predict(name, X, y, protocol, settings)
    member = None
    if task.is_member:
        tell(f"ensemble on {task.depth}")
        logistic = fitted.get("logistic") or fit_and_predict(
            "logistic", X, y, protocol, settings
        )
        member = ensemble.prepare(task.depth, logistic, X, y, protocol, settings)
    return Outcome(width, fitted, member)


def require_room(
    sources: Sequence[Source],
    chosen: Sequence[Sequence[str]],
    baselines: Sequence[str],
    memory: int | str | None,
) -> None:
    """Raise where a classifier that cannot read in blocks is given too much.

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
