"""List images with their labels, and decode one image to upright RGB.

`scan` lists the images of a folder, table, archive or dataset as an `ImageSet`,
`from_arrays` makes one of arrays, and `decode` turns the bytes of an image into
pixels by the rules of `DECODING`. Every input is accounted for: an image, or a
`Failure` with path, stage and reason. Never here: networks, and the size they want.

| module | what lives there |
|---|---|
| `imageset` | the list of images, and the one error of an image |
| `scanning` | telling the kinds of sources apart |
| `naming` | what names of folders mean: splits and classes |
| `set_aside` | names that a scan counts and does not list; suffixes of images |
| `reading` | the bytes of one file |
| `folder`, `table`, `ziparchive`, `tararchive` | a kind of source each |
| `datasets`, `arrays` | those of torchvision, and pictures in memory |
| `columns` | the columns of tables and frames |
| `classes` | whether labels make classes |
| `labelling` | labels and splits of lists |
| `archive` | what both kinds of archives share |
| `decoding` | bytes to pixels |
| `colour` | the modes of Pillow to RGB |
| `values` | values of more than 8 bits, and which of them become black and white |
| `turbo` | the same pixels of plain JPEGs, faster |
| `memory` | pixels of Pillow's without a copy |
| `orientation` | EXIF rotation |
| `frames` | how many frames a GIF or TIFF has |
| `structure`, `png` | what a file may hold beside its pixels; PNGs that end early |
| `sniffing` | whether a file begins as an image does |
| `non_images` | what a file is that is no image |
"""

from featpipe.images.arrays import from_arrays
from featpipe.images.classes import check_classes
from featpipe.images.columns import COLUMNS, describe_unread
from featpipe.images.decoding import (
    DECODING,
    MAX_PIXELS,
    Decoded,
    check_max_pixels,
    decode,
)
from featpipe.images.imageset import (
    Failure,
    ImageError,
    ImageReader,
    ImageRow,
    ImageSet,
    build_image_set,
)
from featpipe.images.labelling import class_names_of, splits_from
from featpipe.images.naming import is_split
from featpipe.images.reading import FileReader, stat_file
from featpipe.images.scanning import scan
from featpipe.images.set_aside import is_image_name
from featpipe.images.sniffing import is_image_file
from featpipe.images.values import ValueRange, describe_values, parse_value_range

__all__ = [
    "COLUMNS",
    "DECODING",
    "MAX_PIXELS",
    "Decoded",
    "Failure",
    "FileReader",
    "ImageError",
    "ImageReader",
    "ImageRow",
    "ImageSet",
    "ValueRange",
    "build_image_set",
    "check_classes",
    "check_max_pixels",
    "class_names_of",
    "decode",
    "describe_unread",
    "describe_values",
    "from_arrays",
    "is_image_file",
    "is_image_name",
    "is_split",
    "parse_value_range",
    "scan",
    "splits_from",
    "stat_file",
]
