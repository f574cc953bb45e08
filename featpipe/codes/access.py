"""`Codes`: the tables of a codes file in memory, its codes read on request.

Reads rows and columns of a file that `reading` has checked.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np

from featpipe.codes import parsing, showing
from featpipe.codes.block import CodesError
from featpipe.codes.fingerprint import FINGERPRINT
from featpipe.codes.layout import SPLITS, Tables
from featpipe.codes.opening import opened_file, stamp_of

if TYPE_CHECKING:
    import pandas

__all__ = ["Codes"]


@dataclass(frozen=True, eq=False)
class Codes:
    """A codes file: its tables in memory, its codes read on request.

    Rows are images, in the order of `paths`. Nothing stays open, so a `Codes` can be
    pickled and used in several processes.

    Parameters
    ----------
    path : Path
        The file.
    shapes : dict of SPEC to tuple of int
        Shape of the codes of each depth, ``(n, width)``, or ``(n, C, H, W)`` for maps.
    tables : Tables
        Everything but the codes.
    stamp : tuple of int
        Identifies the file that was checked, so that a later change is noticed.
    is_checked : bool
        Whether the codes have been compared with their SHA-256, not the header alone.

    Examples
    --------
    >>> import featpipe
    >>> codes = featpipe.read("flowers.h5")
    >>> len(codes), codes.depths, codes.class_names
    (42, ['layer3:avg', 'penultimate'], ['daisy', 'rose', 'tulip'])
    >>> X, y = codes.arrays("penultimate", split="train")
    >>> X.shape, X.dtype, y.shape
    ((30, 8), dtype('float32'), (30,))
    >>> codes.take("penultimate", [0, -1]).shape
    (2, 8)
    """

    path: Path
    shapes: dict[str, tuple[int, ...]]
    tables: Tables
    stamp: tuple[int, ...]
    is_checked: bool = False

    def __len__(self) -> int:
        return len(self.tables.paths)

    def __repr__(self) -> str:
        return showing.one_line(self)

    def _repr_html_(self) -> str:
        return showing.as_html(self)

    @property
    def n_images(self) -> int:
        """Number of rows."""
        return len(self)

    @property
    def depths(self) -> list[str]:
        """The depths in the file, canonical SPECs, in the order of extraction."""
        return list(self.shapes)

    @property
    def labels(self) -> np.ndarray:
        """(n,) int64: positions in `class_names`, −1 for unlabelled."""
        return self.tables.labels

    @property
    def class_names(self) -> list[str]:
        """Names of the classes, in the order of their labels."""
        return self.tables.class_names

    @cached_property
    def splits(self) -> np.ndarray:
        """(n,) str: ``""``, ``"train"``, ``"val"`` or ``"test"`` per row."""
        return np.array(self.tables.splits, dtype=np.str_)

    @cached_property
    def groups(self) -> np.ndarray:
        """(n,) str: the group of each row, ``""`` for none."""
        return np.array(self.tables.groups, dtype=np.str_)

    @property
    def paths(self) -> list[str]:
        """Paths relative to `images_root`; odd bytes become surrogates."""
        return self.tables.paths

    @property
    def images_root(self) -> str:
        """The folder, archive or data set the paths belong to."""
        return self.tables.images_root

    @property
    def sizes(self) -> np.ndarray:
        """(n,) int64: bytes of each image file."""
        return self.tables.sizes

    @property
    def mtimes(self) -> np.ndarray:
        """(n,) int64: modification time in nanoseconds; 0 where the source has none."""
        return self.tables.mtimes

    @property
    def sha256(self) -> np.ndarray:
        """(n, 32) uint8: digest of each image's content."""
        return self.tables.sha256

    @property
    def failures(self) -> list[tuple[str, str, str]]:
        """Inputs that gave no row, as (path, stage, reason)."""
        return [failure[:3] for failure in self.tables.failures]

    @property
    def notes(self) -> list[tuple[str, str, str]]:
        """Remarks on images that have a row, as (path, stage, text)."""
        return [note[:3] for note in self.tables.notes]

    @property
    def provenance(self) -> dict[str, Any]:
        """How the codes were made: backbone, weights, preprocessing, versions."""
        return self.tables.provenance

    @property
    def fingerprint(self) -> dict[str, Any]:
        """The part of `provenance` that changes the numbers."""
        # get: a file of another program may lack a field, and can still be inspected.
        return {name: self.provenance.get(name) for name in FINGERPRINT}

    @property
    def default_depth(self) -> str:
        """The only depth, or the penultimate of several.

        Raises
        ------
        CodesError
            If there are several, and none of them is ``penultimate``.
        """
        # The depth of a file that has only one need not be named.
        if len(self.depths) == 1:
            return self.depths[0]
        return self.spec("penultimate")

    def spec(self, depth: str) -> str:
        """Find the canonical name of one depth.

        Parameters
        ----------
        depth : str
            As in `depths`, or shorter: ``"features"`` is ``"features:avg"`` where
            that is there (for tokens ``:cls``), else the only one of that node.

        Returns
        -------
        str

        Raises
        ------
        CodesError
            If the file has no such depth, or several that fit.
        """
        # The exact name first, then the name that `extract` would have given it.
        defaults = (depth, f"{depth}:avg", f"{depth}:cls")
        default = [s for s in defaults if s in self.shapes][:1] or [
            s for s in self.shapes if s.partition(":")[0] == depth
        ]
        if len(default) != 1:
            problem = "several depths" if default else "no depth"
            raise CodesError(
                f"{self.path} has {problem} {depth!r}; choose from "
                f"{', '.join(self.depths)}, or extract it to this file"
            )
        return default[0]

    def width(self, depth: str) -> int:
        """Return the length of a code.

        Parameters
        ----------
        depth : str
            A depth of the file; of ``"a+b"`` the widths are added.

        Returns
        -------
        int
        """
        parts = str(depth).split("+")
        return sum(math.prod(self.shapes[self.spec(part)][1:]) for part in parts)

    def rows(self, depth: str, start: int, stop: int) -> np.ndarray:
        """Read rows ``start`` to ``stop`` of one depth, as they are stored.

        Parameters
        ----------
        depth : str
            One depth.
        start, stop : int
            As in a slice; negative ones count from the end.

        Returns
        -------
        (stop − start, width) float32 or float16
            Maps: (stop − start, C, H, W).

        Raises
        ------
        CodesError
            If the file has changed since it was read, or is damaged there.
        """
        with self._dataset(depth) as dataset:
            rows: np.ndarray = dataset[slice(*slice(start, stop).indices(len(self)))]
            return rows

    def take(self, depth: str, rows: Any) -> np.ndarray:
        """Read some rows of one depth, in any order, as numpy indexes an array.

        Parameters
        ----------
        depth : str
            One depth.
        rows : int, (n_rows,) int or (n,) bool
            Or a list of them; negative ones count from the end.

        Returns
        -------
        (n_rows, width) float32 or float16
            One row, (width,), for an int.

        Raises
        ------
        IndexError
            If a row is beyond the end, or no whole number.
        CodesError
            As `rows`.
        """
        positions = self._positions(rows)
        return self._take(depth, positions.ravel()).reshape(
            *positions.shape, *self.shapes[self.spec(depth)][1:]
        )

    def _positions(self, rows: Any) -> np.ndarray:
        """Return the positions of an index as numpy reads it, none of them negative."""
        index, n = np.asarray(rows), len(self)
        # Before the check of integers, since numpy counts bools among them.
        if index.dtype == bool and index.shape == (n,):
            return np.flatnonzero(index)
        # An empty list has dtype float64, which the next check would refuse.
        if not index.size:
            return index.astype(np.int64)
        if index.dtype.kind not in "iu":
            raise IndexError(
                f"rows={rows!r:.60} are no positions; give whole numbers, or {n} bools"
            )
        if index.max() >= n or index.min() < -n:
            row = index.max() if index.max() >= n else index.min()
            raise IndexError(f"row {row} of {self.path}, which has {n:,} rows")
        # Small whole numbers (uint8) could not hold the sum.
        index = index.astype(np.int64)
        return np.where(index < 0, index + n, index)

    def _take(self, depth: str, rows: np.ndarray) -> np.ndarray:
        order = np.argsort(rows, kind="stable")
        # Read in the order of the file, then restore the order of `rows`.
        ascending = rows[order]
        # Runs of adjacent rows: HDF5 reads a slice far faster than a list of rows.
        cuts = np.flatnonzero(np.diff(ascending) != 1) + 1
        with self._dataset(depth) as dataset:
            codes = np.empty((len(rows), *dataset.shape[1:]), dataset.dtype)
            for stretch in np.split(np.arange(len(rows)), cuts):
                if len(stretch):
                    first, last = ascending[stretch[[0, -1]]]
                    codes[order[stretch]] = dataset[first : last + 1]
        return codes

    @contextmanager
    def _dataset(self, depth: str) -> Iterator[h5py.Dataset]:
        spec = self.spec(depth)
        with opened_file(self.path) as file:
            # Another file under this name has not been checked.
            if stamp_of(file) != self.stamp:
                raise CodesError(
                    f"{self.path} has changed since it was read; read it again"
                )
            try:
                with parsing.opened(file) as h5:
                    yield h5["codes"][spec]
            except CodesError as error:
                raise CodesError(f"{self.path} {error}") from error

    def arrays(
        self, depth: str | None = None, split: str | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Read the codes of one depth and their labels.

        Parameters
        ----------
        depth : str, optional
            A depth, or several joined by ``+``, whose codes are put side by side.
            Default `default_depth`.
        split : str, optional
            ``"train"``, ``"val"``, ``"test"`` or ``""``; default all rows.

        Returns
        -------
        X : (n_rows, width) float32
        y : (n_rows,) int64
            Positions in `class_names`; −1 marks an unlabelled row.

        Raises
        ------
        CodesError
            If there is no such depth, or the file has changed since it was read.
        ValueError
            If ``split`` is no split.
        """
        if split is not None and split not in SPLITS:
            raise ValueError(f"no split {split!r}; use 'train', 'val', 'test' or ''")
        depth = self.default_depth if depth is None else depth
        chosen = slice(None) if split is None else self.splits == split
        n_rows = len(self.labels[chosen])
        # Filled in place: joining the parts at the end would hold them twice.
        X = np.empty((n_rows, self.width(depth)), np.float32)
        column = 0
        for part in str(depth).split("+"):
            width = self.width(part)
            rows = self.rows(part, 0, len(self))[chosen]
            X[:, column : column + width] = rows.reshape(n_rows, width)
            column += width
        # A copy, since a view of all rows would let the caller overwrite the labels of
        # this object.
        return X, self.labels[chosen].copy()

    def to_frame(self, depth: str | None = None) -> "pandas.DataFrame":
        """Return the codes of one depth as a table, one row an image.

        Parameters
        ----------
        depth : str, optional
            As for `arrays`.

        Returns
        -------
        pandas.DataFrame
            Indexed by path; columns ``label`` (the class name, None if unlabelled),
            ``split``, ``group``, then ``0`` … ``width − 1``.

        Raises
        ------
        ModuleNotFoundError
            If pandas is not installed.
        """
        try:
            # Imported here: pandas takes half a second and is an extra.
            import pandas
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                "to_frame needs pandas; pip install 'featpipe[frame]'"
            ) from error
        X, y = self.arrays(depth)
        frame = pandas.DataFrame(X, index=pandas.Index(self.paths, name="path"))
        names = [self.class_names[label] if label >= 0 else None for label in y]
        frame.insert(0, "label", names)
        frame.insert(1, "split", self.splits)
        frame.insert(2, "group", self.groups)
        return frame
