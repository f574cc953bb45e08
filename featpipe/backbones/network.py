"""The frozen backbone: a network cut at the requested depths, on a device.

It turns batches of images into codes. `loading` chooses the network and its weights.
"""

from __future__ import annotations

import contextlib
import copy
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeGuard, cast

import torch
from torch import Tensor, fx, nn

from featpipe.backbones.depths import Depth
from featpipe.backbones.fusing import can_fuse, fuse, input_sizes
from featpipe.backbones.network_graph import NetworkGraph

if TYPE_CHECKING:
    from featpipe.backbones.preprocessing import Preprocessing

__all__ = ["Backbone", "prepared"]

_PRECISIONS = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True, eq=False)
class Backbone:
    """A frozen network that turns images into codes; `load` makes one.

    Parameters
    ----------
    name : str
        As in the catalogue.
    weights : str
        Canonical name: ``IMAGENET1K_V1``, ``none``, ``own``, or that of a file.
    weights_sha256 : str
        Digest of the tensors, from `hash_weights`. Empty if they were not read.
    preprocessing : Preprocessing
    depths : tuple of Depth
        In the requested order, each once.
    network : nn.Module
        The whole network on the CPU, unfused, in eval mode, without gradients. It never
        runs or changes; a cut copy of it runs.
    device : torch.device
    precision : str
        ``fp32``, ``bf16`` or ``fp16``.
    random : str
        Why codes depend on more than the image, if that was allowed; else empty.

    Examples
    --------
    >>> import torch
    >>> from featpipe import backbones
    >>> backbone = backbones.load("mini", depths=("stage3", "penultimate"))
    >>> codes = backbone(torch.zeros((2, 3, 64, 64), dtype=torch.uint8))
    >>> {spec: tuple(code.shape) for spec, code in codes.items()}
    {'stage3:avg': (2, 128), 'penultimate': (2, 384)}
    """

    name: str
    weights: str
    weights_sha256: str
    preprocessing: Preprocessing
    depths: tuple[Depth, ...]
    network: nn.Module = field(repr=False)
    device: torch.device
    precision: str = "fp32"
    random: str = ""
    _outline: NetworkGraph = field(repr=False, kw_only=True)
    _cut: nn.Module = field(repr=False, kw_only=True)

    def __call__(self, images: Tensor) -> dict[str, Tensor]:
        """Compute the codes of a batch.

        Parameters
        ----------
        images : (n, 3, S, S) uint8
            From `Preprocessing.apply`; they are moved to the device.

        Returns
        -------
        dict of str to Tensor
            By canonical depth, on the device: (n, width) float32; (n, C, H, W) float16
            for ``:map``, and float32 for ``:map32``.

        Raises
        ------
        ValueError
            If the images have another shape or dtype.
        """
        # Floats would be divided by 255 again, without any error.
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3:
            raise ValueError(
                f"images must be uint8 of shape (n, 3, S, S), not {images.dtype} of "
                f"shape {tuple(images.shape)}; use `preprocessing.apply`"
            )
        with torch.inference_mode(), _arithmetic(self.device, self.precision):
            # A call of a traced module would print a traceback on any error, even if
            # the error is handled, such as lack of memory.
            codes = self._cut.forward(self.normalised(images))
        return {depth.spec: x for depth, x in zip(self.depths, codes, strict=True)}

    def to(
        self,
        device: str | torch.device,
        precision: str = "fp32",
        *,
        fused: bool = True,
        batch_size: int = 1,
    ) -> Backbone:
        """Return a copy of the backbone on a device, in a precision.

        Parameters
        ----------
        device : str or torch.device
        precision : str
            ``fp32`` (true float32, also on CUDA), or ``bf16`` or ``fp16``, which
            torch's autocast uses where it is safe.
        fused : bool
            Whether convolutions also add and activate, if possible: in traced networks
            on an x86 processor; see `fusing`.
        batch_size : int
            Images of the batches for which weights are packed, if ``fused``, and for as
            many threads as torch has now. Others take longer; the codes are the same.

        Returns
        -------
        Backbone

        Raises
        ------
        ValueError
            If the precision is unknown.
        """
        if precision not in _PRECISIONS:
            raise ValueError(
                f"unknown precision {precision!r}; choose from {', '.join(_PRECISIONS)}"
            )
        device = torch.device(device)
        size = (batch_size, self.preprocessing.crop) if fused else None
        cut = prepared(
            self._outline.cut(self.depths), device, precision, fused_for=size
        )
        return replace(self, device=device, precision=precision, _cut=cut)

    @property
    def cut(self) -> nn.Module:
        """The module from normalised images (n, 3, S, S) to codes, one for each depth.

        It has the precision and the device of the backbone. Before `to` it has only
        layers of torch.
        """
        return self._cut

    def needed(self) -> dict[str, Tensor]:
        """Return the weights that the depths need, by their names in the network."""
        keys = self._outline.keys(depth.node for depth in self.depths)
        state = self.network.state_dict()
        return {
            key: state[key]
            for key in sorted(keys)
            # These counters have no effect in eval mode, and older files lack them.
            if not key.endswith("num_batches_tracked")
        }

    def fingerprint(self) -> dict[str, Any]:
        """Return everything that changes the numbers of codes, as a dict for JSON."""
        random = {"random": self.random} if self.random else {}
        return {
            "backbone": self.name,
            "weights_sha256": self.weights_sha256,
            "preprocessing": self.preprocessing.as_dict() | random,
        }

    def normalised(self, images: Tensor) -> Tensor:
        """Return uint8 images (n, 3, S, S) as input of the network, on the device."""
        # On a GPU the copy runs while the previous batch is computed.
        x = images.to(self.device, non_blocking=True)
        # After the copy, since uint8 has a quarter of the bytes.
        x = x.to(torch.float32, memory_format=torch.channels_last).div_(255)
        mean = x.new_tensor(self.preprocessing.mean).view(3, 1, 1)
        std = x.new_tensor(self.preprocessing.std).view(3, 1, 1)
        return x.sub_(mean).div_(std)


def prepared(
    cut: nn.Module,
    device: torch.device,
    precision: str,
    *,
    fused_for: tuple[int, int] | None,
) -> nn.Module:
    """Return a copy of a cut network that is fast on a device, in a precision.

    Batch norm is folded, maps are channels last, and weights are cast once, not for
    every batch. With ``fused_for``, the images of a batch and their side in pixels,
    convolutions add and activate (see `fusing`). The copy shares weights that do not
    change.
    """
    # With this memo the copy shares the weights, which are replaced, never written to.
    tensors = (*cut.parameters(), *cut.buffers())
    network = copy.deepcopy(cut, {id(tensor): tensor for tensor in tensors})
    if isinstance(network, fx.GraphModule):
        _fold_batch_norm(network)
    lower = _PRECISIONS[precision]
    on_cpu = device.type == "cpu" and can_fuse(lower or torch.float32)
    if fused_for and on_cpu and isinstance(network, fx.GraphModule):
        batch_size, side = fused_for
        sizes = input_sizes(network, side, batch_size)
        _place(network, device, lower)
        fuse(network, sizes)
    else:
        _place(network, device, lower)
    return network.eval()


def _fold_batch_norm(network: fx.GraphModule) -> None:
    """Fold each batch norm into its convolution, if nothing else reads the latter."""
    modules = dict(network.named_modules())
    n_uses = Counter(n.target for n in network.graph.nodes if n.op == "call_module")
    for node in list(network.graph.nodes):
        before = node.args[0] if node.args else None
        if not isinstance(before, fx.Node) or len(before.users) > 1:
            continue
        if node.op != "call_module" or before.op != "call_module":
            continue
        norm, convolution = modules[str(node.target)], modules[str(before.target)]
        # A layer that is called twice would be folded twice.
        once = n_uses[node.target] == n_uses[before.target] == 1
        if once and _is_foldable(norm) and type(convolution) is nn.Conv2d:
            _fold(convolution, norm)
            node.replace_all_uses_with(before)
            network.graph.erase_node(node)
    network.delete_all_unused_submodules()
    network.recompile()


def _is_foldable(module: nn.Module) -> TypeGuard[nn.BatchNorm2d]:
    return type(module) is nn.BatchNorm2d and module.running_mean is not None


def _fold(convolution: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
    """Fold a batch norm into the weights of the convolution before it."""
    mean, var = cast(Tensor, norm.running_mean), cast(Tensor, norm.running_var)
    # In float64, since 1 / sqrt(var + eps) may be large.
    gain = 1 / (var.double() + norm.eps).sqrt()
    bias = -mean.double()
    if convolution.bias is not None:
        bias = bias + convolution.bias
    if norm.affine:
        gain = gain * norm.weight
        bias = bias * gain + norm.bias
    else:
        bias = bias * gain
    weight = convolution.weight * gain.float().view(-1, 1, 1, 1)
    convolution.weight = nn.Parameter(weight, requires_grad=False)
    convolution.bias = nn.Parameter(bias.float(), requires_grad=False)


def _place(network: nn.Module, device: torch.device, lower: torch.dtype | None) -> None:
    """Move a network to a device, weights of convolutions and Linears in ``lower``.

    `nn.Module.to` would write into parameters that other networks share.
    """
    for module in network.modules():
        dtype = lower if type(module) in (nn.Conv2d, nn.Linear) else None
        for name, parameter in module.named_parameters(recurse=False):
            order = (
                torch.channels_last if parameter.ndim == 4 else torch.preserve_format
            )
            # Norms stay in float32, as under autocast.
            moved = parameter.detach().to(device, dtype, memory_format=order)
            setattr(module, name, nn.Parameter(moved, requires_grad=False))
        for name, buffer in module.named_buffers(recurse=False):
            setattr(module, name, buffer.to(device))


@contextlib.contextmanager
def _arithmetic(device: torch.device, precision: str) -> Iterator[None]:
    """Set the arithmetic of a precision while the block runs; float32 without TF32."""
    lower = _PRECISIONS[precision]
    if lower is not None:
        with torch.autocast(device.type, dtype=lower):
            yield
    elif device.type == "cuda":
        with _true_float32:
            yield
    else:
        yield


class _TrueFloat32:
    """Prevents CUDA from rounding float32 to TF32, its default for convolutions.

    The setting is that of the process, and lanes run in several threads: the first to
    enter sets it, and the last to leave restores it.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._n_inside = 0
        self._before = "", ""

    def __enter__(self) -> None:
        with self._lock:
            if self._n_inside == 0:
                self._before = self._exchange("ieee", "ieee")
            self._n_inside += 1

    def __exit__(self, *exception: object) -> None:
        with self._lock:
            self._n_inside -= 1
            if self._n_inside == 0:
                self._exchange(*self._before)

    @staticmethod
    def _exchange(convolutions: str, products: str) -> tuple[str, str]:
        # torch.backends.cudnn replaces itself by an object, which mypy does not know.
        conv = torch.backends.cudnn.conv  # type: ignore[attr-defined]
        matmul = torch.backends.cuda.matmul
        before = conv.fp32_precision, matmul.fp32_precision
        conv.fp32_precision, matmul.fp32_precision = convolutions, products
        return before


_true_float32 = _TrueFloat32()
