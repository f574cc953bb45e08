"""The score record, and the JSON document that carries it between commands."""

from __future__ import annotations

import html
import json
import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

import numpy as np

from featpipe import files

__all__ = [
    "FINETUNE_FIELDS",
    "Document",
    "Score",
    "read_document",
    "read_json",
    "write_json",
]

FINETUNE_FIELDS = ("trained", "image_passes")
"""Fields that only the scores of trained networks have."""

_OF_COMPARISON = (
    "difference",
    "difference_low",
    "difference_high",
    "majority_p_value",
    "better_than_majority",
)


_SHARES = ("accuracy", "accuracy_low", "accuracy_high", "balanced_accuracy", "macro_f1")
_NOT_NEGATIVE = ("n_train", "n_test", "log_loss", "fit_seconds", "predict_seconds")


@dataclass(frozen=True, kw_only=True, repr=False)
class Score:
    """The score of one contender, and all that comparing it with another takes.

    The fields are those of the JSON record, in its order. Accuracies are shares
    between 0 and 1; what does not exist is None, never nan.

    Attributes
    ----------
    codes : str
        The codes file, or the source of the images where there is none.
    backbone, weights, depth : str
        Where the codes come from; ``depth`` joins several with ``+``.
    width : int
        Numbers per code.
    classifier : str
        ``"logistic"``, ``"ensemble"``, ``"finetune"``, ...
    C : float or None
        The chosen C; None where the classifier has none.
    protocol : str
        ``"test"`` or ``"val"`` (the held-out split), or ``"5-fold"``: pooled
        predictions of nested cross-validation.
    n_train, n_test : int
        Images the model was finally fitted on, and images it is judged on.
    cv_accuracy : float or None
        The score by which the contender was selected, from training rows only: the
        mean over folds of the chosen metric, by default accuracy.
    accuracy, accuracy_low, accuracy_high : float
        Accuracy on the held-out images with its 95 % interval: exact near 100 %,
        Wilson's elsewhere, wider where images come in groups. Of pooled folds it is too
        narrow: it leaves out what training on other images would change.
    balanced_accuracy, macro_f1 : float
        Mean recall over the classes held out, mean F1 over those held out or
        predicted.
    log_loss : float or None
        Mean negative log-probability of the true class, in nats.
    recommended : bool
        Whether this row was chosen, by ``cv_accuracy`` alone.
    p_value : float or None
        Corrected p-value of the paired test against the recommended row.
    tied_with_recommended : bool
        Whether that test leaves the two rows indistinguishable at 5 %.
    difference, difference_low, difference_high : float or None
        Accuracy less that of the recommended row on the same images, with its 95 %
        interval, which is not corrected for the number of rows; None for that row.
    majority_p_value : float or None
        Holm-corrected p-value of the one-sided paired test against always naming the
        most frequent class of the training images.
    better_than_majority : bool or None
        Whether that test shows the row to be better, at 5 %.
    fit_seconds, predict_seconds : float
        Wall-clock time of the fit with its selection, and of the predictions.
    C_curve : list of [C, metric]
        The selection curve, from training rows only.
    warnings : list of str
        What a reader of this row must know.
    test_paths : list of str
        The judged images.
    test_predicted : list of str
        The class name predicted for each of them.
    trained : str or None
        Of a fine-tuned network: what was trained, and from which start.
    image_passes : int or None
        Of a fine-tuned network: how often an image went through it from its pixels
        on, to learn from or to choose by; what is cached is not computed again.

    Examples
    --------
    >>> from featpipe.scores import read_json
    >>> score = read_json("flowers.json")[0]
    >>> score.classifier, score.depth, score.width, len(score.test_paths)
    ('linear', 'penultimate', 8, 12)
    """

    codes: str
    backbone: str
    weights: str
    depth: str
    width: int
    classifier: str
    C: float | None
    protocol: str
    n_train: int
    n_test: int
    cv_accuracy: float | None
    accuracy: float
    accuracy_low: float
    accuracy_high: float
    balanced_accuracy: float
    macro_f1: float
    log_loss: float | None = None
    recommended: bool = False
    p_value: float | None = None
    tied_with_recommended: bool = False
    difference: float | None = None
    difference_low: float | None = None
    difference_high: float | None = None
    majority_p_value: float | None = None
    better_than_majority: bool | None = None
    fit_seconds: float = 0.0
    predict_seconds: float = 0.0
    C_curve: list[list[float | None]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    test_paths: list[str] = field(default_factory=list)
    test_predicted: list[str] = field(default_factory=list)
    trained: str | None = None
    image_passes: int | None = None

    def __repr__(self) -> str:
        """Return one line: what was judged, and how well it did."""
        low, high = 100 * self.accuracy_low, 100 * self.accuracy_high
        return (
            f"<Score of {self.classifier} on {self.depth}: {100 * self.accuracy:.1f} % "
            f"[{low:.1f}, {high:.1f}] of {self.n_test:,} images>"
        )

    def _repr_html_(self) -> str:
        """Return the fields as a table for a notebook, without paths and curve."""
        # They are as long as the images are many.
        hidden = ("test_paths", "test_predicted", "C_curve")
        rows = (
            f"<tr><th>{html.escape(name)}</th><td>{html.escape(str(value))}</td></tr>"
            for name, value in self.as_dict().items()
            if name not in hidden
        )
        return f"<table>{''.join(rows)}</table>"

    def as_dict(self) -> dict[str, Any]:
        """Return the JSON record: plain Python types, None for nan and infinity.

        Only scores of trained networks have the fields of training.
        """
        record = _plain(asdict(self))
        return {
            k: v for k, v in record.items() if k not in FINETUNE_FIELDS or v is not None
        }

    @classmethod
    def from_dict(cls, record: dict[str, Any]) -> Score:
        """Return the score that a JSON record describes.

        Raises
        ------
        ValueError
            If the record lacks a field, has one too many or one of another type, or
            has predictions that do not pair up with its paths.
        """
        names = {f.name for f in fields(cls)}
        # Fields that only a comparison or a training sets are absent in documents of
        # the other.
        missing = sorted(names - set(record) - {*FINETUNE_FIELDS, *_OF_COMPARISON})
        unknown = sorted(set(record) - names)
        if missing or unknown:
            raise ValueError(f"score lacks fields {missing}, has unknown {unknown}")
        # Documents come from anywhere; a list where a number should be would fail far
        # from here.
        for name, kind in get_type_hints(cls).items():
            value = record.get(name)
            if name in record and not _is_of(value, kind):
                raise ValueError(f"{name} is {value!r:.60}, which it cannot be")
        if any(len(pair) != 2 for pair in record["C_curve"]):
            raise ValueError("C_curve has something else than pairs of C and a score")
        for name in _SHARES:
            if not 0 <= record[name] <= 1:
                raise ValueError(f"{name} is {record[name]!r}, not between 0 and 1")
        for name in _NOT_NEGATIVE:
            if (record.get(name) or 0) < 0:
                raise ValueError(f"{name} is {record[name]!r}, below 0")
        if len(record["test_paths"]) != len(record["test_predicted"]):
            raise ValueError(
                f"score has {len(record['test_paths'])} test_paths but "
                f"{len(record['test_predicted'])} test_predicted"
            )
        return cls(**record)


def _is_of(value: Any, kind: Any) -> bool:
    """Return whether a value from JSON is of an annotated type."""
    # Fields are checked against their declarations: `float | None` is a union,
    # `list[str]` a list.
    if get_origin(kind) is UnionType:
        return any(_is_of(value, each) for each in get_args(kind))
    if get_origin(kind) is list:
        each_kind = get_args(kind)[0]
        return isinstance(value, list) and all(_is_of(v, each_kind) for v in value)
    # bool is a subclass of int in Python, and a number to isinstance.
    if isinstance(value, bool) or kind is bool:
        return isinstance(value, bool) and kind is bool
    return isinstance(value, (int, float) if kind is float else kind)


def _plain(value: Any) -> Any:
    """Turn numpy scalars into Python's, tuples into lists, nan and inf into None."""
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [_plain(each) for each in value]
    # JSON knows no numpy scalars, and a nan in it would not be JSON.
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


@dataclass(frozen=True)
class Document:
    """The scores of one command, and what they depend on beside the codes.

    Attributes
    ----------
    seed : int or None
    options : dict
        ``folds``, ``metric`` and ``class_weight`` of a comparison; empty where the
        file does not say.
    scores : list of Score

    Examples
    --------
    >>> from featpipe.scores import read_document
    >>> document = read_document("flowers.json")
    >>> document.seed, document.options["folds"], len(document.scores)
    (0, 5, 4)
    """

    seed: int | None
    options: dict[str, Any]
    scores: list[Score]


def write_json(
    path: str | os.PathLike[str],
    scores: Sequence[Score],
    *,
    seed: int,
    options: dict[str, Any] | None = None,
) -> None:
    """Write scores as strict JSON; the file is complete or absent.

    Parameters
    ----------
    path : path
    scores : sequence of Score
    seed : int
    options : dict, optional
        Options of a comparison beside its seed, which ``fit --scores`` compares.

    Raises
    ------
    OSError
        If the folder does not exist or cannot be written to.

    Examples
    --------
    >>> write_json("again.json", read_json("flowers.json"), seed=0)
    >>> read_document("again.json").seed
    0
    """
    from featpipe import __version__

    document = {
        "featpipe": __version__,
        "seed": seed,
        **({"options": _plain(options)} if options else {}),
        "scores": [score.as_dict() for score in scores],
    }
    # Strict: other programs read it, and NaN is no JSON.
    files.write_text(path, json.dumps(document, allow_nan=False, indent=1) + "\n")


def read_json(path: str | os.PathLike[str]) -> list[Score]:
    """Read the scores of a document written by `write_json`; raises as it does.

    Examples
    --------
    >>> len(read_json("flowers.json"))
    4
    """
    return read_document(path).scores


def read_document(path: str | os.PathLike[str]) -> Document:
    """Read a document written by `write_json`.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is not such a document; the message names the file.

    Examples
    --------
    >>> read_document("flowers.json").options["metric"]
    'accuracy'
    """
    try:
        document = files.read_json(path)
        if not isinstance(document, dict) or not isinstance(
            document.get("scores"), list
        ):
            raise ValueError("it has no list of scores")
        scores = [Score.from_dict(record) for record in document["scores"]]
        seed, options = document.get("seed"), dict(document.get("options", {}))
        for name, value, kind in (
            ("seed", seed, int | None),
            ("folds", options.get("folds", 5), int),
            ("metric", options.get("metric", ""), str),
            ("class_weight", options.get("class_weight"), str | dict | None),
        ):
            if not _is_of(value, kind):
                raise ValueError(f"{name} is {value!r:.60}, which it cannot be")
        return Document(seed, options, scores)
    # One sentence that names the file, whatever is wrong with a foreign document.
    except (ValueError, KeyError, TypeError, AttributeError) as err:
        raise ValueError(
            f"{str(path)!r} is not a scores file ({err}); give one written by "
            "`compare --json` or `finetune --json`"
        ) from err
