"""The network of a recipe, loaded when it is first needed and not before.

A run with nothing to compute never gets here, and so never imports torch.
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
from featpipe.inference.execution import (
    Execution,
    Memory,
    has_amx,
    processor,
    try_out,
)
from featpipe.inference.lanes import InferenceWorkers
from featpipe.inference.machine import Machine
from featpipe.inference.recipe import Recipe

if TYPE_CHECKING:
    from featpipe.backbones import Backbone

__all__ = ["Network"]

# Pixels of a batch on a processor: the maps of four images of 224 px fit its cache, and
# larger batches took up to 1.7 times as long an image. Of small images, 32 at most.
_CPU_PIXELS, _CPU_BATCH, _GPU_BATCH = 4 * 224**2, 32, 128
# More lanes than that on the CPU would need more memory than they save time.
_MAX_LANES = 4
# Larger batches were nowhere faster.
_MAX_BATCH = 512
# For fewer images it is not even looked how long the run will be.
_FEW_IMAGES = 500


class Network:
    """Where and how the recipe's network runs.

    Parameters
    ----------
    recipe : Recipe
    machine : Machine, optional
        Default whatever device there is.
    download : bool
        As in `Recipe.load`; without, it tells shapes and times only.

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
        self._placed: dict[tuple[Backbone, str, bool], list[Backbone]] = {}
        self._guard = Lock()

    @cached_property
    def device(self) -> str:
        """Name of the torch device.

        Raises
        ------
        ValueError
            If the device asked for is not there.
        """
        import torch

        name = self.machine.device
        # MPS after CUDA, and the CPU when there is neither.
        if name == "auto":
            if torch.cuda.is_available():
                return "cuda"
            return "mps" if torch.backends.mps.is_available() else "cpu"
        try:
            # The only sure way to know whether a device works is to put something on
            # it.
            torch.empty(1, device=name)
        except (RuntimeError, AssertionError, NotImplementedError) as error:
            known = str(name).partition(":")[0] in ("cpu", "cuda", "mps")
            reason = "torch sees none here" if known else "it is no device of torch"
            raise ValueError(
                f"device {name!r} cannot be used: {reason}; give auto, cpu, cuda, "
                "cuda:1 or mps, of those that are here"
            ) from error
        return name

    @property
    def devices(self) -> list[str]:
        """Every device that is used: all GPUs that are visible if none is named."""
        import torch

        # "cuda" without a number means all that are visible, as CUDA_VISIBLE_DEVICES
        # has it.
        if self.device == "cuda":
            return [f"cuda:{k}" for k in range(torch.cuda.device_count())]
        return [self.device]

    @property
    def kind(self) -> str:
        """What all `devices` are: ``cpu``, ``cuda`` or ``mps``."""
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
            # MPS shares its memory with everything else of the machine.
            return _GPU_BATCH if self.kind == "cuda" else _CPU_BATCH
        return min(max(_CPU_PIXELS // side**2, 1), _CPU_BATCH)

    def precision(self, name: str) -> str:
        """Turn ``auto`` into bf16 where the hardware multiplies it, else fp32."""
        import torch

        if name != "auto":
            return name
        if self.device.startswith("cuda"):
            # bf16 has the range of float32, so that no activation overflows; fp16 is
            # for GPUs from before 2020.
            return "bf16" if torch.cuda.is_bf16_supported() else "fp16"
        # torch 2.11 does not tell yet; fp32 is then the safe answer.
        able: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
        native = able.get("avx512_bf16") or able.get("amx_bf16")
        return "bf16" if self.device == "cpu" and native else "fp32"

    def backbone(self, depths: Sequence[str]) -> "Backbone":
        """Load the network, cut at the deepest of ``depths``."""
        with self._guard:
            return self._load(tuple(depths))

    def _load(self, wanted: tuple[str, ...]) -> "Backbone":
        if wanted not in self._loaded:
            backbone = self.recipe.load(wanted, download=self._download)
            specs = tuple(depth.spec for depth in backbone.depths)
            # Only one is kept, under both of its names: it may be large.
            self._loaded = {wanted: backbone, specs: backbone}
        return self._loaded[wanted]

    def safe_execution(self, side: int, precision: str) -> Execution:
        """Return a way to run that is not slower than plain torch, batch norm folded.

        Fused kernels won in float32, and in bf16 with AMX, wherever that was measured;
        in bf16 without AMX they lose up to a half (docs/inside/performance.md).

        Parameters
        ----------
        side : int
            Pixels, of the square that the network sees.
        precision : str
        """
        import torch

        fused = precision == "fp32" or (precision == "bf16" and has_amx())
        # Two lanes keep a GPU busy while the codes of one are copied back.
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
        """Return how to run: as remembered, as tried before a long run, or safely.

        Parameters
        ----------
        depths : sequence of str
        precision : str
        side : int
            Pixels, of the square that the network sees. Told, so that a run that finds
            all rows known loads no network.
        n_images : int
            Of the run.
        largest_batch : int
            No larger one is tried.
        """
        safe = self.safe_execution(side, precision)
        memory = Memory(self._facts(depths, precision, side))
        remembered = memory.recall()
        if remembered is not None:
            # What the user asks for now wins over what was fastest once.
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
            self._placed = {k: v for k, v in self._placed.items() if k[2] == best.fused}
        # A trial under the user's batch size says nothing about the best one.
        if tried and not self.machine.batch_size:
            memory.remember(best)
        return best

    def _facts(
        self, depths: Sequence[str], precision: str, side: int
    ) -> dict[str, Any]:
        """Return what it depends on which way to run is fastest."""
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
        """Yield ways to run beside the best so far, the most promising first."""
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
        """Return the seconds an image takes in the network, all lanes at work."""
        import torch

        side = self.backbone(depths).preprocessing.crop
        # Random pixels: a constant image would let caches and sparse paths look faster
        # than they are. Own generator, because torch's global one is the user's.
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
            # The first round prepares kernels; of the others the quieter one counts.
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

        Lanes of one device share one copy. Default is the safe way to run.
        """
        with self._guard:
            loaded = self._load(tuple(depths))
            if execution is None:
                side = loaded.preprocessing.crop
                execution = self.safe_execution(side, precision)
            key = (loaded, precision, execution.fused)
            if key not in self._placed:
                fused = execution.fused
                # The other variant stays, for a trial goes back and forth.
                self._placed = {
                    k: v for k, v in self._placed.items() if k[:2] == key[:2]
                }
                copies = [loaded.to(d, precision, fused=fused) for d in self.devices]
                self._placed[key] = copies
            return self._placed[key] * execution.n_lanes
