"""`CNNCodes`: extraction as a scikit-learn transformer.

This module follows scikit-learn's contract; `cache` stores codes, and `inference`
computes them.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.base import (
    BaseEstimator,
    ClassNamePrefixFeaturesOutMixin,
    TransformerMixin,
)
from sklearn.utils.validation import check_is_fitted

from featpipe.bounds import require_number
from featpipe.codes import Codes
from featpipe.extraction import Extraction
from featpipe.images import MAX_PIXELS, ImageSet
from featpipe.inference import Machine, Recipe, Stream, from_items, image_set_of
from featpipe.transformer.cache import Cache

__all__ = ["CNNCodes"]


class CNNCodes(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """Codes of images from a frozen, pretrained network.

    `fit` learns nothing from the images; it only sets the width. The network itself is
    no part of the estimator, so that a clone or a pickle is small.

    Parameters
    ----------
    backbone : str
        As `featpipe.extract`.
    weights : str, optional
        As `featpipe.extract`.
    depth : str
        ``NODE[:POOL]``; ``"a+b"`` puts the codes of two depths side by side.
    cache : path, optional
        A codes file that keeps every computed code. Images are looked up in it by
        their content, so that no fold, fit or process computes an image twice. The
        file may be one that `featpipe.extract` wrote. A depth that it lacks gets a
        file of its own beside it, ``FILE-DEPTH.h5``.
    device, precision, decoding, value_range, max_pixels, batch_size, workers, hflip
        As `featpipe.extract`; with a cache, "auto" takes what the cache was made with.
    seed : int
        Seed of random weights.
    input_size, resize, crop, interpolation, mean, std
        As `featpipe.extract`.
    timeout : float
        Seconds to wait for another process that is writing to the cache.

    Attributes
    ----------
    width_ : int
        Numbers per code.

    Examples
    --------
    >>> from pathlib import Path
    >>> from featpipe.transformer import CNNCodes
    >>> photos = sorted(Path("flowers/test").glob("*/*.png"))
    >>> CNNCodes("mini").fit_transform(photos).shape
    (12, 384)
    >>> from sklearn.pipeline import make_pipeline
    >>> from featpipe import LogisticClassifier
    >>> model = make_pipeline(CNNCodes("mini"), LogisticClassifier(C=0.01))
    >>> model.fit(photos, [photo.parent.name for photo in photos])
    Pipeline(...)
    >>> model.predict(["flowers/test/tulip/38.png"]).tolist()
    ['tulip']
    """

    def __init__(
        self,
        backbone: str = "resnet50",
        *,
        weights: str | None = None,
        depth: str = "penultimate",
        cache: str | os.PathLike[str] | None = None,
        device: str = "auto",
        precision: str = "auto",
        decoding: str = "auto",
        value_range: str | tuple[float, float] = "file",
        max_pixels: int | None = MAX_PIXELS,
        batch_size: int | None = None,
        workers: int | None = None,
        hflip: bool = False,
        seed: int = 0,
        input_size: int | None = None,
        resize: int | None = None,
        crop: int | None = None,
        interpolation: str | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        timeout: float = 3600.0,
    ) -> None:
        self.backbone = backbone
        self.weights = weights
        self.depth = depth
        self.cache = cache
        self.device = device
        self.precision = precision
        self.decoding = decoding
        self.value_range = value_range
        self.max_pixels = max_pixels
        self.batch_size = batch_size
        self.workers = workers
        self.hflip = hflip
        self.seed = seed
        self.input_size = input_size
        self.resize = resize
        self.crop = crop
        self.interpolation = interpolation
        self.mean = mean
        self.std = std
        self.timeout = timeout

    def fit(self, X: Any, y: Any = None) -> CNNCodes:
        """Set the width of the codes; compute no codes.

        Parameters
        ----------
        X : sequence of path, PIL image or uint8 array
            Not used.
        y : None
            Not used.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            If the backbone, its weights or the depth do not exist.
        """
        self.width_ = self._stream().width
        return self

    def fit_transform(self, X: Any, y: Any = None) -> np.ndarray:
        """Fit, and return the codes of the same images.

        Parameters
        ----------
        X : sequence of path, PIL image or uint8 array
            As `transform`.
        y : None
            Not used.

        Returns
        -------
        (n_images, width) float32
        """
        # The width comes from the codes: `fit` would load a network that a complete
        # cache does not need.
        codes = self._codes(X)
        self.width_ = codes.shape[1]
        return codes

    def transform(self, X: Any) -> np.ndarray:
        """Return the codes of images.

        Parameters
        ----------
        X : sequence of path, PIL image or uint8 array
            Arrays are (height, width), (height, width, 3) RGB or (height, width, 4).

        Returns
        -------
        (n_images, width) float32
            Row i is image i.

        Raises
        ------
        ValueError
            If an image cannot be read: to skip it would shift the rows after it.
        CodesError
            If the cache was made with another backbone, weights or preprocessing.
        LockedError
            If another process has been writing to the cache for all of ``timeout``.
        """
        check_is_fitted(self)
        return self._codes(X)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        # scikit-learn would otherwise check paths and images as if they were a matrix
        # of numbers.
        tags.input_tags.two_d_array = False
        tags.input_tags.string = True
        tags.no_validation = True
        return tags

    @property
    def _n_features_out(self) -> int:
        return self.width_

    def _codes(self, X: Any) -> np.ndarray:
        require_number("timeout", self.timeout, 0, 1e9, whole=False)
        # `from_items` refuses a single path: the images of a folder come in an order
        # that `y` cannot follow.
        is_path = isinstance(X, str | os.PathLike)
        image_set = from_items(X) if is_path else image_set_of(X)
        if self.cache is None:
            return self._stream().whole(image_set)
        cache = Cache(Path(self.cache), self._recipe(), self._stream, self._job)
        return cache.codes(image_set, self.timeout)

    def _recipe(self) -> Recipe:
        if not isinstance(self.depth, str):
            raise ValueError(
                f"depth is {self.depth!r}; give the name of a node, as 'penultimate'"
            )
        return Recipe(
            backbone=self.backbone,
            weights=None if self.weights is None else os.fspath(self.weights),
            depths=tuple(dict.fromkeys(self.depth.split("+"))),
            precision=self.precision,
            decoding=self.decoding,
            value_range=self.value_range,
            max_pixels=self.max_pixels,
            hflip=self.hflip,
            seed=self.seed,
            input_size=self.input_size,
            resize=self.resize,
            crop=self.crop,
            interpolation=self.interpolation,
            mean=None if self.mean is None else tuple(self.mean),
            std=None if self.std is None else tuple(self.std),
        )

    def _stream(self) -> Stream:
        recipe = self._recipe()
        # Part of the key: a weights file may be replaced under the same name.
        digest = str(recipe.request()["weights_file_sha256"])
        machine = Machine(self.device, self.batch_size, self.workers)
        return _stream(recipe, machine, digest)

    def _job(self, recipe: Recipe, image_set: ImageSet, path: Path) -> Codes:
        return Extraction(
            recipe,
            image_set,
            path,
            Machine(self.device, self.batch_size, self.workers),
        ).run()


# One network, since two large ones may not fit into memory.
@lru_cache(maxsize=1)
def _stream(recipe: Recipe, machine: Machine, weights_digest: str) -> Stream:
    """Return a stream of images; keep the last, since searches clone for every fit."""
    return Stream(recipe, machine)
