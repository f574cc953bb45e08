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

from featpipe.inference.batch import CodesByDepth, ComputedBatch, LoadedImage
from featpipe.inference.engine import Engine
from featpipe.inference.execution import Execution
from featpipe.inference.items import GIVEN, from_items
from featpipe.inference.loader import worker_server
from featpipe.inference.loading import time_loading
from featpipe.inference.machine import Machine
from featpipe.inference.network import Network
from featpipe.inference.pixels import Decoding, decode_resized
from featpipe.inference.processes import WorkerServer
from featpipe.inference.progress import Progress
from featpipe.inference.recipe import Recipe, package_versions
from featpipe.inference.sources import Source, image_set_of, require_different_paths
from featpipe.inference.stream import Batch, Stream

__all__ = [
    "GIVEN",
    "Batch",
    "CodesByDepth",
    "ComputedBatch",
    "Decoding",
    "Engine",
    "Execution",
    "LoadedImage",
    "Machine",
    "Network",
    "Progress",
    "Recipe",
    "Source",
    "Stream",
    "WorkerServer",
    "decode_resized",
    "from_items",
    "image_set_of",
    "package_versions",
    "require_different_paths",
    "time_loading",
    "worker_server",
]
