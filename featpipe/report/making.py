"""`make_report`: turn codes and scores into an HTML page and PNG files."""

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
        The notes of the comparison; empty if the scores were read from a file.

    Examples
    --------
    >>> from featpipe.report import make_report
    >>> report = make_report("flowers.h5", "flowers.json")
    >>> report.map.points.shape, report.findings.classifier
    ((42, 2), 'logistic')
    """

    files: list[Codes]
    findings: Findings | None
    map: Map
    notes: list[str]

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write the page: one HTML file that loads no other file.

        Parameters
        ----------
        path : path

        Raises
        ------
        OSError
            If it cannot be written.
        """
        page = render(self.files, self.findings, self.map, self.notes)
        # File names may hold bytes that are not UTF-8.
        write_bytes(Path(path), page.encode("utf-8", "replace"))

    def figures(self) -> dict[str, Figure]:
        """Draw every plot of the report as a matplotlib figure, by name."""
        return figures_of(self.findings, self.map)

    def write_png(self, folder: str | os.PathLike[str]) -> list[Path]:
        """Write every plot as a PNG file into a folder, which is made if missing.

        Parameters
        ----------
        folder : path

        Returns
        -------
        list of Path
            The files written.

        Raises
        ------
        OSError
            If a file cannot be written.
        ValueError
            If a plot would replace one of the images.
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
        """Raise if a plot at ``path`` would replace one of the images."""
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
    """Make a report: which images and classes go wrong, and what would help.

    Parameters
    ----------
    codes : Codes, path, or a sequence of those
        Codes files of the same images.
    scores : sequence of Score or path, optional
        Scores of `featpipe.compare` on these files, or a file of them. Default: compare
        the files now.
    notes : sequence of str
        Notes below the table, beside those of a comparison made now.
    seed : int
        Seed of the folds, of the sample on the map, and of its layout.
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
    # First, since a comparison may take minutes.
    require_packages()
    items = [codes] if isinstance(codes, Codes | str | os.PathLike) else codes
    files = [checked(item) if isinstance(item, Codes) else read(item) for item in items]
    # Without labels nothing can be compared, but a map can be drawn.
    if not any((file.labels >= 0).any() for file in files):
        return Report(files, None, examine_unlabelled(files[0], seed=seed), list(notes))
    if scores is None:
        comparison = compare(files, seed=seed, progress=progress)
        # Scores that are read come without notes, which belong to their table.
        scores, notes = comparison.scores, [*notes, *comparison.notes]
    elif isinstance(scores, str | os.PathLike):
        scores = read_json(scores)
    findings = examine(files, scores, seed)
    return Report(files, findings, findings.map, list(notes))


def require_packages() -> None:
    """Raise if a package of the extra ``report`` is missing.

    Raises
    ------
    ModuleNotFoundError
        With the missing packages, and how to install them.

    Examples
    --------
    >>> require_packages()
    """
    # `find_spec` does not import them, which would take two seconds.
    missing = [name for name in _NEEDED if find_spec(name) is None]
    if missing:
        raise ModuleNotFoundError(
            f"a report needs {', '.join(missing)}; pip install 'featpipe[report]'"
        )
