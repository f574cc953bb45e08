"""The pixels of a Pillow image where they lie, without a copy.

Copying them out, Pillow packs four bytes a pixel into three, which takes a tenth of the
time that decoding does. It also lends its memory, by the Arrow PyCapsule interface
(https://arrow.apache.org/docs/format/CDataInterface), whose few fields are read here;
a library that reads all of Arrow would be as large as Pillow.
"""

import ctypes
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["pixel_view"]


class _Array(ctypes.Structure):
    """Arrow's ``struct ArrowArray``, up to what is read of it."""


_Array._fields_ = [
    ("length", ctypes.c_int64),
    ("null_count", ctypes.c_int64),
    ("offset", ctypes.c_int64),
    ("n_buffers", ctypes.c_int64),
    ("n_children", ctypes.c_int64),
    ("buffers", ctypes.POINTER(ctypes.c_void_p)),
    ("children", ctypes.POINTER(ctypes.POINTER(_Array))),
]


class _Schema(ctypes.Structure):
    """Arrow's ``struct ArrowSchema``, its first field."""

    _fields_ = (("format", ctypes.c_char_p),)


_pointer = ctypes.pythonapi.PyCapsule_GetPointer
# Without it ctypes cuts pointers to 32 bits.
_pointer.restype = ctypes.c_void_p
_pointer.argtypes = [ctypes.py_object, ctypes.c_char_p]


class _ArrowView:
    """An image's memory as numpy asks for it; lives as long as an array of it."""

    def __init__(self, image: "Image.Image") -> None:
        width, height = image.size
        # The capsule keeps the memory alive, whatever becomes of the image.
        schema, self._capsule = image.__arrow_c_array__()
        kind = _Schema.from_address(_pointer(schema, b"arrow_schema")).format
        array = _Array.from_address(_pointer(self._capsule, b"arrow_array"))
        # Lists of four, one a pixel.
        if (kind, array.length, array.offset) != (b"+w:4", width * height, 0):
            raise ValueError(f"Arrow array of {array.length} {kind!r}")
        values = array.children[0].contents
        self.__array_interface__: dict[str, Any] = {
            "version": 3,
            "typestr": "|u1",
            "shape": (height, width, 4),
            "data": (values.buffers[1], False),
        }


def pixel_view(image: "Image.Image") -> np.ndarray:
    """Return the pixels of an RGB image, without a copy if that is possible.

    Parameters
    ----------
    image : PIL.Image.Image
        Of mode RGB.

    Returns
    -------
    (H, W, 4) or (H, W, 3) uint8
        Red, green, blue, and a byte without meaning where the memory is the image's
        own. Not to be written to. Three channels, a copy, of an image that Pillow
        keeps in several pieces: beyond 16 MB.
    """
    try:
        return np.asarray(_ArrowView(image))
    except ValueError:
        # A Pillow without Arrow, or an image in several blocks.
        return np.array(image)
