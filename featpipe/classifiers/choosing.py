"""The base of the three classifiers: choose C and fit, for any loss.

This module checks X and y, weighs rows and classes, chooses C from out-of-fold
predictions, and predicts. `folding` makes the folds, and :mod:`featpipe.solvers`, which
is imported only inside ``fit``, optimises.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import column_or_1d
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import (
    _check_sample_weight,
    check_is_fitted,
    validate_data,
)

from featpipe.classifiers.checking import check_parameters, is_reader
from featpipe.classifiers.folding import (
    C_WITHOUT_FOLDS,
    Split,
    in_row_order,
    make_folds,
)
from featpipe.classifiers.measures import Labels, class_weights, make_judge
from featpipe.defaults import C_GRID, N_FOLDS

if TYPE_CHECKING:
    from featpipe import solvers

__all__ = ["PathClassifier"]

# Bytes of float32 that are read at once when predicting.
BLOCK_BYTES = 16 * 2**20
# With larger coefficients a score might overflow single precision.
LARGE = 1e18


class FitProblem(NamedTuple):
    """The problem that one fit solves, its options, and its labels."""

    problem: solvers.Problem
    options: solvers.Options
    labels: Labels


class PathClassifier(ClassifierMixin, BaseEstimator):
    """The base of the three classifiers; each adds its loss."""

    _loss = ""

    def __init__(
        self,
        C: float | str = "auto",
        *,
        Cs: Sequence[float] | None = None,
        cv: Any = N_FOLDS,
        standardize: bool = True,
        class_weight: dict[Any, float] | str | None = None,
        metric: str = "accuracy",
        device: str = "auto",
        memory: int | str | None = None,
        full_path: bool = False,
        tol: float = 1e-4,
        max_iter: int = 1000,
        random_state: int | np.random.RandomState | None = 0,
    ) -> None:
        # Stored unchanged, since scikit-learn's `clone` compares them by identity.
        self.C = C
        self.Cs = Cs
        self.cv = cv
        self.standardize = standardize
        self.class_weight = class_weight
        self.metric = metric
        self.device = device
        self.memory = memory
        self.full_path = full_path
        self.tol = tol
        self.max_iter = max_iter
        self.random_state = random_state

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> PathClassifier:
        """Choose C where it is ``"auto"``, then fit on all rows.

        Parameters
        ----------
        X : (n, width) float32 or float64, or a `BlockReader`
            The codes.
        y : (n,)
            The classes, of any type that scikit-learn accepts.
        sample_weight : (n,) or None
            Weight of each row in the loss, the standardisation and the metric.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            If X or y is not usable, if y holds fewer than two classes, or if a
            parameter is out of its range.
        """
        from featpipe import solvers

        job = self._prepare(X, y, sample_weight)
        # The final fit uses the standardised rows and their basis again.
        with solvers.share_codes():
            return self._refit(job, self._choose(job))

    def _prepare(self, X: Any, y: Any, sample_weight: Any = None) -> FitProblem:
        """Check the arguments, and return the problem to solve."""
        from featpipe import solvers

        check_parameters(self)
        X, y = self._check_codes(X, y)
        labels = self._check_labels(X, y, sample_weight)
        self.classes_ = labels.classes
        self.warnings_: list[str] = []
        problem = solvers.Problem(
            codes=X,
            labels=labels.numbers,
            n_classes=len(labels.classes),
            loss=self._loss,
            weights=labels.loss,
            row_weights=labels.rows,
            standardize=self.standardize,
        )
        options = solvers.Options(
            tol=self.tol,
            max_passes=self.max_iter,
            device=self.device,
            memory=self.memory,
            full_path=self.full_path,
        )
        return FitProblem(problem, options, labels)

    def _refit(
        self,
        job: FitProblem,
        path: solvers.Path | None = None,
        splits: Sequence[int] | None = None,
    ) -> PathClassifier:
        """Fit at ``C_`` on all rows, starting from the fits of a path's splits."""
        from featpipe import solvers

        start = None
        # Least squares has a closed form, which needs no start.
        if path is not None and self._loss != "linear":
            start = path.start(self._best, splits)
        solution = solvers.solve(job.problem, self.C_, options=job.options, start=start)
        self.coef_ = solution.coef
        self.intercept_ = solution.intercept
        self.n_iter_ = solution.n_passes
        if not solution.converged:
            self._report_gap(solution.gap)
        self.converged_ = solution.converged and self._path_converged
        return self

    def decision_function(self, X: Any) -> np.ndarray:
        """Return the score of every class; with two classes, that of the second.

        Parameters
        ----------
        X : (n, width) or a `BlockReader`

        Returns
        -------
        (n, n_classes) float64, or (n,) for two classes
        """
        check_is_fitted(self)
        if is_reader(X):
            kind = np.float32 if np.dtype(X.dtype).itemsize <= 4 else np.float64
            n_rows, step = X.shape[0], max(64, BLOCK_BYTES // (4 * X.shape[1]))
            blocks = (X.rows(i, min(i + step, n_rows)) for i in range(0, n_rows, step))
            return np.concatenate(
                [self.decision_function(block.astype(kind)) for block in blocks]
            )
        X = validate_data(self, X, dtype=[np.float64, np.float32], reset=False)
        values = self._scores(X)
        return values[:, 0] if values.shape[1] == 1 else values

    def _scores(self, X: np.ndarray) -> np.ndarray:
        """Return X @ coef + intercept, in a precision that holds them."""
        # Columns of tiny scale have huge coefficients, which can overflow float32.
        largest = np.abs(self.coef_).max(initial=0.0)
        if largest > LARGE or X.dtype == np.float64:
            X = X.astype(np.float64, copy=False)
        # An overflow becomes infinity, which raises a clear error below.
        with np.errstate(over="ignore", invalid="ignore"):
            values: np.ndarray = X @ self.coef_.T.astype(X.dtype) + self.intercept_
        if not np.isfinite(values).all():
            raise ValueError(
                "some scores are infinite: X is on another scale than the codes that "
                "this classifier was fitted to; give codes of the same recipe"
            )
        return values

    def predict(self, X: Any) -> np.ndarray:
        """Return the class of every row.

        Parameters
        ----------
        X : (n, width) or a `BlockReader`

        Returns
        -------
        (n,) of the type of ``classes_``
        """
        values = self.decision_function(X)
        # Two classes have one column of scores, that of the second.
        numbers = values > 0 if values.ndim == 1 else values.argmax(axis=1)
        predicted: np.ndarray = self.classes_[numbers.astype(int)]
        return predicted

    def _check_codes(self, X: Any, y: Any) -> tuple[Any, np.ndarray]:
        if not is_reader(X):
            checked: tuple[Any, np.ndarray] = validate_data(
                self, X, y, dtype=[np.float64, np.float32]
            )
            return checked
        y = column_or_1d(y)
        if len(y) != X.shape[0]:
            raise ValueError(
                f"the codes have {X.shape[0]} rows but y has {len(y)} labels; "
                "give one label a row"
            )
        self.n_features_in_ = int(X.shape[1])
        return X, y

    def _check_labels(self, X: Any, y: np.ndarray, sample_weight: Any) -> Labels:
        check_classification_targets(y)
        classes, numbers = np.unique(y, return_inverse=True)
        rows = np.ones(len(y))
        if sample_weight is not None:
            # scikit-learn's check needs a matrix of as many rows, which a reader does
            # not have in memory.
            placeholder = np.zeros((len(y), 1))
            rows = _check_sample_weight(sample_weight, placeholder, dtype=np.float64)
            if (rows < 0).any():
                raise ValueError(
                    f"sample_weight has a negative value, {rows.min()!r}; "
                    "weights are zero or more"
                )
        mass = np.bincount(numbers, rows, minlength=len(classes))
        # A class of weight zero cannot be learned, so it does not count.
        if np.count_nonzero(mass) < 2:
            raise ValueError(
                f"y holds {np.count_nonzero(mass)} class of non-zero weight "
                f"({classes[:1].tolist()!r}); a classifier needs at least two classes"
            )
        loss = rows * class_weights(self.class_weight, classes, mass)[numbers]
        return Labels(classes, numbers, rows, loss)

    def _grid(self) -> np.ndarray:
        grid = np.array(C_GRID) if self.Cs is None else self.Cs
        return np.unique(np.asarray(grid, np.float64))

    def _choose(self, job: FitProblem) -> solvers.Path | None:
        """Set ``C_`` and the attributes of its choice; return the path, if any."""
        from featpipe import solvers

        labels = job.labels
        self._path_converged = True
        self.fold_fits_: list[solvers.Start] = []
        self.cv_score_ = float("nan")
        self.cv_predicted_: np.ndarray | None = None
        if self.C != "auto":
            self.C_ = float(self.C)
            self.Cs_ = np.array([self.C_])
            self.C_curve_ = np.array([[self.C_, np.nan]])
            return None
        self.Cs_ = self._grid()
        splits, notes = make_folds(self.cv, labels, self.random_state)
        self.warnings_ += notes
        if not splits:
            self.C_ = C_WITHOUT_FOLDS
            self.C_curve_ = np.column_stack([self.Cs_, np.full(len(self.Cs_), np.nan)])
            return None
        judge = make_judge(
            labels,
            [(k, np.arange(len(held)), held) for k, (_, held) in enumerate(splits)],
            self.metric,
        )
        path = solvers.solve_path(
            job.problem, self.Cs_, splits, judges=[judge], options=job.options
        )
        self._choose_from(labels, splits, judge, path.gaps)
        self.fold_fits_ = [path.start(self._best, [k]) for k in range(len(splits))]
        return path

    def _choose_from(
        self,
        labels: Labels,
        splits: list[Split],
        judge: solvers.Judge,
        gaps: np.ndarray,
    ) -> None:
        """Set ``C_`` and the attributes of its choice from the scores of a judge.

        ``gaps`` are (n_splits, n_C), nan where a C was not solved to its minimum.
        """
        self.Cs_ = self._grid()
        curve = np.full(len(self.Cs_), np.nan)
        for position, score in judge.scores.items():
            if not np.isnan(gaps[:, position]).any():
                curve[position] = score
        best = self._best = judge.best
        self.C_ = float(self.Cs_[best])
        self.C_curve_ = np.column_stack([self.Cs_, curve])
        self.cv_score_ = float(curve[best])
        edges = np.cumsum([len(held) for _, held in splits])[:-1]
        predicted = np.split(judge.predicted[best], edges)
        numbers = in_row_order(splits, predicted)
        self.cv_predicted_ = None if numbers is None else self.classes_[numbers]
        self._report_edge(best)
        self._report_skipped(int(np.isnan(curve).sum()))
        self._path_converged = bool(np.nanmax(gaps) <= self.tol)
        if not self._path_converged:
            self._report_gap(np.nanmax(gaps))

    def _report_edge(self, best: int) -> None:
        if len(self.Cs_) > 1 and best in (0, len(self.Cs_) - 1):
            edge = "smallest" if best == 0 else "largest"
            self.warnings_.append(
                f"the chosen C={self.C_:.3g} is the {edge} of the grid; "
                "a wider grid may do better"
            )

    def _report_skipped(self, n_skipped: int) -> None:
        if n_skipped:
            self.warnings_.append(
                f"{n_skipped} of {len(self.Cs_)} values of C were not solved to the "
                "end, because their scores showed that they would not be chosen"
            )

    def _report_gap(self, gap: float) -> None:
        message = (
            f"not converged after {self.max_iter} passes: relative gap {gap:.1e} "
            f"instead of {self.tol:.0e}; raise max_iter or tol"
        )
        self.warnings_.append(message)
        if not any("not converged" in text for text in self.warnings_[:-1]):
            warnings.warn(message, ConvergenceWarning, stacklevel=4)
