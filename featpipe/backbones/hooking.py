"""Take outputs of a network by forward hooks, where no graph can be recorded.

Only modules are nodes, not single operations. Further calls of a module are numbered
``_1``, ``_2``, as in a recorded graph. Hooks are removed after each pass.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from featpipe.backbones import pooling
from featpipe.backbones.depths import PENULTIMATE, Depth, NodeInfo
from featpipe.backbones.layers import AFTER_SCORES, is_leaf, makes_scores

__all__ = ["Hooked"]

_N_PROBE = 2
_PRODUCTS = ("linear", "matmul", "__matmul__", "mm", "addmm", "einsum")


@dataclass(frozen=True)
class _Tap:
    """The input or the output of a module at one of its calls, counted from 0."""

    module: str
    call: int
    leaving: bool = True


class Hooked:
    """The modules of a network in eval mode; see `network_graph.NetworkGraph`."""

    def __init__(self, network: nn.Module, *, side: int) -> None:
        self.network = network
        pass_ = _Pass(network, side, side)
        self._taps = pass_.taps
        self._started = pass_.started
        self._n_started = pass_.n_started
        self.nodes = tuple(self._taps)

    def keys(self, nodes: Iterable[str]) -> set[str]:
        """Return the state-dict keys of the layers that these nodes need."""
        # Every module that started before a node's output may have taken part in it.
        last = max((self._n_started[name] for name in nodes), default=0)
        keys: set[str] = set()
        for name in self._started[:last]:
            module = self.network.get_submodule(name)
            inside = module.state_dict() if is_leaf(module) else _own_state(module)
            keys.update(f"{name}.{key}".lstrip(".") for key in inside)
        return keys & self.network.state_dict().keys()

    def before(self, node: str) -> set[str]:
        """See `network_graph.NetworkGraph.before`."""
        begins = self._started.index(self._taps[node].module)
        names: set[str] = set()
        for name in self._started[:begins]:
            module = self.network.get_submodule(name)
            own = [""] if is_leaf(module) else _own_state(module)
            names.update(f"{name}.{key}".strip(".") for key in own)
        return names

    def input_node(self, node: str, stops: Sequence[Depth]) -> str | None:
        """See `network_graph.NetworkGraph.input_node`: hooks cannot tell."""
        return None

    def tail(self, node: str, stops: Sequence[Depth]) -> nn.Module:
        """See `network_graph.NetworkGraph.tail`."""
        # Never called, since no node has an input node.
        raise NotImplementedError("a network with hooks runs from its start")

    def look(
        self, nodes: Iterable[str], height: int, width: int, *, costs: bool = False
    ) -> dict[str, NodeInfo]:
        """See `network_graph.NetworkGraph.look`."""
        seen = _Pass(self.network, height, width, costs=costs).seen
        return {name: seen[name] for name in nodes if name in seen}

    def cut(self, stops: Sequence[Depth]) -> nn.Module:
        """See `network_graph.NetworkGraph.cut`."""
        taps = [self._taps[stop.node] for stop in stops]
        return _Cut(self.network, list(zip(taps, stops, strict=True)))


class _Reached(BaseException):
    """Ends a forward pass early; no `except Exception` in the network stops it."""


class _Cut(nn.Module):
    """A network that runs up to its last tap, and pools the outputs at the taps."""

    def __init__(self, network: nn.Module, stops: list[tuple[_Tap, Depth]]) -> None:
        super().__init__()
        self.network = network
        self._stops = stops

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        codes: dict[int, Tensor] = {}

        def take(tap: _Tap, x: Any) -> None:
            for position, (node, stop) in enumerate(self._stops):
                if node == tap:
                    codes[position] = pooling.pool(x, **stop.pooling())
            if len(codes) == len(self._stops):
                raise _Reached

        # Hooks on these modules alone, since each takes time in every pass.
        names = {tap.module for tap, _ in self._stops}
        with _hooks(self.network, names, take):
            try:
                self.network(images)
            except _Reached:
                return tuple(codes[i] for i in range(len(self._stops)))
        raise RuntimeError(
            "the network did not reach every requested depth: its control flow differs "
            "for these images; choose depths that every image reaches"
        )


class _Pass:
    """A pass over noise that records the output of every module, in order."""

    def __init__(
        self, network: nn.Module, height: int, width: int, *, costs: bool = False
    ) -> None:
        self.taps: dict[str, _Tap] = {}
        self.seen: dict[str, NodeInfo] = {}
        self.started: list[str] = []
        self.n_started: dict[str, int] = {}
        self._network = network
        self._parameters: dict[int, int] = {}
        self._heads: list[tuple[_Tap, nn.Module, NodeInfo]] = []
        self._product: Tensor | None = None
        self._entered: Tensor | None = None
        self._counter = FlopCounterMode(display=False) if costs else None
        names = {name for name, _ in network.named_modules()}
        images = _noise(height, width)
        counting = self._counter or nullcontext()
        products, hooks = _Products(self), _hooks(network, names, self._note)
        with torch.no_grad(), counting, products, hooks:
            output = network(images)
        self._add_penultimate(output)

    def _note(self, tap: _Tap, x: Any) -> None:
        module = self._network.get_submodule(tap.module)
        if not tap.leaving:
            self.started.append(tap.module)
            # By identity, so that a shared layer counts once.
            inside = module.parameters(recurse=is_leaf(module))
            self._parameters.update((id(p), p.numel()) for p in inside)
            self._entered = x
            return
        # Codes need one row for each image, which outputs such as a loss do not have.
        if isinstance(x, Tensor) and x.shape[:1] == (_N_PROBE,) and tap.module:
            name = f"{tap.module}_{tap.call}" if tap.call else tap.module
            self._add(name, tap, x)
        after = makes_scores(module) or isinstance(module, AFTER_SCORES)
        if is_leaf(module) and not after:
            # A layer after the scores means that those were no class scores.
            self._heads = []
        if makes_scores(module) and isinstance(self._entered, Tensor):
            entering = _Tap(tap.module, tap.call, leaving=False)
            self._heads.append((entering, module, self._seen(self._entered)))

    def _add(self, name: str, tap: _Tap, x: Tensor) -> None:
        self.taps[name] = tap
        self.seen[name] = self._seen(x)
        self.n_started[name] = len(self.started)

    def _seen(self, x: Tensor) -> NodeInfo:
        cost = self._counter.get_total_flops() if self._counter else 0
        return NodeInfo(tuple(x.shape[1:]), sum(self._parameters.values()), cost)

    def _add_penultimate(self, output: Any) -> None:
        """Name the input of the last layer that makes scores, or else the output.

        Name nothing if several layers make scores, or an operation outside a module.
        """
        if PENULTIMATE in self.taps:
            return
        if isinstance(output, Tensor) and output.ndim > 1:
            heads = [
                head
                for head in self._heads
                if _n_scores(head[1]) in (output.shape[1], output.shape[-1])
            ]
            if len(heads) == 1 and heads[0] is self._heads[-1]:
                tap, _, seen = heads[0]
                self.taps[PENULTIMATE], self.seen[PENULTIMATE] = tap, seen
                at = self.started.index(tap.module)
                self.n_started[PENULTIMATE] = at
                return
            # Of several heads none is the one before the scores; a product outside of
            # any module has no input that a hook could take.
            if heads or output is self._product:
                return
        if isinstance(output, Tensor) and output.shape[:1] == (_N_PROBE,):
            self._add(PENULTIMATE, _Tap("", 0), output)


def _n_scores(module: nn.Module) -> int:
    """Return the number of outputs of a layer that `makes_scores`."""
    return int(getattr(module, "out_features", 0) or getattr(module, "out_channels", 0))


class _Products(TorchFunctionMode):
    """Records the last product of a tensor and weights."""

    def __init__(self, pass_: _Pass) -> None:
        self._pass = pass_

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        output = func(*args, **(kwargs or {}))
        if getattr(func, "__name__", "") in _PRODUCTS:
            self._pass._product = output
        return output


@contextmanager
def _hooks(
    network: nn.Module, names: set[str], take: Callable[[_Tap, Any], None]
) -> Iterator[None]:
    """Call ``take`` with every input and output of the named modules."""
    entered: Counter[str] = Counter()
    left: Counter[str] = Counter()

    def before(name: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        def hook(module: nn.Module, args: tuple[Any, ...]) -> None:
            entered[name] += 1
            take(_Tap(name, entered[name] - 1, leaving=False), args[0] if args else ())

        return hook

    def behind(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            left[name] += 1
            take(_Tap(name, left[name] - 1), output)

        return hook

    handles = []
    try:
        # Sorted, so that the order of hooks does not change from run to run.
        for name in sorted(names):
            module = network.get_submodule(name)
            handles.append(module.register_forward_pre_hook(before(name)))
            handles.append(module.register_forward_hook(behind(name)))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _noise(height: int, width: int) -> Tensor:
    """Draw two images of noise, since a network may treat blank ones differently."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(_N_PROBE, 3, height, width, generator=generator)


def _own_state(module: nn.Module) -> list[str]:
    """Return the names of a module's own parameters and buffers."""
    parameters = [name for name, _ in module.named_parameters(recurse=False)]
    return parameters + [name for name, _ in module.named_buffers(recurse=False)]
