"""Part files: the finished batches of an unfinished extraction, beside its file.

A part is a small codes file, named by its plan and by the images that it holds. Rows
are looked up by content too, so parts of an older plan (the folder has grown since) can
be used.
"""

import hashlib
import re
from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np

from featpipe import codes
from featpipe.codes import Codes, CodesError, Row, Tables
from featpipe.extraction.plan import Plan, Span
from featpipe.files import explained, remove_temporaries
from featpipe.inference import Execution

__all__ = ["Parts", "RowIndex"]

# Bytes of a new folder on most file systems.
_FOLDER_BYTES = 4096

# The second number is missing in parts of older versions.
_PART = re.compile(r"[0-9a-f]{32}(-[0-9]{6,}){1,2}(-w[0-9a-f]{8})?\.h5")
_TEMPORARY = re.compile(rf"\.{_PART.pattern}\.[0-9a-f]{{32}}\.tmp")


class Parts:
    """The folder ``FILE.parts``.

    Parameters
    ----------
    path : Path
        The codes file that will be made.
    worker : str, optional
        Name of the worker process, if it is one of several. Its parts have names of
        their own: two workers that do the same slice, one of them taken for dead, never
        write to one file. It does not remove files of others.

    Examples
    --------
    >>> Parts(Path("flowers.h5")).folder.name
    'flowers.h5.parts'
    """

    def __init__(self, path: Path, worker: str | None = None) -> None:
        self.folder = path.with_name(f"{path.name}.parts")
        self._worker = worker
        self._read: dict[Path, Codes | None] = {}
        if worker is not None:
            return
        # The lock is held, so temporary files are leftovers of a killed run.
        remove_temporaries(path)
        for temporary in self._named(_TEMPORARY):
            with suppress(OSError):
                temporary.unlink()

    def _named(self, name: re.Pattern[str]) -> list[Path]:
        """Return the files in the folder whose names match."""
        if not self.folder.is_dir():
            return []
        files = sorted(self.folder.iterdir())
        return [path for path in files if name.fullmatch(path.name)]

    def path(self, plan: Plan, span: Span) -> Path:
        """Return the path of the part of a span."""
        start, stop = span
        # A worker that was taken for dead may still write its part; its suffix keeps it
        # from replacing the part of another worker.
        end = ""
        if self._worker is not None:
            end = f"-w{hashlib.sha256(self._worker.encode()).hexdigest()[:8]}"
        return self.folder / f"{plan.digest[:32]}-{start:09d}-{stop:09d}{end}.h5"

    def create_folder(self) -> None:
        """Make the folder, if it is not there yet."""
        try:
            with explained(self.folder, _FOLDER_BYTES):
                self.folder.mkdir(exist_ok=True)
        except FileExistsError as error:
            raise FileExistsError(
                f"{self.folder} is a file, where the folder of finished parts has to "
                "be; move it away"
            ) from error

    def of(self, plan: Plan) -> list[tuple[Span, Codes]]:
        """Return the whole parts of a plan, or of a piece of one, ascending."""
        parts = []
        for path in self._named(_PART):
            span = _span(path)
            # The name has the digest of the plan, so that no file needs to be opened.
            if span is None or not path.name.startswith(plan.digest[:32]):
                continue
            inside = plan.span.start <= span.start and span.stop <= plan.span.stop
            part = self.read(path) if inside else None
            if part is not None:
                parts.append((span, part))
        return sorted(parts, key=lambda one: one[0])

    def read(self, path: Path) -> Codes | None:
        """Return a part, every byte checked; None if it is damaged or gone."""
        if path not in self._read:
            # Failures are remembered too: a damaged part is not read again.
            self._read[path] = None
            with suppress(CodesError, FileNotFoundError):
                self._read[path] = codes.read(path)
        return self._read[path]

    def fresh(self, name: str) -> Codes | None:
        """Return a part that another process has just written; None if not visible."""
        # Listing the folder makes a network file system look for new files.
        names = {path.name for path in self._named(_PART)}
        # An earlier call may have remembered that it was missing.
        self._read.pop(self.folder / name, None)
        return self.read(self.folder / name) if name in names else None

    @cached_property
    def existing(self) -> dict[Path, Codes]:
        """The complete parts from before the run, of any plan."""
        parts = {path: self.read(path) for path in self._named(_PART)}
        return {path: part for path, part in parts.items() if part is not None}

    def execution(
        self, depths: Sequence[str], dtype: str, device: str, batch_size: int | None
    ) -> Execution | None:
        """Return the execution that made the parts, if they are of such a plan.

        Parameters
        ----------
        depths : sequence of str
        dtype : str
        device : str
            Its kind, as in `Plan`.
        batch_size : int, optional
            Required batch size.
        """
        for part in self.existing.values():
            facts = part.provenance
            made = (facts.get("depths"), facts.get("dtype"), facts.get("device"))
            execution = Execution.from_dict(facts.get("execution"))
            if execution is None or made != (list(depths), dtype, device):
                continue
            # The user's batch size takes precedence; the parts then stay for other
            # plans.
            if batch_size in (None, execution.batch_size):
                return execution
        return None

    def save(
        self, plan: Plan, span: Span, arrays: dict[str, np.ndarray], tables: Tables
    ) -> Codes:
        """Write the part of a span durably, and check it."""
        # A worker that is late must not make the folder again.
        if self._worker is None:
            self.create_folder()
        else:
            provenance = {**tables.provenance, "worker": self._worker}
            tables = replace(tables, provenance=provenance)
        return codes.save(self.path(plan, span), arrays, tables)

    def tidy(self) -> None:
        """Remove the folder if it is empty."""
        with suppress(OSError):
            self.folder.rmdir()

    def drop(self) -> None:
        """Remove all parts, and the folder if nothing else is in it."""
        for path in [*self._named(_PART), *self._named(_TEMPORARY)]:
            # The file is complete without the part; the next run tries again.
            with suppress(OSError):
                path.unlink()
        self.tidy()
        self._read.clear()
        # `existing` is a cached property, which would still list the removed parts.
        self.__dict__.pop("existing", None)


def _span(path: Path) -> Span | None:
    """Return the span in the name of a part; None if it is not a part's."""
    match = re.fullmatch(
        r"[0-9a-f]{32}-(\d{9,})-(\d{9,})(-w[0-9a-f]{8})?\.h5", path.name
    )
    return None if match is None else Span(int(match[1]), int(match[2]))


class RowIndex:
    """Rows that were computed before, looked up by path and stamp or by content.

    Parameters
    ----------
    files : list of Codes
        The list that the numbers in `Row` refer to.
    """

    def __init__(self, files: list[Codes]) -> None:
        self.files = files
        self._by_path: dict[str, Row] = {}
        self._by_content: dict[bytes, Row] = {}
        self._columns: dict[int, _Columns] = {}

    def add(self, which: Iterable[int]) -> None:
        """Add the rows of some of the files."""
        for number in which:
            rows = [Row(number, row) for row in range(len(self.files[number]))]
            # Later files take precedence: they are the parts of the newest run.
            self._by_path.update(zip(self.files[number].paths, rows, strict=True))
            self._by_content.update(zip(self._of(number).sha256, rows, strict=True))

    def unchanged(self, path: str, stamp: tuple[int, int]) -> Row | None:
        """Return the row of a path whose size and time have not changed."""
        row = self._by_path.get(path)
        # A time of 0 is unknown, so the content has to be compared.
        if row is None or not stamp[1]:
            return None
        return row if self._of(row.file).stamps[row.row] == stamp else None

    @property
    def digests(self) -> Collection[bytes]:
        """The digests of all contents that have a row."""
        return self._by_content.keys()

    def same_content(self, sha256: bytes) -> Row | None:
        """Return a row whose image had this content, whatever its name."""
        return self._by_content.get(sha256)

    def sha256(self, row: Row) -> bytes:
        """Return the digest of the image of a row."""
        return self._of(row.file).sha256[row.row]

    def notes(self, row: Row) -> list[str]:
        """Return the notes on the image of a row."""
        notes = self._of(row.file).notes
        return notes.get(self.files[row.file].paths[row.row], []) if notes else []

    def _of(self, number: int) -> "_Columns":
        if number not in self._columns:
            self._columns[number] = _Columns.of(self.files[number])
        return self._columns[number]


class _Columns(NamedTuple):
    """Columns of a file as lists, whose items are faster to read than an array's."""

    sha256: list[bytes]
    stamps: list[tuple[int, int]]
    notes: dict[str, list[str]]

    @classmethod
    def of(cls, file: Codes) -> "_Columns":
        digests, notes = file.sha256.tobytes(), dict[str, list[str]]()
        for path, _, text in file.notes:
            notes.setdefault(path, []).append(text)
        return cls(
            [digests[32 * row : 32 * row + 32] for row in range(len(file))],
            list(zip(file.sizes.tolist(), file.mtimes.tolist(), strict=True)),
            notes,
        )
