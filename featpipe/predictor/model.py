"""A fitted model: the numbers of its classifier, its recipe, and their JSON record.

Knows nothing of files, networks or images.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from featpipe import classifiers, codes
from featpipe.inference import Recipe
from featpipe.scores import Score

__all__ = ["ARRAYS", "FINETUNE", "Model"]

ARRAYS = ("coef", "intercept", "calibration", "error_curve")
"""The arrays of a model; the last two are optional."""

FINETUNE = "finetune"
"""The classifier of a model whose network was trained with it."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Model:
    """A linear classifier on codes, and the recipe of these codes.

    Parameters
    ----------
    classifier : str
        ``linear``, ``svm`` or ``logistic``; ``finetune`` for the head of a fine-tuned
        network, whose weights are in the model.
    C : float or None
        None for ``finetune``.
    class_names : list of str
        Of the classes learned; two, or as many as ``coef`` has rows.
    coef : (n_classes, width) float64, or (1, width) for two classes
        On the scale of the codes, the standardisation included.
    intercept : (n_classes,) float64, or (1,) for two classes
    depth : str
        Canonical; ``a+b`` puts the codes of two side by side.
    fingerprint : dict
        Of the codes: backbone, weights_sha256, preprocessing, decoding, precision.
    dtype : str
        Of the codes as stored.
    weights : str
        An entry, ``none``, ``own``, or the name of a file.
    weights_file : str or None
        The last place of that file; a hint.
    seed : int
        Of random weights.
    embedded_sha256 : str or None
        Of the backbone's tensors that the model holds.
    training : dict
        How it was fitted; see ``docs/reference/models.md``.
    score : Score or None
        On held-out images, where there were any.
    calibration : (n_classes, 2) or (1, 2) float64, or None
        Platt's sigmoids, for ``linear`` and ``svm``; see `calibrating.platt`.
    error_curve : (m, 3) float64 or None
        Errors among confident answers on rows that it did not learn from; see
        `rejecting.error_curve`.
    versions : dict of str
        Of the packages that made it.

    Examples
    --------
    >>> import featpipe
    >>> model = featpipe.load("flowers.model").model
    >>> model.classifier, model.coef.shape, model.depth
    ('logistic', (3, 384), 'penultimate')
    """

    classifier: str
    C: float | None
    class_names: list[str]
    coef: np.ndarray
    intercept: np.ndarray
    depth: str
    fingerprint: dict[str, Any]
    dtype: str
    weights: str
    weights_file: str | None = None
    seed: int = 0
    embedded_sha256: str | None = None
    training: dict[str, Any] = field(default_factory=dict)
    score: Score | None = None
    calibration: np.ndarray | None = None
    error_curve: np.ndarray | None = None
    versions: dict[str, str] = field(default_factory=dict)

    @property
    def backbone(self) -> str:
        """Name of the backbone."""
        name: str = self.fingerprint["backbone"]
        return name

    @property
    def width(self) -> int:
        """Numbers per code."""
        return int(self.coef.shape[1])

    @property
    def uses_custom_code(self) -> bool:
        """Whether building the backbone runs a callable of the user."""
        return self.recipe(None).uses_custom_code

    @property
    def has_probabilities(self) -> bool:
        """Whether `predict_proba` works."""
        own = self.classifier in ("logistic", FINETUNE)
        return own or self.calibration is not None

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """The arrays that the model has, by name."""
        named = {name: getattr(self, name) for name in ARRAYS}
        return {name: array for name, array in named.items() if array is not None}

    def estimator(self) -> Any:
        """Return the classifier as it was fitted; its classes are numbers."""
        # The head of a fine-tuned network was trained on the log-loss too.
        name = "logistic" if self.classifier == FINETUNE else self.classifier
        estimator = classifiers.make(name, C=self.C or 1.0)
        # scikit-learn takes an estimator with these attributes for fitted.
        estimator.coef_, estimator.intercept_ = self.coef, self.intercept
        estimator.classes_ = np.arange(len(self.class_names))
        estimator.C_, estimator.n_features_in_ = self.C or 1.0, self.width
        return estimator

    def recipe(self, weights: str | None, backbone: str | None = None) -> Recipe:
        """Return the recipe by which the same codes can be computed.

        Parameters
        ----------
        weights : str or None
            As `backbones.load` takes them, at their present place.
        backbone : str, optional
            Its present name.
        """
        preprocessing = self.fingerprint["preprocessing"]
        return Recipe(
            backbone=backbone or self.backbone,
            weights=weights,
            depths=tuple(self.depth.split("+")),
            precision=self.fingerprint["precision"],
            decoding=self.fingerprint["decoding"].get("mode", "auto"),
            value_range=self.fingerprint["decoding"].get("value_range", "file"),
            dtype=self.dtype,
            hflip=preprocessing["hflip"],
            seed=self.seed,
            # All options, so that other weights of the network cannot set their own.
            resize=preprocessing["resize"] or 0,
            crop=preprocessing["crop"],
            interpolation=preprocessing["interpolation"],
            mean=tuple(preprocessing["mean"]),
            std=tuple(preprocessing["std"]),
            # The user accepted random codes at the extraction.
            allow_random="random" in preprocessing,
        )

    def as_record(self) -> dict[str, Any]:
        """Return all fields but the arrays, for JSON."""
        return {
            "classifier": self.classifier,
            "C": self.C,
            "class_names": self.class_names,
            "depth": self.depth,
            "fingerprint": self.fingerprint,
            "dtype": self.dtype,
            "weights": self.weights,
            "weights_file": self.weights_file,
            "seed": self.seed,
            "embedded_sha256": self.embedded_sha256,
            "training": self.training,
            "score": None if self.score is None else self.score.as_dict(),
            "versions": self.versions,
        }

    @classmethod
    def from_record(cls, record: Any, arrays: Mapping[str, Any]) -> Model:
        """Make the model of a record and arrays that may come from anywhere.

        Raises
        ------
        ValueError
            If a field is missing, unknown, of another type, or does not fit the arrays;
            names it.
        """
        _require_fields("the record", record, _KINDS)
        _require_fields("its fingerprint", record["fingerprint"], _FINGERPRINT)
        preprocessing = record["fingerprint"]["preprocessing"]
        _require_fields("its preprocessing", preprocessing, _PREPROCESSING)
        for name in ("mean", "std"):
            if not _are_three_numbers(preprocessing[name]):
                raise ValueError(
                    f"its preprocessing has {name}={preprocessing[name]!r:.60}"
                )
        if record["classifier"] not in (*classifiers.NAMES, FINETUNE):
            raise ValueError(f"it names the classifier {record['classifier']!r}")
        tuned = record["classifier"] == FINETUNE
        # A fine-tuned head has no C, and only the file holds its network.
        if (record["C"] is None) != tuned or (tuned and not record["embedded_sha256"]):
            raise ValueError(
                f"C={record['C']!r} and the weights do not fit the classifier "
                f"{record['classifier']!r}"
            )
        # Outputs could not tell two classes of one name apart.
        if len(set(record["class_names"])) != len(record["class_names"]):
            raise ValueError("it has a class name twice")
        if not all(isinstance(name, str) for name in record["class_names"]):
            raise ValueError("it has a class name that is no text")
        _require_arrays(arrays, len(record["class_names"]), record["classifier"])
        score = record["score"]
        score = None if score is None else Score.from_dict(score)
        model = cls(**{**record, "score": score}, **arrays)
        model.recipe(None)  # refuses an unknown precision or dtype
        return model


_KINDS: dict[str, tuple[type, ...]] = {
    "classifier": (str,),
    "C": (int, float, type(None)),
    "class_names": (list,),
    "depth": (str,),
    "fingerprint": (dict,),
    "dtype": (str,),
    "weights": (str,),
    "weights_file": (str, type(None)),
    "seed": (int,),
    "embedded_sha256": (str, type(None)),
    "training": (dict,),
    "score": (dict, type(None)),
    "versions": (dict,),
}
_FINGERPRINT: dict[str, tuple[type, ...]] = {
    "backbone": (str,),
    "weights_sha256": (str,),
    "preprocessing": (dict,),
    "decoding": (dict,),
    "precision": (str,),
}
# `backbones.Preprocessing`, which imports torch, checks the values.
_PREPROCESSING: dict[str, tuple[type, ...]] = {
    "resize": (int, type(None)),
    "crop": (int,),
    "interpolation": (str,),
    "antialias": (bool,),
    "mean": (list,),
    "std": (list,),
    "hflip": (bool,),
}
# Fields of the preprocessing that older versions did not write.
_OPTIONAL: dict[str, tuple[type, ...]] = {"crop_mode": (str,), "random": (str,)}
assert set(_FINGERPRINT) == set(codes.FINGERPRINT)


def _require_fields(
    what: str, record: Any, kinds: Mapping[str, tuple[type, ...]]
) -> None:
    if isinstance(record, dict):
        kinds = {**{k: v for k, v in _OPTIONAL.items() if k in record}, **kinds}
    if not isinstance(record, dict) or set(record) != set(kinds):
        have = sorted(record) if isinstance(record, dict) else type(record).__name__
        raise ValueError(f"{what} has to have the fields {sorted(kinds)}, not {have}")
    for name, allowed in kinds.items():
        # Not isinstance: in Python a bool is an int.
        if type(record[name]) not in allowed:
            raise ValueError(f"{what} has {name}={record[name]!r:.60}")


def _are_three_numbers(values: list[Any]) -> bool:
    numbers = all(type(value) in (int, float) for value in values)
    return len(values) == 3 and numbers and bool(np.isfinite(values).all())


def _require_arrays(
    arrays: Mapping[str, np.ndarray], n_classes: int, classifier: str
) -> None:
    coef, intercept = arrays["coef"], arrays["intercept"]
    n_rows = 1 if n_classes == 2 else n_classes
    # Two classes have one row of coefficients, as in scikit-learn.
    fits = coef.ndim == 2 and coef.shape[1] > 0 and intercept.shape == (n_rows,)
    if n_classes < 2 or not fits or len(coef) != n_rows:
        raise ValueError(
            f"coef of shape {coef.shape} and intercept of shape {intercept.shape} do "
            f"not fit {n_classes} classes"
        )
    for name, array in arrays.items():
        if array.dtype != np.float64 or not np.isfinite(array).all():
            raise ValueError(f"{name} has to be finite float64")
    if (calibration := arrays.get("calibration")) is not None:
        own = classifier in ("logistic", FINETUNE)
        if own or calibration.shape != (n_rows, 2):
            raise ValueError(
                f"calibration of shape {calibration.shape} does not fit {n_classes} "
                f"classes of {classifier!r}"
            )
    if (curve := arrays.get("error_curve")) is not None and not _is_curve(curve):
        raise ValueError(
            f"error_curve of shape {curve.shape} is no curve of thresholds, answers "
            "and errors"
        )


def _is_curve(curve: np.ndarray) -> bool:
    if curve.ndim != 2 or curve.shape[1] != 3 or not len(curve):
        return False
    thresholds, answers, wrong = curve.T
    counted = (curve[:, 1:] == np.floor(curve[:, 1:])).all() and wrong[0] >= 0
    # The search for a threshold is a bisection, which needs ordered points.
    rising = (np.diff(answers) > 0).all() and (np.diff(wrong) >= 0).all()
    falling = (np.diff(thresholds) < 0).all()
    return bool(counted and rising and falling and (wrong <= answers).all())
