"""The command `predict`: label new images."""

import os
import sys
import unicodedata
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featpipe.cli import model_options as mo
from featpipe.cli import options as o
from featpipe.cli.extracting import pixel_limit
from featpipe.cli.outputs import require_outputs
from featpipe.cli.progress import image_progress
from featpipe.cli.tables import Column, print_table
from featpipe.cli.terminal import terminal

if TYPE_CHECKING:
    from featpipe.images import ImageSet
    from featpipe.predictor import Predictions, Predictor

__all__ = ["predict"]

_FEW = 20
_ADVISED = 0.05  # share of wrong labels


def predict(
    model: mo.ModelPath,
    sources: mo.PredictSources,
    output: mo.PredictionsCsv = None,
    top: mo.Top = 1,
    reject: mo.Reject = None,
    weights: mo.WeightsNow = None,
    backbone: mo.BackboneNow = None,
    device: o.Device = "auto",
    batch_size: o.BatchSize = None,
    workers: o.Workers = None,
    max_pixels: o.MaxPixels = None,
    unlabelled: o.Unlabelled = False,
    limit: o.Limit = None,
) -> None:
    """Label new images, with the recipe of the model's codes.

    If the source has labels, the accuracy is printed too.

    For example:

        featpipe predict flowers.model new_photos
        featpipe predict flowers.model new_photos -o labels.csv --top 3
        featpipe predict flowers.model photo.jpg other.jpg --reject 0.05
        find . -name "*.jpg" | featpipe predict flowers.model - -o labels.csv
    """
    from featpipe.files import belongs_to
    from featpipe.predictor import failures_path, load

    failures = None if output is None else failures_path(output)
    require_outputs(
        {"-o": output, "the failures of -o": failures},
        {
            "MODEL": model,
            "SOURCE": [s for s in sources if s != "-"],
            "--weights": weights,
        },
    )
    # Before the images are listed, which may take minutes.
    predictor = load(
        model,
        weights=weights,
        backbone=backbone,
        device=device,
        batch_size=batch_size,
        workers=workers,
        max_pixels=pixel_limit(max_pixels),
    )
    if reject is not None:
        predictor.threshold(reject)  # raises if no threshold reaches that share
    image_set = _image_set(sources, unlabelled, limit, belongs_to(output, failures))
    with image_progress() as progress:
        predictions = predictor.classify(image_set, reject=reject, progress=progress)
    if output is not None:
        predictions.write_csv(output, top=top)
        terminal.info(f"wrote {output}")
    # All of them, since nobody should overlook an image without a label.
    for path, stage, reason in (failure[:3] for failure in predictions.failures):
        terminal.info(f"failed: {path}: {stage}: {reason}")
    if not len(predictions):
        raise ValueError(
            f"not one of {len(predictions.failures)} images in {_named(sources)} could "
            "be read"
        )
    if output is None:
        _print_labels(predictions, top)
    _print_measures(predictions)
    _print_rejected(predictions, predictor, reject)
    n_failed = len(predictions.failures)
    terminal.result(
        f"{len(predictions):,} of {len(predictions) + n_failed:,} images labelled, "
        f"{n_failed:,} failed"
    )


def _image_set(
    sources: list[str],
    unlabelled: bool,
    limit: int | None,
    ignore: Callable[[str], bool],
) -> "ImageSet":
    """List the images of one source, of several files, or of a list on stdin."""
    from featpipe import images
    from featpipe.inference import from_items, image_set_of

    # The paths on stdin take the place of `-` among the others.
    paths = [path for source in sources for path in _listed(source)]
    if sources == paths and len(paths) == 1:
        return image_set_of(paths[0], unlabelled=unlabelled, limit=limit, ignore=ignore)
    for path in paths:
        if path.startswith("torchvision:") or Path(path).is_dir():
            raise ValueError(
                f"{path!r} is one of {len(paths):,} sources; give it alone, or give "
                "image files only"
            )
    return images.scan(from_items(paths), limit=limit)


def _listed(source: str) -> list[str]:
    """Return the paths that an argument means; those on stdin for "-"."""
    if source != "-":
        return [source]
    # Bytes, since file names need not be UTF-8.
    content = sys.stdin.buffer.read()
    # `find -print0` ends paths with a zero byte.
    lines = content.split(b"\0") if b"\0" in content else content.splitlines()
    paths = [os.fsdecode(line) for line in lines if line.strip()]
    if not paths:
        raise ValueError("stdin has no path; give one per line")
    return paths


def _named(sources: list[str]) -> str:
    return sources[0] if len(sources) == 1 else f"{len(sources):,} sources"


def _print_rejected(
    predictions: "Predictions", predictor: "Predictor", reject: float | None
) -> None:
    """Print how many labels are rejected, or would be with `--reject 0.05`."""
    if reject is not None:
        n = int(predictions.rejected.sum())
        terminal.result(
            f"{n:,} of {len(predictions):,} are 'unknown': their likeliest class has a "
            f"probability below {predictions.threshold:.3f}; at most {100 * reject:g} "
            "% of the other labels are wrong, for images like the training images"
        )
        return
    try:
        threshold = predictor.threshold(_ADVISED)
    except ValueError:
        return  # no threshold reaches it
    n = int(replace(predictions, threshold=threshold).rejected.sum())
    if n:
        terminal.info(
            f"{n:,} of {len(predictions):,} labels are doubtful: with --reject "
            f"{_ADVISED:g} they would be 'unknown', and at most {100 * _ADVISED:g} % "
            "of the others wrong, for images like the training images"
        )


def _print_labels(predictions: "Predictions", top: int) -> None:
    what = "score" if predictions.probabilities is None else "probability"
    shown = len(predictions) if terminal.verbose else min(len(predictions), _FEW)
    best = predictions.top(top)
    columns = [Column("image", folds=True)]
    for k in range(len(best[0])):
        columns.append(Column("label" if k == 0 else f"label {k + 1}"))
        columns.append(Column(what, number=True))
    rows = []
    labels = predictions.labels.tolist()
    for path, label, classes in zip(
        predictions.paths[:shown], labels, best, strict=False
    ):
        cells = [cell for name, value in classes for cell in (name, f"{value:.3f}")]
        cells[0] = label
        rows.append((path, *cells))
    print_table(columns, rows)
    if shown < len(predictions):
        terminal.result(
            f"… and {len(predictions) - shown:,} more; -v shows all, -o F.csv "
            "writes them"
        )


def _print_measures(predictions: "Predictions") -> None:
    """Print the scores of every split that has labels, and the confusion matrix."""
    from featpipe.protocol import learned_splits

    _print_unknown_classes(predictions)
    if predictions.measures() is None:
        return
    for split in sorted(set(predictions.splits)):
        measures = predictions.measures(split)
        if measures is not None:
            terminal.result(_judged(split, measures))
    if learned := learned_splits(predictions.splits):
        terminal.info(
            f"`fit` learns from {' and '.join(learned)}: if the model learned from "
            "these images, their accuracy is too high"
        )
    _print_confusion(predictions)


def _print_unknown_classes(predictions: "Predictions") -> None:
    """Print which classes of the source the model does not have."""
    unknown = sorted(set(predictions.truth) - {"", *predictions.class_names})
    if not unknown:
        return
    has_some = len(unknown) < len(set(predictions.truth) - {""})
    names = ", ".join(unknown[:5]) + ", …" * (len(unknown) > 5)
    classes = ", ".join(predictions.class_names[:5]) + ", …" * (
        len(predictions.class_names) > 5
    )
    what = "their images count as wrong" if has_some else "the labels are not judged"
    terminal.info(
        f"{len(unknown)} class(es) of the source are not the model's ({names}): "
        f"{what}; the model has {classes}"
    )
    # Names that differ only by capitals nearly always mean the same class.
    folded = {_folded(name): name for name in predictions.class_names}
    alike = [
        (name, folded[_folded(name)]) for name in unknown if _folded(name) in folded
    ]
    if alike:
        pairs = ", ".join(f"{name!r} to {known!r}" for name, known in alike[:5])
        terminal.info(
            f"{len(alike)} of them differ only by capitals, blanks or Unicode form; "
            f"rename {pairs}"
        )


def _folded(name: str) -> str:
    """Return a name without capitals, blanks, signs and differences of Unicode form."""
    # macOS stores an accented letter as two characters, Linux as one.
    folded = unicodedata.normalize("NFKC", name).casefold()
    return "".join(c for c in folded if c.isalnum())


def _judged(split: str, measures: dict[str, Any]) -> str:
    low, high = measures["accuracy_low"], measures["accuracy_high"]
    loss = measures["log_loss"]
    return (
        f"{split + ': ' if split else ''}{measures['n']:,} labelled images, accuracy "
        f"{100 * measures['accuracy']:.1f} % [{100 * low:.1f}, {100 * high:.1f}], "
        f"balanced {100 * measures['balanced_accuracy']:.1f} %, macro F1 "
        f"{100 * measures['macro_f1']:.1f} %"
        + ("" if loss is None else f", log-loss {loss:.3f}")
    )


def _print_confusion(predictions: "Predictions") -> None:
    """Print the confusion matrix; of many classes only the largest mistakes."""
    names, counts = predictions.confusion()
    if len(names) > _FEW or len(predictions.class_names) > _FEW:
        _print_worst(names, predictions.class_names, counts)
        return
    columns = [Column("true \\ predicted")]
    columns += [Column(name, number=True) for name in predictions.class_names]
    rows = zip(names, counts.tolist(), strict=True)
    print_table(columns, ((name, *map(str, row)) for name, row in rows))


def _print_worst(names: list[str], class_names: list[str], counts: Any) -> None:
    pairs = [
        (int(counts[t, p]), name, class_name)
        for t, name in enumerate(names)
        for p, class_name in enumerate(class_names)
        if name != class_name and counts[t, p]
    ]
    for count, name, class_name in sorted(pairs, key=lambda pair: -pair[0])[:10]:
        terminal.result(f"{count:,} of {name!r} labelled {class_name!r}")
