"""Time the whole path of C, and measure how far each solution is from the optimum.

    python benchmarks/sweep.py                    # digits, so that it runs anywhere
    python benchmarks/sweep.py codes.npz          # arrays "codes" and "labels"
    python benchmarks/sweep.py codes.h5 --depth features.12:avg --classes 10

Every classifier fits 45 C x 5 folds and refits. Rivals are timed in the same run on the
first fold: single fits at a few C, and the time of all fits with that of one linear in
log C between them and constant beyond (marked as extrapolated). RidgeClassifier is run
in full by GridSearchCV. Pieces: --classifiers, --rivals, --fit-C, --gaps.
"""

from __future__ import annotations

import argparse
import os
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import gaps
import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

from featpipe import classifiers, codes

# scikit-learn reads this when scipy first meets torch tensors.
os.environ.setdefault("SCIPY_ARRAY_API", "1")
GRID = np.logspace(-6, 5, 45)
N_FOLDS = 5


class Seconds(NamedTuple):
    """Wall-clock and processor seconds of one call."""

    wall: float
    cpu: float


def main(argv: list[str] | None = None) -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("codes", nargs="?", help=".npz or .h5; digits if left out")
    parser.add_argument("--depth", default="penultimate", help="of an .h5 file, or a+b")
    parser.add_argument("--split", default="train", help="of an .h5 file; '' for none")
    parser.add_argument("--rows", type=int, help="use that many rows, drawn at random")
    parser.add_argument("--classes", type=int, help="merge neighbouring classes")
    parser.add_argument("--classifiers", default="linear,svm,logistic")
    parser.add_argument("--fit-C", default="1e-4,1e-2,1", help="C of the timed fits")
    parser.add_argument(
        "--rivals", default="sklearn", help="sklearn,tensor,torch or ''"
    )
    parser.add_argument("--gaps", action="store_true", help="true gaps at every 4th C")
    parser.add_argument("--gap-rows", type=int, default=1000)
    parser.add_argument("--gap-sets", default="", help="some of the sets; default all")
    parser.add_argument("--device", default="auto", help="where featpipe solves")
    parser.add_argument("--full-path", action="store_true", help="solve every C")
    parser.add_argument("--no-sweep", action="store_true", help="rivals or gaps alone")
    options = parser.parse_args(argv)
    X, y = load(
        options.codes, options.depth, options.split, options.rows, options.classes
    )
    print(f"{X.shape[0]} rows x {X.shape[1]}, {y.max() + 1} classes", flush=True)
    print_limit(X, y)
    rivals = [name for name in options.rivals.split(",") if name]
    Cs = [float(C) for C in options.fit_C.split(",") if C]
    for name in options.classifiers.split(","):
        if not options.no_sweep:
            ours = sweep(name, X, y, options.device, full_path=options.full_path)
            for rival in rivals:
                compare(name, rival, X, y, Cs, ours)
        if options.gaps:
            rows = slice(options.gap_rows)
            gaps.report(name, X[rows], y[rows], options.gap_sets.split(","))


def load(
    path: str | None,
    depth: str,
    split: str,
    n_rows: int | None,
    n_classes: int | None,
) -> tuple[np.ndarray, np.ndarray]:
    """Return float32 codes and class numbers, shuffled."""
    if path is None:
        X, y = load_digits(return_X_y=True)
    elif path.endswith(".npz"):
        file = np.load(path)
        X, y = file["codes"], file["labels"]
    else:
        X, y = codes.read(path).arrays(depth, split or None)
    X, y = X[y >= 0], np.unique(y[y >= 0], return_inverse=True)[1]
    if n_classes:
        y = y * n_classes // (y.max() + 1)
    order = np.random.default_rng(0).permutation(len(y))[:n_rows]
    return np.ascontiguousarray(X[order], np.float32), y[order].astype(np.int64)


def print_limit(X: np.ndarray, y: np.ndarray) -> None:
    """Print how fast this machine multiplies, and what one pass takes at that rate."""
    a, b = torch.rand(2048, 2048), torch.rand(2048, 2048)
    rate = max(2 * 2048**3 / timed(torch.mm, a, b)[1].wall for _ in range(10))
    n_columns = N_FOLDS * (y.max() + 1 if y.max() > 1 else 1)
    # Forward and back, two operations each; a fold leaves out its own rows.
    operations = 4 * X.size * n_columns * (N_FOLDS - 1) / N_FOLDS
    print(
        f"float32 products: {rate / 1e9:.0f} GFLOP/s; one pass of all folds is "
        f"{operations / 1e9:.1f} GFLOP, {operations / rate:.3f} s at that rate, "
        f"and reads {X.nbytes / 1e9:.2f} GB",
        flush=True,
    )


def timed(call: Callable[..., Any], *given_to: Any) -> tuple[Any, Seconds]:
    """Call, and give what it gave and how long it took."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = call(*given_to)
    return result, Seconds(time.perf_counter() - wall, time.process_time() - cpu)


def sweep(
    name: str, X: np.ndarray, y: np.ndarray, device: str, *, full_path: bool
) -> Seconds:
    """Fit with C chosen from the whole grid."""
    before = peak_bytes()
    model = classifiers.make(name, device=device, full_path=full_path)
    model, seconds = timed(lambda: model.fit(X, y))
    n_evaluated = int(np.isfinite(model.C_curve_[:, 1]).sum())
    print(
        f"{name:9} featpipe on {device}, {n_evaluated} C x {N_FOLDS} folds + refit: "
        f"{seconds.wall:.1f} s ({seconds.cpu:.1f} s of processor), C={model.C_:.2g}, "
        f"cv {model.cv_score_:.4f}, converged {model.converged_}, "
        f"peak memory +{(peak_bytes() - before) / 1e9:.2f} GB",
        flush=True,
    )
    return seconds


def peak_bytes() -> int:
    """Return the largest memory this process has held; 0 where Linux is not there."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return sum(1024 * int(line.split()[1]) for line in lines if "VmHWM" in line)


def compare(
    name: str, rival: str, X: np.ndarray, y: np.ndarray, Cs: list[float], ours: Seconds
) -> None:
    """Time a rival: single fits at these C, or the whole search for ridge."""
    if (name, rival) == ("linear", "sklearn"):
        search_ridge(X, y, ours)
        return
    fit = RIVALS.get((name, rival))
    if fit is None:
        return
    folds = StratifiedKFold(N_FOLDS, shuffle=True, random_state=0)
    train, held_out = next(folds.split(X, y))
    scaler = StandardScaler().fit(X[train])
    rows, others = scaler.transform(X[train]), scaler.transform(X[held_out])
    taken = []
    for C in Cs:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            predict, seconds = timed(lambda C=C: fit(rows, y[train], C))
        taken.append(seconds)
        accuracy = (np.asarray(predict(others)) == y[held_out]).mean()
        mine = classifiers.make(name, C=C).fit(X[train], y[train])
        print(
            f"{'':9} {rival}, C={C:g}: {seconds.wall:.1f} s ({seconds.cpu:.1f}), "
            f"held-out accuracy {accuracy:.4f}, featpipe's "
            f"{(mine.predict(X[held_out]) == y[held_out]).mean():.4f}",
            flush=True,
        )
    report(f"{rival}, extrapolated", extrapolated(Cs, taken), ours)


def extrapolated(Cs: list[float], taken: list[Seconds]) -> Seconds:
    """Return the seconds of all fits, the time of one being linear in log C."""
    logs = np.log(GRID), np.log(Cs)
    wall, cpu = (
        N_FOLDS * np.interp(*logs, part).sum() + 1.25 * np.mean(part)
        for part in zip(*taken, strict=True)
    )
    return Seconds(float(wall), float(cpu))


def search_ridge(X: np.ndarray, y: np.ndarray, ours: Seconds) -> None:
    """Run GridSearchCV over RidgeClassifier in full."""
    folds = StratifiedKFold(N_FOLDS, shuffle=True, random_state=0)
    grid = {"ridgeclassifier__alpha": 0.5 / GRID}
    pipeline = make_pipeline(StandardScaler(), RidgeClassifier())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        search, seconds = timed(GridSearchCV(pipeline, grid, cv=folds).fit, X, y)
    best = 0.5 / search.best_params_["ridgeclassifier__alpha"]
    print(f"{'':9} GridSearchCV: C={best:.2g}, cv {search.best_score_:.4f}")
    report("GridSearchCV over RidgeClassifier", seconds, ours)


def report(what: str, theirs: Seconds, ours: Seconds) -> None:
    """Print the times of the whole sweep and their ratios."""
    print(
        f"{'':9} {what}: {theirs.wall:.0f} s ({theirs.cpu:.0f} of processor): "
        f"{theirs.wall / ours.wall:.0f} x by the clock, "
        f"{theirs.cpu / ours.cpu:.0f} x by the processor",
        flush=True,
    )


Predict = Callable[[np.ndarray], Any]


def fit_tensor(X: np.ndarray, y: np.ndarray, C: float) -> Predict:
    """scikit-learn's LogisticRegression on torch tensors."""
    from sklearn import config_context

    with config_context(array_api_dispatch=True):
        model = LogisticRegression(C=C, max_iter=1000)
        model.fit(torch.from_numpy(X), torch.from_numpy(y))

    def predict(rows: np.ndarray) -> np.ndarray:
        with config_context(array_api_dispatch=True):
            return np.asarray(model.predict(torch.from_numpy(rows)))

    return predict


def fit_torch(X: np.ndarray, y: np.ndarray, C: float) -> Predict:
    """Torch's stock L-BFGS with a strong Wolfe search."""
    rows, labels = torch.from_numpy(X), torch.from_numpy(y)
    layer = torch.nn.Linear(X.shape[1], int(y.max()) + 1)
    torch.nn.init.zeros_(layer.weight)
    torch.nn.init.zeros_(layer.bias)
    search = torch.optim.LBFGS(
        layer.parameters(), max_iter=1000, line_search_fn="strong_wolfe"
    )

    def value() -> torch.Tensor:
        search.zero_grad()
        loss = torch.nn.functional.cross_entropy(layer(rows), labels)
        loss = loss + layer.weight.square().sum() / (2 * C * len(rows))
        loss.backward()
        return loss

    search.step(value)
    return lambda others: layer(torch.from_numpy(others)).argmax(1).numpy()


RIVALS: dict[tuple[str, str], Callable[[np.ndarray, np.ndarray, float], Predict]] = {
    ("svm", "sklearn"): lambda X, y, C: LinearSVC(C=C, dual="auto").fit(X, y).predict,
    ("logistic", "sklearn"): lambda X, y, C: (
        LogisticRegression(C=C, max_iter=1000).fit(X, y).predict
    ),
    ("logistic", "tensor"): fit_tensor,
    ("logistic", "torch"): fit_torch,
}


if __name__ == "__main__":
    main()
