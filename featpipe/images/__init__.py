"""List images with their labels, and decode one image to upright RGB.

`scan` lists the images of a folder, table, archive or dataset as an `ImageSet`,
`from_arrays` makes one of arrays, and `decode` turns the bytes of an image into
pixels by the rules of `DECODING`. Every input becomes an image, or a `Failure` with
path, stage and reason. This package does not know networks or their input sizes.

| module | contents |
|---|---|
| `imageset` | the list of images, and the error of one image |
| `scanning` | recognising the kind of a source |
| `folder_names` | splits and classes from names of folders |
| `set_aside` | names that a scan counts and does not list; suffixes of images |
| `reading` | reading the bytes of one file |
| `folder`, `table`, `ziparchive`, `tararchive` | listing one kind of source |
| `datasets`, `arrays` | datasets of torchvision, and pictures in memory |
| `columns` | the columns of tables and frames |
| `classes` | checking that labels make classes |
| `labelling` | labels and splits of lists |
| `archive` | the common part of zip and tar archives |
| `decoding` | bytes to pixels |
| `colour` | the modes of Pillow to RGB |
| `values` | values of more than 8 bits, and which of them become black and white |
| `plain_jpeg` | the same pixels of plain JPEGs, faster |
| `memory` | the pixels of a Pillow image without a copy |
| `orientation` | EXIF rotation |
| `frames` | the number of frames of a GIF or TIFF |
| `file_limits`, `png` | limits of what is beside the pixels; PNGs that end early |
| `sniffing` | recognising an image file by its first bytes |
| `non_images` | describing files that are not images |
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
from featpipe.images.folder_names import is_split
from featpipe.images.imageset import (
    Failure,
    ImageError,
    ImageReader,
    ImageRow,
    ImageSet,
    build_image_set,
)
from featpipe.images.labelling import class_names_of, splits_from
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
