"""Decode and resize pictures once, and keep them in memory as far as they fit.

The others are decoded again each time. Knows nothing of views or networks.
"""

from __future__ import annotations

import os
from threading import Lock

import numpy as np
import torch
from torch import Tensor

from featpipe.backbones import Preprocessing
from featpipe.images import ImageError, ImageSet
from featpipe.inference import Decoding, decode_resized

__all__ = ["Pictures", "budget", "picture"]


def budget() -> int:
    """Return the bytes that caches may take: a quarter of the memory."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 4
    except (AttributeError, ValueError):  # not there on every system
        return 2**32


def picture(content: bytes, preprocessing: Preprocessing, decoding: Decoding) -> Tensor:
    """Decode an image file and resize it, uncropped.

    Parameters
    ----------
    content : bytes
        The whole file.
    preprocessing : Preprocessing
    decoding : Decoding

    Returns
    -------
    (3, H, W) uint8

    Raises
    ------
    ImageError
        If it cannot be decoded.
    """
    image, _ = decode_resized(content, preprocessing, decoding)
    return torch.from_numpy(np.asarray(image).transpose(2, 0, 1).copy())


class Pictures:
    """The images of a set, upright, in RGB, with their shorter side resized.

    Safe in threads.

    Parameters
    ----------
    image_set : ImageSet
    preprocessing : Preprocessing
    decoding : Decoding
    memory : int
        Bytes that may be kept.
    """

    def __init__(
        self,
        image_set: ImageSet,
        preprocessing: Preprocessing,
        decoding: Decoding,
        *,
        memory: int | None = None,
    ) -> None:
        self._images = image_set
        self._preprocessing = preprocessing
        self._decoding = decoding
        self._left = budget() if memory is None else memory
        self._kept: dict[int, Tensor] = {}
        self._guard = Lock()

    def get(self, i: int) -> Tensor:
        """Return picture ``i``, (3, H, W) uint8; not to be written to.

        Raises
        ------
        ValueError
            If it cannot be read or decoded; names its path.
        """
        if i in self._kept:
            return self._kept[i]
        decoded = self._decoded(i)
        with self._guard:
            # Another thread may have decoded the same picture meanwhile.
            if i not in self._kept and decoded.numel() <= self._left:
                self._kept[i] = decoded
                self._left -= decoded.numel()
        return decoded

    def _decoded(self, i: int) -> Tensor:
        try:
            content = self._images.read(i)
            return picture(content, self._preprocessing, self._decoding)
        except ImageError as error:
            raise ValueError(
                f"{self._images.paths[i]} could be read a moment ago, and now not: "
                f"{error.stage}: {error.reason}; repair it, and run the same command "
                "again"
            ) from error
