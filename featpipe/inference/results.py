"""A batch of images after the network: their codes, or the reason for having none."""

from typing import Any, NamedTuple

import numpy as np

from featpipe.images import ImageError

__all__ = ["CodesByDepth", "ComputedBatch", "LoadedImage"]

CodesByDepth = dict[str, np.ndarray]
"""Canonical depth to the codes of some images, (n, width) float32, or maps."""


class LoadedImage(NamedTuple):
    """One image after reading and decoding.

    Attributes
    ----------
    position : int
        In the `ImageSet`.
    sha256 : bytes
        Of its content; empty if it could not be read.
    existing : optional
        What ``find_existing`` returned for it: the place of a code that exists already.
    failure : ImageError, optional
        The reason why it has no code.
    notes : tuple of str
        As `images.decode`.

    Examples
    --------
    >>> LoadedImage(3, b"", failure=ImageError("read", "no such file")).failure.reason
    'no such file'
    """

    position: int
    sha256: bytes
    existing: Any = None
    failure: ImageError | None = None
    notes: tuple[str, ...] = ()


class ComputedBatch(NamedTuple):
    """Images that were loaded together, and the codes of those that were computed.

    Attributes
    ----------
    images : list of LoadedImage
        In the order of the positions.
    fresh : list of int
        Positions of the images that went through the network.
    codes : dict of SPEC to (len(fresh), width) float32
        Maps: (n, C, H, W) float16. Empty if none did.

    Examples
    --------
    >>> images = [LoadedImage(0, b"a"), LoadedImage(1, b"", existing="row 7")]
    >>> codes = {"penultimate": np.zeros((1, 512), np.float32)}
    >>> batch = ComputedBatch(images, [0], codes)
    >>> batch.codes["penultimate"].shape
    (1, 512)
    """

    images: list[LoadedImage]
    fresh: list[int]
    codes: CodesByDepth

    def without_infinite(self) -> "ComputedBatch":
        """Return the batch with failures for images whose code is not finite.

        Examples
        --------
        >>> images = [LoadedImage(0, b"a"), LoadedImage(1, b"b")]
        >>> codes = {"x": np.array([[1.0], [np.nan]], np.float32)}
        >>> batch = ComputedBatch(images, [0, 1], codes).without_infinite()
        >>> batch.fresh, str(batch.images[1].failure)
        ([0], 'the code at x is not finite')
        """
        sound = np.ones(len(self.fresh), bool)
        errors: dict[int, ImageError] = {}
        for spec, code in self.codes.items():
            finite = np.isfinite(code.reshape(len(code), -1)).all(axis=1)
            # An image gets one reason, that of the first depth that fails.
            for k in np.flatnonzero(~finite & sound):
                reason = f"the code at {spec} is not finite"
                errors[self.fresh[k]] = ImageError("network", reason)
            sound &= finite
        if not errors:
            return self
        return ComputedBatch(
            [
                image._replace(failure=errors.get(image.position, image.failure))
                for image in self.images
            ],
            # An image that fails at one depth has no code at any.
            [position for position in self.fresh if position not in errors],
            {spec: code[sound] for spec, code in self.codes.items()},
        )
