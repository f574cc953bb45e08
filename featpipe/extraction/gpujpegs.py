"""JPEGs decoded and resized by a GPU, several at a time.

Sixteen processors were measured to decode 1,400 photos a second, nvJPEG 5,700 to 9,300,
beside a GPU that computes the codes of 11,000. Pixels differ from Pillow's by a grey
level here and there, and codes by what scaled decoding may move them, so that only
scaled decoding uses it; it is no other recipe, and a file begun here may be continued
on a CPU. What is no plain JPEG, and what nvJPEG objects to, is left to Pillow; and so
is everything where it does not do a first JPEG as Pillow does.
"""

import io
import itertools
from collections.abc import Iterator, Sequence
from threading import BoundedSemaphore
from typing import TYPE_CHECKING

import numpy as np

from featpipe import images
from featpipe.extraction.pixels import cropped, is_for_torch, resized

if TYPE_CHECKING:
    from torch import Tensor, device

    from featpipe.backbones.preprocessing import Preprocessing

__all__ = ["GPUJpegs", "for_devices"]

# Pixels that a thread decodes at once, 200 MB of them, and threads that may: the memory
# is for the network, and one decodes while another resizes.
_MOST_PIXELS = 1 << 26
_AT_ONCE = 2
# Grey levels between two decoders of one smooth picture, on average.
_ALIKE = 3.0


class GPUJpegs:
    """What decodes JPEGs on some devices; called by several threads.

    Parameters
    ----------
    devices : sequence of torch.device
        Taken in turn.
    """

    def __init__(self, devices: Sequence["device"]) -> None:
        self._devices = itertools.cycle(devices)
        self._room = BoundedSemaphore(_AT_ONCE * len(devices))

    def pixels_of(
        self, contents: Sequence[bytes], preprocessing: "Preprocessing"
    ) -> "list[Tensor | None]":
        """Decode images, and make them as large as the network wants them.

        Parameters
        ----------
        contents : sequence of n bytes
            Whole files.
        preprocessing : Preprocessing

        Returns
        -------
        list of n (3, S, S) uint8 or None
            On one of the devices, complete; None for those that are left to Pillow.
        """
        device = next(self._devices)
        sizes = [images.plain_size(content) for content in contents]
        found: list[Tensor | None] = [None] * len(contents)
        for at in _few_pixels(sizes, preprocessing):
            with self._room:
                made = _made([contents[k] for k in at], preprocessing, device)
            for k, pixels in zip(at, made, strict=True):
                found[k] = pixels
        return found


def for_devices(devices: Sequence["device"]) -> GPUJpegs | None:
    """Make what decodes on these devices; None if it does not work there.

    Parameters
    ----------
    devices : sequence of torch.device
        All but GPUs of CUDA are none of its business.
    """
    able = [device for device in dict.fromkeys(devices) if device.type == "cuda"]
    return GPUJpegs(able) if able and all(map(works, able)) else None


def works(device: "device") -> bool:
    """Decode a JPEG there, and say whether it looks as it does with Pillow."""
    from PIL import Image

    y, x = np.mgrid[0:48, 0:64]
    drawn = np.stack([2 * x + y, 4 * x, 5 * y], -1).clip(0, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(drawn).save(file, "JPEG", quality=95)
    expected = images.decode(file.getvalue()).pixels[..., :3].astype(float)
    try:
        (pixels,) = _decoded([file.getvalue()], device)
        there = pixels.permute(1, 2, 0).cpu().numpy()
    except Exception:
        return False
    alike = there.shape == expected.shape
    return alike and float(np.abs(there - expected).mean()) < _ALIKE


def _few_pixels(
    sizes: Sequence[tuple[int, int] | None], preprocessing: "Preprocessing"
) -> Iterator[list[int]]:
    """Deal the images that can be done out to pieces of not too many pixels."""
    piece: list[int] = []
    n_pixels = 0
    for k, size in enumerate(sizes):
        if size is None or not is_for_torch(size, size, preprocessing):
            continue
        n_here = size[0] * size[1]
        if piece and n_pixels + n_here > _MOST_PIXELS:
            yield piece
            piece, n_pixels = [], 0
        piece.append(k)
        n_pixels += n_here
    if piece:
        yield piece


def _made(
    contents: Sequence[bytes], preprocessing: "Preprocessing", device: "device"
) -> "list[Tensor | None]":
    """Decode, resize and crop whole JPEGs; those that are objected to are None."""
    import torch

    try:
        made: list[Tensor | None] = []
        for pixels in _decoded(contents, device):
            size = pixels.shape[2], pixels.shape[1]
            smaller = resized(pixels, size, size, preprocessing)
            made.append(cropped(smaller, preprocessing))
        if device.type == "cuda":
            # What comes next is another thread's, with a stream of its own.
            torch.cuda.current_stream(device).synchronize()
        return made
    except Exception:
        if len(contents) == 1:
            return [None]
    # There are no partial results, and one of them is not to decide for the others.
    return [_made([content], preprocessing, device)[0] for content in contents]


def _decoded(contents: Sequence[bytes], device: "device") -> "list[Tensor]":
    import torch
    from torchvision.io import ImageReadMode

    files = [torch.frombuffer(bytearray(c), dtype=torch.uint8) for c in contents]
    mode = ImageReadMode.RGB.value
    # The operators, since the functions around them warn that they will move to
    # torchcodec. When they have, this raises, and `works` says no.
    if device.type == "cuda":
        found: list[Tensor] = torch.ops.image.decode_jpegs_cuda(files, mode, device)
        return found
    return [torch.ops.image.decode_jpeg(file, mode, False) for file in files]
