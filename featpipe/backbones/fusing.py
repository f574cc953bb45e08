"""Fuse convolutions with the additions and activations that follow them, on a CPU.

oneDNN, torch's library on x86, can add and activate while a result is still in the
cache, and can pack weights in the order in which it reads them. torch uses this only in
compiled networks, which need a compiler. This module calls the same kernels by their
names; if a version of torch lacks them, nothing is fused.
"""

from __future__ import annotations

import operator
import platform
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import cache
from typing import Any, NamedTuple, TypeGuard, cast

import torch
from torch import Tensor, fx, nn

from featpipe.backbones.blank_run import BlankRun
from featpipe.backbones.layers import is_stochastic_depth
from featpipe.backbones.pooling import Shape, pool

__all__ = ["FusedConvolution", "can_fuse", "fuse", "input_sizes"]


class _Activation(NamedTuple):
    """An activation, with its name and numbers in oneDNN."""

    name: str
    scalars: tuple[float, ...] = ()
    algorithm: str = ""


_Modules = Mapping[str, nn.Module]
_NONE, _RELU = _Activation("none"), _Activation("relu")

_ACTIVATIONS: dict[type[nn.Module], Callable[[Any], _Activation]] = {
    nn.ReLU: lambda module: _RELU,
    nn.ReLU6: lambda module: _Activation("hardtanh", (0.0, 6.0)),
    nn.SiLU: lambda module: _Activation("swish"),
    nn.Hardswish: lambda module: _Activation("hardswish"),
    nn.LeakyReLU: lambda module: _Activation("leaky_relu", (module.negative_slope,)),
    nn.GELU: lambda module: _Activation("gelu", (), module.approximate),
}
_SUMS = (operator.add, torch.add)
_RELUS = (torch.relu, nn.functional.relu)
# Layers that change no tensor in place, so that they may lie between a convolution and
# its sum.
_PURE = (nn.Conv2d, nn.BatchNorm2d, nn.AvgPool2d, nn.MaxPool2d, nn.Identity)

# Layers, functions and methods that make no NaN of finite numbers.
_NAN_FREE_MODULES = {
    *(*_PURE, *_ACTIVATIONS, nn.Linear, nn.Flatten, nn.Dropout, nn.ELU),
    *(nn.Sigmoid, nn.Hardsigmoid, nn.Tanh, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d),
}
_NAN_FREE_FUNCTIONS = {
    *(*_SUMS, *_RELUS, operator.mul, torch.mul, operator.getitem, getattr),
    *(torch.cat, torch.flatten, torch.mean, torch.sigmoid, torch.transpose, pool),
    *(torch.permute, torch.chunk, torch.unsqueeze),
    *(nn.functional.max_pool2d, nn.functional.avg_pool2d, nn.functional.dropout),
    *(nn.functional.adaptive_avg_pool2d, nn.functional.hardtanh),
    *(nn.functional.silu, nn.functional.gelu, nn.functional.hardswish),
}
_NAN_FREE_METHODS = {
    *("size", "view", "reshape", "flatten", "permute", "transpose", "contiguous"),
    *("mean", "chunk", "unsqueeze", "squeeze"),
}


class FusedConvolution(nn.Module):
    """A convolution with packed weights, which may also add a tensor and activate.

    Parameters
    ----------
    convolution : nn.Conv2d
        On the CPU, with a padding of zeros whose width is a number.
    activation : _Activation
        Applied last; after a sum, only ReLU is possible.
    size : sequence of int, optional
        (n, C, H, W) of its input. Weights that are packed for another size, or for
        another number of threads than torch has now, may be reordered at every call:
        the numbers are the same, but that took longer than the convolutions on
        processors with AVX2.
    """

    def __init__(
        self,
        convolution: nn.Conv2d,
        activation: _Activation,
        size: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        self._geometry = (
            list(cast(tuple[int, ...], convolution.padding)),
            list(convolution.stride),
            list(convolution.dilation),
        )
        self._kernel = convolution.kernel_size
        self._width, self._groups = convolution.out_channels, convolution.groups
        weight = convolution.weight.detach()
        self._dtype = weight.dtype
        self._input_size = None if size is None else list(size)
        self._bias = None if convolution.bias is None else convolution.bias.detach()
        self._weight = self._packed(weight)
        self._activation = activation

    def _packed(self, weight: Tensor) -> Tensor:
        packed: Tensor = torch.ops.mkldnn._reorder_convolution_weight(
            weight, *self._geometry, self._groups, self._input_size
        )
        return packed

    def __getstate__(self) -> dict[str, Any]:
        # Packed weights cannot be pickled or copied.
        return self.__dict__ | {"_weight": self._weight.to_dense()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]  # torch declares no types for it
        self._weight = self._packed(self._weight)

    def forward(self, x: Tensor, other: Tensor | None = None) -> Tensor:
        """Convolve (n, C, H, W), add ``other`` if given, and activate."""
        x = x.to(self._dtype)
        if other is None:
            return self._convolved(x, self._activation)
        # The kernel adds only tensors of the same shape; torch broadcasts.
        if other.shape == self._shape(x) and other.dtype == x.dtype:
            summed: Tensor = torch.ops.mkldnn._convolution_pointwise.binary(
                *(x, other, self._weight, self._bias, *self._geometry, self._groups),
                *("add", 1.0, "relu" if self._activation == _RELU else None, [], None),
            )
            return summed
        y = self._convolved(x, _NONE) + other
        return y.relu_() if self._activation == _RELU else y

    def _convolved(self, x: Tensor, activation: _Activation) -> Tensor:
        convolved: Tensor = torch.ops.mkldnn._convolution_pointwise(
            *(x, self._weight, self._bias, *self._geometry, self._groups),
            *(activation.name, list(activation.scalars), activation.algorithm),
        )
        return convolved

    def _shape(self, x: Tensor) -> tuple[int, ...]:
        """Return the shape of the output."""
        sides = zip(x.shape[2:], self._kernel, *self._geometry, strict=True)
        return (
            x.shape[0],
            self._width,
            *((n + 2 * pad - gap * (k - 1) - 1) // step + 1
              for n, k, pad, step, gap in sides),
        )  # fmt: skip


@cache
def can_fuse(dtype: torch.dtype) -> bool:
    """Return whether torch has the kernels, and they compute what they should."""
    # Other machines have other kernels, which were not measured.
    if platform.machine() not in ("x86_64", "AMD64"):
        return False
    if not torch.backends.mkldnn.is_available():
        return False
    generator = torch.Generator().manual_seed(0)
    # Forked, so that this test does not change the user's random numbers.
    with torch.random.fork_rng(devices=[]):
        convolution = nn.Conv2d(3, 8, 3, stride=2, padding=1).to(dtype)
    # Odd sizes and a stride, with which errors of geometry show first.
    x = torch.randn(2, 3, 9, 9, generator=generator).to(dtype)
    x = x.contiguous(memory_format=torch.channels_last)
    try:
        with torch.inference_mode():
            plain = convolution(x)
            fused = FusedConvolution(convolution, _RELU)
            pairs = [(fused(x), plain.relu()), (fused(x, plain), (2 * plain).relu())]
    except (AttributeError, RuntimeError, TypeError):
        return False
    return all(torch.allclose(a, b, rtol=0.02, atol=0.02) for a, b in pairs)


def input_sizes(
    network: fx.GraphModule, side: int, batch_size: int = 1
) -> dict[str, Shape]:
    """Return the size (n, C, H, W) of the input of each node, as far as it is known.

    Parameters
    ----------
    network : fx.GraphModule
        With weights in float32.
    side : int
        Side of its square images, in pixels.
    batch_size : int
        Images of a batch, n.

    Returns
    -------
    dict of str to tuple of int
        By the name of the node.
    """
    run = BlankRun(network)
    # A network that refuses blank images may run on real ones; it is only slower then.
    with suppress(Exception):
        run.run_blank(side, side)
    return {
        node.name: (batch_size, *run.shapes[node.args[0]])
        for node in network.graph.nodes
        if node.args and node.args[0] in run.shapes
    }


def fuse(network: fx.GraphModule, sizes: Mapping[str, Shape] | None = None) -> None:
    """Replace convolutions, in place, by ones that also add and activate.

    Parameters
    ----------
    network : fx.GraphModule
        With weights on the CPU, in the dtype in which they will run, for which
        `can_fuse` is true.
    sizes : mapping, optional
        From `input_sizes`; without it the network is slower, with the same numbers.
    """
    sizes = {} if sizes is None else sizes
    modules: dict[str, nn.Module] = dict(network.named_modules())
    # oneDNN's activations turn NaN into 0, which would hide an error.
    may_activate = _stays_finite(network, modules)
    graph = network.graph
    for k, node in enumerate(list(graph.nodes)):
        convolution = modules.get(str(node.target))
        if not _has_kernel(convolution, node):
            continue
        replaced, other, activation = [node], None, _NONE
        if may_activate:
            replaced, other, activation = _fusible(node, modules)
        name = f"fused_{k}"
        modules[name] = FusedConvolution(convolution, activation, sizes.get(node.name))
        network.add_submodule(name, modules[name])
        # After the last of them, since the summand may be computed before it.
        with graph.inserting_after(replaced[-1]):
            inputs = (node.args[0],) if other is None else (node.args[0], other)
            replaced[-1].replace_all_uses_with(graph.call_module(name, inputs))
        for old in reversed(replaced):
            graph.erase_node(old)
    network.delete_all_unused_submodules()
    network.recompile()


def _makes_no_nan(module: nn.Module) -> bool:
    return type(module) in _NAN_FREE_MODULES or is_stochastic_depth(module)


def _stays_finite(network: fx.GraphModule, modules: _Modules) -> bool:
    """Return whether finite images give no NaN, unless numbers overflow."""
    is_nan_free = {
        "placeholder": lambda target: True,
        "output": lambda target: True,
        "get_attr": lambda target: False,
        "call_module": lambda target: _makes_no_nan(modules[target]),
        "call_function": _NAN_FREE_FUNCTIONS.__contains__,
        "call_method": _NAN_FREE_METHODS.__contains__,
    }
    if not all(is_nan_free[node.op](node.target) for node in network.graph.nodes):
        return False
    return all(bool(x.isfinite().all()) for x in network.parameters())


def _has_kernel(module: nn.Module | None, node: fx.Node) -> TypeGuard[nn.Conv2d]:
    """Return whether a node is a convolution that oneDNN's kernel can compute."""
    return (
        type(module) is nn.Conv2d
        and node.op == "call_module"
        and len(node.args) == 1
        and not node.kwargs
        and module.padding_mode == "zeros"
        and not isinstance(module.padding, str)
    )


def _fusible(
    node: fx.Node, modules: _Modules
) -> tuple[list[fx.Node], fx.Node | None, _Activation]:
    """Return the nodes that one kernel can replace, its summand and its activation."""
    user = _only_user(node)
    # An output that several nodes read must stay a tensor of its own.
    if user is None or not _nothing_writes(node, user, modules):
        return [node], None, _NONE
    if (activation := _activation(user, modules)) is not None:
        return [node, user], None, activation
    other = _summand(user, node)
    if other is None:
        return [node], None, _NONE
    after = _only_user(user)
    if after is None or _activation(after, modules) != _RELU:
        return [node, user], other, _NONE
    if not _nothing_writes(user, after, modules):
        return [node, user], other, _NONE
    return [node, user, after], other, _RELU


def _only_user(node: fx.Node) -> fx.Node | None:
    return next(iter(node.users)) if len(node.users) == 1 else None


def _summand(node: fx.Node, first: fx.Node) -> fx.Node | None:
    """Return what ``node`` adds to ``first``; None if it is not such a sum."""
    if node.op != "call_function" or node.target not in _SUMS or node.kwargs:
        return None
    others = [x for x in node.args if x is not first]
    # x + x has no other summand, and x + 1 has no second tensor.
    if len(node.args) != 2 or len(others) != 1 or not isinstance(others[0], fx.Node):
        return None
    return others[0]


def _activation(node: fx.Node, modules: _Modules) -> _Activation | None:
    if node.op == "call_function":
        return _RELU if node.target in _RELUS else None
    module = modules.get(str(node.target)) if node.op == "call_module" else None
    make = _ACTIVATIONS.get(type(module)) if module is not None else None
    return None if make is None else make(module)


def _nothing_writes(first: fx.Node, last: fx.Node, modules: _Modules) -> bool:
    """Return whether no node between two others may change a tensor in place."""
    node = first.next
    while node is not last:
        pure = node.op == "call_module" and isinstance(
            modules[str(node.target)], (*_PURE, FusedConvolution)
        )
        if not pure:
            return False
        node = node.next
    return True
