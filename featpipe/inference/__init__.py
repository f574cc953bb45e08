"""Images through a frozen network to codes in memory.

A `Recipe` is what changes the numbers: backbone, weights, depths, precision, decoding.
A `Machine` is where and how it runs: device, batch size, workers. `Stream` puts the two
together and yields the codes of images, a batch at a time, in their order. Importing
this package imports no torch. Knows nothing of files that hold codes, nor of
classifiers.

| module | what lives there |
|---|---|
| `recipe` | what is asked for, without torch |
| `machine` | device, batch size, workers |
| `network` | the network of a recipe on the devices of a machine, loaded when needed |
| `batch` | images after the network: their codes and failures |
| `execution` | fused kernels, batch size, lanes: tried, and remembered |
| `engine` | reading, decoding and computing batches, several at once, in order |
| `lanes` | threads that compute batches |
| `loader` | threads that load batches, or have worker processes do it |
| `processes`, `serving` | worker processes, from the program's side and from theirs |
| `loading` | some image files to rows of pixels |
| `pixels` | the bytes of an image file to the square that a network takes |
| `progress` | how far the work is, and what limits its speed |
| `stream` | the iterator over batches of codes |
| `items` | paths, PIL images and arrays handed over one by one |
| `sources` | these, frames and datasets, with their labels: whatever a user has |
"""

from featpipe.inference.items import from_items
from featpipe.inference.machine import Machine
from featpipe.inference.progress import Progress
from featpipe.inference.recipe import Recipe
from featpipe.inference.sources import image_set_of
from featpipe.inference.stream import Batch, Stream

__all__ = [
    "Batch",
    "Machine",
    "Progress",
    "Recipe",
    "Stream",
    "from_items",
    "image_set_of",
]
