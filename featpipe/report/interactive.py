"""Draw the interactive map: a plot of Bokeh, embedded with its scripts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from featpipe.report.plots import class_colours

__all__ = ["interactive_map"]

_SHOW = (
    "const indices = {}; if (indices.length && window.featpipeShow) "
    "window.featpipeShow(indices[0])"
)


def interactive_map(
    points: np.ndarray, groups: np.ndarray, names: Sequence[str], wrong: np.ndarray
) -> dict[str, str]:
    """Return the HTML of a map whose points call a function of the page.

    A point under the pointer, or a tapped one, calls ``featpipeShow(index)``. The page
    hides points by the booleans of the filter named ``shown``.

    Parameters
    ----------
    points : (n_points, 2) float
    groups : (n_points,) int64
        Class or cluster of each point; -1 is grey.
    names : sequence of str
    wrong : (n_points,) bool
        Points to draw with a red edge.

    Returns
    -------
    dict
        ``resources``, ``script`` and ``div``: HTML without any name, which needs no
        escaping.
    """
    from bokeh.embed import components
    from bokeh.models import (
        BooleanFilter,
        CDSView,
        ColumnDataSource,
        CustomJS,
        HoverTool,
        TapTool,
    )
    from bokeh.plotting import figure
    from bokeh.resources import Resources

    colours = [*class_colours(len(names)), "#7f7f7f"]
    source = ColumnDataSource(
        {
            # Three decimals halve the page, and no screen shows more.
            "x": np.round(points[:, 0], 3).tolist(),
            "y": np.round(points[:, 1], 3).tolist(),
            "colour": [colours[k] for k in groups.tolist()],
            "edge": ["#b00020" if bad else "#ffffff" for bad in wrong.tolist()],
            "width": [2.0 if bad else 0.3 for bad in wrong.tolist()],
        },
        name="points",
    )
    shown = BooleanFilter(booleans=[True] * len(points), name="shown")
    plot = figure(
        height=520,
        sizing_mode="stretch_width",
        tools="pan,wheel_zoom,box_zoom,reset",
        toolbar_location="above",
        background_fill_alpha=0,
        border_fill_alpha=0,
        outline_line_color="#7f7f7f",
        # In a browser without a GPU, SVG is slower and WebGL may be missing.
        output_backend="canvas",
    )
    plot.axis.visible = plot.grid.visible = False
    plot.toolbar.logo = None
    style: dict[str, Any] = {
        "line_color": "edge",
        "line_width": "width",
        "selection_line_color": "#000000",
        "selection_line_width": 3,
    }
    plot.scatter(
        "x",
        "y",
        source=source,
        view=CDSView(filter=shown),
        size=8,
        fill_color="colour",
        fill_alpha=0.85,
        nonselection_fill_alpha=0.6,
        **style,
    )
    # The page shows the picture, since a tooltip of Bokeh would need all in its data.
    hover = CustomJS(code=_SHOW.format("cb_data.index.indices"))
    plot.add_tools(HoverTool(tooltips=None, callback=hover, mode="mouse"), TapTool())
    source.selected.js_on_change(
        "indices",
        CustomJS(code=_SHOW.format("cb_obj.indices")),
    )
    script, div = components(plot)
    # Only the core and the plots: the page has none of Bokeh's widgets and tables.
    scripts = Resources(mode="inline", components=["bokeh"]).render_js()
    return {"resources": scripts, "script": script, "div": div}
