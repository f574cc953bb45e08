"""Images through a frozen network to codes in memory.

A `Recipe` has what changes the numbers: backbone, weights, depths, precision, decoding.
A `Machine` has where and how it runs: device, batch size, workers. `Stream` joins the
two and yields the codes of images in order, a batch at a time. Importing this package
imports no torch. Knows nothing of codes files or classifiers.

| module | what lives there |
|---|---|
| `recipe` | the options that change the codes, without torch |
| `machine` | device, batch size, workers |
| `network` | the network of a recipe on the devices of a machine, loaded when needed |
| `results` | images after the network: their codes and failures |
| `execution` | fused kernels, batch size, lanes: the fastest, tried and remembered |
| `engine` | reading, decoding and computing batches, several at once, in order |
| `lanes` | threads that compute batches |
| `loader` | threads that load batches, by themselves or by worker processes |
| `processes`, `serving` | worker processes: the side of the program, and their own |
| `loading` | reads, decodes and resizes a few images |
| `pixels` | turns the bytes of an image file into the square that a network takes |
| `progress` | how far the work is, and what limits its speed |
| `stream` | the iterator over batches of codes |
| `items` | makes an `ImageSet` of paths, PIL images and arrays |
| `sources` | makes one of any source: of these, of frames and of datasets |
"""

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
from featpipe.inference.results import CodesByDepth, ComputedBatch, LoadedImage
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
