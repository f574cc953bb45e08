"""Show codes and scores: one HTML page, and the same plots as figures.

``findings`` computes all that is shown (``out_of_sample`` probabilities, ``doubtful``
labels, the ``projection`` of the map), ``plots`` draws it with matplotlib,
``interactive`` draws the map with Bokeh, ``thumbnails`` reads pictures from the source,
and ``page`` fills the template. The scores come from the comparison. This package needs
the extra ``report``.
"""

from featpipe.report.doubtful import Doubtful, doubtful_labels
from featpipe.report.findings import ClassScore, Findings, Map
from featpipe.report.making import Report, make_report, require_packages
from featpipe.report.plots import (
    plot_accuracy_by_depth,
    plot_C_curves,
    plot_class_scores,
    plot_confusion,
    plot_learning_curve,
    plot_map,
)

__all__ = [
    "ClassScore",
    "Doubtful",
    "Findings",
    "Map",
    "Report",
    "doubtful_labels",
    "make_report",
    "plot_C_curves",
    "plot_accuracy_by_depth",
    "plot_class_scores",
    "plot_confusion",
    "plot_learning_curve",
    "plot_map",
    "require_packages",
]
