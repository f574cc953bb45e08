"""Record the graph of a network by torch.fx, name its nodes, and cut it.

Names of nodes are those of torchvision's feature extraction: the name of a module
(``layer3``, ``features.7``), or the name of the module around an operation and that of
the operation (``layer1.0.add``). Repeated names get ``_1``, ``_2``.
"""

from __future__ import annotations

import inspect
import math
import re
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from operator import attrgetter
from typing import Any

from torch import fx, nn

from featpipe.backbones import pooling
from featpipe.backbones.blank_run import BlankRun
from featpipe.backbones.depths import PENULTIMATE, Depth, NodeInfo
from featpipe.backbones.graph_nodes import (
    lies_in,
    module_of,
    node_name,
    overwritten_node,
    penultimate_node,
)
from featpipe.backbones.layers import is_leaf, is_stochastic_depth

__all__ = ["Traced"]

# Functions that may compute class scores without a layer.
_PRODUCTS = {"linear", "matmul", "mm", "addmm", "einsum", "bilinear"}


class Traced:
    """The recorded graph of a network in eval mode; a `NetworkGraph`."""

    def __init__(self, network: nn.Module) -> None:
        tracer = _Tracer()
        with warnings.catch_warnings():
            # fx warns of default arguments for which it cannot record an assertion.
            warnings.simplefilter("ignore")
            self._graph = tracer.trace(network, concrete_args=_defaults(network))
        self.network = network
        self._named = tracer.named
        self._begins = tracer.begins
        self._is_output = False
        if PENULTIMATE not in self._named:  # a module may have that name
            penultimate, self._is_output = penultimate_node(self._graph, network)
            if penultimate is not None:
                self._named[PENULTIMATE] = self._begins[PENULTIMATE] = penultimate
        self.nodes = tuple(self._named)

    def drop_class_scores(self, side: int) -> None:
        """Drop `penultimate` if it is the output, and the output may be class scores.

        That is so if the path back from the output reaches a Linear before any layer
        that pools a map or tokens: several heads may be averaged, or scores scaled.
        """
        if not self._is_output:
            return
        walk = BlankRun(self.whole())
        walk.run_blank(side, side)
        pending, seen = [self._named[PENULTIMATE]], set()
        while pending:
            node = pending.pop()
            if node in seen or len(walk.shapes.get(node, (0,))) != 1:
                continue
            seen.add(node)
            module = module_of(node, self.network)
            if isinstance(module, nn.Linear) or node_name(node) in _PRODUCTS:
                del self._named[PENULTIMATE], self._begins[PENULTIMATE]
                self.nodes = tuple(self._named)
                return
            if module is None or not any(True for _ in module.parameters()):
                pending += node.all_input_nodes

    def whole(self) -> fx.GraphModule:
        """Return the recorded network, uncut."""
        return fx.GraphModule(self.network, self._graph)

    def keys(self, nodes: Iterable[str]) -> set[str]:
        """Return the state-dict keys of the layers that these nodes need."""
        targets = {
            str(node.target)
            for node in self._needed(self._named[name] for name in nodes)
            if node.op in ("call_module", "get_attr")
        }
        keys = self.network.state_dict().keys()
        return {key for key in keys if any(lies_in(key, t) for t in targets)}

    def before(self, node: str) -> set[str]:
        """See `network_graph.NetworkGraph.before`."""
        return {
            str(early.target)
            for early in self._before(node)
            if early.op in ("call_module", "get_attr")
        }

    def input_node(self, node: str, stops: Sequence[Depth]) -> str | None:
        """See `network_graph.NetworkGraph.input_node`."""
        early = self._before(node)
        needed = self._needed(self._named[stop.node] for stop in stops) - early
        inputs = {x for late in needed for x in late.all_input_nodes} & early
        # With skip connections, several tensors would have to be cached.
        if len(inputs) != 1:
            return None
        (input_node,) = inputs
        if any(overwritten_node(other, self.network) is input_node for other in early):
            return None
        names = [name for name, n in self._named.items() if n is input_node]
        # The outermost module is named last, except for `penultimate`.
        return next((name for name in reversed(names) if name != PENULTIMATE), None)

    def tail(self, node: str, stops: Sequence[Depth]) -> fx.GraphModule:
        """See `network_graph.NetworkGraph.tail`."""
        input_node = self.input_node(node, stops)
        assert input_node is not None
        early = self._before(node)
        return self._cut(stops, lambda n: n not in early, self._named[input_node])

    def _before(self, node: str) -> set[fx.Node]:
        """Return the nodes that run before a node, or before a module."""
        early: set[fx.Node] = set()
        for other in self._graph.nodes:
            if other is self._begins[node]:
                break
            early.add(other)
        # Parameters may be fetched early and used late.
        fetched = {
            n for n in early if n.op == "get_attr" and not early & n.users.keys()
        }
        return early - fetched

    def look(
        self, nodes: Iterable[str], height: int, width: int, *, costs: bool = False
    ) -> dict[str, NodeInfo]:
        """See `network_graph.NetworkGraph.look`."""
        named = {name: self._named[name] for name in nodes}
        graph, copies = _copy(self._graph, self._needed(named.values()))
        graph.output(tuple(copies[node] for node in named.values()))
        walk = BlankRun(fx.GraphModule(self.network, graph), costs=costs)
        walk.run_blank(height, width)
        sums = _sums(graph, walk) if costs else {}
        return {
            name: NodeInfo(walk.shapes[copies[node]], *sums.get(copies[node], ()))
            for name, node in named.items()
            if copies[node] in walk.shapes
        }

    def cut(self, stops: Sequence[Depth]) -> fx.GraphModule:
        """See `network_graph.NetworkGraph.cut`.

        Each output is pooled right after its node, so that it can be freed, and no
        later layer overwrites it before.
        """
        return self._cut(stops, lambda n: True)

    def _cut(
        self,
        stops: Sequence[Depth],
        runs: Callable[[fx.Node], bool],
        input_node: fx.Node | None = None,
    ) -> fx.GraphModule:
        """Return the network cut at ``stops``, with only the nodes that ``runs``."""
        wanted: dict[fx.Node, list[int]] = {}
        for position, stop in enumerate(stops):
            wanted.setdefault(self._named[stop.node], []).append(position)
        codes: dict[int, fx.Node] = {}

        def pool_behind(node: fx.Node, copy: fx.Node) -> None:
            for position in wanted.get(node, ()):
                how = stops[position].pooling()
                codes[position] = copy.graph.call_function(pooling.pool, (copy,), how)

        needed = set(filter(runs, self._needed(wanted)))
        graph, _ = _copy(self._graph, needed, pool_behind, input_node)
        graph.output(tuple(codes[position] for position in range(len(stops))))
        return fx.GraphModule(self.network, graph)

    def _needed(self, wanted: Iterable[fx.Node]) -> set[fx.Node]:
        """Return the nodes that must run, also those that overwrite needed outputs."""
        needed = set(wanted)
        for node in reversed(self._graph.nodes):
            if node.op == "output":
                continue
            if node in needed or overwritten_node(node, self.network) in needed:
                needed.add(node)
                needed.update(node.all_input_nodes)
        return needed


class _Tracer(fx.Tracer):
    """Records the graph, and the node of every module and operation."""

    def __init__(self) -> None:
        # As in torchvision's own extractor, functions of these modules are not traced.
        # A network that calls torchvision's operations has imported them.
        operations = sys.modules.get("torchvision.ops")
        modules = (math,) if operations is None else (math, operations)
        # torch declares a tuple of one module.
        super().__init__(autowrap_modules=modules)  # type: ignore[arg-type]
        self.named: dict[str, fx.Node] = {}
        self.begins: dict[str, fx.Node] = {}
        self._inside = [""]
        self._uses: Counter[str] = Counter()

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        # Recorded in eval mode, stochastic depth would be missing in training.
        return is_leaf(m) or is_stochastic_depth(m)

    def call_module(
        self,
        m: nn.Module,
        forward: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        name = self.path_of_module(m)
        last = self._newest()
        self._inside.append(name)
        try:
            output = super().call_module(m, forward, args, kwargs)
        finally:
            self._inside.pop()
        if isinstance(output, fx.Proxy):
            ran = last is not self._newest()
            self._name(name, output.node, last.next if ran else output.node)
        return output

    def _newest(self) -> fx.Node:
        last: fx.Node = next(iter(reversed(self.graph.nodes)))
        return last

    def create_proxy(self, kind: str, *args: Any, **kwargs: Any) -> fx.Proxy:
        proxy = super().create_proxy(kind, *args, **kwargs)
        if kind in ("call_function", "call_method"):
            # fx numbers operations across the graph; here they are numbered per module.
            operation = re.sub(r"_\d+$", "", proxy.node.name)
            self._name(
                f"{self._inside[-1]}.{operation}".lstrip("."), proxy.node, proxy.node
            )
        return proxy

    def _name(self, name: str, node: fx.Node, begins: fx.Node) -> None:
        n_before = self._uses[name]
        self._uses[name] += 1
        name = f"{name}_{n_before}" if n_before else name
        self.named[name], self.begins[name] = node, begins


def _defaults(network: nn.Module) -> dict[str, Any]:
    """Return the defaults of the arguments of forward after the images.

    Without them fx would pass proxies, and `if mask is None` would be false.
    """
    arguments = list(inspect.signature(network.forward).parameters.values())[1:]
    return {a.name: a.default for a in arguments if a.default is not a.empty}


def _copy(
    graph: fx.Graph,
    needed: set[fx.Node],
    after: Callable[[fx.Node, fx.Node], None] | None = None,
    input_node: fx.Node | None = None,
) -> tuple[fx.Graph, dict[fx.Node, fx.Node]]:
    """Copy the needed nodes, in order; ``after`` may add nodes after each.

    The output of ``input_node`` becomes the input of the copy.
    """
    new = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    if input_node is not None:
        copies[input_node] = new.placeholder("entering")
    for node in graph.nodes:
        if node in needed:
            copies[node] = new.node_copy(node, copies.__getitem__)
            if after is not None:
                after(node, copies[node])
    return new, copies


def _sums(graph: fx.Graph, walk: BlankRun) -> dict[fx.Node, tuple[int, int]]:
    """Return the parameters and cost of each node, with those of all that it needs."""
    sizes: dict[int, int] = {}
    costs: dict[int, int] = {}
    needed: dict[fx.Node, set[int]] = {}
    for node in graph.nodes:
        # By identity, so that the parameters of a layer that is used twice count once.
        own = {id(p): p.numel() for p in _parameters(walk.module, node)}
        sizes |= own
        costs[id(node)] = walk.costs.get(node, 0)
        before = (needed[parent] for parent in node.all_input_nodes)
        needed[node] = {id(node), *own}.union(*before)
    return {
        node: (sum(sizes.get(i, 0) for i in ids), sum(costs.get(i, 0) for i in ids))
        for node, ids in needed.items()
    }


def _parameters(module: nn.Module, node: fx.Node) -> list[nn.Parameter]:
    if node.op == "call_module":
        return list(module.get_submodule(str(node.target)).parameters())
    if node.op == "get_attr":
        value = attrgetter(str(node.target))(module)
        return [value] if isinstance(value, nn.Parameter) else []
    return []
