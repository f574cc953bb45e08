"""Copies among the images: by content, and by the cosine of their codes.

A held-out image that the classifier has seen tests nothing, and of two copies under
different labels one label is wrong. This module reports copies and drops no image.
Labels only tell whether those of two copies differ.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from featpipe.classifiers import budget
from featpipe.comparison.sources import Labelled, Source

__all__ = [
    "ALIKE",
    "KINDS",
    "NearDuplicate",
    "duplicate_threshold",
    "find_duplicates",
    "report",
    "threshold",
    "unrelated_similarity",
]

ALIKE = 0.9
"""Cosine of standardised codes from which two images are called near-duplicates.

Measured on 398 photos (squeezenet1_0, ``features:avg``): no two of them reach 0.81,
while a photo and its copy keep at least 0.91 after JPEG at quality 50 or a 3 % crop,
and a median of 0.92 to 0.98 when mirrored, halved or brightened by a fifth. Shallower
depths separate images less well, so the depth, and a higher threshold, are chosen from
the codes themselves.
"""

KINDS = ("relabelled", "across", "within")
"""Copies under two labels; of one label on two sides of the split; on one side."""

_EXACT = 0.9999  # cosine of the codes of one image computed in two batches
_BLOCK = 1024  # rows at a time: bounds the memory beyond the codes to some megabytes
_SAMPLE = 1000  # images from which the depth and the threshold are judged

Copies = dict[tuple[int, str], "NearDuplicate"]


class NearDuplicate(NamedTuple):
    """An image and the one it is a copy of.

    Attributes
    ----------
    row, other : int
        Row numbers; ``other`` is of an earlier side (``train`` before ``val`` before
        ``test``), or earlier on the same side.
    cosine : float
        Of their standardised codes; 1 for equal files.
    exact : bool
        Whether the two files are the same byte for byte.
    kind : str
        Of `KINDS`.

    Examples
    --------
    >>> copy = NearDuplicate(row=7, other=2, cosine=1.0, exact=True, kind="across")
    >>> copy.other
    2
    """

    row: int
    other: int
    cosine: float
    exact: bool
    kind: str


def report(
    sources: Sequence[Source],
    depths: Sequence[Sequence[str]],
    labelled: Labelled,
    sides: np.ndarray,
    memory: int | str | None = None,
    border: str = "split",
) -> list[str]:
    """Find copies at the depth that tells images apart best, and describe them.

    Parameters
    ----------
    sources : sequence of Source
        The open files.
    depths : sequence of sequences of str
        The depths compared in each of them.
    labelled : Labelled
        The images.
    sides : (n,) int64
        As for `find_duplicates`.
    memory : int, str or None
        As for `featpipe.classifiers.budget`. Where codes do not fit, only equal files
        are searched for: cosines of so many images would take days.
    border : str
        Between the sides: ``"split"``, or ``"folds"`` where there is no split.
    """
    sample = np.unique(np.linspace(0, len(sides) - 1, _SAMPLE).astype(np.int64))
    choices = [
        (unrelated_similarity(source.sample(depth, sample)), k, depth)
        for k, (source, chosen) in enumerate(zip(sources, depths, strict=True))
        # A concatenation is no better at telling copies than its best part, and larger.
        for depth in dict.fromkeys(part for d in chosen for part in d.split("+"))
    ]
    similarity, k, depth = min(choices)
    alike = threshold(similarity)
    if budget(len(sides), sources[k].codes.width(depth), memory).streams:
        order = np.argsort(sides, kind="stable")
        order = order[sides[order] >= 0]
        equal = _equal_files(labelled.digests, order, sides, labelled.labels, False)
        measure = "equal files alone"
        return _describe(sorted(equal.values()), labelled, sides, measure, border)
    X = sources[k].arrays(depth)
    copies = find_duplicates(X, labelled.digests, sides, labelled.labels, alike)
    measure = f"cosine of {depth} codes >= {alike:.4g}"
    return _describe(copies, labelled, sides, measure, border)


def threshold(similarity: float) -> float:
    """Return the cosine from which two images count as copies."""
    return float(np.clip(similarity, ALIKE, _EXACT))


def duplicate_threshold(X: np.ndarray) -> float:
    """Return the cosine from which two images of a set count as copies.

    Parameters
    ----------
    X : (n, width) float32
        Codes of a sample of the images.

    Returns
    -------
    float
        Above what images that are no copies of each other reach, and at least
        `ALIKE`.

    Examples
    --------
    >>> X = np.random.default_rng(0).normal(size=(500, 64)).astype(np.float32)
    >>> duplicate_threshold(X) == ALIKE
    True
    """
    return threshold(unrelated_similarity(X))


def unrelated_similarity(X: np.ndarray) -> float:
    """Return the highest similarity of images that are not copies of each other.

    Two images that are each other's nearest may be copies, so they are left out; the
    nearest image of any other is not its copy. Labels are not read: copies under two
    labels would raise the very threshold that has to find them.

    Parameters
    ----------
    X : (n, width) float32
        Codes of a sample of the images.

    Returns
    -------
    float
        The cosine to the nearest image that 99 % of those left do not exceed; -1 where
        none is left.
    """
    directions = _directions(X, *_standard(X))
    cosines = directions @ directions.T
    # An image is always most similar to itself.
    np.fill_diagonal(cosines, -1)
    rows = np.arange(len(X))
    nearest = cosines.argmax(axis=1)
    # Without pairs that are each other's nearest, which may be copies.
    alone = nearest[nearest] != rows
    highest = cosines[rows, nearest][alone]
    # Not the maximum, which a single pair of copies with a third image would set.
    return float(np.quantile(highest, 0.99)) if len(highest) else -1.0


def find_duplicates(
    X: np.ndarray,
    digests: np.ndarray,
    sides: np.ndarray,
    labels: np.ndarray,
    alike: float = ALIKE,
    *,
    across_only: bool = False,
) -> list[NearDuplicate]:
    """Return, for each image and kind, the closest of the images before it.

    Parameters
    ----------
    X : (n, width) float32
        Codes of one depth.
    digests : (n, 32) uint8
        SHA-256 of each file; all zero where unknown.
    sides : (n,) int64
        Which side each row is on; -1 takes no part.
    labels : (n,) int64
        Class numbers.
    alike : float
        Cosine of standardised codes from which two images count as copies.
    across_only : bool
        Compare images of two sides only: of 60,000 images to learn from and 4,000 to
        judge on, a ninth of the work.

    Returns
    -------
    list of NearDuplicate
        Ordered by row.

    Examples
    --------
    >>> X = np.random.default_rng(0).normal(size=(40, 8)).astype(np.float32)
    >>> X[30] = X[3]  # image 30, of the test side, is image 3 once more
    >>> sides = np.repeat([0, 1], 20)
    >>> unknown, labels = np.zeros((40, 32), np.uint8), np.zeros(40, np.int64)
    >>> copies = find_duplicates(X, unknown, sides, labels, alike=0.99)
    >>> [(copy.row, copy.other) for copy in copies]
    [(30, 3)]
    """
    # By side, so that a search across sides compares whole blocks only.
    order = np.argsort(sides, kind="stable")
    order = order[sides[order] >= 0]
    copies = _equal_files(digests, order, sides, labels, across_only)
    sorted_sides = sides[order]
    mean, scale = _standard(X)
    for mine in _blocks(len(order)):
        rows = order[mine]
        directions = _directions(X[rows], mean, scale)
        best = np.full((len(KINDS), len(rows)), -np.inf)
        other = np.full((len(KINDS), len(rows)), -1)
        end = mine.start + len(rows)
        if across_only:  # sides ascend: those before the last row's are the others
            end = int(np.searchsorted(sorted_sides, sides[rows[-1]]))
        for theirs in _blocks(end):
            earlier = order[theirs]
            cosines = directions @ _directions(X[earlier], mean, scale).T
            if theirs == mine:
                cosines[np.triu_indices(len(rows))] = -np.inf
            if across_only:
                cosines[sides[rows][:, None] <= sides[earlier]] = -np.inf
            if cosines.max() >= alike:
                kinds = _kinds(rows[:, None], earlier, sides, labels)
                _keep_closest(best, other, cosines, kinds, earlier)
        for kind, i in np.argwhere(best >= alike).tolist():
            row, name = int(rows[i]), KINDS[kind]
            pair = int(other[kind, i]), float(best[kind, i])
            # Equal files are listed as such already.
            copies.setdefault((row, name), NearDuplicate(row, *pair, False, name))
    return sorted(copies.values())


def _keep_closest(
    best: np.ndarray,
    other: np.ndarray,
    cosines: np.ndarray,
    kinds: np.ndarray,
    earlier: np.ndarray,
) -> None:
    """Write the highest cosine of each kind and row into ``best``, its image too."""
    for kind in range(len(KINDS)):
        of_kind = np.where(kinds == kind, cosines, -np.inf)
        nearest = of_kind.argmax(axis=1)
        highest = of_kind[np.arange(len(nearest)), nearest]
        better = highest > best[kind]
        best[kind] = np.where(better, highest, best[kind])
        other[kind] = np.where(better, earlier[nearest], other[kind])


def _kinds(
    row: np.ndarray, other: np.ndarray, sides: np.ndarray, labels: np.ndarray
) -> np.ndarray:
    """Return the position in `KINDS` of pairs of rows."""
    same_side = (sides[row] == sides[other]).astype(np.int64)
    return np.where(labels[row] != labels[other], 0, 1 + same_side)


def _equal_files(
    digests: np.ndarray,
    order: np.ndarray,
    sides: np.ndarray,
    labels: np.ndarray,
    across_only: bool,
) -> Copies:
    """Return, by row and kind, the first row before it with the same bytes."""
    copies: Copies = {}
    # One row for each label and side is enough to tell the kinds apart.
    seen: dict[bytes, dict[tuple[int, int], int]] = {}
    for row in order.tolist():
        digest = digests[row].tobytes()
        if not any(digest):
            continue
        earlier = seen.setdefault(digest, {})
        for other in earlier.values():
            if across_only and sides[row] == sides[other]:
                continue
            kind = KINDS[int(_kinds(np.array(row), np.array(other), sides, labels))]
            copy = NearDuplicate(row, other, 1.0, True, kind)
            copies.setdefault((row, kind), copy)
        # The first one stays: a later copy refers to the original.
        earlier.setdefault((int(labels[row]), int(sides[row])), row)
    return copies


def _standard(X: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    mean = X.mean(axis=0, dtype=np.float64)
    # One pass over the blocks: X.std() would copy all of X.
    square = sum(((X[block] - mean) ** 2).sum(axis=0) for block in _blocks(len(X)))
    scale = np.sqrt(square / len(X))
    scale[scale == 0] = 1
    return mean.astype(np.float32), scale.astype(np.float32)


def _directions(X: np.ndarray, mean: np.ndarray, scale: np.ndarray) -> np.ndarray:
    codes = (X - mean) / scale
    lengths = np.linalg.norm(codes, axis=1, keepdims=True)
    directions: np.ndarray = codes / np.where(lengths > 0, lengths, 1)
    return directions


def _blocks(n: int) -> Iterator[slice]:
    return (slice(start, start + _BLOCK) for start in range(0, n, _BLOCK))


def _describe(
    copies: list[NearDuplicate],
    labelled: Labelled,
    sides: np.ndarray,
    measure: str,
    border: str,
) -> list[str]:
    """Describe copies: those under two labels first, three examples of each."""
    notes = []
    n_other = sum(
        copy.kind == "relabelled" and sides[copy.row] != sides[copy.other]
        for copy in copies
    )
    for kind, text in (
        ("relabelled", "copies under two labels, so one of the two is wrong"),
        ("across", f"copies on two sides of the {border}, so scores may flatter"),
        ("within", f"copies on one side of the {border}"),
    ):
        of_kind = [copy for copy in copies if copy.kind == kind]
        if of_kind:
            note = f"{text}: {_examples(of_kind, labelled, measure)}"
            if kind == "relabelled" and n_other:
                note += f"; {n_other} of them on two sides of the {border}"
            notes.append(note)
        elif kind == "across":
            no = "no other" if n_other else "no"
            notes.append(f"{no} near-duplicates across the {border} ({measure})")
    return notes


def _examples(copies: list[NearDuplicate], labelled: Labelled, measure: str) -> str:
    n_exact = sum(copy.exact for copy in copies)
    counts = [f"{n_exact} byte for byte"] * bool(n_exact)
    if n_alike := len(copies) - n_exact:
        counts.append(f"{n_alike} by their looks ({measure})")
    closest = sorted(copies, key=lambda copy: (not copy.exact, -copy.cosine))[:3]
    paths = labelled.paths
    pairs = [f"{paths[copy.row]} ~ {paths[copy.other]}" for copy in closest]
    return f"{', '.join(counts)}, such as {'; '.join(pairs)}"
