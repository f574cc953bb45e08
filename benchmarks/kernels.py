"""How long a forward pass takes with fused kernels, and without, on this processor.

Processor time of one thread, the best of some passes, in turns, so that other work on
the machine matters little. What another processor would do can be tried here::

    ONEDNN_MAX_CPU_ISA=AVX2 MKL_ENABLE_INSTRUCTIONS=AVX2 python benchmarks/kernels.py
"""

import argparse
import time
from collections.abc import Callable
from functools import partial

import torch

from featpipe.backbones import load
from featpipe.inference.execution import processor


def milliseconds(forward: Callable[[], object], n_images: int) -> float:
    """Return the processor time that an image takes in one pass."""
    start = time.process_time()
    forward()
    return (time.process_time() - start) / n_images * 1e3


def main() -> None:
    """Print a table of what the arguments ask."""
    parser = argparse.ArgumentParser(description=__doc__)
    names = ["resnet50", "mobilenet_v2", "squeezenet1_0", "densenet121", "mini"]
    parser.add_argument("--networks", nargs="+", default=names)
    parser.add_argument("--precision", nargs="+", default=["fp32", "bf16"])
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--passes", type=int, default=6)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, {processor()}, batch {options.batch}\n")
    print("| network | precision | fused, ms an image | plain | plain / fused |")
    print("|---|---|---|---|---|")
    for name in options.networks:
        loaded = load(name, weights="none")
        side = loaded.preprocessing.crop
        pixels = torch.randint(
            0, 256, (options.batch, 3, side, side), dtype=torch.uint8
        )
        for precision in options.precision:
            ways = [loaded.to("cpu", precision, fused=fused) for fused in (True, False)]
            for way in ways:
                way(pixels)  # prepares kernels
            rounds = [
                [milliseconds(partial(way, pixels), options.batch) for way in ways]
                for _ in range(options.passes)
            ]
            fused, plain = (min(column) for column in zip(*rounds, strict=True))
            print(
                f"| {name} | {precision} | {fused:.2f} | {plain:.2f} "
                f"| {plain / fused:.2f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
