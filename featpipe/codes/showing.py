"""Show a codes file in one line, and as a table for a notebook."""

from __future__ import annotations

import html
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from featpipe.codes.access import Codes

__all__ = ["as_html", "one_line"]

# Classes beyond which a table is cut.
_MOST_CLASSES = 30


def one_line(codes: Codes) -> str:
    """Return a summary of a codes file in one line."""
    depths = ", ".join(f"{spec} ({codes.width(spec)})" for spec in codes.depths)
    return (
        f"<Codes {codes.path}: {len(codes):,} images in {len(codes.class_names):,} "
        f"classes, {codes.provenance.get('backbone')} at {depths}>"
    )


def as_html(codes: Codes) -> str:
    """Return the images of each class and split as a table for a notebook."""
    # "" sorts first: images without a split are the first column.
    splits = sorted(set(codes.tables.splits))
    names = [*codes.class_names, "unlabelled"]
    labels = codes.labels.tolist()
    counts = Counter(zip(labels, codes.tables.splits, strict=True))
    has_unlabelled = -1 in labels
    shown = list(range(min(len(codes.class_names), _MOST_CLASSES)))
    rows = [
        [names[k], *(f"{counts[k, split]:,}" for split in splits)]
        for k in [*shown, *([-1] if has_unlabelled else [])]
    ]
    if len(codes.class_names) > _MOST_CLASSES:
        more = len(codes.class_names) - _MOST_CLASSES
        rows.insert(len(shown), [f"… and {more:,} more", *("" for _ in splits)])
    header = _row("th", ["class", *(split or "images" for split in splits)])
    body = "".join(_row("td", row) for row in rows)
    caption = f"<caption>{html.escape(one_line(codes)[1:-1])}</caption>"
    return f"<table>{caption}{header}{body}</table>"


def _row(tag: str, cells: Sequence[str]) -> str:
    return "<tr>" + "".join(f"<{tag}>{html.escape(c)}</{tag}>" for c in cells) + "</tr>"
