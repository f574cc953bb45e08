"""The network of a recipe, loaded when it is first needed and not before.

A run with nothing to compute never gets here, and so never imports torch.
"""

from collections.abc import Sequence
from functools import cached_property
from threading import Lock
from typing import TYPE_CHECKING

from featpipe.inference.machine import Machine
from featpipe.inference.recipe import Recipe

if TYPE_CHECKING:
    from featpipe.backbones import Backbone

__all__ = ["Network"]

# Maps of 4 images of 224 px fit the cache of a processor, and so do those of more
# smaller ones; more at a time was measured to cost up to 1.7 times as much.
_CPU_PIXELS, _CPU_BATCH, _GPU_BATCH = 4 * 224**2, 32, 128
# More lanes than that on the CPU would need more memory than they save time.
_MAX_LANES, _LANES_PER_GPU = 4, 2


class Network:
    """Where and how the recipe's network runs.

    Parameters
    ----------
    recipe : Recipe
    machine : Machine, optional
        Default whatever device there is.
    """

    def __init__(self, recipe: Recipe, machine: Machine | None = None) -> None:
        self._recipe = recipe
        self.machine = machine or Machine()
        self._loaded: dict[tuple[str, ...], Backbone] = {}
        self._placed: dict[tuple[Backbone, str], list[Backbone]] = {}
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

        asked = self.machine.device
        if asked == "auto":
            if torch.cuda.is_available():
                return "cuda"
            return "mps" if torch.backends.mps.is_available() else "cpu"
        try:
            torch.empty(1, device=asked)
        except (RuntimeError, AssertionError, NotImplementedError) as error:
            reason = str(error).splitlines()[0]
            raise ValueError(
                f"device {asked!r} cannot be used ({reason}); use cpu, or auto"
            ) from error
        return asked

    @property
    def devices(self) -> list[str]:
        """The device of each lane; every GPU that is visible if none is named."""
        import torch

        if self.device == "cuda":
            gpus = [f"cuda:{k}" for k in range(torch.cuda.device_count())]
            return gpus * _LANES_PER_GPU
        if self.device.startswith("cuda"):
            return [self.device] * _LANES_PER_GPU
        n_lanes = min(torch.get_num_threads(), _MAX_LANES)
        return [self.device] * (n_lanes if self.device == "cpu" else 1)

    def batch_size(self, side: int) -> int:
        """Images at a time.

        Parameters
        ----------
        side : int
            Pixels, of the square that the network sees.
        """
        if self.machine.batch_size:
            return self.machine.batch_size
        if self.device != "cpu":
            return _GPU_BATCH if self.device.startswith("cuda") else _CPU_BATCH
        return min(max(_CPU_PIXELS // side**2, 1), _CPU_BATCH)

    def precision(self, asked: str) -> str:
        """Turn ``auto`` into bf16 where the hardware multiplies it, else fp32."""
        import torch

        if asked != "auto":
            return asked
        if self.device.startswith("cuda"):
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
            backbone = self._recipe.load(wanted)
            specs = tuple(depth.spec for depth in backbone.depths)
            # Only one is kept, under both of its names: it may be large.
            self._loaded = {wanted: backbone, specs: backbone}
        return self._loaded[wanted]

    def lanes(self, depths: Sequence[str], precision: str) -> list["Backbone"]:
        """Load the network as `backbone` does, and put it on the device of each lane.

        InferenceWorkers of one device share one copy.
        """
        with self._guard:
            key = (self._load(tuple(depths)), precision)
            if key not in self._placed:
                devices = self.devices
                copies = {d: key[0].to(d, precision) for d in dict.fromkeys(devices)}
                self._placed = {key: [copies[device] for device in devices]}
            return self._placed[key]
