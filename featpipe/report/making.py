"""`make_report`: codes and scores to one HTML page and PNG files."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from featpipe.codes import Codes, checked, read
from featpipe.comparison import compare
from featpipe.files import write_bytes
from featpipe.report.figures import figures_of, png_of
from featpipe.report.findings import Findings, Map, examine, examine_unlabelled
from featpipe.report.page import render
from featpipe.scores import Score, read_json

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Report", "make_report", "require_packages"]

_NEEDED = ("jinja2", "bokeh", "matplotlib")


@dataclass(frozen=True, eq=False)
class Report:
    """A report of `make_report`, ready to be written.

    Attributes
    ----------
    files : list of Codes
    findings : Findings or None
        None where no image has a label.
    map : Map
        The map of the codes.
    notes : list of str
        What the comparison printed below its table; empty if the scores were read.

    Examples
    --------
    >>> from featpipe.report import make_report
    >>> made = make_report("flowers.h5", "flowers.json")
    >>> made.map.points.shape, made.findings.classifier
    ((42, 2), 'logistic')
    """

    files: list[Codes]
    findings: Findings | None
    map: Map
    notes: list[str]

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write the page: one HTML file that loads nothing from anywhere.

        Raises
        ------
        OSError
            If it cannot be written.
        """
        # The whole page is made before the file is touched.
        page = render(self.files, self.findings, self.map, self.notes)
        # Names of files may hold bytes that are no UTF-8.
        write_bytes(Path(path), page.encode("utf-8", "replace"))

    def figures(self) -> dict[str, Figure]:
        """Draw every plot of the report as a matplotlib figure, by name."""
        return figures_of(self.findings, self.map)

    def write_png(self, folder: str | os.PathLike[str]) -> list[Path]:
        """Write every plot as a PNG file into a folder, which is made if missing.

        Raises
        ------
        OSError
            If one cannot be written.
        ValueError
            If one would replace an image that the codes are of.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        paths = []
        for name, figure in self.figures().items():
            path = folder / f"{name}.png"
            self._require_no_image(path)
            write_bytes(path, png_of(figure))
            paths.append(path)
        return paths

    def _require_no_image(self, path: Path) -> None:
        """Raise if a plot would replace an image that the codes are of."""
        for codes in self.files if path.exists() else ():
            inside = os.path.relpath(
                os.path.realpath(path), os.path.realpath(codes.images_root)
            )
            if inside in codes.paths:
                raise ValueError(
                    f"{path} is one of the images; write the plots to another folder"
                )


def make_report(
    codes: Codes | str | os.PathLike[str] | Sequence[Codes | str | os.PathLike[str]],
    scores: Sequence[Score] | str | os.PathLike[str] | None = None,
    *,
    notes: Sequence[str] = (),
    seed: int = 0,
    progress: Callable[[int, int, str], None] | None = None,
) -> Report:
    """Make a report: which images go wrong, which classes, and what would help.

    Parameters
    ----------
    codes : Codes, path, or a sequence of those
        Codes files of the same images.
    scores : sequence of Score or path, optional
        Of `featpipe.compare` on these files; a path is read. Default: compared now.
    notes : sequence of str
        Printed below the table; default those of the comparison made here.
    seed : int
        Of folds, sample and layout.
    progress : callable, optional
        As for `featpipe.compare`.

    Returns
    -------
    Report

    Raises
    ------
    ModuleNotFoundError
        If the packages of the extra ``report`` are not installed.
    FileNotFoundError
        If a file does not exist.
    ValueError
        If the scores do not belong to the files.

    Examples
    --------
    >>> report = make_report("flowers.h5", "flowers.json")
    >>> report.write("flowers.html")
    >>> report.findings.confusion.shape
    (3, 3)
    """
    # Before the comparison, which may take minutes.
    require_packages()
    several = [codes] if isinstance(codes, Codes | str | os.PathLike) else codes
    files = [checked(x) if isinstance(x, Codes) else read(x) for x in several]
    # Without labels there is nothing to compare, but a map to look at.
    if not any((file.labels >= 0).any() for file in files):
        return Report(files, None, examine_unlabelled(files[0], seed=seed), list(notes))
    if scores is None:
        comparison = compare(files, seed=seed, progress=progress)
        # Notes of a comparison belong to its table; of scores that were read nobody has
        # them.
        scores, notes = comparison.scores, [*notes, *comparison.notes]
    elif isinstance(scores, str | os.PathLike):
        scores = read_json(scores)
    findings = examine(files, scores, seed)
    return Report(files, findings, findings.map, list(notes))


def require_packages() -> None:
    """Refuse, in one sentence, to report without the extra's packages.

    Raises
    ------
    ModuleNotFoundError

    Examples
    --------
    >>> require_packages()
    """
    # Looked for and not imported: together they take two seconds.
    missing = [name for name in _NEEDED if find_spec(name) is None]
    if missing:
        raise ModuleNotFoundError(
            f"a report needs {', '.join(missing)}; pip install 'featpipe[report]'"
        )
