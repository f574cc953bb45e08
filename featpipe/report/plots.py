"""The plots of a report, each drawn into matplotlib axes or a new figure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from featpipe.comparison import LearningCurve
from featpipe.report.findings import ClassScore, Map
from featpipe.scores import Score

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = [
    "COLOURS",
    "plot_C_curves",
    "plot_accuracy_by_depth",
    "plot_class_scores",
    "plot_confusion",
    "plot_learning_curve",
    "plot_map",
]

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#b8860b", "#56b4e9", "#7f7f7f")
"""Okabe and Ito's colours for colour-blind readers, with a darker yellow."""

_MOST_NAMES = 30  # class names that fit beside a matrix or bars


def _axes(ax: Axes | None, size: tuple[float, float] = (6.4, 3.6)) -> Axes:
    if ax is not None:
        return ax
    import matplotlib.pyplot as plt

    return plt.subplots(figsize=size, layout="constrained")[1]


def plot_accuracy_by_depth(scores: Sequence[Score], ax: Axes | None = None) -> Axes:
    """Draw the accuracy of every classifier at every depth, with its interval.

    Parameters
    ----------
    scores : sequence of Score
    ax : matplotlib.axes.Axes, optional
        Default: of a new figure.

    Returns
    -------
    matplotlib.axes.Axes

    Examples
    --------
    >>> from featpipe.scores import read_json
    >>> ax = plot_accuracy_by_depth(read_json("flowers.json"))
    >>> [label.get_text() for label in ax.get_yticklabels()]
    ['penultimate', 'layer3:avg']
    """
    depths = list(dict.fromkeys(score.depth for score in scores))
    names = list(dict.fromkeys(score.classifier for score in scores))
    ax = _axes(ax, (6.4, 1.8 + 0.5 * len(depths)))
    step = 0.7 / max(1, len(names))
    for k, name in enumerate(names):
        own = [score for score in scores if score.classifier == name]
        shift = (k - (len(names) - 1) / 2) * step
        y = [depths.index(score.depth) + shift for score in own]
        x = np.array([100 * score.accuracy for score in own])
        low = x - [100 * score.accuracy_low for score in own]
        high = np.array([100 * score.accuracy_high for score in own]) - x
        ax.errorbar(
            x,
            y,
            # Rounding may put the accuracy just outside its interval, and matplotlib
            # refuses negative lengths.
            xerr=np.clip([low, high], 0, None),
            fmt="osD^vPX"[k % 7],
            # Colours and markers repeat after seven, for ensembles of many.
            color=COLOURS[k % len(COLOURS)],
            label=name,
            capsize=2,
        )
    ax.set_yticks(range(len(depths)), depths)
    # Shallow depths on top, as in the table.
    ax.set_ylim(len(depths) - 0.5, -0.5)
    ax.set_xlabel("accuracy %, with its 95 % interval")
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, 1.15), ncols=4, frameon=False)
    return ax


def plot_C_curves(scores: Sequence[Score], ax: Axes | None = None) -> Axes:
    """Draw the cross-validated score against C; a dot marks the C that was chosen.

    Parameters
    ----------
    scores : sequence of Score
        Those without a curve are left out.
    ax : matplotlib.axes.Axes, optional
        Default: of a new figure.

    Returns
    -------
    matplotlib.axes.Axes

    Examples
    --------
    >>> from featpipe.scores import read_json
    >>> ax = plot_C_curves(read_json("flowers.json"))
    >>> ax.get_xlabel(), ax.get_xscale()
    ('C', 'log')
    """
    ax = _axes(ax)
    names = list(dict.fromkeys(score.classifier for score in scores))
    depths = list(dict.fromkeys(score.depth for score in scores))
    for score in scores:
        if not score.C_curve or score.C is None:
            continue
        C, value = np.array(score.C_curve, float).T
        # A C that was skipped is nan, which would interrupt the line.
        C, value = C[~np.isnan(value)], value[~np.isnan(value)]
        colour = COLOURS[names.index(score.classifier) % len(COLOURS)]
        style = ("-", "--", ":", "-.")[depths.index(score.depth) % 4]
        label = f"{score.classifier}, {score.depth}"
        ax.plot(C, 100 * value, style, color=colour, label=label, linewidth=1.2)
        chosen = int(np.argmin(np.abs(np.log(C / score.C))))
        ax.plot(C[chosen], 100 * value[chosen], "o", color=colour)
    # The grid of C is even in the logarithm.
    ax.set_xscale("log")
    ax.xaxis.set_major_formatter("{x:g}")
    ax.set_xlabel("C")
    ax.set_ylabel("cross-validated score %")
    if ax.lines:
        # Beside the curves, which leave no corner free.
        ax.legend(
            fontsize="x-small", frameon=False, loc="upper left", bbox_to_anchor=(1, 1)
        )
    return ax


def plot_confusion(
    confusion: np.ndarray, class_names: Sequence[str], ax: Axes | None = None
) -> Axes:
    """Draw a confusion matrix; colours are shares of the images of a label.

    Parameters
    ----------
    confusion : (n_classes, n_classes) int64
        Images by label (rows) and prediction (columns).
    class_names : sequence of str
    ax : matplotlib.axes.Axes, optional
        Default: of a new figure.

    Returns
    -------
    matplotlib.axes.Axes

    Examples
    --------
    >>> ax = plot_confusion(np.array([[9, 1], [2, 8]]), ["rose", "tulip"])
    >>> [text.get_text() for text in ax.texts]
    ['9', '1', '2', '8']
    """
    n = len(class_names)
    ax = _axes(ax, (6.4, min(6.4, 3.2 + 0.25 * n)))
    totals = confusion.sum(axis=1, keepdims=True)
    image = ax.imshow(
        100 * confusion / np.maximum(totals, 1), vmin=0, vmax=100, cmap="Blues"
    )
    if n <= _MOST_NAMES:
        ax.set_xticks(range(n), class_names, rotation=60, ha="right")
        ax.set_yticks(range(n), class_names)
    # With more classes the counts would be too small to read.
    if n <= 12:
        for i, j in np.ndindex(confusion.shape):
            dark = 2 * confusion[i, j] > totals[i, 0]
            ax.text(
                j,
                i,
                f"{confusion[i, j]}",
                ha="center",
                va="center",
                color="white" if dark else "#202020",
            )
    ax.set_xlabel("predicted")
    ax.set_ylabel("label")
    ax.figure.colorbar(image, ax=ax, label="% of the label", shrink=0.8)
    return ax


def plot_class_scores(
    class_scores: Sequence[ClassScore], ax: Axes | None = None
) -> Axes:
    """Draw the F1 score of each class, the worst first.

    Parameters
    ----------
    class_scores : sequence of ClassScore
        The first 30 are drawn.
    ax : matplotlib.axes.Axes, optional
        Default: of a new figure.

    Returns
    -------
    matplotlib.axes.Axes

    Examples
    --------
    >>> from featpipe.report import ClassScore
    >>> ax = plot_class_scores([ClassScore("rose", 12, 0.9, 0.75, 0.82)])
    >>> [label.get_text() for label in ax.get_yticklabels()]
    ['rose (12)']
    """
    shown = list(class_scores)[:_MOST_NAMES]
    ax = _axes(ax, (6.4, 1.6 + 0.25 * len(shown)))
    values = [100 * score.f1 for score in shown]
    ax.barh(range(len(shown)), values, color=COLOURS[0], height=0.7)
    ax.set_yticks(range(len(shown)), [f"{score.name} ({score.n})" for score in shown])
    # matplotlib counts upwards, and the worst class should be on top.
    ax.invert_yaxis()
    ax.set_xlim(0, 100)
    ax.set_xlabel("F1 %, with the number of judged images")
    return ax


def plot_learning_curve(curve: LearningCurve, ax: Axes | None = None) -> Axes:
    """Draw accuracy against labels per class, with every draw and an interval.

    Parameters
    ----------
    curve : LearningCurve
    ax : matplotlib.axes.Axes, optional
        Default: of a new figure.

    Returns
    -------
    matplotlib.axes.Axes

    Examples
    --------
    >>> from featpipe.comparison import CurvePoint, LearningCurve
    >>> points = [CurvePoint(5, (0.7, 0.8), 0.6, 0.9), CurvePoint(10, (0.9,), 0.9, 0.9)]
    >>> ax = plot_learning_curve(LearningCurve(points, 40, "logistic"))
    >>> ax.get_xlabel(), len(ax.lines)
    ('labels per class', 3)
    """
    ax = _axes(ax)
    x = [point.n_per_class for point in curve.points]
    for point in curve.points:
        own = [point.n_per_class] * len(point.accuracies)
        ax.plot(own, 100 * np.array(point.accuracies), ".", color="#7f7f7f", alpha=0.5)
    mean = np.array([100 * point.mean for point in curve.points])
    low = [100 * point.low for point in curve.points]
    high = [100 * point.high for point in curve.points]
    ax.plot(x, mean, "o-", color=COLOURS[0])
    ax.fill_between(x, low, high, color=COLOURS[0], alpha=0.2, linewidth=0)
    ax.set_xscale("log")
    ax.set_xticks(x, [str(n) for n in x])
    ax.minorticks_off()
    ax.set_xlabel("labels per class")
    ax.set_ylabel("accuracy %")
    return ax


def plot_map(
    made: Map,
    groups: np.ndarray,
    names: Sequence[str],
    wrong: np.ndarray | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw a map of codes, with a colour for each class.

    Parameters
    ----------
    made : Map
    groups : (n_points,) int64
        Class or cluster of each point.
    names : sequence of str
        Name of each class or cluster; the first ten are in the legend.
    wrong : (n_points,) bool, optional
        Points marked with a cross.
    ax : matplotlib.axes.Axes, optional
        Default: of a new figure.

    Returns
    -------
    matplotlib.axes.Axes

    Examples
    --------
    >>> from featpipe.report import Map
    >>> embedding = Map(np.arange(4), np.zeros((4, 2)), "t-SNE", "penultimate")
    >>> ax = plot_map(embedding, np.array([0, 0, 1, 1]), ["rose", "tulip"])
    >>> len(ax.lines)
    2
    """
    ax = _axes(ax, (6.4, 5.6))
    colours = class_colours(len(names))
    for k, name in enumerate(names):
        x, y = made.points[groups == k].T
        # A longer legend would cover the map.
        label = name if k < 10 else None
        ax.plot(x, y, ".", color=colours[k], markersize=4, label=label, alpha=0.7)
    if wrong is not None and wrong.any():
        style: dict[str, Any] = {"color": "#b00020", "markersize": 7, "label": "wrong"}
        ax.plot(*made.points[wrong].T, "x", **style)
    ax.set_xticks([])
    ax.set_yticks([])
    ax.legend(fontsize="x-small", markerscale=2, frameon=False)
    return ax


def class_colours(n: int) -> list[str]:
    """Return a colour for each class: `COLOURS` if they suffice, else spread hues."""
    if n <= len(COLOURS):
        return list(COLOURS[:n])
    import colorsys

    def hue(k: int) -> str:
        # Steps of the golden ratio keep the hues of neighbouring classes apart.
        red, green, blue = colorsys.hls_to_rgb(
            k * 0.618 % 1, (0.38, 0.5, 0.62)[k % 3], 0.7
        )
        return f"#{round(255 * red):02x}{round(255 * green):02x}{round(255 * blue):02x}"

    return [hue(k) for k in range(n)]
