"""Images that sit on both sides of a split, found by content and by their codes.

A held-out image that the classifier has seen is no test. Nothing here chooses or
drops anything: what is found is reported.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from featpipe.comparison.sources import Labelled, Source

__all__ = ["ALIKE", "Twin", "background", "find", "report"]

ALIKE = 0.9
"""Cosine of standardised codes from which two images are called near-duplicates.

Measured on 398 photos (squeezenet1_0, ``features:avg``): no two of them reach 0.81,
while a photo and its copy keep at least 0.91 after JPEG at quality 50 or a 3 % crop,
and a median of 0.92 to 0.98 when mirrored, halved or brightened by a fifth. Shallower
depths part images less well, which is why the depth and a higher threshold are taken
from the codes themselves.
"""

_BLOCK = 1024  # rows at a time: bounds the memory beyond the codes to some megabytes
_SAMPLE = 1000  # images from which the depth and the threshold are judged


class Twin(NamedTuple):
    """An image and the one on another side that it repeats.

    Attributes
    ----------
    row, other : int
        Row numbers; ``other`` is of the earlier side (``train`` before ``val`` before
        ``test``).
    cosine : float
        Of their standardised codes.
    exact : bool
        Whether the two files are the same byte for byte.
    """

    row: int
    other: int
    cosine: float
    exact: bool


def report(
    sources: Sequence[Source],
    depths: Sequence[Sequence[str]],
    labelled: Labelled,
    sides: np.ndarray,
) -> list[str]:
    """Search at the depth that tells images apart best, and put it in words.

    Parameters
    ----------
    sources : sequence of Source
        The open files.
    depths : sequence of sequences of str
        The depths compared in each of them.
    labelled : Labelled
        The images.
    sides : (n,) int64
        As for `find`.
    """
    sample = np.unique(np.linspace(0, len(sides) - 1, _SAMPLE).astype(np.int64))
    choices = [
        (background(source.sample(depth, sample), labelled.labels[sample]), k, depth)
        for k, (source, chosen) in enumerate(zip(sources, depths, strict=True))
        for depth in dict.fromkeys(part for d in chosen for part in d.split("+"))
    ]
    level, k, depth = min(choices)
    alike = max(ALIKE, level)
    twins = find(sources[k].arrays(depth), labelled.digests, sides, alike)
    return _describe(twins, labelled, f"cosine of {depth} codes >= {alike:.2f}")


def background(X: np.ndarray, labels: np.ndarray) -> float:
    """Tell how alike images get that are certainly no copies of each other.

    Returns
    -------
    float
        The highest cosine to an image of another class that 99 % of the images do
        not exceed.
    """
    directions = _directions(X, *_standard(X))
    cosines = directions @ directions.T
    cosines[labels[:, None] == labels] = -1
    return float(np.quantile(cosines.max(axis=1), 0.99))


def find(
    X: np.ndarray, digests: np.ndarray, sides: np.ndarray, alike: float = ALIKE
) -> list[Twin]:
    """Find, for each image, its closest copy on an earlier side.

    Parameters
    ----------
    X : (n, width) float32
        Codes of one depth.
    digests : (n, 32) uint8
        SHA-256 of each file; all zero where unknown.
    sides : (n,) int64
        Which side each row is on; -1 takes no part.
    alike : float
        Cosine of standardised codes from which two images count as copies.

    Returns
    -------
    list of Twin
        Ordered by row.
    """
    exact = _same_content(digests, sides)
    found = []
    mean, scale = _standard(X)
    for side in np.unique(sides[sides > 0]):
        rows = np.flatnonzero(sides == side)
        earlier = np.flatnonzero((sides >= 0) & (sides < side))
        best, other = _closest(X, rows, earlier, mean, scale)
        for i in np.flatnonzero((best >= alike) | (exact[rows] >= 0)).tolist():
            row, twin = int(rows[i]), int(exact[rows[i]])
            if twin >= 0:
                found.append(Twin(row, twin, 1.0, True))
            else:
                found.append(Twin(row, int(other[i]), float(best[i]), False))
    return sorted(found)


def _same_content(digests: np.ndarray, sides: np.ndarray) -> np.ndarray:
    """Give each row the first row of an earlier side with the same bytes, or -1."""
    twins = np.full(len(sides), -1)
    first: dict[bytes, int] = {}
    for row in np.argsort(sides, kind="stable").tolist():
        digest = digests[row].tobytes()
        if sides[row] < 0 or not any(digest):
            continue
        known = first.setdefault(digest, row)
        if sides[known] < sides[row]:
            twins[row] = known
    return twins


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
    return codes / np.where(lengths > 0, lengths, 1)


def _blocks(n: int) -> Iterator[slice]:
    return (slice(start, start + _BLOCK) for start in range(0, n, _BLOCK))


def _closest(
    X: np.ndarray,
    rows: np.ndarray,
    earlier: np.ndarray,
    mean: np.ndarray,
    scale: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Find the highest cosine of each of ``rows`` to ``earlier``, and whose it is."""
    best = np.full(len(rows), -np.inf, np.float32)
    other = np.full(len(rows), -1)
    for theirs in _blocks(len(earlier)):
        candidates = _directions(X[earlier[theirs]], mean, scale)
        for mine in _blocks(len(rows)):
            cosines = _directions(X[rows[mine]], mean, scale) @ candidates.T
            nearest = cosines.argmax(axis=1)
            highest = cosines[np.arange(len(nearest)), nearest]
            better = highest > best[mine]
            best[mine] = np.where(better, highest, best[mine])
            other[mine] = np.where(better, earlier[theirs][nearest], other[mine])
    return best, other


def _describe(twins: list[Twin], labelled: Labelled, measure: str) -> list[str]:
    """Put what was found in words, with up to three examples of each kind."""
    if not twins:
        return [f"no near-duplicates across the split ({measure})"]
    paths, labels = labelled.paths, labelled.labels
    said = []
    for exact, what in (
        (True, "repeat one on another side of the split byte for byte"),
        (False, f"look like one on another side of the split ({measure})"),
    ):
        kind = [twin for twin in twins if twin.exact is exact]
        if not kind:
            continue
        closest = sorted(kind, key=lambda twin: -twin.cosine)[:3]
        examples = "; ".join(f"{paths[t.row]} ~ {paths[t.other]}" for t in closest)
        n_relabelled = sum(labels[twin.row] != labels[twin.other] for twin in kind)
        relabelled = f" ({n_relabelled} with another label)" * bool(n_relabelled)
        said.append(
            f"near-duplicates, so scores may flatter: images that {what}: "
            f"{len(kind)}{relabelled}, such as {examples}"
        )
    return said
