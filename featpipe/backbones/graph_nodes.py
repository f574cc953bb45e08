"""Questions to the nodes of a recorded graph: what they call, and what they overwrite.

Reads a graph and its network, and changes neither; `tracing` records them.
"""

from __future__ import annotations

import re
from typing import Any

from torch import fx, nn

from featpipe.backbones.layers import AFTER_SCORES, DROPOUTS, makes_scores

__all__ = [
    "first_node",
    "lies_in",
    "module_of",
    "node_name",
    "overwritten_node",
    "penultimate_node",
]

# `layers.AFTER_SCORES` in the form of functions and methods.
_AFTER_SCORES_NAMES = {
    *("relu", "sigmoid", "softmax", "log_softmax", "dropout", "getitem"),
    *("flatten", "view", "reshape", "squeeze", "mean"),
    *("avg_pool2d", "adaptive_avg_pool2d"),
    *("mul", "truediv", "add"),  # a temperature, a bias: no second tensor is computed
}

_IN_PLACE_OPERATORS = {"iadd", "isub", "imul", "itruediv", "setitem"}


def overwritten_node(node: fx.Node, network: nn.Module) -> fx.Node | None:
    """Return the node whose output this one overwrites, if it does."""
    in_place = bool(node.kwargs.get("inplace"))
    if node.op == "call_module":
        in_place = bool(getattr(module_of(node, network), "inplace", False))
    elif node.op in ("call_method", "call_function"):
        # Tensor.add_, torch.relu_, x += y
        # One underscore at the end is torch's mark of an operation in place; two are
        # Python's own methods.
        in_place |= bool(re.search(r"[^_]_$", node_name(node)))
        in_place |= node_name(node) in _IN_PLACE_OPERATORS
    first = node.args[0] if node.args else None
    return first if in_place and isinstance(first, fx.Node) else None


def penultimate_node(
    graph: fx.Graph, network: nn.Module
) -> tuple[fx.Node | None, bool]:
    """Return the node that enters the last layer making class scores, and False.

    Where no such layer ends the network (a trunk without a head), its output and True.
    """
    output = first_node(next(iter(reversed(graph.nodes))).args)
    node = output
    while node is not None:
        module = module_of(node, network)
        linear = node.target is nn.functional.linear
        if linear or (module is not None and makes_scores(module)):
            return skip_dropout(first_node(node.args), network), False
        is_after_scores = (
            isinstance(module, AFTER_SCORES) or node_name(node) in _AFTER_SCORES_NAMES
        )
        # Parameters are inputs too, but are not computed.
        computed = [n for n in node.all_input_nodes if n.op != "get_attr"]
        node = computed[0] if is_after_scores and len(computed) == 1 else None
    return output, True


def skip_dropout(node: fx.Node | None, network: nn.Module) -> fx.Node | None:
    """Return the node itself, or the one before the dropout that it is."""
    while node is not None:
        dropout = isinstance(module_of(node, network), DROPOUTS)
        if not dropout and node_name(node) != "dropout":
            return node
        node = first_node(node.args)
    return None


def node_name(node: fx.Node) -> str:
    """Return the name of the function, method or module that a node calls."""
    return getattr(node.target, "__name__", str(node.target))


def module_of(node: fx.Node, network: nn.Module) -> nn.Module | None:
    """Return the module that a node calls; None if it calls none."""
    if node.op != "call_module":
        return None
    return network.get_submodule(str(node.target))


def first_node(value: Any) -> fx.Node | None:
    """Return the first node in nested arguments: of several outputs, the first."""
    if isinstance(value, fx.Node):
        return value
    if isinstance(value, dict):
        value = tuple(value.values())
    if isinstance(value, list | tuple):
        return next((n for n in map(first_node, value) if n is not None), None)
    return None


def lies_in(key: str, target: str) -> bool:
    """Return whether a parameter or module is `target` or inside it."""
    return key == target or key.startswith(f"{target}.")
