"""Augmented views of images as images of their own, for extraction to cache.

View k of ``ants/1.jpg`` is called ``k/ants/1.jpg``. It is drawn so that the
preprocessing of the weights leaves it as it is, and goes through the same extraction
into an ordinary codes file.
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from featpipe.backbones import Preprocessing
from featpipe.finetuning.augment import view
from featpipe.finetuning.pictures import picture
from featpipe.images import ImageReader, ImageSet
from featpipe.inference import Decoding

__all__ = ["name", "views_of"]


def name(k: int, path: str) -> str:
    """Return the path of view ``k`` of an image."""
    return f"{k}/{path}"


def views_of(
    image_set: ImageSet,
    n_views: int,
    preprocessing: Preprocessing,
    kinds: Sequence[str],
    decoding: Decoding,
    *,
    seed: int,
) -> ImageSet:
    """List views 1 to ``n_views`` of each image, without labels.

    Parameters
    ----------
    image_set : ImageSet
    n_views : int
    preprocessing : Preprocessing
        Of the network that will see them.
    kinds : sequence of str
        As `augment.view` takes them.
    decoding : Decoding
    seed : int
    """
    many = image_set.without_labels().take(np.tile(np.arange(len(image_set)), n_views))
    paths = [name(k + 1, path) for k in range(n_views) for path in image_set.paths]
    reader = _Reader(image_set.reader, preprocessing, tuple(kinds), decoding, seed)
    return replace(many, paths=paths, failures=[], reader=reader)


@dataclass(frozen=True)
class _Reader:
    """Draws a view when it is read, the same each time."""

    files: ImageReader
    preprocessing: Preprocessing
    kinds: tuple[str, ...]
    decoding: Decoding
    seed: int

    def read(self, path: str) -> bytes:
        # The number of the view comes first; paths of images may hold slashes.
        k, _, own = path.partition("/")
        crop = self.preprocessing.crop
        side = self.preprocessing.resize or crop
        content = self.files.read(own)
        whole = picture(content, self.preprocessing, self.decoding)
        rng = np.random.default_rng(
            # By content of the name, not by position: a view stays the same when images
            # are added.
            [self.seed, int(k), zlib.crc32(own.encode("utf-8", "surrogateescape"))]
        )
        square = view(whole, crop, self.kinds, rng)
        # Resizing to the side it has changes nothing, and the crop takes the view.
        canvas = Image.new("RGB", (side, side))
        corner = round((side - crop) / 2)
        drawn = Image.fromarray(square.permute(1, 2, 0).contiguous().numpy())
        canvas.paste(drawn, (corner, corner))
        file = io.BytesIO()
        # Without loss, and faster to write than PNG.
        canvas.save(file, "BMP")
        return file.getvalue()
