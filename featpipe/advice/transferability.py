"""Score how well codes transfer to new labels, without training a classifier.

Every score needs one eigendecomposition of the codes, about a second per depth. This
module uses neither files nor networks.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = ["h_score", "logme", "loo_predictions", "standardise"]

_GRID = 46  # values of the regularisation that are tried before the best is refined
_REFINEMENTS = 40  # golden sections, to 1e-8 of a grid step
_GOLDEN = (np.sqrt(5) - 1) / 2


@dataclass(frozen=True, eq=False)
class _Spectrum:
    """Singular values and left singular vectors of codes.

    Attributes
    ----------
    squares : (rank,) float64
        Squared singular values, all above rounding.
    vectors : (n, rank) float64
        Left singular vectors.
    width : int
        Columns of the codes.
    """

    squares: np.ndarray
    vectors: np.ndarray
    width: int

    @classmethod
    def of(cls, X: np.ndarray) -> _Spectrum:
        n, width = X.shape
        # The smaller of the two Gram matrices has the same eigenvalues above zero.
        gram = X.T @ X if width <= n else X @ X.T
        squares, vectors = np.linalg.eigh(gram)
        # The threshold of numpy's matrix_rank: smaller values are rounding errors.
        noise = max(n, width) * np.finfo(np.float64).eps * squares.max(initial=0)
        kept = squares > max(noise, 0)
        squares, vectors = squares[kept], vectors[:, kept]
        if width <= n:
            # Left singular vectors from the right ones, without another decomposition.
            vectors = (X @ vectors) / np.sqrt(squares)
        return cls(squares, vectors, width)


def logme(X: np.ndarray, y: np.ndarray) -> float:
    """Return the log of maximum evidence of codes for labels, per image [1]_.

    Each class is a Bayesian linear regression of its 0/1 indicator on the codes. Its
    evidence is maximised over the precisions of the weights and of the noise, and then
    averaged over the classes. Given the ratio of the two precisions, that of the noise
    has a closed form. So the maximum is searched over the ratio alone, and not by the
    paper's fixed-point iteration, which may stop early.

    Parameters
    ----------
    X : (n, width) float
        Codes, used as they are.
    y : (n,) int64
        Class numbers.

    Returns
    -------
    float
        In nats; higher is better. Comparable between codes of the same images only.

    Raises
    ------
    ValueError
        If there are fewer than two classes, or codes are not finite.

    References
    ----------
    .. [1] K. You, Y. Liu, J. Wang and M. Long, "LogME: Practical Assessment of
       Pre-trained Models for Transfer Learning", ICML 2021, equations 2 and 3.

    Examples
    --------
    >>> y = np.array([0, 0, 1, 1])
    >>> good, bad = np.array([[0.], [0.1], [1.], [1.]]), np.array([[0.], [1], [0], [1]])
    >>> logme(good, y) > logme(bad, y)
    True
    """
    X, indicators = _checked(X, y)
    return float(_evidence(_Spectrum.of(X), indicators)[0].mean())


def h_score(X: np.ndarray, y: np.ndarray, *, shrinkage: bool = True) -> float:
    """Return the H-score: between-class variance of codes over their variance [1]_.

    Parameters
    ----------
    X : (n, width) float
        Codes; the score does not depend on their mean.
    y : (n,) int64
        Class numbers.
    shrinkage : bool
        Shrink the covariance towards a multiple of the identity by Ledoit and Wolf's
        closed form [2]_. Without it, all codes that are at least as wide as there are
        images get the highest score, n_classes − 1.

    Returns
    -------
    float
        Between 0 and n_classes − 1; higher is better.

    Raises
    ------
    ValueError
        If there are fewer than two classes, or codes are not finite.

    References
    ----------
    .. [1] Y. Bao et al., "An information-theoretic approach to transferability in task
       transfer learning", ICIP 2019.
    .. [2] S. Ibrahim, N. Ponomareva and R. Mazumder, "Newer is not always better:
       Rethinking transferability metrics, their peculiarities, stability and
       performance", ECML PKDD 2022.

    Examples
    --------
    >>> X, y = np.array([[0.], [0.], [1.], [1.]]), np.array([0, 0, 1, 1])
    >>> h_score(X, y, shrinkage=False)
    1.0
    """
    X, indicators = _checked(X, y)
    # In place: `_checked` has made a copy.
    X -= X.mean(axis=0)
    spectrum = _Spectrum.of(X)
    eigenvalues = spectrum.squares / len(X)
    # Class means in the basis of right singular vectors, weighted by class size.
    sums = (spectrum.vectors * np.sqrt(spectrum.squares)).T @ indicators
    between = (sums**2 / indicators.sum(axis=0)).sum(axis=1) / len(X)
    if not shrinkage:
        return float((between / eigenvalues).sum())
    amount = _ledoit_wolf(X, eigenvalues)
    shrunk = (1 - amount) * eigenvalues + amount * eigenvalues.sum() / X.shape[1]
    return float(((1 - amount) * between / shrunk).sum())


def loo_predictions(X: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Predict each image by a ridge regression fitted on all the others.

    The regularisation maximises the evidence of all classes together (`logme` has one
    for each class). Leaving one image out has a closed form [1]_, so that all n fits
    need one decomposition. Codes are standardised, and the intercept is not penalised.

    Parameters
    ----------
    X : (n, width) float
        Codes.
    y : (n,) int64
        Class numbers.

    Returns
    -------
    (n,) int64
        The predicted class of each image.

    Raises
    ------
    ValueError
        If there are fewer than two classes, or codes are not finite.

    References
    ----------
    .. [1] D. M. Allen, "The relationship between variable selection and data
       augmentation and a method for prediction", Technometrics 16, 1974 (PRESS).

    Examples
    --------
    >>> X = np.array([[0.], [0.1], [0.2], [1.], [1.1], [1.2]])
    >>> loo_predictions(X, np.array([0, 0, 0, 1, 1, 1])).tolist()
    [0, 0, 0, 1, 1, 1]
    """
    X, indicators = _checked(X, y)
    X = standardise(X)
    means = indicators.mean(axis=0)
    spectrum = _Spectrum.of(X)
    ratios = _evidence(spectrum, indicators - means, shared=True)[1]
    shrink = spectrum.squares[:, None] / (spectrum.squares[:, None] + ratios)
    projected = spectrum.vectors.T @ indicators
    fitted = means + spectrum.vectors @ (shrink * projected)
    leverage = spectrum.vectors**2 @ shrink + 1 / len(X)
    # The identity of PRESS (Allen 1974). An image of leverage 1 alone decides its own
    # prediction; the bound avoids a division by zero.
    left_out = indicators - (indicators - fitted) / np.maximum(1 - leverage, 1e-12)
    predicted: np.ndarray = np.unique(y)[left_out.argmax(axis=1)]
    return predicted


def standardise(X: np.ndarray) -> np.ndarray:
    """Scale each column to mean 0 and standard deviation 1; constant ones to 0."""
    X = np.asarray(X, np.float64)
    scale = X.std(axis=0)
    standardised: np.ndarray = (X - X.mean(axis=0)) / np.where(scale > 0, scale, 1)
    return standardised


def _checked(X: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the codes as a float64 copy, and a 0/1 column for each class."""
    X, y = np.array(X, np.float64), np.asarray(y)
    classes = np.unique(y)
    if X.ndim != 2 or y.shape != (len(X),) or len(classes) < 2:
        raise ValueError(
            f"transferability needs (n, width) codes and n labels of at least two "
            f"classes, got {X.shape} codes and {y.shape} labels of {len(classes)}"
        )
    if not np.isfinite(X).all():
        raise ValueError("codes hold nan or infinity; `featpipe verify` names the row")
    return X, (y[:, None] == classes).astype(np.float64)


def _evidence(
    spectrum: _Spectrum, Y: np.ndarray, *, shared: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Maximise the evidence of each column of targets, or of all at one shared ratio.

    Returns
    -------
    evidence : (n_columns,) float64
        Per image.
    ratios : (n_columns,) float64
        Precision of the weights over that of the noise: ridge's penalty.
    """
    n = len(Y)
    projected = (spectrum.vectors.T @ Y) ** 2  # (rank, n_columns)
    unreachable = np.maximum((Y**2).sum(axis=0) - projected.sum(axis=0), 0)
    squares, rank = spectrum.squares[:, None], len(spectrum.squares)

    def at(log_ratio: np.ndarray) -> np.ndarray:
        ratio = np.exp(log_ratio)
        misfit = unreachable + (projected * (ratio / (squares + ratio))).sum(axis=0)
        noise_precision = n / np.maximum(misfit, np.finfo(np.float64).tiny)
        # The determinant of ratio * I + X'X. Of its eigenvalues, width − rank equal the
        # ratio; they cancel against those of the prior.
        log_det = np.log(squares + ratio).sum(axis=0) - rank * log_ratio
        evidence = (n * (np.log(noise_precision / (2 * np.pi)) - 1) - log_det) / (2 * n)
        return np.full_like(evidence, evidence.mean()) if shared else evidence

    # Relative to the largest eigenvalue, so that the grid fits codes of any scale.
    top = np.log(spectrum.squares.max(initial=1.0))
    # A grid comes before the golden sections, since there may be several maxima.
    grid = np.linspace(top - 30, top + 15, _GRID)
    best = np.argmax([at(np.full(Y.shape[1], value)) for value in grid], axis=0)
    low = grid[np.maximum(best - 1, 0)]
    high = grid[np.minimum(best + 1, _GRID - 1)]
    for _ in range(_REFINEMENTS):
        left, right = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
        go_left = at(left) > at(right)
        low, high = np.where(go_left, low, left), np.where(go_left, right, high)
    middle = (low + high) / 2
    return at(middle), np.exp(middle)


def _ledoit_wolf(centred: np.ndarray, eigenvalues: np.ndarray) -> float:
    """Return Ledoit and Wolf's shrinkage, as `sklearn.covariance` defines it.

    scikit-learn's function needs the (width, width) covariance; here the norm comes
    from the eigenvalues.
    """
    n, width = centred.shape
    mean = eigenvalues.sum() / width
    norm = (eigenvalues**2).sum()
    fourth = ((centred**2).sum(axis=1) ** 2).sum() / n
    distance = norm / width - mean**2
    # At most full shrinkage, as in scikit-learn.
    error = min((fourth - norm) / (width * n), distance)
    return 0.0 if error <= 0 else float(error / distance)
