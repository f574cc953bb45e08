"""JPEGs decoded and resized by a GPU, several at a time.

An H200 was measured to decode 7,000 photos a second, and to compute 13,000 codes. Only
scaled decoding uses it, since pixels differ from Pillow's by a grey level here and
there; it is no other recipe, and a file begun here may be continued on a CPU.

nvJPEG makes pictures of damaged files that Pillow refuses, and repeats chromas where
Pillow smooths them. So it is given whole baseline JPEGs alone, and chromas are smoothed
behind it. All else, and what it objects to, is left to Pillow; and so is everything
where it does not do a first JPEG as Pillow does.
"""

import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from threading import BoundedSemaphore
from typing import TYPE_CHECKING

import numpy as np

from featpipe import images
from featpipe.extraction.pixels import cropped, is_for_torch, resized, whole
from featpipe.images import Plain

if TYPE_CHECKING:
    from torch import Tensor, device

    from featpipe.backbones.preprocessing import Preprocessing

__all__ = ["GPUJpegs", "for_device"]

# Pixels that a thread decodes at once, some 800 MB at worst, and threads that may: the
# memory is for the network, and one decodes while another resizes.
_MOST_PIXELS = 1 << 24
_AT_ONCE = 2
# Pixels of the shorter side. What is smaller is no work for Pillow, and there a network
# was seen to tell chromas from Pillow's.
_SMALLEST = 200
# Grey levels between two decoders of one smooth picture, on average.
_ALIKE = 3.0

_Jpeg = tuple[bytes, Plain]


class GPUJpegs:
    """What decodes JPEGs on a device; called by several threads.

    Parameters
    ----------
    device : torch.device
    """

    def __init__(self, device: "device") -> None:
        import torch

        self._device = device
        on_gpu = device.type == "cuda"
        # Of its own, whose memory nothing else is given: torchvision's decoder writes
        # to memory without a look at what still reads it.
        self._stream = torch.cuda.Stream(device) if on_gpu else None
        self._room = BoundedSemaphore(_AT_ONCE)

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
            On the device, complete; None for those that are left to Pillow.
        """
        found: list[Tensor | None] = [None] * len(contents)
        jpegs: dict[int, _Jpeg] = {}
        for k, content in enumerate(contents):
            plain = images.plain(content)
            if plain is not None and _is_worth_it(plain, preprocessing):
                jpegs[k] = content, plain
        for at in _few_pixels(jpegs):
            with self._room:
                made = self._made([jpegs[k] for k in at], preprocessing)
            for k, pixels in zip(at, made, strict=True):
                found[k] = pixels
        return found

    def _made(
        self, some: Sequence[_Jpeg], preprocessing: "Preprocessing"
    ) -> "list[Tensor | None]":
        """Decode, resize and crop; those that are objected to are None."""
        try:
            return list(self._squares(some, preprocessing))
        except Exception:
            if len(some) == 1:
                return [None]
        # There are no partial results, and one is not to decide for the others.
        return [self._made([one], preprocessing)[0] for one in some]

    def _squares(
        self, some: Sequence[_Jpeg], preprocessing: "Preprocessing"
    ) -> "Tensor":
        """Decode, resize and crop to (n, 3, S, S) uint8, complete."""
        import torch

        with torch.cuda.stream(self._stream):
            decoded = _decoded([content for content, _ in some], self._device)
        try:
            squares: list[Tensor] = [decoded[0]] * len(decoded)
            for plain, at in _alike([plain for _, plain in some]):
                pixels = torch.stack([decoded[k] for k in at])
                if tuple(pixels.shape[:1:-1]) != plain.size:
                    raise ValueError("another size than Pillow reads")
                pixels = _smoothed(pixels, plain.sampling)
                smaller = resized(pixels, plain.size, plain.size, preprocessing)
                for k, square in zip(at, cropped(smaller, preprocessing), strict=True):
                    squares[k] = square
            return whole(torch.stack(squares))
        finally:
            if self._stream is not None:
                # Before the decoder's memory is given to the next images; and what
                # comes next is another thread's, with a stream of its own.
                torch.cuda.current_stream(self._device).synchronize()


def for_device(device: "device") -> GPUJpegs | None:
    """Make what decodes on a device; None if it is no GPU of CUDA, or does not work.

    One device decodes for all: torchvision has one decoder, and makes it anew, without
    an end to the old one, whenever another device is named.
    """
    return GPUJpegs(device) if device.type == "cuda" and works(device) else None


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


def _is_worth_it(plain: Plain, preprocessing: "Preprocessing") -> bool:
    enough = min(plain.size) >= _SMALLEST
    return enough and is_for_torch(plain.size, plain.size, preprocessing)


def _few_pixels(jpegs: Mapping[int, _Jpeg]) -> Iterator[list[int]]:
    """Deal them out to pieces of not too many pixels."""
    piece: list[int] = []
    n_pixels = 0
    for k, (_, plain) in jpegs.items():
        n_here = plain.size[0] * plain.size[1]
        if piece and n_pixels + n_here > _MOST_PIXELS:
            yield piece
            piece, n_pixels = [], 0
        piece.append(k)
        n_pixels += n_here
    if piece:
        yield piece


def _alike(some: Sequence[Plain]) -> Iterable[tuple[Plain, list[int]]]:
    """Put the positions of images of one size and sampling together."""
    found: dict[Plain, list[int]] = {}
    for k, plain in enumerate(some):
        found.setdefault(plain, []).append(k)
    return found.items()


def _smoothed(pixels: "Tensor", sampling: tuple[int, int]) -> "Tensor":
    """Have chromas change little by little where they were repeated.

    What libjpeg, and so Pillow, does (the triangle filter of its ``jdsample.c``).

    Parameters
    ----------
    pixels : (n, 3, H, W) uint8
    sampling : (int, int)
        As of `images.Plain`.

    Returns
    -------
    (n, 3, H, W) uint8, or float32 if it was smoothed
    """
    import torch
    from torch.nn import functional as F

    if sampling == (1, 1):
        return pixels
    size, factors = pixels.shape[2:], [float(factor) for factor in sampling[::-1]]
    pixels = pixels.float()
    red, green, blue = pixels.unbind(1)
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    chromas = torch.stack([(blue - luma) / 1.772, (red - luma) / 1.402], 1)
    small = F.avg_pool2d(chromas, sampling[::-1], ceil_mode=True)
    smooth = F.interpolate(small, scale_factor=factors, mode="bilinear")
    change = smooth - F.interpolate(small, scale_factor=factors)
    by_blue, by_red = change[..., : size[0], : size[1]].unbind(1)
    by_both = -0.344136 * by_blue - 0.714136 * by_red
    change = torch.stack([1.402 * by_red, by_both, 1.772 * by_blue], 1)
    return (pixels + change).clamp_(0, 255)


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
