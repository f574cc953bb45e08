"""The network of a recipe, loaded when it is first used.

A run with nothing to compute does not use it, and so imports no torch.
"""

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property, partial
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np

from featpipe import __version__
from featpipe.devices import require_device
from featpipe.inference.execution import (
    Execution,
    Memory,
    multiplies_bf16,
    processor,
    try_out,
)
from featpipe.inference.lanes import InferenceWorkers, lane_threads, with_threads
from featpipe.inference.machine import Machine
from featpipe.inference.recipe import Recipe

if TYPE_CHECKING:
    from featpipe.backbones import Backbone

__all__ = ["Network"]

# Pixels of a batch on a processor: the maps of four images of 224 px fit its cache;
# larger batches took up to 1.7 times as long per image. At most 32 small images.
_CPU_PIXELS, _CPU_BATCH, _GPU_BATCH = 4 * 224**2, 32, 128
# More lanes on the CPU need memory and save little time.
_MAX_LANES = 4
# Larger batches were faster nowhere.
_MAX_BATCH = 512
# For fewer images the length of the run is not measured.
_FEW_IMAGES = 500


class Network:
    """The network of a recipe on the devices of a machine.

    Parameters
    ----------
    recipe : Recipe
    machine : Machine, optional
        Default ``Machine()``.
    download : bool
        As in `Recipe.load`; False is for shapes and times only.

    Examples
    --------
    >>> network = Network(Recipe("mini"), Machine("cpu", batch_size=8))
    >>> network.kind, network.batch_size(side=224), network.precision("fp32")
    ('cpu', 8, 'fp32')
    >>> network.backbone(["penultimate"]).depths[0].shape
    (384,)
    """

    def __init__(
        self,
        recipe: Recipe,
        machine: Machine | None = None,
        *,
        download: bool = True,
    ) -> None:
        self.recipe = recipe
        self._download = download
        self.machine = machine or Machine()
        self._loaded: dict[tuple[str, ...], Backbone] = {}
        self._placed: dict[tuple[Backbone, str, Execution], list[Backbone]] = {}
        self._guard = Lock()

    @cached_property
    def device(self) -> str:
        """Name of the torch device.

        Raises
        ------
        ValueError
            If the machine has no such device.
        """
        import torch

        name = self.machine.device
        # MPS after CUDA, and the CPU when there is neither.
        if name == "auto":
            if torch.cuda.is_available():
                return "cuda"
            return "mps" if torch.backends.mps.is_available() else "cpu"
        require_device(name)
        return name

    @property
    def devices(self) -> list[str]:
        """The devices that are used: all visible GPUs if none is named."""
        import torch

        # "cuda" without a number means all that are visible, as CUDA_VISIBLE_DEVICES
        # has it.
        if self.device == "cuda":
            return [f"cuda:{k}" for k in range(torch.cuda.device_count())]
        return [self.device]

    @property
    def kind(self) -> str:
        """The kind of all `devices`: ``cpu``, ``cuda`` or ``mps``."""
        return self.device.partition(":")[0]

    def batch_size(self, side: int) -> int:
        """Return the number of images that go through the network at a time.

        Parameters
        ----------
        side : int
            Pixels, of the square that the network sees.
        """
        if self.machine.batch_size:
            return self.machine.batch_size
        if self.kind != "cpu":
            # MPS shares its memory with all other programs.
            return _GPU_BATCH if self.kind == "cuda" else _CPU_BATCH
        return min(max(_CPU_PIXELS // side**2, 1), _CPU_BATCH)

    def precision(self, name: str) -> str:
        """Turn ``auto`` into bf16 where the hardware multiplies it, else fp32."""
        import torch

        if name != "auto":
            return name
        if self.device.startswith("cuda"):
            # Activations do not overflow in bf16, which has the range of float32; fp16
            # is for GPUs from before 2020.
            return "bf16" if torch.cuda.is_bf16_supported() else "fp16"
        return "bf16" if self.device == "cpu" and multiplies_bf16() else "fp32"

    def backbone(self, depths: Sequence[str]) -> "Backbone":
        """Load the network, cut at the deepest of ``depths``."""
        with self._guard:
            return self._load(tuple(depths))

    def _load(self, depths: tuple[str, ...]) -> "Backbone":
        if depths not in self._loaded:
            backbone = self.recipe.load(depths, download=self._download)
            specs = tuple(depth.spec for depth in backbone.depths)
            # Only one network is kept, by the depths as given and as canonical names.
            self._loaded = {depths: backbone, specs: backbone}
        return self._loaded[depths]

    def safe_execution(self, side: int, precision: str) -> Execution:
        """Return a way to run that is not slower than plain torch, batch norm folded.

        Fused kernels were faster in float32, and in bf16 where the processor multiplies
        it, wherever they were measured (docs/inside/performance.md).

        Parameters
        ----------
        side : int
            Pixels, of the square that the network sees.
        precision : str
        """
        import torch

        fused = precision == "fp32" or (precision == "bf16" and multiplies_bf16())
        # A second lane keeps a GPU busy while the codes of the first are copied.
        n_lanes = {"cpu": min(torch.get_num_threads(), _MAX_LANES), "cuda": 2}
        return Execution(
            fused=self.kind == "cpu" and fused,
            batch_size=self.batch_size(side),
            n_lanes=n_lanes.get(self.kind, 1),
        )

    def choose_execution(
        self,
        depths: Sequence[str],
        precision: str,
        side: int,
        *,
        n_images: int,
        largest_batch: int,
    ) -> Execution:
        """Return the remembered execution, the winner of a trial, or the safe one.

        Parameters
        ----------
        depths : sequence of str
        precision : str
        side : int
            Pixels, of the square that the network sees; an argument, so that no network
            has to be loaded for it.
        n_images : int
            Of the run.
        largest_batch : int
            No larger one is tried.
        """
        safe = self.safe_execution(side, precision)
        memory = Memory(self._facts(depths, precision, side))
        remembered = memory.recall()
        if remembered is not None:
            # The user's batch size takes precedence over the remembered one.
            batch_size = self.machine.batch_size or remembered.batch_size
            return replace(remembered, batch_size=min(batch_size, largest_batch))
        if n_images < _FEW_IMAGES:
            return safe
        best, tried = try_out(
            safe,
            partial(self._others, largest_batch),
            partial(self.seconds_per_image, depths, precision),
            n_images,
        )
        with self._guard:
            kept = _packed_for(best)
            self._placed = {k: v for k, v in self._placed.items() if k[2] == kept}
        # A trial with the user's batch size does not show the best one.
        if tried and not self.machine.batch_size:
            memory.remember(best)
        return best

    def _facts(
        self, depths: Sequence[str], precision: str, side: int
    ) -> dict[str, Any]:
        """Return the facts on which the fastest way depends."""
        import torch

        name: object = processor()
        if self.kind == "cuda":
            name = [torch.cuda.get_device_name(device) for device in self.devices]
        return {
            "backbone": self.recipe.backbone,
            "depths": list(depths),
            "side": side,
            "precision": precision,
            "device": self.kind,
            "processor": name,
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "featpipe": __version__,
        }

    def _others(self, largest_batch: int, best: Execution) -> Iterator[Execution]:
        """Yield other ways to run than the best so far, the most promising first."""
        if self.kind == "cpu":
            yield replace(best, fused=not best.fused)
        if not self.machine.batch_size:
            larger = best.batch_size * 2
            if self.kind != "mps" and larger <= min(largest_batch, _MAX_BATCH):
                yield replace(best, batch_size=larger)
        if self.kind == "cpu":
            yield replace(best, n_lanes=1)

    def seconds_per_image(
        self, depths: Sequence[str], precision: str, execution: Execution
    ) -> float:
        """Measure the seconds per image in the network with all lanes busy."""
        import torch

        side = self.backbone(depths).preprocessing.crop
        # Random pixels, since a constant image may be computed faster. A generator of
        # its own, since the global one is the user's.
        draw = torch.Generator().manual_seed(0)
        shape = (execution.batch_size, 3, side, side)
        pixels = torch.randint(0, 256, shape, dtype=torch.uint8, generator=draw)

        def run(backbone: "Backbone") -> dict[str, np.ndarray]:
            return {spec: x.cpu().numpy() for spec, x in backbone(pixels).items()}

        def round_(workers: InferenceWorkers[[]]) -> float:
            start = time.perf_counter()
            for future in [workers.submit() for _ in range(len(workers))]:
                future.result()
            return time.perf_counter() - start

        workers = InferenceWorkers(self.lanes(depths, precision, execution), run)
        try:
            # The first round prepares kernels; the faster one of the others counts.
            seconds = [round_(workers) for _ in range(3)]
        except torch.OutOfMemoryError:
            return math.inf
        finally:
            workers.close()
        return min(seconds[1:]) / (len(workers) * execution.batch_size)

    def lanes(
        self, depths: Sequence[str], precision: str, execution: Execution | None = None
    ) -> list["Backbone"]:
        """Load the network as `backbone` does, and put it on the device of each lane.

        Lanes of one device share one copy. The default is the safe way to run.
        """
        with self._guard:
            loaded = self._load(tuple(depths))
            if execution is None:
                side = loaded.preprocessing.crop
                execution = self.safe_execution(side, precision)
            key = (loaded, precision, _packed_for(execution))
            if key not in self._placed:
                # The other variants are kept, since a trial alternates between them.
                self._placed = {
                    k: v for k, v in self._placed.items() if k[:2] == key[:2]
                }
                self._placed[key] = self._copies(loaded, precision, execution)
            return self._placed[key] * execution.n_lanes

    def _copies(
        self, backbone: "Backbone", precision: str, execution: Execution
    ) -> list["Backbone"]:
        """Return a copy of a backbone for each device."""
        fused, batch_size = execution.fused, execution.batch_size
        # Weights are packed for the threads that torch has while it packs them.
        with with_threads(lane_threads(execution.n_lanes)):
            return [
                backbone.to(device, precision, fused=fused, batch_size=batch_size)
                for device in self.devices
            ]


def _packed_for(execution: Execution) -> Execution:
    """Return an execution for whose batches and threads weights are packed."""
    if execution.fused:
        return execution
    # Weights are not packed: any batch is as fast, in any lane.
    return replace(execution, batch_size=1, n_lanes=1)
