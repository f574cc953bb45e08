"""`CNNCodes`: extraction as a scikit-learn transformer.

Lives here: the estimator's contract. Never here: classifiers, the cache, and how
codes are computed.
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

    Nothing is learned from the images: `fit` only finds out the width. The network
    itself is no part of the estimator, so that a clone or a pickle is small.

    Parameters
    ----------
    backbone : str
        As `featpipe.extract`.
    weights : str, optional
        As `featpipe.extract`.
    depth : str
        ``NODE[:POOL]``; ``"a+b"`` puts the codes of two side by side.
    cache : path, optional
        A codes file in which an image is looked up by its content, and to which what
        is computed is added: an image is never computed twice, in whatever fold, fit
        or process. It may be one that `featpipe.extract` wrote. A depth that this
        file lacks gets a file of its own beside it, ``FILE-DEPTH.h5``.
    device, precision, decoding, value_range, max_pixels, batch_size, workers, hflip
        As `featpipe.extract`; "auto" is the cache's where there is one.
    seed : int
        Of random weights.
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
        """Set the width of the codes; compute none.

        Parameters
        ----------
        X : sequence of path, PIL image or uint8 array
            Not looked at.
        y : None
            Not looked at.

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
            Not looked at.

        Returns
        -------
        (n_images, width) float32
        """
        # One pass: computing the width first and then the codes would run a cached set
        # twice.
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
            If an image cannot be read; a row is never that of another image.
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
        # A path is refused: it would be a folder, of which y knows nothing.
        alone = isinstance(X, str | os.PathLike)
        image_set = from_items(X) if alone else image_set_of(X)
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
        changes = str(recipe.request()["weights_file_sha256"])
        machine = Machine(self.device, self.batch_size, self.workers)
        return _stream(recipe, machine, changes)

    def _job(self, recipe: Recipe, image_set: ImageSet, path: Path) -> Codes:
        return Extraction(
            recipe,
            image_set,
            path,
            Machine(self.device, self.batch_size, self.workers),
        ).run()


@lru_cache(maxsize=1)
def _stream(
    recipe: Recipe,
    machine: Machine,
    weights_file: str,
) -> Stream:
    """Keep the network last used: a search clones its transformer for every fit."""
    return Stream(recipe, machine)
