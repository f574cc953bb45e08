"""The command `report`: write a page with pictures."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from featpipe.cli import options as o
from featpipe.cli.outputs import require_outputs
from featpipe.cli.progress import fit_progress
from featpipe.cli.terminal import terminal
from featpipe.files import require_distinct, require_own_name

if TYPE_CHECKING:
    from featpipe.scores import Score

__all__ = ["ReportPath", "report", "write_report"]

ReportPath = Annotated[
    Path | None,
    typer.Option(
        "--report",
        metavar="F.html",
        help="Write a page with pictures (needs `featpipe[report]`).",
        rich_help_panel="What is written",
    ),
]


def report(
    files: o.CodesPaths,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="F.html", help="The page."),
    ] = None,
    scores: Annotated[
        Path | None,
        typer.Option(
            "--scores",
            metavar="F.json",
            help="Scores that `compare --json` wrote. Default: compare now.",
        ),
    ] = None,
    png: Annotated[
        Path | None,
        typer.Option("--png", metavar="DIR", help="Write the plots as PNG files."),
    ] = None,
    seed: o.Seed = 0,
) -> None:
    """Write a page that shows which images go wrong, and what would help.

    It is one HTML file that loads no other: scores, confusion, mistakes and doubtful
    labels with pictures, a learning curve, and a map of the images. Unlabelled images
    get the map alone.

    For example:

        featpipe report flowers.h5 -o flowers.html
        featpipe report flowers.h5 --scores scores.json -o flowers.html --png plots
    """
    # A BadParameter is wrong usage, with exit status 2.
    if output is None and png is None:
        raise typer.BadParameter("nothing to write; give -o F.html, --png DIR, or both")
    _check_outputs(files, output, scores, png)
    write_report(files, output, scores=scores, png=png, seed=seed)


def _check_outputs(
    files: Sequence[Path], output: Path | None, scores: Path | None, png: Path | None
) -> None:
    """Raise if an output would replace an input, or cannot be written."""
    codes = {f"codes file {k}": path for k, path in enumerate(files, 1)}
    require_outputs({"-o": output}, {**codes, "--scores": scores})
    if png is not None:
        require_own_name(png)
        # A folder cannot go through `require_outputs`, which expects files.
        require_distinct({"-o": output, "--png": png}, {})
        if png.exists() and not png.is_dir():
            raise NotADirectoryError(f"{png} is a file; give --png a folder")


def write_report(
    files: Sequence[Path],
    output: Path | None,
    *,
    scores: "Sequence[Score] | Path | None" = None,
    notes: Sequence[str] = (),
    png: Path | None = None,
    seed: int = 0,
) -> None:
    """Make a report and write it, as `report` and ``compare --report`` do.

    Parameters
    ----------
    files : sequence of Path
    output : Path or None
        The page.
    scores, notes, seed
        As for `featpipe.report.make_report`.
    png : Path or None
        Folder of the plots.
    """
    from featpipe.report import make_report

    # Without scores the report compares first, which takes minutes.
    with fit_progress() as progress:
        page = make_report(files, scores, notes=notes, seed=seed, progress=progress)
    if output is not None:
        page.write(output)
        terminal.info(f"wrote {output}")
    if png is not None:
        written = page.write_png(png)
        terminal.info(f"wrote {len(written)} plots to {png}")
