"""Render the page: turn findings into the plain values of the template."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import featpipe
from featpipe.codes import Codes
from featpipe.comparison import describe_needed, gather_warnings
from featpipe.report.figures import figures_of, map_groups, svg_of
from featpipe.report.findings import Findings, Map
from featpipe.report.interactive import interactive_map
from featpipe.report.thumbnails import Sheet, make_sheet
from featpipe.scores import Score

__all__ = ["render"]

_GALLERY = 24  # pictures in each gallery
_LONGEST = 200  # rows of a table


def render(
    files: Sequence[Codes],
    findings: Findings | None,
    embedding: Map,
    notes: Sequence[str],
) -> str:
    """Render the page.

    Parameters
    ----------
    files : sequence of Codes
    findings : Findings or None
        None where no image has a label.
    embedding : Map
    notes : sequence of str

    Returns
    -------
    str
        HTML. Names of files and classes are escaped.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("featpipe.report", "."),
        autoescape=True,
        # A misspelt name in the template raises; the default is an empty text.
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    codes = findings.codes if findings else files[0]
    scores = findings.scores if findings else []
    low = min((score.accuracy_low for score in scores), default=0.0)
    # Not from zero, where bars of 95 % all look alike; the axis shows where they start.
    lowest = float(np.floor(20 * low) / 20)  # whole steps of 5 %
    galleries = _galleries(findings) if findings else []
    sheet = make_sheet(codes, _wanted_rows(galleries, findings, embedding))
    groups, names, wrong = map_groups(findings, embedding)
    # The page draws the map by Bokeh, so only the other plots become SVG.
    svgs = {
        name: svg_of(name, figure)
        for name, figure in figures_of(findings, embedding, ink="#010203").items()
        if name != "map"
    }
    return environment.get_template("page.html.jinja").render(
        title=_text(Path(codes.images_root).name or str(codes.path.name)),
        answer=_answer(findings, codes),
        scores=[_score(score, lowest) for score in scores],
        lowest=f"{100 * lowest:.0f}",
        # Values and not objects, so that the template computes nothing.
        n_judged=findings.recommended.n_test if findings else 0,
        notes=[*_own_notes(findings, notes), *map(_text, notes)],
        svgs=svgs,
        class_scores=findings.class_scores[:_LONGEST] if findings else [],
        galleries=[_gallery(g, findings, sheet) for g in galleries],
        pairs=_pairs(findings, sheet),
        map=interactive_map(embedding.points, groups, names, wrong),
        map_words=_map_words(codes, findings, embedding),
        map_data=_map_data(codes, findings, embedding, sheet, groups, names),
        names=[_text(name) for name in names],
        labelled=findings is not None,
        sheet=sheet,
        missing=_missing(codes, sheet),
        failures=[(_text(p), s, _text(r)) for p, s, r in codes.failures[:_LONGEST]],
        n_failures=len(codes.failures),
        provenance=_provenance(files),
        commands=_commands(files, findings),
        suggestion=findings.curve.suggestion if findings else "",
        curve_classifier=findings.curve.classifier if findings else "",
        version=featpipe.__version__,
    )


def _text(value: object) -> str:
    """Return a value as text; bytes of a path that are not UTF-8 become marks."""
    return str(value).encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f}"


def _answer(findings: Findings | None, codes: Codes) -> str:
    if findings is None:
        return (
            f"{len(codes):,} images without labels, laid out so that images with "
            "similar codes are near each other."
        )
    best = findings.recommended
    ties = sum(score.tied_with_recommended for score in findings.scores)
    tied = (
        f"; {ties} other row{'s' * (ties != 1)} cannot be told from it" if ties else ""
    )
    return (
        f"Use {best.classifier} on {_text(best.depth)}: it gets "
        f"{_percent(best.accuracy)} % of {best.n_test:,} held-out images right "
        f"(95 % interval {_percent(best.accuracy_low)} to "
        f"{_percent(best.accuracy_high)}){tied}."
    )


def _bar(score: Score, lowest: float) -> list[float]:
    """Return low end, accuracy and high end as % of the way from ``lowest`` to 1."""
    ends = (score.accuracy_low, score.accuracy, score.accuracy_high)
    return [100 * (end - lowest) / max(1 - lowest, 1e-9) for end in ends]


def _score(score: Score, lowest: float) -> dict[str, Any]:
    mark = "★" if score.recommended else "=" if score.tied_with_recommended else ""
    return {
        "mark": mark,
        "codes": _text(Path(score.codes).stem),
        "depth": _text(score.depth),
        "classifier": score.classifier if score.trained is None else score.trained,
        "accuracy": _percent(score.accuracy),
        "low": _percent(score.accuracy_low),
        "high": _percent(score.accuracy_high),
        "cv": _percent(score.cv_accuracy),
        "balanced": _percent(score.balanced_accuracy),
        "f1": _percent(score.macro_f1),
        "C": "" if score.C is None else f"{score.C:.2g}",
        "difference": _difference(score),
        "p": "" if score.p_value is None else f"{score.p_value:.2g}",
        "bar": _bar(score, lowest),
    }


def _difference(score: Score) -> tuple[str, str]:
    """Return the difference to the recommended row, and its interval."""
    ends = (score.difference, score.difference_low, score.difference_high)
    if None in ends:
        return "", ""
    middle, low, high = (f"{100 * end:+.1f}" for end in ends if end is not None)
    return middle, f"[{low}, {high}]"


def _own_notes(findings: Findings | None, notes: Sequence[str]) -> list[str]:
    if findings is None:
        return []
    scores, codes = findings.scores, findings.codes
    label_of = dict(zip(codes.paths, codes.labels.tolist(), strict=True))
    names = [codes.class_names[label_of[p]] for p in findings.recommended.test_paths]
    # Connor's formula assumes independent images, which groups are not.
    grouped = bool((codes.groups != "").any())
    needed = "" if grouped else describe_needed(scores, names)
    own = [*gather_warnings(scores), *([needed] if needed else [])]
    # A comparison that was made now has them among its notes.
    return [_text(text) for text in own if not any(text in note for note in notes)]


def _galleries(findings: Findings) -> list[tuple[str, str, str, np.ndarray]]:
    """Return the id, title, explanation and positions in ``rows`` of each gallery."""
    mistakes = findings.mistakes
    suspected = int(findings.doubtful.suspected.sum())
    by = f"by {_judge(findings)} that never saw the image"
    return [
        (
            "mistakes",
            "The most confident mistakes",
            f"{len(mistakes):,} of {findings.judged.sum():,} judged images are wrong. "
            f"The figure is the probability of the predicted class, {by}.",
            mistakes[:_GALLERY],
        ),
        (
            "uncertain",
            "The least certain images",
            "Judged images whose two likeliest classes are nearest to each other.",
            findings.least_certain[:_GALLERY],
        ),
        (
            "doubtful",
            "Labels worth a second look",
            f"Confident learning suspects {suspected:,} of {len(findings.rows):,} "
            "labels (Northcutt et al. 2021). Ranked by the probability of the given "
            f"label less that of the likeliest other, {by}.",
            findings.doubtful.order[:_GALLERY],
        ),
    ]


def _judge(findings: Findings) -> str:
    """Return the words for the classifier whose probabilities the galleries show."""
    scores = (
        ", its scores through a softmax," if findings.classifier == "linear" else ""
    )
    return f"a {findings.classifier} classifier on {findings.depth}{scores}"


def _wanted_rows(
    galleries: Sequence[tuple[str, str, str, np.ndarray]],
    findings: Findings | None,
    embedding: Map,
) -> np.ndarray:
    if findings is None:
        return embedding.rows
    # One sheet has all pictures of the page, since some are in several places.
    shown = [findings.rows[at] for *_, at in galleries]
    pairs = [
        findings.rows[[pair.row, pair.other]]
        for pair in findings.near_duplicates[:_GALLERY]
    ]
    return np.concatenate([*shown, *pairs, embedding.rows])


def _image(findings: Findings, at: int, sheet: Sheet) -> dict[str, Any]:
    row = int(findings.rows[at])
    names = findings.class_names
    label, predicted = int(findings.labels[at]), int(findings.predicted[at])
    return {
        "path": _text(findings.codes.paths[row]),
        "label": _text(names[label]),
        "predicted": _text(names[predicted]),
        "wrong": label != predicted,
        "place": sheet.position(row),
        "probability": f"{100 * findings.confidence[at]:.0f} %",
        "own": f"{100 * findings.probabilities[at, label]:.0f} %",
        "likelier": _text(names[int(findings.doubtful.likelier[at])]),
    }


def _gallery(
    gallery: tuple[str, str, str, np.ndarray],
    findings: Findings | None,
    sheet: Sheet,
) -> dict[str, Any]:
    assert findings is not None, "only labelled images have galleries"
    name, title, text, at = gallery
    images = [_image(findings, int(i), sheet) for i in at]
    return {"id": name, "title": title, "words": text, "images": images}


def _pairs(findings: Findings | None, sheet: Sheet) -> list[dict[str, Any]]:
    if findings is None:
        return []
    # The most similar first: a gallery shows only some of them.
    closest = sorted(findings.near_duplicates, key=lambda pair: -pair.cosine)
    return [
        {
            "first": _image(findings, pair.row, sheet),
            "second": _image(findings, pair.other, sheet),
            "words": "same bytes" if pair.exact else f"cosine {pair.cosine:.2f}",
        }
        for pair in closest[:_GALLERY]
    ]


def _map_data(
    codes: Codes,
    findings: Findings | None,
    embedding: Map,
    sheet: Sheet,
    groups: np.ndarray,
    names: Sequence[str],
) -> dict[str, Any]:
    """Return what the page shows of a point under the pointer, by column."""
    places = [sheet.position(int(row)) for row in embedding.rows]
    data: dict[str, Any] = {
        "group": groups.tolist(),
        "names": [_text(name) for name in names],
        "place": places,
        "path": [_text(codes.paths[row]) for row in embedding.rows],
    }
    if findings is not None:
        at = np.searchsorted(findings.rows, embedding.rows)
        data |= {
            "predicted": findings.predicted[at].tolist(),
            "judged": findings.judged[at].tolist(),
            "probability": np.round(findings.confidence[at], 3).tolist(),
        }
    return data


def _map_words(codes: Codes, findings: Findings | None, embedding: Map) -> str:
    n, total = len(embedding.rows), len(codes if findings is None else findings.rows)
    drawn = f"{n:,} images" if n == total else f"{n:,} of {total:,} images, drawn"
    return f"{embedding.method}, {embedding.depth} codes; {drawn}"


def _missing(codes: Codes, sheet: Sheet) -> str:
    if not sheet.missing:
        return ""
    n, total = len(sheet.missing), len(sheet.missing) + len(sheet.place)
    reason = _text(next(iter(sheet.missing.values())))
    return (
        f"{n:,} of {total:,} pictures are not available: the source "
        f"{_text(codes.images_root)} does not give them (for example: {reason})."
    )


def _provenance(files: Sequence[Codes]) -> list[tuple[str, list[tuple[str, str]]]]:
    rows = []
    for file in files:
        provenance = file.provenance
        facts = [
            ("images", f"{len(file):,}, from {_text(file.images_root)}"),
            ("backbone", _text(provenance.get("backbone", ""))),
            ("weights", f"{_text(provenance.get('weights', ''))}"),
            ("SHA-256 of the weights", _text(provenance.get("weights_sha256", ""))),
            ("depths", ", ".join(_text(d) for d in file.depths)),
            ("preprocessing", _listed(provenance.get("preprocessing", ""))),
            ("precision", _text(provenance.get("precision", ""))),
            ("versions", _listed(provenance.get("versions", ""))),
        ]
        rows.append((_text(file.path), facts))
    return rows


def _listed(facts: object) -> str:
    """Return a record on one line."""
    if not isinstance(facts, dict):
        return _text(facts)
    return ", ".join(f"{_text(name)} {_text(value)}" for name, value in facts.items())


def _commands(files: Sequence[Codes], findings: Findings | None) -> list[str]:
    """Return the commands that produce this page."""
    commands = []
    for file in files:
        provenance = file.provenance
        command = ["featpipe", "extract", file.images_root, "-o", os.fspath(file.path)]
        command += ["--backbone", str(provenance.get("backbone", ""))]
        # The default needs no option, and may have another name in another version.
        if provenance.get("weights") not in (None, "", "DEFAULT"):
            command += ["--weights", str(provenance["weights"])]
        for depth in file.depths:
            command += ["--depth", depth]
        commands.append(shlex.join(command))
    paths = [os.fspath(file.path) for file in files]
    if findings is not None:
        command = ["featpipe", "compare", *paths, "--json", "scores.json"]
        commands.append(shlex.join(command))
        paths += ["--scores", "scores.json"]
    commands.append(shlex.join(["featpipe", "report", *paths, "-o", "report.html"]))
    return [_text(command) for command in commands]
