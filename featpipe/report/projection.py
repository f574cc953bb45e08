"""Project codes onto a plane, for the map."""

from __future__ import annotations

import os
from importlib.util import find_spec

import numpy as np
from sklearn.decomposition import PCA

__all__ = ["MOST_POINTS", "project", "sample_rows"]

MOST_POINTS = 5000
"""Most images on the map: t-SNE takes half a minute for them."""

_COMPONENTS = 50  # usual for t-SNE (van der Maaten and Hinton 2008)
_PERPLEXITY = 30


def sample_rows(n: int, *, seed: int = 0) -> np.ndarray:
    """Draw at most `MOST_POINTS` of ``n`` rows, in ascending order."""
    if n <= MOST_POINTS:
        return np.arange(n)
    return np.sort(np.random.default_rng(seed).choice(n, MOST_POINTS, replace=False))


def project(X: np.ndarray, *, seed: int = 0) -> tuple[np.ndarray, str]:
    """Project codes onto a plane on which near codes stay near.

    Codes are standardised and reduced to 50 principal components. UMAP then projects
    them where the package ``umap`` is installed, else t-SNE [1]_. Fewer than 10 images
    are shown by their first two principal components.

    Parameters
    ----------
    X : (n, width) float
        At least one code.
    seed : int
        The same seed gives the same points.

    Returns
    -------
    points : (n, 2) float64
    name : str
        The method.

    References
    ----------
    .. [1] L. van der Maaten and G. Hinton, "Visualizing data using t-SNE", JMLR 9,
       2008.
    """
    X = np.asarray(X, np.float32)
    scale = X.std(axis=0)
    X = (X - X.mean(axis=0)) / np.where(scale > 0, scale, 1)
    n = len(X)
    if n < 10:
        points = np.zeros((n, 2))
        n_components = min(2, n, X.shape[1])
        if n > 1:
            points[:, :n_components] = PCA(n_components).fit_transform(X)
        return points, "principal components"
    # In thousands of columns, distances are slow and dominated by noise.
    reduced = PCA(min(_COMPONENTS, n - 1, X.shape[1]), random_state=seed).fit_transform(
        X
    )
    if find_spec("umap"):
        from umap import UMAP

        points = UMAP(random_state=seed, n_jobs=1).fit_transform(reduced)
        return np.asarray(points, np.float64), "UMAP of 50 principal components"
    from sklearn.manifold import TSNE

    # t-SNE needs three times as many neighbours as its perplexity.
    perplexity = min(_PERPLEXITY, (n - 1) / 3)
    tsne = TSNE(
        perplexity=perplexity,
        init="pca",
        learning_rate="auto",
        random_state=seed,
        n_jobs=os.cpu_count(),
    )
    points = tsne.fit_transform(reduced)
    return (
        np.asarray(points, np.float64),
        f"t-SNE of {reduced.shape[1]} principal components, perplexity "
        f"{perplexity:.0f}, seed {seed}",
    )
