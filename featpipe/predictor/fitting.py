"""Fit one classifier on the codes of a file, by the protocol of `compare`.

Training rows and folds are the same, and so C and all numbers are.
"""

from __future__ import annotations

import math
import os
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.exceptions import ConvergenceWarning

from featpipe import classifiers, codes, scores
from featpipe.bounds import require_number, require_seed
from featpipe.codes import Codes, CodesError, CodesView, checked
from featpipe.defaults import N_FOLDS
from featpipe.predictor.calibrating import out_of_fold, platt, probabilities
from featpipe.predictor.model import Model
from featpipe.predictor.predicting import Predictor
from featpipe.predictor.predictions import two_columns
from featpipe.predictor.recorded import check_rows, find_record
from featpipe.predictor.rejecting import error_curve
from featpipe.protocol import (
    Part,
    Protocol,
    given_groups,
    labelled_rows,
    plan,
    resolve_C,
)
from featpipe.scores import SIGNIFICANT, Score

__all__ = ["fit"]

# Images whose probabilities are worked out together.
_ROWS = 2**16


def fit(
    codes_file: Codes | str | os.PathLike[str],
    classifier: str = "logistic",
    *,
    depth: str | None = None,
    C: float | str = "auto",
    Cs: Sequence[float] | np.ndarray | None = None,
    folds: int = N_FOLDS,
    metric: str = "accuracy",
    class_weight: str | None = None,
    device: str = "auto",
    memory: str | int | None = None,
    seed: int = 0,
    weights: str | os.PathLike[str] | None = None,
    recorded: str | os.PathLike[str] | None = None,
) -> Predictor:
    """Fit one classifier on cached codes, and bind it to the recipe of the codes.

    C is chosen, and the fit made, on the rows on which `featpipe.compare` does it:
    those of ``train`` (with ``val`` where there is a ``test`` too, which then chooses
    C), or all where there is no split. Held-out rows choose nothing; they give the
    score that the model carries.

    Parameters
    ----------
    codes_file : Codes or path
        Written by `featpipe.extract`.
    classifier : {"linear", "svm", "logistic"}
    depth : str, optional
        ``"a+b"`` puts two side by side. Default: the only one in the file, or
        ``penultimate``.
    C : "auto" or float
    Cs : sequence of float, optional
        Values of C to choose from; default 45 from 1e-6 to 1e5.
    folds : int
        Folds that choose C.
    metric : {"accuracy", "balanced_accuracy", "macro_f1"}
        By which C is chosen.
    class_weight : "balanced", optional
    device : str
        Where it is fitted, and where the predictor will run.
    memory : str or int, optional
        Memory that the program may use, ``"8GB"`` or bytes. Where four copies of the
        codes need more, the codes are read from the file on every pass. Default: half
        of the available memory.
    seed : int
        Of the folds.
    weights : path, optional
        The file of the backbone's weights, if they came from one; the model keeps it as
        a hint. Default: its name is looked for here and beside the codes.
    recorded : path, optional
        A score document of `featpipe.compare` on the same file with the same options,
        from which C, its curve and its score are taken instead of a new search.

    Returns
    -------
    Predictor

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    CodesError
        If it is not a codes file, has no such depth, or does not record how its codes
        were made.
    ValueError
        If there are not two classes to tell apart, or an argument is invalid.

    Examples
    --------
    >>> import featpipe
    >>> model = featpipe.fit("mini.h5", "svm", C=1.0)
    >>> model.model.coef.shape, round(model.model.score.accuracy, 2)
    ((3, 384), 1.0)
    >>> model.predict(["flowers/test/tulip/38.png"])
    array(['tulip'], dtype='<U7')
    """
    folds = require_number("folds", folds, 2, 1000)
    seed = require_seed(seed)
    if isinstance(codes_file, Codes):
        file = checked(codes_file)
    else:
        file = codes.read(codes_file)
    # First, since without a recipe the fit is useless for new images.
    recipe = _recipe(file, weights)
    depth = _depth(file, depth)
    part, protocol = _part(file, folds, seed)
    record = None
    if recorded is not None:
        if C != "auto":
            raise ValueError(f"C={C!r} and a record of C were given; give one of them")
        options = {"folds": folds, "metric": metric, "class_weight": class_weight}
        grid = None if Cs is None else np.sort(np.asarray(Cs, float))
        held = [file.paths[row] for row in part.held]
        record = find_record(recorded, (classifier, depth), seed, options, grid)
        check_rows(record, len(part.train), held, recorded)
    chosen = resolve_C(part, C, Cs) if record is None else record.C
    budget = classifiers.budget(len(file), file.width(depth), memory)
    estimator = classifiers.make(
        classifier,
        C=chosen,
        Cs=Cs,
        cv=part.selection,
        metric=metric,
        class_weight=class_weight,
        device=device,
        memory=budget.memory,
        random_state=seed,
    )
    X = CodesView(file, depth) if budget.streams else file.arrays(depth)[0]
    y = np.asarray(file.labels)
    start = time.perf_counter()
    with warnings.catch_warnings():
        # The estimator keeps it in warnings_, which goes into the model.
        warnings.simplefilter("ignore", ConvergenceWarning)
        estimator.fit(X[part.train], y[part.train])
        cv_score = classifiers.repeated_score(
            estimator, X[part.train], y[part.train], part.selection, protocol.repeats
        )
    seconds = time.perf_counter() - start
    if record is not None:
        # The comparison's own score, over all its folds.
        cv_score = float(record.cv_accuracy or np.nan)
        # A fit at a given C has no curve; that of the comparison belongs to this C.
        estimator.C_curve_ = np.array(record.C_curve, float)
    unseen = out_of_fold(estimator, X[part.train], y[part.train], part.selection)
    notes = list(_idle(file, estimator, X, y, part, unseen))
    if n_without := int((protocol.sides < 0).sum()):
        notes.append(f"{n_without:,} labelled images without a split take no part")
    if budget.warning:
        estimator.warnings_.append(budget.warning)
    model = Model(
        classifier=classifier,
        C=estimator.C_,
        class_names=[file.class_names[label] for label in estimator.classes_],
        coef=np.asarray(estimator.coef_, np.float64),
        intercept=np.asarray(estimator.intercept_, np.float64),
        depth=depth,
        **recipe,
        **_calibrate(estimator, y[part.train], *unseen),
        training={
            "n_images": len(part.train),
            "codes": os.fspath(file.path),
            "metric": metric,
            "cv_score": _number(cv_score),
            "C_curve": [[c, _number(s)] for c, s in estimator.C_curve_.tolist()],
            "class_weight": class_weight,
            "folds": folds,
            "seed": seed,
            "converged": bool(estimator.converged_),
            "warnings": [*estimator.warnings_, *notes],
        },
        score=_score(
            file,
            depth,
            classifier,
            estimator,
            X,
            part,
            protocol.name,
            cv_score,
            seconds,
        ),
    )
    return Predictor(model, weights=weights, device=device)


def _idle(
    file: Codes,
    estimator: Any,
    X: Any,
    y: np.ndarray,
    part: Part,
    unseen: tuple[np.ndarray, np.ndarray],
) -> Iterator[str]:
    """Yield a note where a fit does no better than naming the most frequent class.

    On the held-out rows, or else on training rows by fits that never saw them.
    """
    if len(part.held):
        rows, predicted = part.held, estimator.predict(X[part.held])
    else:
        rows, best = part.train[unseen[0]], two_columns(unseen[1]).argmax(axis=1)
        predicted = estimator.classes_[best]
    common = np.bincount(y[part.train]).argmax()
    usual = y[rows] == common
    gain = (predicted == y[rows]).astype(float) - usual
    groups = given_groups(np.asarray(file.groups)[rows])
    if len(rows) and scores.gain_p_value(gain, groups) >= SIGNIFICANT:
        yield (
            "not told apart from always naming the most frequent class, "
            f"{file.class_names[common]!r}, which is right for "
            f"{100 * usual.mean():.1f} % of the {len(rows):,} images that judge it"
        )


def _calibrate(
    estimator: Any, y: np.ndarray, rows: np.ndarray, decisions: np.ndarray
) -> dict[str, Any]:
    """Return calibration and error curve, from out-of-fold rows."""
    classes = estimator.classes_
    # A class without out-of-fold rows cannot be calibrated.
    if len(np.unique(y[rows])) < len(classes):
        return {}  # too few rows to tell
    calibration = None
    if not hasattr(estimator, "predict_proba"):
        calibration = platt(decisions, y[rows], classes)
        if not np.isfinite(calibration).all():
            return {}  # decision values overflow
    confidence, is_right = np.empty(len(rows)), np.empty(len(rows), bool)
    # Some rows at a time: probabilities are several copies of the decision values.
    for start in range(0, len(rows), _ROWS):
        block = slice(start, start + _ROWS)
        each = two_columns(decisions[block])
        best = each.argmax(axis=1)
        confidence[block] = probabilities(each, calibration)[np.arange(len(each)), best]
        is_right[block] = classes[best] == y[rows[block]]
    record = {"error_curve": error_curve(confidence, is_right)}
    return record if calibration is None else {**record, "calibration": calibration}


def _recipe(file: Codes, weights: str | os.PathLike[str] | None) -> dict[str, Any]:
    """Return the part of the provenance by which the same codes can be computed."""
    provenance = file.provenance
    request = provenance.get("request")
    fingerprint = file.fingerprint
    if not isinstance(request, dict) or None in fingerprint.values():
        raise CodesError(
            f"{file.path} does not record how its codes were made, so no new image can "
            "get such codes; extract them with featpipe"
        )
    return {
        "fingerprint": fingerprint,
        "dtype": provenance["dtype"],
        "weights": provenance["weights"],
        "weights_file": _weights_file(file, weights),
        "seed": request["seed"],
        "versions": dict(provenance.get("versions", {})),
    }


def _weights_file(file: Codes, path: str | os.PathLike[str] | None) -> str | None:
    """Return the path of the weights file, or None if the weights are no file."""
    if file.provenance["request"].get("weights_file_sha256") is None:
        return None
    name: str = file.provenance["weights"]
    places = [Path(name), file.path.with_name(name)]
    # Beside the codes too, since files are often moved together.
    for place in places if path is None else [Path(path).expanduser()]:
        if place.is_file():
            # Absolute, because the model will be used from other folders.
            return str(place.absolute())
    return name


def _depth(file: Codes, depth: str | None) -> str:
    if depth is None:
        # With several depths and no penultimate, `spec` raises and names the choices.
        default = "penultimate" in file.depths or len(file.depths) > 1
        depth = "penultimate" if default else file.depths[0]
    specs = list(dict.fromkeys(file.spec(part) for part in depth.split("+")))
    for spec in specs:
        if len(file.shapes[spec]) > 2:
            raise ValueError(
                f"{spec!r} holds maps, which only finetune can use; choose a pooled "
                "depth such as 'NODE:avg'"
            )
    return "+".join(specs)


def _part(file: Codes, n_folds: int, seed: int) -> tuple[Part, Protocol]:
    """Return the rows of the fit, as rows of the file, and the protocol.

    The protocol has no parts, which only a comparison needs; for many images they
    would take half a gigabyte.
    """
    rows, labelled = labelled_rows(file)
    protocol = plan(labelled, n_folds=n_folds, seed=seed)
    final = protocol.final
    part = Part(rows[final.train], rows[final.held], final.selection)
    return part, replace(protocol, parts=[final])


def _score(
    file: Codes,
    depth: str,
    classifier: str,
    estimator: Any,
    X: np.ndarray | CodesView,
    part: Part,
    protocol: str,
    cv_score: float,
    fit_seconds: float,
) -> Score | None:
    """Score the fit on the held-out rows, as `compare` does; None without any."""
    if not len(part.held):
        return None
    start = time.perf_counter()
    predicted = estimator.predict(X[part.held])
    probabilities = None
    if hasattr(estimator, "predict_proba"):
        probabilities = np.zeros((len(part.held), len(file.class_names)))
        # A column for every class, in which the true one is looked up.
        probabilities[:, estimator.classes_] = estimator.predict_proba(X[part.held])
    seconds = time.perf_counter() - start
    measures: dict[str, Any] = scores.judge(
        file.labels[part.held],
        predicted,
        probabilities,
        given_groups(np.asarray(file.groups)[part.held]),
    )
    return Score(
        codes=os.fspath(file.path),
        backbone=file.provenance["backbone"],
        weights=file.provenance["weights"],
        depth=depth,
        width=X.shape[1],
        classifier=classifier,
        C=estimator.C_,
        protocol=protocol,
        n_train=len(part.train),
        n_test=len(part.held),
        cv_accuracy=_number(cv_score),
        fit_seconds=fit_seconds,
        predict_seconds=seconds,
        # JSON has no nan.
        C_curve=[[c, _number(s)] for c, s in estimator.C_curve_.tolist()],
        warnings=list(estimator.warnings_),
        **measures,
    )


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
