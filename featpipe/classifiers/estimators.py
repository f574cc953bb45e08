"""`linear`, `svm` and `logistic`: three losses, three scikit-learn estimators."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.special import expit, softmax

from featpipe.classifiers.choosing import PathClassifier

__all__ = [
    "NAMES",
    "LinearClassifier",
    "LogisticClassifier",
    "SVMClassifier",
    "make",
]

_PARAMETERS = """

    Parameters
    ----------
    C : "auto" or float
        Weight of the loss against half the squared norm of the coefficients.
        ``"auto"`` chooses it from ``Cs`` by the mean metric over the folds; of equal
        scores the smaller C is chosen.
    Cs : sequence of float or None
        The grid; None is 45 values from 1e-6 to 1e5, evenly spaced in log.
    cv : int, splitter or iterable of (train, held-out)
        How rows are held out to choose C; an int is the number of stratified,
        shuffled folds.
    standardize : bool
        Whether each column is divided by its standard deviation (ddof 0, over
        the training rows of the fold; constant columns by 1).
    class_weight : dict, "balanced" or None
        Weight of each class in the loss; "balanced" is n / (n_classes * count),
        counted once over all rows given.
    metric : {"accuracy", "balanced_accuracy", "macro_f1"}
        The score that chooses C.
    device : str
        "auto" (a GPU where there is one), or the name of a device in torch.
    memory : int, str or None
        Bytes that solving may take beside X, or a text like "8GB". None is 1 GB.
    full_path : bool
        Whether to solve also the C that could hardly be chosen.
    tol : float
        The relative gap to the optimum to which every problem is solved.
    max_iter : int
        Passes over the codes that one problem may take at one C.
    random_state : int, RandomState or None
        Seed of the folds.

    Attributes
    ----------
    classes_ : (n_classes,)
    C_ : float
        The C used.
    Cs_ : (n_C,) float64
        The grid, ascending.
    C_curve_ : (n_C, 2) float64
        Each C and its mean metric over the folds; nan where C was given, or was not
        solved because it could hardly be chosen (docs/inside/solvers.md).
    cv_score_ : float
        The mean metric at ``C_``; nan where C was given.
    cv_predicted_ : (n,) or None
        Out-of-fold class of every row at ``C_``; None unless every row was held
        out exactly once.
    fold_fits_ : list of (coef, intercept)
        The fit of each fold at ``C_``; empty where C was given.
    coef_ : (n_classes, width) float64, or (1, width) for two classes
        Coefficients for the codes as given, not for standardised ones.
    intercept_ : (n_classes,) float64, or (1,) for two classes
    n_iter_ : int
        Passes over the codes of the last fit.
    converged_ : bool
        Whether every problem met ``tol``.
    n_features_in_ : int
    warnings_ : list of str
        Sentences about a C at the edge of the grid, problems that did not converge,
        and classes that are too small for all folds.
"""


class LinearClassifier(PathClassifier):  # noqa: D101 (it is built below)
    __doc__ = f"""Least squares on y = +1 and -1, one against the rest (ridge).

    Minimises ½‖W‖² + C Σ (y - f)² on standardised codes, f = Wx + b with b free:
    scikit-learn's RidgeClassifier with alpha = 1 / 2C.
    {_PARAMETERS}
    Examples
    --------
    >>> import numpy as np
    >>> from featpipe import LinearClassifier
    >>> X, y = np.random.default_rng(0).normal(size=(30, 4)), np.arange(30) % 3
    >>> model = LinearClassifier(device="cpu").fit(X, y)
    >>> model.coef_.shape, model.C_curve_.shape, model.predict(X).shape
    ((3, 4), (45, 2), (30,))
    """
    _loss = "linear"


class SVMClassifier(PathClassifier):  # noqa: D101 (it is built below)
    __doc__ = f"""Linear support vector machine, squared hinge, one against the rest.

    Minimises ½‖W‖² + C Σ max(0, 1 - y f)² on standardised codes, f = Wx + b with b
    free (LinearSVC of scikit-learn penalises b).
    {_PARAMETERS}
    Examples
    --------
    >>> import numpy as np
    >>> from featpipe import SVMClassifier
    >>> X, y = np.random.default_rng(0).normal(size=(30, 4)), np.arange(30) % 2
    >>> model = SVMClassifier(C=0.1, device="cpu").fit(X, y)
    >>> model.coef_.shape, model.decision_function(X).shape
    ((1, 4), (30,))
    """
    _loss = "svm"


class LogisticClassifier(PathClassifier):  # noqa: D101 (it is built below)
    __doc__ = f"""Multinomial logistic regression.

    Minimises ½‖W‖² + C Σ log-loss on standardised codes, f = Wx + b with b free:
    the objective of scikit-learn's LogisticRegression.
    {_PARAMETERS}
    Examples
    --------
    >>> import numpy as np
    >>> from featpipe import LogisticClassifier
    >>> X, y = np.random.default_rng(0).normal(size=(30, 4)), np.arange(30) % 3
    >>> model = LogisticClassifier(C=1.0, device="cpu").fit(X, y)
    >>> model.predict_proba(X).shape, bool(model.converged_)
    ((30, 3), True)
    """
    _loss = "logistic"

    def predict_proba(self, X: Any) -> np.ndarray:
        """Return the probability of every class.

        Parameters
        ----------
        X : (n, width) or a `BlockReader`

        Returns
        -------
        (n, n_classes) float64
        """
        values = self.decision_function(X)
        # Two classes have one score; its sigmoid keeps digits that a softmax of two
        # scores would lose.
        if values.ndim == 1:
            return np.column_stack([expit(-values), expit(values)])
        probabilities: np.ndarray = softmax(values, axis=1)
        return probabilities


NAMES: dict[str, type[PathClassifier]] = {
    "linear": LinearClassifier,
    "svm": SVMClassifier,
    "logistic": LogisticClassifier,
}


def make(name: str, **parameters: Any) -> PathClassifier:
    """Return an unfitted classifier by its name.

    Parameters
    ----------
    name : {"linear", "svm", "logistic"}
    **parameters
        Those of the class.

    Returns
    -------
    PathClassifier

    Raises
    ------
    ValueError
        If there is no classifier of that name.

    Examples
    --------
    >>> make("svm", C=0.1)
    SVMClassifier(C=0.1)
    """
    if name not in NAMES:
        raise ValueError(
            f"there is no classifier {name!r}; choose from {', '.join(NAMES)}"
        )
    return NAMES[name](**parameters)
