"""The result of a fine-tuning: a model, judged from its file, and its record."""

from __future__ import annotations

import copy
import html
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from featpipe import scores
from featpipe.backbones import Backbone, hash_weights
from featpipe.codes import Codes
from featpipe.finetuning.network import Tuned
from featpipe.images import ImageSet
from featpipe.predictor import FINETUNE, Model, Predictor
from featpipe.protocol import given_groups
from featpipe.scores import Score

if TYPE_CHECKING:
    from featpipe.predictor import Predictions

__all__ = ["Finetuned", "bind", "judge"]


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class Finetuned:
    """The score of a fine-tuned network, and the record of its training.

    Attributes
    ----------
    score : Score
        On the held-out images, as `featpipe.compare` judges its contenders.
    rates : dict of float to float
        Learning rates tried and their losses, the chosen one first; the loss of a rate
        given by the user is nan.
    epoch : int
        The chosen epoch; 0 is the start.
    history : list of dict
        ``epoch``, its mean ``loss`` and ``seconds`` of training, then
        ``held_out_loss``, its standard error ``held_out_loss_error``, and
        ``held_out_score`` on the part of the training images that chooses. Epoch 0 is
        the start.
    notes : list of str
        Sentences on what was done.
    path : Path or None
        The model file, if there is one.
    seed : int
    is_new : bool
        Whether this call trained it; False for a model that was finished before.

    Examples
    --------
    >>> from featpipe.scores import read_json
    >>> score = read_json("flowers.json")[0]
    >>> tuned = Finetuned(score=score, rates={0.1: 0.7, 1.0: 2.3}, epoch=2, history=[])
    >>> tuned.rate, tuned.epoch, len(tuned.score.test_paths)
    (0.1, 2, 12)
    """

    score: Score
    rates: dict[float, float]
    epoch: int
    history: list[dict[str, Any]]
    notes: list[str] = field(default_factory=list)
    path: Path | None = None
    seed: int = 0
    is_new: bool = True

    def __repr__(self) -> str:
        """Return one line: what was trained, and how well it did."""
        score = self.score
        return (
            f"<Finetuned {score.backbone} ({score.trained}): "
            f"{100 * score.accuracy:.1f} % of {score.n_test:,} images, epoch "
            f"{self.epoch}, rate {self.rate:g}>"
        )

    def _repr_html_(self) -> str:
        """Return the epochs as a table for a notebook."""
        names = list(self.history[0]) if self.history else []
        lines = [f"<caption>{html.escape(repr(self))}</caption>"]
        lines.append("<tr>" + "".join(f"<th>{name}</th>" for name in names) + "</tr>")
        for epoch in self.history:
            cells = (
                f"<td>{v:.4g}</td>" if isinstance(v, float) else f"<td>{v}</td>"
                for v in epoch.values()
            )
            lines.append("<tr>" + "".join(cells) + "</tr>")
        return f"<table>{''.join(lines)}</table>"

    @property
    def rate(self) -> float:
        """The head's learning rate."""
        # The chosen one comes first.
        return next(iter(self.rates))

    @property
    def warnings(self) -> list[str]:
        """Warnings for a reader of the score."""
        return self.score.warnings

    def write_json(self, path: str | os.PathLike[str]) -> None:
        """Write the score document that ``compare --with`` reads.

        Parameters
        ----------
        path : path
            An older file there is replaced.
        """
        scores.write_json(path, [self.score], seed=self.seed)


def bind(
    backbone: Backbone,
    network: Tuned,
    codes: Codes,
    classes: np.ndarray,
    training: dict[str, Any],
) -> tuple[Model, dict[str, np.ndarray]]:
    """Return the model of a trained network.

    Parameters
    ----------
    backbone : Backbone
        Before training.
    network : Tuned
    codes : Codes
        Of the same backbone and depth; gives recipe and class names.
    classes : (n_classes,) int64
        The numbers of the classes learned.
    training : dict
        How it was trained; JSON.

    Returns
    -------
    model : Model
    weights : dict of str to array
        The backbone's, up to the depth, by their own names.
    """
    weights = backbone.needed()
    if network.trunk is not None:
        learned = network.trunk_state()
        # Layers after the depth are not part of the model.
        weights |= {name: x for name, x in learned.items() if name in weights}
    # The backbone may be in use elsewhere, and must stay frozen.
    whole = copy.deepcopy(backbone.network)
    whole.load_state_dict(weights, strict=False)
    digest = hash_weights(whole, weights.keys())
    coef, intercept = network.head.folded()
    provenance = codes.provenance
    model = Model(
        classifier=FINETUNE,
        C=None,
        class_names=[codes.class_names[k] for k in classes],
        coef=coef,
        intercept=intercept,
        depth=backbone.depths[0].spec,
        fingerprint={**codes.fingerprint, "weights_sha256": digest},
        dtype="float32",
        weights=provenance["weights"],
        seed=provenance["request"]["seed"],
        embedded_sha256=digest,
        training=training,
        versions=dict(provenance.get("versions", {})),
    )
    return model, {name: x.numpy() for name, x in weights.items()}


def judge(
    predictor: Predictor,
    held: ImageSet,
    labels: np.ndarray,
    class_names: Sequence[str],
    record: dict[str, Any],
) -> Score:
    """Judge a model by images that it has never seen, with the code of `predict`.

    Parameters
    ----------
    predictor : Predictor
        Read from the file that was written.
    held : ImageSet
    labels : (n_held,) int64
        Positions in ``class_names``; not read anywhere else.
    class_names : sequence of str
    record : dict
        The other fields of the score.

    Raises
    ------
    ValueError
        If an image cannot be read any more.
    """
    # The seconds include loading the network, as in `predict`.
    start = time.perf_counter()
    predictions = predictor.classify(held)
    seconds = time.perf_counter() - start
    # Failures of the scan are not among the images.
    never = {failure[:3] for failure in held.failures}
    lost = [each[:3] for each in predictions.failures if each[:3] not in never]
    if lost:
        path, stage, reason = lost[0]
        raise ValueError(
            f"{path} could be read a moment ago, and now not: {stage}: {reason}; mend "
            "it, and run the same command again"
        )
    predicted, probabilities = _numbered(predictions, list(class_names))
    measures: dict[str, Any] = scores.judge(
        labels, predicted, probabilities, given_groups(held.groups)
    )
    return Score(
        **record,
        **measures,
        n_test=len(labels),
        predict_seconds=seconds,
        test_paths=list(held.paths),
        test_predicted=[class_names[k] for k in predicted],
    )


def _numbered(
    predictions: Predictions, class_names: list[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Return class numbers, and probabilities with a column for every class."""
    # The model knows the classes of the training rows only.
    columns = [class_names.index(name) for name in predictions.class_names]
    # A class that no training image had gets probability zero.
    probabilities = np.zeros((len(predictions), len(class_names)))
    probabilities[:, columns] = predictions.probabilities
    predicted = np.array(
        [class_names.index(name) for name in predictions.labels], np.int64
    )
    return predicted, probabilities
