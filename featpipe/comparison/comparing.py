"""`compare`: every classifier on every depth, by one protocol, into one table."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

import numpy as np

from featpipe.codes import Codes, checked, read
from featpipe.comparison import details, duplicates
from featpipe.comparison.contest import Contest
from featpipe.comparison.external import read_external
from featpipe.comparison.judging import HeldOut, JudgedContender, nested_choice, rank
from featpipe.comparison.options import ComparisonOptions, requested_depths
from featpipe.comparison.sources import Labelled, align_files, choose_depths
from featpipe.comparison.table import Comparison
from featpipe.comparison.tasks import Progress, fit_all, require_room
from featpipe.comparison.testing import describe_power, judge_all, majority_notes
from featpipe.defaults import N_FOLDS
from featpipe.parallel import Jobs, as_jobs
from featpipe.protocol import Protocol, plan
from featpipe.scores import Score

__all__ = ["compare"]

OneOrMore = Codes | str | os.PathLike[str] | Sequence[Codes | str | os.PathLike[str]]


def compare(
    codes: OneOrMore,
    *,
    classifiers: Sequence[str] = ("linear", "svm", "logistic"),
    depth: str | Sequence[str] | None = None,
    depths: Sequence[str] | None = None,
    folds: int = N_FOLDS,
    Cs: Sequence[float] | np.ndarray | None = None,
    metric: str = "accuracy",
    class_weight: str | dict[str, float] | None = None,
    test_size: float | None = None,
    with_: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] = (),
    device: str = "auto",
    memory: str | int | None = None,
    seed: int = 0,
    full_path: bool = False,
    jobs: int | Jobs | None = None,
    progress: Progress | None = None,
) -> Comparison:
    """Compare classifiers on the cached codes of one or several files.

    Every contender gets the same folds and the same held-out images. The recommended
    row is the one with the highest cross-validated score on training rows; it is
    fixed before any held-out label is read. ``docs/concepts/protocol.md`` explains the
    protocol and gives its sources.

    Parameters
    ----------
    codes : Codes, path, or a sequence of those
        Codes files of the same images.
    classifiers : sequence of str
        ``"linear"``, ``"svm"``, ``"logistic"``; without a C, ``"knn"`` (5 nearest by
        angle), ``"nearest-mean"``, ``"lda"`` (shrunk); ``"ensemble"``, the mean
        probability of the logistic rows over depths.
    depth : str or sequence of str, optional
        As in the files, or shorter; ``"a+b"`` puts the codes of two depths side by
        side. Default: every depth that is not a map, each alone.
    depths : sequence of str, optional
        The same as ``depth``; give one of them.
    folds : int
        Folds for choosing C, and for judging where there is no split.
    Cs : (n_C,) float, optional
        Values of C to choose from. Default: 45 from 1e-6 to 1e5.
    metric : {"accuracy", "balanced_accuracy", "macro_f1"}
        What C and the recommended row are chosen by.
    class_weight : "balanced" or dict of class name to weight, optional
        For ``linear``, ``svm`` and ``logistic``.
    test_size : float, optional
        Share of the images to hold out where there is no split.
    with_ : path, or sequence of paths
        Score documents of other contenders on the same images (``finetune --json``):
        they enter the table and the paired tests, but are never the recommended row.
    device : str
        Where ``linear``, ``svm`` and ``logistic`` are fitted.
    memory : str or int, optional
        Memory that the program may use, ``"8GB"`` or bytes; the processes of ``jobs``
        on one machine share it. Where four copies of the codes need more, the codes are
        read from the file on every pass. Default: half of the available memory.
    seed : int
        The same seed gives the same table.
    full_path : bool
        Whether to solve every C, even those that could hardly be chosen.
    jobs : int or Jobs, optional
        Processes that share the fits, one classifier on one depth each. Default: this
        process alone.
    progress : callable, optional
        Called as ``progress(n_done, n_fits, what)`` before each fit and at the end;
        with ``jobs`` after each.

    Returns
    -------
    Comparison

    Raises
    ------
    FileNotFoundError
        If a file does not exist.
    CodesError
        If a file is no codes file, lacks the depth, or holds other images than the
        first.
    ValueError
        If there are not two classes to tell apart, or an argument is invalid.

    Examples
    --------
    >>> import featpipe
    >>> comparison = featpipe.compare(
    ...     "flowers.h5", classifiers=["linear"], depth="penultimate"
    ... )
    >>> comparison.recommended.accuracy, len(comparison.scores)
    (1.0, 1)
    """
    options = ComparisonOptions(
        classifiers=classifiers,
        folds=folds,
        Cs=Cs,
        metric=metric,
        class_weight=class_weight,
        test_size=test_size,
        device=device,
        memory=memory,
        seed=seed,
        full_path=full_path,
    )
    depths = requested_depths(depth, depths)
    report = progress or _no_progress
    external = [with_] if isinstance(with_, str | os.PathLike) else with_
    return _compare(codes, depths, options, external, as_jobs(jobs), report)


def _compare(
    codes: OneOrMore,
    depths: Sequence[str] | None,
    options: ComparisonOptions,
    with_: Sequence[str | os.PathLike[str]],
    jobs: Jobs | None,
    progress: Progress,
) -> Comparison:
    """Align the files, plan, fit, rank, judge, and gather the notes."""
    # Every byte is checked here: a damaged code would lower a score unnoticed.
    files = _opened(codes)
    labelled, sources = align_files(files)
    chosen = choose_depths(sources, depths)
    protocol = plan(
        labelled, n_folds=options.folds, test_size=options.test_size, seed=options.seed
    )
    judged = HeldOut(labelled, protocol, options.metric, options.seed)
    # Before the fits, so that a file that does not match is refused at once.
    external = read_external(with_, judged.paths, judged.names, judged.first_fold)
    settings = options.settings(labelled.class_names)
    # The fits get labels without those held out, so that a slip of indexing is an error
    # and not a better score.
    y = _mask_held_out(labelled.labels, protocol)
    require_room(sources, chosen, options.baselines, options.memory)
    contest = Contest(sources, chosen, options.classifiers, y, protocol, settings)
    fitted, ensemble_notes = fit_all(contest, progress, jobs)
    ranked = rank(fitted)
    # In the order of the options: the ranking has used all images.
    headline = nested_choice(fitted, judged)
    entries = [judged.enter(contender) for contender in ranked]
    entries += [judged.enter_external(external_score) for external_score in external]
    scores = judge_all(entries, judged)
    tested_notes = [*majority_notes(scores, judged), *_power(entries, judged, scores)]
    border = "split" if protocol.name in ("val", "test") else "folds"
    copies = duplicates.report(
        sources, chosen, labelled, protocol.sides, options.memory, border
    )
    notes = [
        *_protocol_notes(labelled, protocol, judged, options),
        *copies,
        *ensemble_notes,
        *tested_notes,
        *details.gather_warnings(scores),
    ]
    return Comparison(
        scores=scores,
        seed=options.seed,
        metric=options.metric,
        test=judged.test,
        notes=notes,
        paths=judged.paths,
        labels=judged.names,
        splits=labelled.splits[judged.rows].tolist(),
        headline=headline,
        majority_accuracy=judged.majority_accuracy,
        confidence=details.confidence_of(ranked),
        options={
            name: getattr(options, name) for name in ("folds", "metric", "class_weight")
        },
    )


def _opened(codes: OneOrMore) -> list[Codes]:
    several = [codes] if isinstance(codes, Codes | str | os.PathLike) else codes
    if not several:
        raise ValueError("compare needs at least one codes file, got none")
    return [checked(x) if isinstance(x, Codes) else read(x) for x in several]


def _no_progress(done: int, total: int, what: str) -> None:
    pass


def _mask_held_out(labels: np.ndarray, protocol: Protocol) -> np.ndarray:
    """Return the labels, with -1 for the rows that are held out."""
    masked = np.full_like(labels, -1)
    masked[protocol.final.train] = labels[protocol.final.train]
    return masked


def _protocol_notes(
    labelled: Labelled,
    protocol: Protocol,
    judged: HeldOut,
    options: ComparisonOptions,
) -> Iterator[str]:
    yield from protocol.notes
    if labelled.n_unlabelled:
        yield f"{labelled.n_unlabelled} unlabelled images take no part"
    if judged.grouped:
        n_groups = len(np.unique(judged.groups[judged.groups != ""]))
        n_groups += int((judged.groups == "").sum())
        yield (
            f"the judged images come in {n_groups} groups: intervals and tests take "
            "each group as a whole"
        )
    if options.class_weight is not None and options.baselines:
        yield f"class_weight does not apply to {', '.join(options.baselines)}"


def _power(
    entries: Sequence[JudgedContender], judged: HeldOut, scores: Sequence[Score]
) -> Iterator[str]:
    """Yield one note: which differences these images can show, and what more takes."""
    power = list(describe_power(entries, judged))
    needed = "" if judged.grouped else details.describe_needed(scores, judged.names)
    text = "; ".join([*power, *([needed] if needed else [])])
    if text:
        yield text
