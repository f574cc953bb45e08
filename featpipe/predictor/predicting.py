"""Apply a fitted model to images: load, check and run its network.

`fitting` fits models, and `storing` has their file.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from featpipe.codes import FailureRecord, require_no_codes
from featpipe.images import MAX_PIXELS, ImageSet
from featpipe.inference import Machine, Progress, Stream, image_set_of
from featpipe.predictor import binding, embedding, storing
from featpipe.predictor.binding import require_same_decoding
from featpipe.predictor.calibrating import probabilities
from featpipe.predictor.model import FINETUNE, Model
from featpipe.predictor.predictions import Predictions, two_columns
from featpipe.predictor.rejecting import find_threshold, usable_curve

if TYPE_CHECKING:
    from featpipe.backbones import Backbone

__all__ = ["Predictor"]

Images = str | os.PathLike[str] | ImageSet | Iterable[Any]


class Predictor:
    """A classifier bound to the recipe of its codes, which labels images.

    `featpipe.fit` makes one, `featpipe.load` reads one. New images go through the
    recipe of the codes: decoding, preprocessing, network, precision and rounding. The
    network is loaded with the first image; weights other than those of the fit are
    refused.

    Parameters
    ----------
    model : Model
    path : Path, optional
        The file it was read from.
    weights : path, optional
        The present place of the backbone's weights, if they have moved.
    backbone : str, optional
        The present name of the backbone. A model that names your own callable runs it
        only if it is named here: a file alone never gets code to run.
    device, batch_size, workers, max_pixels
        As `featpipe.extract`.

    Examples
    --------
    >>> import featpipe
    >>> model = featpipe.fit("flowers.h5", "linear", C=1.0, device="cpu")
    >>> model.class_names, model.model.coef.shape
    (['daisy', 'rose', 'tulip'], (3, 8))
    >>> model.save("linear.model")
    >>> featpipe.load("linear.model")
    <Predictor: linear on mini penultimate, 3 classes>
    """

    def __init__(
        self,
        model: Model,
        *,
        path: Path | None = None,
        weights: str | os.PathLike[str] | None = None,
        backbone: str | None = None,
        device: str = "auto",
        batch_size: int | None = None,
        workers: int | None = None,
        max_pixels: int | None = MAX_PIXELS,
    ) -> None:
        self.model = model
        self.path = path
        self._weights = None if weights is None else os.fspath(weights)
        self._backbone = backbone
        self._device = device
        self._batch_size = batch_size
        self._workers = workers
        self._max_pixels = max_pixels

    def __repr__(self) -> str:
        model = self.model
        return (
            f"<Predictor: {model.classifier} on {model.backbone} {model.depth}, "
            f"{len(model.class_names)} classes>"
        )

    def __getstate__(self) -> dict[str, Any]:
        """Return the state without the network, which is loaded again."""
        # A network may take gigabytes, and is on a device.
        return {k: v for k, v in vars(self).items() if k != "stream"}

    @property
    def class_names(self) -> list[str]:
        """The classes of the model, in the order of the columns of `predict_proba`."""
        return list(self.model.class_names)

    @cached_property
    def stream(self) -> Stream:
        """The recipe, ready to run.

        Raises
        ------
        ValueError
            If the backbone runs your own code and was not named, or this version
            decodes images by other rules.
        FileNotFoundError
            If the weights were a file that is missing now.
        """
        require_same_decoding(self.model.fingerprint)
        binding.require_named_backbone(self.model, self._name, self._backbone)
        where = binding.find_weights(self.model, self.path, self._weights)
        recipe = self.model.recipe(where.weights, self._backbone)
        return Stream(
            replace(recipe, max_pixels=self._max_pixels),
            Machine(self._device, self._batch_size, self._workers),
            check=partial(binding.check_backbone, self.model, self._name, where),
        )

    def classify(
        self,
        source: Images,
        *,
        reject: float | None = None,
        progress: Callable[[Progress], None] | None = None,
    ) -> Predictions:
        """Label the images of a source, and list those that cannot be read.

        Parameters
        ----------
        source : path, str, ImageSet, or a sequence of images
            As `featpipe.extract` takes it; or single paths, PIL images and uint8
            arrays.
        reject : float, optional
            Accepted share of wrong labels: images whose likeliest class is too doubtful
            for it are ``"unknown"``. See `threshold`.
        progress : callable, optional
            Called with a `Progress` after every batch.

        Returns
        -------
        Predictions

        Raises
        ------
        ValueError
            If the backbone cannot be made, its weights are not those of the fit, or
            ``reject`` cannot be reached.
        FileNotFoundError
            If there is no such source, or the weights are missing.
        """
        threshold = None if reject is None else self.threshold(reject)
        image_set = image_set_of(source)
        estimator = self.model.estimator()
        values, rows, failures = [], [], []
        for batch in self._run(image_set, progress):
            failures += [FailureRecord(*failure) for _, failure in batch.failures]
            # A batch of which every image failed has no codes.
            if len(batch.positions):
                rows.append(batch.positions)
                values.append(estimator.decision_function(batch.codes))
        # Without a readable image the shapes still have to fit.
        scores = np.concatenate(values) if values else np.empty((0,))
        # scikit-learn has one column for two classes; a table has one for each.
        if len(self.class_names) == 2:
            scores = two_columns(scores)
        # In the order of the source, without those that failed.
        at = np.concatenate(rows).tolist() if rows else []
        scores = scores.reshape(len(at), len(self.class_names))
        # Label -1, unlabelled, takes the last name.
        names = [*image_set.class_names, ""]
        return Predictions(
            paths=[image_set.paths[i] for i in at],
            class_names=self.class_names,
            scores=scores,
            probabilities=self._probabilities(scores),
            failures=[*(FailureRecord(*f) for f in image_set.failures), *failures],
            truth=[names[image_set.labels[i]] for i in at],
            splits=[image_set.splits[i] for i in at],
            threshold=threshold,
        )

    def _probabilities(self, scores: np.ndarray) -> np.ndarray | None:
        if not self.model.has_probabilities:
            return None
        return probabilities(scores, self.model.calibration)

    def threshold(self, reject: float) -> float:
        """Return the lowest probability at which at most a share of labels is wrong.

        It is chosen on training images, by fits that did not learn from them: for
        images like these the share of wrong labels among the answers exceeds ``reject``
        in at most 5 of 100 models (`rejecting.find_threshold`).

        Parameters
        ----------
        reject : float
            Between 0 and 1.

        Returns
        -------
        float

        Raises
        ------
        ValueError
            If no threshold reaches it, or a class is called ``"unknown"``.
        """
        model = self.model
        curve = usable_curve(model.error_curve, model.class_names, self._name)
        return find_threshold(curve, reject)

    def predict(self, images: Images, *, reject: float | None = None) -> np.ndarray:
        """Return the class name of each image.

        Parameters
        ----------
        images, reject : as `classify`

        Returns
        -------
        (n,) str
            In the order of the images; of a folder, sorted by path.

        Raises
        ------
        ValueError
            As `classify`; also for the first image that cannot be read, since rows
            would shift. `classify` goes on without such images.
        """
        return self._all(images, reject).labels

    def predict_proba(self, images: Images) -> np.ndarray:
        """Return the probability of each class.

        Parameters
        ----------
        images : as `classify`

        Returns
        -------
        (n, n_classes) float64
            Rows add up to 1; columns are in the order of `class_names`.

        Raises
        ------
        ValueError
            As `predict`; also if the classifier gives no probabilities.
        """
        if not self.model.has_probabilities:
            raise ValueError(
                f"this {self.model.classifier} model gives no probabilities: its "
                "training images were too few, or its version is an earlier one; fit "
                "it again, or use `decision_function`"
            )
        probabilities = self._all(images).probabilities
        assert probabilities is not None
        return probabilities

    def decision_function(self, images: Images) -> np.ndarray:
        """Return the decision value of each class.

        Parameters
        ----------
        images : as `classify`

        Returns
        -------
        (n, n_classes) float64
            Of two classes, the values of the first are those of the second negated.

        Raises
        ------
        ValueError
            As `predict`.
        """
        return self._all(images).scores

    def top(self, images: Images, k: int = 5) -> list[list[tuple[str, float]]]:
        """Return the ``k`` likeliest classes of each image with their probability.

        Parameters
        ----------
        images : as `classify`
        k : int
            Number of classes, at most.

        Returns
        -------
        list of list of (str, float)
            Likeliest first.

        Raises
        ------
        ValueError
            As `predict`.
        """
        return self._all(images).top(k)

    def _all(self, images: Images, reject: float | None = None) -> Predictions:
        predictions = self.classify(images, reject=reject)
        if predictions.failures:
            path, stage, reason = predictions.failures[0][:3]
            n_failed = len(predictions.failures)
            raise ValueError(
                f"{path}: {stage}: {reason} ({n_failed} of "
                f"{len(predictions) + n_failed} images cannot be read); "
                "`classify` labels the others and lists these"
            )
        return predictions

    def save(
        self, path: str | os.PathLike[str], *, embed_weights: bool | None = None
    ) -> None:
        """Write the model to one file, atomically.

        Parameters
        ----------
        path : path
            An older model there is replaced.
        embed_weights : bool, optional
            Whether to put the backbone's weights, up to the depth, into the file, so
            that it is the whole model. Default: as in the loaded file; without for a
            new fit.

        Raises
        ------
        OSError
            If it cannot be written.
        CodesError
            If it would replace a codes file.
        ValueError, FileNotFoundError
            With ``embed_weights``, as `classify`; without, for a fine-tuned network.
        """
        path, embed = Path(path), embed_weights
        require_no_codes(path)
        if embed is None:
            # A model whose weights are embedded keeps them when it is saved again.
            embed = self.model.embedded_sha256 is not None
        if not embed:
            if self.model.classifier == FINETUNE:
                raise ValueError(
                    "the weights of a fine-tuned network are nowhere but in its model; "
                    "leave out embed_weights=False"
                )
            storing.write_model(path, replace(self.model, embedded_sha256=None), {})
            return
        embedding.write_with_weights(
            path,
            self.model,
            self.load_backbone(),
            # Read back before the old file is replaced, since some weights make another
            # network when they come from a file.
            lambda model, file: Predictor(
                model, path=file, backbone=self._backbone
            ).load_backbone(),
        )

    def using(self, **changes: Any) -> Predictor:
        """Return the same model with other ``weights``, ``backbone``, ``device``, ….

        Parameters
        ----------
        **changes
            Keyword arguments of the constructor.
        """
        options = {
            "path": self.path,
            "weights": self._weights,
            "backbone": self._backbone,
            "device": self._device,
            "batch_size": self._batch_size,
            "workers": self._workers,
            "max_pixels": self._max_pixels,
        }
        # A new object, since the loaded network belongs to the old options.
        return Predictor(self.model, **{**options, **changes})

    def load_backbone(self) -> Backbone:
        """Load the network, checked, on the CPU in float32."""
        with binding.add_model_name(self._name):
            return self.stream.loaded

    def _run(self, image_set: ImageSet, tell: Callable[[Progress], None] | None) -> Any:
        # First, so that an error of the network names the model and no image.
        self.load_backbone()
        return self.stream.run(image_set, tell)

    @property
    def _name(self) -> str:
        return "the model" if self.path is None else str(self.path)
