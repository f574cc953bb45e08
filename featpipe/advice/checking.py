"""`advise --check`: whether the probe orders the depths as the advice does."""

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
        The codes that were advised on.
    advice : Advice
    device, seed, progress
        As for `featpipe.compare`.

    Returns
    -------
    list of Line
        Whether the advised depth is the probe's first or tied with it, the rank
        agreement of each score with the probe's cross-validated order, and how near
        the expected accuracy came.

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
    # Tied is as good as first: the data cannot tell the two depths apart.
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
    # Two depths have only two orders, and tau is then 1 or -1 by chance.
    if len(depths) < 3:
        text = f"{len(depths)} depths are too few for a rank agreement"
    else:
        probe = [by_depth[each.depth].cv_accuracy for each in depths]
        taus = []
        for name, words in _SCORES.items():
            tau, _ = kendalltau([getattr(each, name) for each in depths], probe)
            taus.append(f"{words} {tau:.2f}")
        text = f"{', '.join(taus)} over {len(depths)} depths (1 is the same order)"
    return Line(
        "rank agreement", text, "Kendall's tau-b with the probe's cross-validated score"
    )


def _expectation(advice: Advice, by_depth: dict[str, Score]) -> Line:
    score = by_depth[advice.depth]
    expected = {each.depth: each for each in advice.depths}[advice.depth].loo_accuracy
    low, high = score.accuracy_low, score.accuracy_high
    # Leave-one-out by ridge is not the probe: within the interval is all that can be
    # asked.
    verdict = "inside" if low <= expected <= high else "outside"
    return Line(
        "the expected accuracy",
        f"{100 * expected:.1f} % expected, {100 * score.accuracy:.1f} % "
        f"[{100 * low:.1f}, {100 * high:.1f}] measured on {score.n_test} images: "
        f"{verdict} the interval",
        "95 % interval of the measured accuracy",
    )
