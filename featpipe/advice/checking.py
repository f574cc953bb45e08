"""`advise --check`: compare the advice with the probe on every depth."""

from __future__ import annotations

import os
from collections.abc import Callable

from scipy.stats import kendalltau

from featpipe.advice.advising import Advice, DepthScores
from featpipe.advice.lines import Line
from featpipe.codes import Codes
from featpipe.comparison import compare
from featpipe.scores import Score

__all__ = ["check_advice"]

_SCORES = {"logme": "LogME", "h_score": "H-score", "loo_accuracy": "leave-one-out"}


def check_advice(
    codes: Codes | str | os.PathLike[str],
    advice: Advice,
    *,
    device: str = "auto",
    seed: int = 0,
    progress: Callable[[int, int, str], None] | None = None,
) -> list[Line]:
    """Run the probe on every depth, and compare its order with the advice.

    Parameters
    ----------
    codes : Codes or path
        The codes that the advice is for.
    advice : Advice
    device, seed, progress
        As for `featpipe.compare`.

    Returns
    -------
    list of Line
        Whether the advised depth is the probe's first choice or tied with it, the rank
        agreement of each score with the probe's cross-validated accuracy, and whether
        the expected accuracy lies in the interval of the measured one.

    Raises
    ------
    ValueError
        As `featpipe.compare`.

    Examples
    --------
    >>> from featpipe.advice import advise, check_advice
    >>> lines = check_advice("flowers.h5", advise("flowers.h5"), device="cpu")
    >>> [line.what for line in lines]
    ['the advised depth', 'rank agreement', 'the expected accuracy']
    """
    comparison = compare(
        codes, classifiers=["logistic"], device=device, seed=seed, progress=progress
    )
    by_depth = {score.depth: score for score in comparison.scores}
    return [
        _verdict(advice, by_depth, comparison.recommended, comparison.test),
        _agreement(advice.depths, by_depth),
        _expectation(advice, by_depth),
    ]


def _verdict(
    advice: Advice, by_depth: dict[str, Score], first: Score, test: str
) -> Line:
    advised = by_depth[advice.depth]
    figures = (
        f"{100 * advised.accuracy:.1f} % against {100 * first.accuracy:.1f} % at "
        f"{first.depth}"
    )
    # A tied depth counts as right, since the data cannot tell the two apart.
    if advised.recommended:
        text = f"held: {advice.depth} is the probe's first choice too"
    elif advised.tied_with_recommended:
        text = (
            f"held: the probe prefers {first.depth}, but cannot tell it from "
            f"{advice.depth} ({figures}, p = {advised.p_value:.2g})"
        )
    else:
        text = f"did not hold: {figures} (p = {advised.p_value:.2g})"
    return Line("the advised depth", text, f"{first.classifier} probe; {test}")


def _agreement(depths: list[DepthScores], by_depth: dict[str, Score]) -> Line:
    # Of two depths, tau is 1 or -1 by chance.
    if len(depths) < 3:
        few = "one depth is" if len(depths) == 1 else "two depths are"
        text = f"{few} too few for a rank agreement"
    else:
        probe = [by_depth[scores.depth].cv_accuracy for scores in depths]
        taus = []
        for name, label in _SCORES.items():
            tau, _ = kendalltau([getattr(scores, name) for scores in depths], probe)
            taus.append(f"{label} {tau:.2f}")
        text = f"{', '.join(taus)} over {len(depths)} depths (1 is the same order)"
    return Line(
        "rank agreement", text, "Kendall's tau-b with the probe's cross-validated score"
    )


def _expectation(advice: Advice, by_depth: dict[str, Score]) -> Line:
    score = by_depth[advice.depth]
    expected = advice.best.loo_accuracy
    low, high = score.accuracy_low, score.accuracy_high
    # Leave-one-out of ridge estimates the accuracy of another classifier than the
    # probe, so that the two numbers need not be equal.
    verdict = "inside" if low <= expected <= high else "outside"
    return Line(
        "the expected accuracy",
        f"{100 * expected:.1f} % expected, {100 * score.accuracy:.1f} % "
        f"[{100 * low:.1f}, {100 * high:.1f}] measured on {score.n_test} images: "
        f"{verdict} the interval",
        "95 % interval of the measured accuracy",
    )
