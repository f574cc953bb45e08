"""The commands `fit` and `export`: write model files and ONNX networks."""

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from featpipe.cli import model_options as mo
from featpipe.cli import options as o
from featpipe.cli import protocol_options as po
from featpipe.cli.choices import FitClassifier, Metric
from featpipe.cli.comparing import grid
from featpipe.cli.extracting import pixel_limit
from featpipe.cli.outputs import require_outputs
from featpipe.cli.terminal import terminal
from featpipe.defaults import N_FOLDS

if TYPE_CHECKING:
    from featpipe.predictor import Predictor

__all__ = ["export", "fit"]


def fit(
    path: o.CodesPath,
    output: mo.FittedModel,
    classifier: mo.Classifier = FitClassifier.logistic,
    depth: mo.FitDepth = None,
    c: mo.COption = "auto",
    embed_weights: mo.EmbedWeights = False,
    weights: mo.WeightsNow = None,
    backbone: mo.BackboneNow = None,
    folds: po.Folds = N_FOLDS,
    c_grid: po.CGrid = None,
    metric: po.MetricOption = Metric.accuracy,
    class_weight: po.ClassWeightOption = None,
    device: o.Device = "auto",
    memory: po.Memory = None,
    seed: o.Seed = 0,
    scores: mo.RecordedScores = None,
) -> None:
    """Fit one classifier on all training rows, and keep the recipe of its codes.

    C is chosen as in `compare`. Held-out images choose nothing; the model records the
    accuracy on them.

    For example:

        featpipe fit flowers.h5 -o flowers.model
        featpipe fit flowers.h5 --classifier svm --depth layer3 -o flowers.model
        featpipe fit flowers.h5 -o flowers.model --embed-weights
        featpipe fit flowers.h5 -o flowers.model --scores scores.json
    """
    from featpipe.predictor import fit as fit_model

    require_outputs(
        {"-o": output}, {"FILE.h5": path, "--weights": weights}, models=["-o"]
    )
    model = fit_model(
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
    # --backbone may name a callable, which has to run to embed its weights.
    model.using(backbone=backbone).save(output, embed_weights=embed_weights)
    _print_fit(model, output)


def _c(text: str) -> float | str:
    if text == "auto":
        return text
    try:
        return float(text)
    except ValueError:
        raise typer.BadParameter(f"--C is {text!r}; give a number, or auto") from None


def _print_fit(model: "Predictor", output: Path) -> None:
    fitted, training = model.model, model.model.training
    for text in training["warnings"]:
        terminal.info(text)
    # Five, so that a thousand classes still fit on a line.
    names = ", ".join(fitted.class_names[:5])
    more = f" and {len(fitted.class_names) - 5} more" * (len(fitted.class_names) > 5)
    terminal.info(
        f"{output}: {fitted.classifier}, C={fitted.C:.3g}, on {fitted.backbone} "
        f"{fitted.depth} ({fitted.width}); {names}{more}"
    )
    facts = [f"fitted on {training['n_images']:,} images"]
    if training["cv_score"] is not None:
        facts.append(
            f"cross-validated {training['metric']} {100 * training['cv_score']:.1f} %"
        )
    score = fitted.score
    if score is not None:
        facts.append(
            f"accuracy on the {score.n_test:,} of {score.protocol!r} "
            f"{100 * score.accuracy:.1f} % [{100 * score.accuracy_low:.1f}, "
            f"{100 * score.accuracy_high:.1f}]"
        )
    terminal.result("; ".join(facts))


def export(
    model: mo.ModelPath,
    output: mo.OnnxOutput,
    check: mo.CheckSource = None,
    weights: mo.WeightsNow = None,
    backbone: mo.BackboneNow = None,
    max_pixels: o.MaxPixels = None,
) -> None:
    """Write the whole model as one ONNX network: uint8 images in, labels out.

    Needs the extra `featpipe[export]`. onnxruntime has to agree with `predict` before
    the file is written; docs/reference/models.md shows how to deploy it.

    For example:

        featpipe export flowers.model -o flowers.onnx
        featpipe export flowers.model -o flowers.onnx --check new_photos
    """
    from featpipe.predictor import export as export_model
    from featpipe.predictor import load

    require_outputs(
        {"-o": output}, {"MODEL": model, "--check": check, "--weights": weights}
    )
    predictor = load(
        model,
        weights=weights,
        backbone=backbone,
        # onnxruntime is compared on the CPU, where every machine can run it.
        device="cpu",
        max_pixels=pixel_limit(max_pixels),
    )
    report = export_model(predictor, output, check=check)
    # The exported graph is always float32.
    precision = predictor.model.fingerprint["precision"]
    if precision != "fp32":
        terminal.info(
            f"the codes were made in {precision}, the network computes in fp32: labels "
            "near the border between two classes may differ from those of `predict`"
        )
    what = "probability" if predictor.model.has_probabilities else "score"
    terminal.result(
        f"{output}: {output.stat().st_size:,} bytes; onnxruntime agrees on "
        f"{report.n_images:,} images, largest difference of a {what} "
        f"{report.largest_difference:.0e}"
    )
