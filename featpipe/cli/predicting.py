"""`fit`, `predict`, `export`: models that travel, on the command line."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from featpipe.cli import options as o
from featpipe.cli.choices import FitClassifier, Metric
from featpipe.cli.comparing import grid
from featpipe.cli.outputs import require_outputs
from featpipe.cli.progress import image_progress
from featpipe.cli.voice import voice
from featpipe.files import visible

if TYPE_CHECKING:
    from featpipe.predictor import Predictions, Predictor

__all__ = ["export", "fit", "predict"]

_FEW = 20


def fit(
    path: o.CodesPath,
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="MODEL", help="The model file.")
    ],
    classifier: Annotated[
        FitClassifier, typer.Option("--classifier", help="What is fitted.")
    ] = FitClassifier.logistic,
    depth: Annotated[
        str | None,
        typer.Option(
            "--depth",
            metavar="SPEC",
            help="A depth in the file; a+b puts two side by side. Default: the only "
            "one, or penultimate.",
        ),
    ] = None,
    c: Annotated[
        str,
        typer.Option(
            "--C", metavar="auto|x", help="auto chooses it, as `compare` does."
        ),
    ] = "auto",
    embed_weights: Annotated[
        bool,
        typer.Option(
            "--embed-weights",
            help="Put the backbone's weights into the file: it is then the whole "
            "model.",
        ),
    ] = False,
    weights: o.WeightsNow = None,
    backbone: o.BackboneNow = None,
    folds: o.Folds = 5,
    c_grid: o.CGrid = None,
    metric: o.MetricOption = Metric.accuracy,
    class_weight: o.ClassWeightOption = None,
    device: o.Device = "auto",
    memory: o.Memory = None,
    seed: o.Seed = 0,
    scores: Annotated[
        Path | None,
        typer.Option(
            "--scores",
            metavar="F.json",
            help="Take C from this record of `compare --json`, on the same file with "
            "the same options, instead of searching again.",
        ),
    ] = None,
) -> None:
    """Fit one classifier on all training rows, bound to the recipe of its codes.

    C is chosen as `compare` chooses it; held-out images choose nothing and give the
    accuracy that the model carries.

    For example:

        featpipe fit flowers.h5 -o flowers.model
        featpipe fit flowers.h5 --classifier svm --depth layer3 -o flowers.model
        featpipe fit flowers.h5 -o flowers.model --embed-weights
        featpipe fit flowers.h5 -o flowers.model --scores scores.json
    """
    from featpipe.predictor import fit as fitted

    require_outputs({"-o": output}, {"FILE.h5": path, "--weights": weights})
    model = fitted(
        path,
        classifier.value,
        depth=depth,
        C=_c(c),
        Cs=grid(c_grid),
        folds=folds,
        metric=metric.value,
        class_weight=class_weight and class_weight.value,
        device=device,
        memory=memory,
        seed=seed,
        weights=weights,
        recorded=scores,
    )
    model.using(backbone=backbone).save(output, embed_weights=embed_weights)
    _say_fit(model, output)


def _c(text: str) -> float | str:
    if text == "auto":
        return text
    try:
        return float(text)
    except ValueError:
        raise typer.BadParameter(f"--C is {text!r}; give a number, or auto") from None


def _say_fit(model: "Predictor", output: Path) -> None:
    said, training = model.model, model.model.training
    for text in training["warnings"]:
        voice.remark(text)
    names = ", ".join(said.class_names[:5])
    more = f" and {len(said.class_names) - 5} more" * (len(said.class_names) > 5)
    voice.remark(
        f"{output}: {said.classifier}, C={said.C:.3g}, on {said.backbone} "
        f"{said.depth} ({said.width}); {names}{more}"
    )
    facts = [f"fitted on {training['n_images']:,} images"]
    if training["cv_score"] is not None:
        facts.append(
            f"cross-validated {training['metric']} {100 * training['cv_score']:.1f} %"
        )
    score = said.score
    if score is not None:
        facts.append(
            f"accuracy on the {score.n_test:,} of {score.protocol!r} "
            f"{100 * score.accuracy:.1f} % [{100 * score.accuracy_low:.1f}, "
            f"{100 * score.accuracy_high:.1f}]"
        )
    voice.result("; ".join(facts))


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
    for path, stage, reason in (failure[:3] for failure in found.failures):
        voice.remark(f"failed: {path}: {stage}: {reason}")
    if output is not None:
        found.write_csv(output, top=top)
        voice.remark(f"wrote {output}")
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


def export(
    model: o.ModelPath,
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="F.onnx", help="The network.")
    ],
    check: Annotated[
        str | None,
        typer.Option(
            "--check",
            metavar="SOURCE",
            help="Images on which the network has to agree with `predict`. Default: "
            "20 views of the two photos that come with scikit-learn.",
        ),
    ] = None,
    weights: o.WeightsNow = None,
    backbone: o.BackboneNow = None,
) -> None:
    """Write the whole model as one ONNX network: uint8 images in, labels out.

    Needs the extra `featpipe[export]`. onnxruntime has to agree with `predict` before
    the file is written; docs/reference/models.md shows how to deploy it.

    For example:

        featpipe export flowers.model -o flowers.onnx
        featpipe export flowers.model -o flowers.onnx --check new_photos
    """
    from featpipe.predictor import export as exported
    from featpipe.predictor import load

    require_outputs(
        {"-o": output}, {"MODEL": model, "--check": check, "--weights": weights}
    )
    predictor = load(model, weights=weights, backbone=backbone, device="cpu")
    found = exported(predictor, output, check=check)
    precision = predictor.model.fingerprint["precision"]
    if precision != "fp32":
        voice.remark(
            f"the codes were made in {precision}, the network computes in fp32: labels "
            "near the border between two classes may differ from those of `predict`"
        )
    what = "probability" if predictor.model.probable else "score"
    voice.result(
        f"{output}: {output.stat().st_size:,} bytes; onnxruntime agrees on "
        f"{found.n_images:,} images, largest difference of a {what} {found.largest:.0e}"
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
