"""The fits of a comparison: a task for every depth, which can be split by classifier.

A task reads the codes from the file. Every process that can read the file can do it,
and doing it twice changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from featpipe.classifiers import budget
from featpipe.comparison import ensemble
from featpipe.comparison.contenders import FitSettings, Fitted, fit_and_predict
from featpipe.comparison.ensemble import EnsembleMember
from featpipe.comparison.sources import Source
from featpipe.protocol import Protocol

__all__ = [
    "Contest",
    "FitTask",
    "Outcome",
    "TaskKey",
    "count_fits",
    "fit_task",
    "read_codes",
    "split_task",
]

# The number of a source, and a depth.
TaskKey = tuple[int, str]


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
        Number of processes that share the memory of one machine.
    warning : str or None
        A warning where the limit of memory cannot be kept.
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
    warning: str | None = None


@dataclass(frozen=True, eq=False)
class Outcome:
    """The result of a task: its fits by classifier, and a member of the ensemble."""

    width: int
    fitted: dict[str, Fitted]
    member: EnsembleMember | None


@dataclass(frozen=True, eq=False)
class Contest:
    """All contenders of a comparison, and the codes that they are fitted on.

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

    def tasks(self) -> Iterator[tuple[TaskKey, FitTask]]:
        """Yield a task for every depth of every source."""
        for k, source, depths in self.by_source():
            # A concatenation would give its parts a second vote.
            alone = [depth for depth in depths if "+" not in depth]
            for depth in depths:
                is_alone = depth in alone and len(alone) > 1
                yield (
                    (k, depth),
                    FitTask(
                        # Other processes may have another current folder.
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


def count_fits(task: FitTask) -> int:
    """Return how many fits a task takes."""
    return len(task.names) + task.is_member


def split_task(task: FitTask) -> Iterator[FitTask]:
    """Yield a task for each classifier; that of logistic prepares the ensemble too."""
    for name in task.names:
        is_member = task.is_member and name == "logistic"
        yield replace(task, names=(name,), is_member=is_member)
    # A comparison without logistic rows fits them for the ensemble all the same.
    if task.is_member and "logistic" not in task.names:
        yield replace(task, names=())


def read_codes(task: FitTask, source: Source) -> tuple[Any, FitTask]:
    """Return the codes of a task, or a view that reads them, and the task's memory."""
    shape = len(task.rows), source.codes.width(task.depth)
    # Each process gets its share, and reads in blocks what does not fit it.
    plan = budget(*shape, task.settings.memory, task.n_processes)
    X: Any = source.view(task.depth) if plan.streams else source.arrays(task.depth)
    settings = replace(task.settings, memory=plan.memory)
    return X, replace(task, settings=settings, warning=plan.warning)


def fit_task(task: FitTask, X: Any, announce: Callable[[str], None]) -> Outcome:
    """Fit the classifiers of a task on codes that are read once."""
    from featpipe.solvers import share_codes

    y, protocol, settings = task.y, task.protocol, task.settings
    fitted: dict[str, Fitted] = {}
    # All classifiers share one standardisation and one eigenbasis.
    with share_codes():
        for name in task.names:
            announce(f"{name} on {task.depth}")
            fitted[name] = fit_and_predict(name, X, y, protocol, settings)
            if task.warning:
                fitted[name].warnings.append(task.warning)
    member = None
    if task.is_member:
        announce(f"ensemble on {task.depth}")
        # The logistic row of the table, if there is one, is the member.
        logistic = fitted.get("logistic") or fit_and_predict(
            "logistic", X, y, protocol, settings
        )
        member = ensemble.prepare(task.depth, logistic, X, y, protocol, settings)
    return Outcome(X.shape[1], fitted, member)
