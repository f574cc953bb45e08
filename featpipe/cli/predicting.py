"""`predict`: labels for new images, on the command line."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from featpipe.cli import options as o
from featpipe.cli.outputs import require_outputs
from featpipe.cli.progress import image_progress
from featpipe.cli.voice import voice
from featpipe.files import visible

if TYPE_CHECKING:
    from featpipe.predictor import Predictions

__all__ = ["predict"]

_FEW = 20


def predict(
    model: o.ModelPath,
    source: o.Source,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            metavar="F.csv",
            help="Write path, label, probability, score of every image; what could "
            "not be read goes to F.failures.csv.",
        ),
    ] = None,
    top: Annotated[
        int, typer.Option("--top", metavar="K", min=1, help="The K likeliest classes.")
    ] = 1,
    weights: o.WeightsNow = None,
    backbone: o.BackboneNow = None,
    device: o.Device = "auto",
    batch_size: o.BatchSize = None,
    workers: o.Workers = None,
    unlabelled: o.Unlabelled = False,
    limit: o.Limit = None,
) -> None:
    """Label new images through the very recipe of the codes.

    Where the source is labelled, says also how right the labels are.

    For example:

        featpipe predict flowers.model new_photos
        featpipe predict flowers.model new_photos -o labels.csv --top 3
    """
    from featpipe import images
    from featpipe.files import belongs_to
    from featpipe.predictor import load
    from featpipe.predictor.predictions import failures_path

    beside = None if output is None else failures_path(output)
    require_outputs(
        {"-o": output, "the failures of -o": beside},
        {"MODEL": model, "SOURCE": source, "--weights": weights},
    )
    predictor = load(
        model,
        weights=weights,
        backbone=backbone,
        device=device,
        batch_size=batch_size,
        workers=workers,
    )
    image_set = images.scan(
        source, unlabelled=unlabelled, limit=limit, ignore=belongs_to(output, beside)
    )
    with image_progress() as progress:
        found = predictor.classify(image_set, progress=progress)
    if output is not None:
        found.write_csv(output, top=top)
        voice.remark(f"wrote {output}")
    for path, stage, reason in (failure[:3] for failure in found.failures):
        voice.remark(f"failed: {path}: {stage}: {reason}")
    if not len(found):
        raise ValueError(
            f"not one of {len(found.failures)} images in {source} could be read"
        )
    if output is None:
        _print_labels(found, top)
    _print_measures(found)
    voice.result(
        f"{len(found):,} of {len(found) + len(found.failures):,} images labelled, "
        f"{len(found.failures):,} failed"
    )


def _print_labels(found: "Predictions", top: int) -> None:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("image", overflow="fold")
    what = "score" if found.probabilities is None else "probability"
    shown = len(found) if voice.verbose else min(len(found), _FEW)
    best = found.top(top)
    for k in range(len(best[0])):
        table.add_column("label" if k == 0 else f"{k + 1}.", overflow="fold")
        table.add_column(what, justify="right", no_wrap=True)
    for path, said in list(zip(found.paths, best, strict=True))[:shown]:
        cells = [cell for name, value in said for cell in (name, f"{value:.3f}")]
        table.add_row(*(_cell(text) for text in (path, *cells)))
    voice.out.print(table)
    if shown < len(found):
        voice.result(
            f"… and {len(found) - shown:,} more; -v shows all, -o F.csv writes them"
        )


def _print_measures(found: "Predictions") -> None:
    """Say how right the labels are, split by split, and what is taken for what."""
    from featpipe.protocol import learned_splits

    if found.measures() is None:
        return
    for split in sorted(set(found.splits)):
        measures = found.measures(split)
        if measures is not None:
            voice.result(_judged(split, measures))
    if learned := learned_splits(found.splits):
        voice.remark(
            f"fit learns from {' and '.join(learned)}: where the model did so on these "
            "images, their accuracy flatters"
        )
    unknown = sorted(set(found.truth) - {"", *found.class_names})
    if unknown:
        voice.remark(
            f"{len(unknown)} class(es) of the source are not the model's "
            f"({', '.join(unknown[:5])}): their images count as wrong"
        )
    _print_confusion(found)


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


def _print_confusion(found: "Predictions") -> None:
    """Show the table of true against predicted; of many classes the worst pairs."""
    from rich import box
    from rich.table import Table

    names, counts = found.confusion()
    if len(names) > _FEW or len(found.class_names) > _FEW:
        _print_worst(names, found.class_names, counts)
        return
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("true \\ predicted", overflow="fold")
    for name in found.class_names:
        table.add_column(_cell(name), justify="right", overflow="fold")
    for name, row in zip(names, counts.tolist(), strict=True):
        table.add_row(_cell(name), *map(str, row))
    voice.out.print(table)


def _print_worst(names: list[str], class_names: list[str], counts: Any) -> None:
    pairs = [
        (int(counts[t, p]), name, class_name)
        for t, name in enumerate(names)
        for p, class_name in enumerate(class_names)
        if name != class_name and counts[t, p]
    ]
    for count, name, class_name in sorted(pairs, key=lambda pair: -pair[0])[:10]:
        voice.result(f"{count:,} of {name!r} taken for {class_name!r}")


def _cell(text: str) -> Any:
    """Make a cell that shows brackets and odd bytes as they are."""
    from rich.text import Text

    return Text(visible(text))
