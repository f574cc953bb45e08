"""Inspect the nodes of a recorded graph: what they call, and what they overwrite.

`tracing` records the graph; these functions change nothing.
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

# The functions and methods that correspond to `layers.AFTER_SCORES`.
_AFTER_SCORES_NAMES = {
    *("relu", "sigmoid", "softmax", "log_softmax", "dropout", "getitem"),
    *("flatten", "view", "reshape", "squeeze", "mean"),
    *("avg_pool2d", "adaptive_avg_pool2d"),
    *("mul", "truediv", "add"),  # a temperature or a bias, not a second tensor
}

_IN_PLACE_OPERATORS = {"iadd", "isub", "imul", "itruediv", "setitem"}


def overwritten_node(node: fx.Node, network: nn.Module) -> fx.Node | None:
    """Return the node whose output a node overwrites; None if it overwrites none."""
    in_place = bool(node.kwargs.get("inplace"))
    if node.op == "call_module":
        in_place = bool(getattr(module_of(node, network), "inplace", False))
    elif node.op in ("call_method", "call_function"):
        # As Tensor.add_, torch.relu_ or x += y: operations in place end with one
        # underscore, Python's own methods with two.
        in_place |= bool(re.search(r"[^_]_$", node_name(node)))
        in_place |= node_name(node) in _IN_PLACE_OPERATORS
    first = node.args[0] if node.args else None
    return first if in_place and isinstance(first, fx.Node) else None


def penultimate_node(
    graph: fx.Graph, network: nn.Module
) -> tuple[fx.Node | None, bool]:
    """Return the input of the last layer that makes class scores, and False.

    If the network does not end with such a layer, as a trunk without a head, return its
    output, and True.
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
        # Parameters are inputs of a node too, but are not computed.
        computed = [n for n in node.all_input_nodes if n.op != "get_attr"]
        node = computed[0] if is_after_scores and len(computed) == 1 else None
    return output, True


def skip_dropout(node: fx.Node | None, network: nn.Module) -> fx.Node | None:
    """Return a node, or the one before it if it is a dropout."""
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
    """Return the first node in nested arguments; None if there is none."""
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
