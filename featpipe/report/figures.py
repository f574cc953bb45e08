"""Draw every plot of a report, as figures, as SVG for the page and as PNG."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from featpipe.report import plots
from featpipe.report.findings import Findings, Map

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["figures_of", "map_groups", "png_of", "svg_of"]

_INK = "#010203"  # replaced in an SVG by the colour of the text around it

_STYLE = {
    "svg.fonttype": "none",  # text stays text, for searching and screen readers
    "svg.hashsalt": "featpipe",  # a figure drawn twice has the same bytes
    "text.parse_math": False,  # a $ in a class name is no formula
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


@contextmanager
def _styled(ink: str | None = None) -> Iterator[None]:
    import matplotlib

    style: dict[Any, Any] = dict(_STYLE)
    if ink:
        names = ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color")
        style |= dict.fromkeys((*names, "ytick.color"), ink)
    with matplotlib.rc_context(style), warnings.catch_warnings():
        # matplotlib's font lacks letters of many scripts; for SVG the browser has them.
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        warnings.filterwarnings("ignore", message="Matplotlib currently does not")
        yield


def figures_of(
    findings: Findings | None, embedding: Map, *, ink: str | None = None
) -> dict[str, Figure]:
    """Draw every plot for which there is data.

    Parameters
    ----------
    findings : Findings or None
    embedding : Map
    ink : str, optional
        Colour of text and lines.

    Returns
    -------
    dict of str to matplotlib.figure.Figure
        By name. They need not be closed: pyplot does not keep them.
    """
    drawers: dict[str, Callable[[], Axes]] = {}
    groups, names, wrong = map_groups(findings, embedding)
    if findings is not None:
        f = findings
        drawers = {
            "accuracy-by-depth": lambda: plots.plot_accuracy_by_depth(f.scores),
            "C-curves": lambda: plots.plot_C_curves(f.scores),
            "confusion": lambda: plots.plot_confusion(f.confusion, f.class_names),
            "class-scores": lambda: plots.plot_class_scores(f.class_scores),
            "learning-curve": lambda: plots.plot_learning_curve(f.curve),
        }
    drawers["map"] = lambda: plots.plot_map(embedding, groups, names, wrong)
    import matplotlib.pyplot as plt

    figures = {}
    with _styled(ink):
        for name, draw in drawers.items():
            figure = draw().figure
            # pyplot keeps every figure that it makes, and warns after twenty.
            plt.close(figure)  # type: ignore[arg-type]  # never a subfigure
            figures[name] = figure
    return figures  # type: ignore[return-value]


def map_groups(
    findings: Findings | None, embedding: Map
) -> tuple[np.ndarray, list[str], np.ndarray]:
    """Return the class or cluster of each point, their names, and which are wrong."""
    if findings is None:
        assert embedding.clusters is not None, "images without labels are clustered"
        n = int(embedding.clusters.max()) + 1
        names = [f"cluster {k + 1}" for k in range(n)]
        return embedding.clusters, names, np.zeros(len(embedding.rows), bool)
    # Both are ascending row numbers, and the map has a sample of the others.
    at = np.searchsorted(findings.rows, embedding.rows)
    wrong = findings.predicted[at] != findings.labels[at]
    return findings.labels[at], findings.class_names, wrong


def svg_of(name: str, figure: Figure) -> str:
    """Return a figure as an SVG element in the colour of the text around it."""
    buffer = io.StringIO()
    with _styled(_INK):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :].replace(_INK, "currentColor")
    # The ids of a page's figures must differ.
    svg = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", svg)
    return re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)


def png_of(figure: Figure) -> bytes:
    """Return a figure as the bytes of a PNG file."""
    buffer = io.BytesIO()
    with _styled():
        figure.savefig(buffer, format="png", dpi=150)
    return buffer.getvalue()
