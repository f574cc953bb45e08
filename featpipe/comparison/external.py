"""Scores from elsewhere (a fine-tuned network) that join the table and its tests."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from featpipe.scores import Score, read_json

__all__ = ["ExternalScore", "read_external"]


@dataclass(frozen=True, eq=False)
class ExternalScore:
    """A score read from a file, matched to the images of this comparison.

    Attributes
    ----------
    score : Score
        As it was written, but without the cross-validated score, which belongs to other
        images than those of the folds.
    at : (n_test,) int64
        Position among the judged images of each image it was judged on, sorted.
    predicted : (n_test,) str
        Class names in the order of ``at``.
    """

    score: Score
    at: np.ndarray
    predicted: np.ndarray


def read_external(
    files: Sequence[str | os.PathLike[str]],
    paths: Sequence[str],
    labels: Sequence[str],
    first_fold: Sequence[str] = (),
) -> list[ExternalScore]:
    """Read scores of the same held-out images.

    Parameters
    ----------
    files : sequence of path
        Score documents, as `featpipe.scores.write_json` writes them.
    paths, labels : sequence of str
        The judged images and the names of their classes.
    first_fold : sequence of str
        Where there is no split, the images of the first fold, which is what
        fine-tuning holds out then: such a score is paired on these images.

    Raises
    ------
    ValueError
        If a file is no such document, was judged on other images, or its accuracy is
        not that of its predictions under these labels.
    """
    position = {path: i for i, path in enumerate(paths)}
    truth = np.array(labels, object)
    external = []
    for file in files:
        name, scores = os.fspath(file), read_json(file)
        if not scores:
            raise ValueError(f"{name!r} holds no score; leave it out")
        external += [
            _line_up(score, name, position, truth, set(first_fold)) for score in scores
        ]
    return external


def _line_up(
    score: Score,
    file: str,
    position: dict[str, int],
    truth: np.ndarray,
    first_fold: set[str],
) -> ExternalScore:
    judged_on = set(score.test_paths)
    if not judged_on:
        raise ValueError(
            f"{file!r} does not tell which image was predicted as what; its score "
            "cannot be compared image by image"
        )
    # Without a split a fine-tuning is judged on the first fold alone: one training is
    # affordable, five are not.
    whole = judged_on == set(position)
    if len(judged_on) < len(score.test_paths) or not (whole or judged_on == first_fold):
        differ = sorted(judged_on ^ set(position))
        example = f", for example {differ[0]!r}" if differ else ""
        raise ValueError(
            f"{file!r} was judged on other images than this comparison "
            f"({len(score.test_paths)} against {len(position)}{example}); make it "
            "again with the same images, splits and seed"
        )
    at = np.array([position[path] for path in score.test_paths], np.int64)
    # In the order of this comparison, whatever the file's was.
    order = np.argsort(at)
    predicted = np.array(score.test_predicted, object)[order]
    at = at[order]
    # The predictions are judged by our labels; the stated accuracy only shows whether
    # they were judged by the same ones.
    accuracy = float((predicted == truth[at]).mean())
    # Half an image: other programs round, and another label changes a whole one.
    if abs(accuracy - score.accuracy) > 0.5 / len(at):
        raise ValueError(
            f"{file!r} claims accuracy {score.accuracy:.4f}, but under these labels "
            f"its predictions reach {accuracy:.4f}; make it again with the same labels"
        )
    warnings = list(score.warnings)
    if not whole:
        warnings.append(
            f"judged on the first fold only ({len(at)} of {len(position)} images), and "
            "compared on these"
        )
    if score.cv_accuracy is not None:
        warnings.append(
            f"its own cross-validated score, {100 * score.cv_accuracy:.1f} %, is of "
            "other images than the folds and is not compared"
        )
    if strange := sorted(set(predicted) - set(truth)):
        warnings.append(
            f"predicts {', '.join(map(repr, strange[:3]))}, which is no class of the "
            "judged images: always wrong"
        )
    score = replace(score, n_test=len(at), cv_accuracy=None, warnings=warnings)
    return ExternalScore(score, at, predicted)
