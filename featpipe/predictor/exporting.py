"""Export a model as one ONNX network, from uint8 images to labels and probabilities.

Normalisation, backbone, pooling, standardisation and classifier are one graph.
onnxruntime runs it beside the model before the file is written.
"""

from __future__ import annotations

import json
import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from featpipe import files, images
from featpipe.errors import named_line
from featpipe.images import ImageError, ImageSet
from featpipe.inference import Decoding, from_items, image_set_of
from featpipe.predictor.predicting import Images, Predictor

if TYPE_CHECKING:
    from torch import nn

    from featpipe.predictor.model import Model

__all__ = ["ExportCheck", "export"]

_BATCH = 16
# Sums of float32 in another order differ by 1e-6; a hundred times that is an error.
_TOLERANCE = 1e-4


class ExportCheck(NamedTuple):
    """The differences between the ONNX network and the model.

    Attributes
    ----------
    n_images : int
        Images on which both were run.
    n_label_differences : int
        Images whose labels differ; only those where two classes are equal to rounding.
    largest_difference : float
        Of a probability, or, where there are none, of a decision value
        relative to the largest one.

    Examples
    --------
    >>> ExportCheck(n_images=20, n_label_differences=0, largest_difference=2e-7)
    ExportCheck(n_images=20, n_label_differences=0, largest_difference=2e-07)
    """

    n_images: int
    n_label_differences: int
    largest_difference: float


def export(
    predictor: Predictor,
    path: str | os.PathLike[str],
    *,
    check: Images | None = None,
) -> ExportCheck:
    """Write a model as one ONNX network, once onnxruntime agrees with it.

    The network takes ``images``, uint8 (n, 3, S, S), as `Preprocessing.apply` gives
    them, and gives ``label``, int64 (n,), a position in the class names; ``score``,
    float32 (n, n_classes), and, if the classifier has them, ``probability``, float32
    (n, n_classes). ``docs/reference/models.md`` shows how to use it.

    Parameters
    ----------
    predictor : Predictor
        Of any precision; the ONNX network computes in float32.
    path : path
    check : source or sequence of images, optional
        Images on which both are run; default 20 views of the two photos that come with
        scikit-learn.

    Returns
    -------
    ExportCheck

    Raises
    ------
    ModuleNotFoundError
        If onnx, onnxscript or onnxruntime is not installed.
    ValueError
        If the backbone cannot be exported, or the two disagree; no file is left.
    OSError
        If it cannot be written.

    Examples
    --------
    >>> from featpipe.predictor import export, load
    >>> check = export(load("flowers.model"), "flowers.onnx")
    >>> check.n_images, check.n_label_differences, check.largest_difference < 1e-5
    (20, 0, True)
    """
    _require_packages()
    content = _onnx(predictor)
    # Before the file is written, so that no file holds a network that disagrees.
    checked = _check_against_model(predictor, content, check)
    files.write_bytes(path, content)
    return checked


def _require_packages() -> None:
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"export needs {error.name}, which is not installed; "
            "pip install 'featpipe[export]'"
        ) from error


def _onnx(predictor: Predictor) -> bytes:
    import onnx
    import torch

    model = predictor.model
    network = _build_module(predictor)
    # Only the crop is in the graph; decoding and resizing stay with `Preprocessing`.
    side = model.fingerprint["preprocessing"]["crop"]
    # Two images, because torch would take a batch of one for a constant.
    example = torch.zeros((2, 3, side, side), dtype=torch.uint8)
    names = ["label", "score", "probability"]
    try:
        with _silence_exporter(), torch.no_grad():
            program = torch.onnx.export(
                network,
                (example,),
                input_names=["images"],
                output_names=names if model.has_probabilities else names[:2],
                dynamic_shapes=({0: torch.export.Dim("n", min=1)},),
                dynamo=True,
                external_data=False,
                verbose=False,
            )
    # torch's exporter may raise any error for a network that it cannot export.
    except Exception as error:
        raise ValueError(
            f"the backbone {model.backbone!r} cannot be exported by torch.onnx "
            f"({named_line(error)})"
        ) from error
    assert program is not None
    proto = program.model_proto
    onnx.helper.set_model_props(proto, _metadata(model))
    content: bytes = proto.SerializeToString()
    return content


def _metadata(model: Model) -> dict[str, str]:
    from featpipe import __version__

    facts: dict[str, Any] = {
        "class_names": model.class_names,
        "preprocessing": model.fingerprint["preprocessing"],
        "decoding": model.fingerprint["decoding"],
        "backbone": model.backbone,
        "weights_sha256": model.fingerprint["weights_sha256"],
        "depth": model.depth,
        "classifier": model.classifier,
        "C": model.C,
        "precision": model.fingerprint["precision"],
    }
    texts = {k: v if isinstance(v, str) else json.dumps(v) for k, v in facts.items()}
    return {"featpipe": __version__, **texts}


def _build_module(predictor: Predictor) -> nn.Module:
    """Put everything from pixels to probabilities into one module."""
    import torch
    from torch import Tensor, nn

    model, backbone = predictor.model, predictor.load_backbone()
    hflip = model.fingerprint["preprocessing"]["hflip"]

    class ExportedModel(nn.Module):
        mean: Tensor
        std: Tensor
        coef: Tensor
        intercept: Tensor
        calibration: Tensor

        def __init__(self) -> None:
            super().__init__()
            self.cut = backbone.cut
            for name, value in {
                "mean": torch.tensor(backbone.preprocessing.mean).view(3, 1, 1),
                "std": torch.tensor(backbone.preprocessing.std).view(3, 1, 1),
                "coef": torch.from_numpy(model.coef).float(),
                "intercept": torch.from_numpy(model.intercept).float(),
                "calibration": torch.from_numpy(
                    np.empty((0, 2)) if model.calibration is None else model.calibration
                ).float(),
            }.items():
                self.register_buffer(name, value)

        def codes(self, x: Tensor) -> Tensor:
            return torch.cat(list(self.cut(x)), 1)

        def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
            x = (pixels.float() / 255 - self.mean) / self.std
            code = self.codes(x)
            if hflip:
                code = code / 2 + self.codes(x.flip(-1)) / 2
            # The classifier was fitted on codes that had been rounded in the file.
            if model.dtype == "float16":
                code = code.half().float()
            score = nn.functional.linear(code, self.coef, self.intercept)
            # Two classes have one column of coefficients; `score` has one per class.
            if len(model.class_names) == 2:
                score = torch.cat([-score, score], 1)
            label = score.argmax(1)
            if not model.has_probabilities:
                return label, score
            return label, score, self.probability(score)

        def probability(self, score: Tensor) -> Tensor:
            two = len(model.class_names) == 2
            if model.calibration is None:
                return score.sigmoid() if two else score.softmax(1)
            a, b = self.calibration.T
            each = (-(a * (score[:, 1:] if two else score) + b)).sigmoid()
            if two:
                return torch.cat([1 - each, each], 1)
            shares: Tensor = each / each.sum(1, keepdim=True)
            return shares

    return ExportedModel().eval()


@contextmanager
def _silence_exporter() -> Iterator[None]:
    """Silence the warnings of torch's exporter, which concern its own internals."""
    log = logging.getLogger("torch.onnx")
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(before)


def _check_against_model(
    predictor: Predictor, content: bytes, check: Images | None
) -> ExportCheck:
    """Run both on the same images; raise if they are not the same model."""
    reference = _in_float32(predictor)
    image_set = _check_images() if check is None else image_set_of(check)
    predictions = reference.classify(image_set)
    if not len(predictions):
        raise ValueError(
            f"not one of {len(predictions.failures)} images to check on could be read; "
            "give others"
        )
    logistic = predictions.probabilities is not None
    expected = predictions.probabilities if logistic else predictions.scores
    assert expected is not None
    # Probabilities are compared as they are, decision values by their own scale.
    unit = 1.0 if logistic else max(1.0, float(np.abs(expected).max()))
    label, score = _run(content, reference, image_set, set(predictions.paths), logistic)
    largest = float(np.abs(score - expected).max()) / unit
    if largest > _TOLERANCE:
        raise ValueError(
            f"the ONNX network and the model differ by {largest:.1e} on "
            f"{len(predictions)} images, more than {_TOLERANCE:.0e}; nothing was "
            "written"
        )
    other = label != np.argsort(-predictions.scores, axis=1, kind="stable")[:, 0]
    best = np.sort(predictions.scores, axis=1)
    unit = max(1.0, float(np.abs(best).max()))
    # Labels may differ only where the two best classes differ by less than rounding.
    if (other & (best[:, -1] - best[:, -2] > 2 * _TOLERANCE * unit)).any():
        raise ValueError(
            f"the ONNX network gives {other.sum()} of {len(predictions)} images "
            "another label than the model; nothing was written"
        )
    return ExportCheck(len(predictions), int(other.sum()), largest)


def _in_float32(predictor: Predictor) -> Predictor:
    """Return the model as the ONNX network computes it, on the CPU."""
    model = predictor.model
    fingerprint = model.fingerprint
    # Decoding and precision are not in the graph, so both get the same pixels and fp32.
    exact = {**fingerprint["decoding"], "mode": "exact"}
    same = {**fingerprint, "precision": "fp32", "decoding": exact}
    reference = predictor.using(device="cpu")
    reference.model = replace(model, fingerprint=same)
    return reference


def _check_images() -> ImageSet:
    """Return both photos of scikit-learn whole, in quarters, and mirrored."""
    from sklearn.datasets import load_sample_images

    views = []
    for photo in load_sample_images().images:
        height, width = photo.shape[0] // 2, photo.shape[1] // 2
        views += [photo, photo[:height, :width], photo[:height, width:]]
        views += [photo[height:, :width], photo[height:, width:]]
    return from_items(
        [*views, *(np.ascontiguousarray(view[:, ::-1]) for view in views)]
    )


def _run(
    content: bytes,
    reference: Predictor,
    image_set: ImageSet,
    wanted: set[str],
    logistic: bool,
) -> tuple[np.ndarray, np.ndarray]:
    """Return labels and probabilities (else scores) by onnxruntime."""
    import onnxruntime

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    preprocessing = reference.load_backbone().preprocessing
    decoding = reference.stream.recipe.decoding_at("fp32")
    # Images that cannot be read have no prediction to compare with.
    rows = [i for i, path in enumerate(image_set.paths) if path in wanted]
    labels, values = [], []
    for start in range(0, len(rows), _BATCH):
        batch = [
            _pixels(image_set, i, preprocessing, decoding)
            for i in rows[start:][:_BATCH]
        ]
        what = ["label", "probability" if logistic else "score"]
        label, value = session.run(what, {"images": np.stack(batch)})
        labels.append(label)
        values.append(value)
    return np.concatenate(labels), np.concatenate(values)


def _pixels(
    image_set: ImageSet, i: int, preprocessing: Any, decoding: Decoding
) -> np.ndarray:
    try:
        content = image_set.read(i)
        decoded = images.decode(
            content,
            value_range=decoding.value_range,
            max_pixels=decoding.max_pixels,
        )
        pixels: np.ndarray = preprocessing.apply(decoded.image)
    except ImageError as error:
        raise ValueError(
            f"{image_set.paths[i]} could be read a moment ago, and now not: {error}"
        ) from error
    return pixels
