"""Load a frozen backbone by its name.

Only this module combines names, weights, preprocessing and depths.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence

import torch
from torch import nn

from featpipe.backbones import families, network_graph
from featpipe.backbones.architecture import Architecture
from featpipe.backbones.depths import PENULTIMATE, Depth, NodeInfo, name_depth, parse
from featpipe.backbones.network import Backbone, prepared
from featpipe.backbones.network_graph import NetworkGraph
from featpipe.backbones.pooling import Layout, Shape
from featpipe.backbones.preprocessing import Preprocessing
from featpipe.backbones.trial import dependence
from featpipe.backbones.weights import Weights, choose, fill, hash_weights, read
from featpipe.errors import first_line

__all__ = ["layouts_of", "load", "outlined", "preprocessing_of", "resolve"]

# The usual side for ImageNet, for networks that state none.
_DEFAULT_SIDE = 224


def load(
    name: str = "resnet50",
    *,
    weights: str | os.PathLike[str] | None = None,
    depths: Sequence[str] = (PENULTIMATE,),
    seed: int = 0,
    input_size: int | None = None,
    resize: int | None = None,
    crop: int | None = None,
    mean: Sequence[float] | float | None = None,
    std: Sequence[float] | float | None = None,
    interpolation: str | None = None,
    allow_random: bool = False,
    download: bool = True,
) -> Backbone:
    """Build a frozen backbone on the CPU, in float32.

    Parameters
    ----------
    name : str
        A torchvision classification network, ``mini``, ``timm:NAME`` or
        ``package.module:callable?argument=value``.
    weights : str, path or None
        None: IMAGENET1K_V1 if the network has it, else its default. Or ``DEFAULT``, the
        name of an entry, ``none`` (random, as a control), or a file.
    depths : sequence of str
        Each ``NODE[:POOL]``; `describe_depths` lists the nodes.
    seed : int
        Seed of random weights; the global generator does not change.
    input_size : int or None
        Side of the crop in pixels; the resize changes in proportion.
    resize, crop, mean, std, interpolation
        Replace those of the weights; see `Preprocessing`. ``resize=0``: no resizing.
    allow_random : bool
        Whether to accept a network whose codes depend on more than the image; the
        reason is then in `Backbone.random`.
    download : bool
        Whether to download weights. If not, the network has random ones instead, and
        `Backbone.weights_sha256` is empty; its shapes and times are right.

    Returns
    -------
    Backbone

    Raises
    ------
    ValueError
        If a name, the weights or a depth are unknown, the weights do not fit, the
        network cannot take the input size, or codes depend on more than the image.
    FileNotFoundError
        If there is no such weights file.
    ConnectionError
        If the weights cannot be downloaded.

    Examples
    --------
    >>> backbone = load("squeezenet1_1", weights="none", depths=["features"])
    >>> backbone.depths[0].spec, backbone.depths[0].width
    ('features:avg', 512)
    """
    architecture = families.find(name)
    # Before the network is built, which may take seconds.
    chosen = choose(architecture, weights)
    preprocessing = preprocessing_of(architecture, chosen, input_size).overridden(
        resize=resize, crop=crop, mean=mean, std=std, interpolation=interpolation
    )
    network = _built(architecture, chosen, seed)
    outline = outlined(architecture, network, preprocessing.crop)
    stops = _stops(outline, depths, name, preprocessing.crop)
    filled = None
    is_filled = download or chosen.is_local
    if chosen.to_read and is_filled:
        # Weights of the head may be missing: codes do not need them.
        needed = outline.keys(stop.node for stop in stops)
        file = read(chosen, name)
        source = str(chosen.path or chosen.name)
        filled = fill(
            network, file, needed, source=source, renamed=architecture.renamed
        )
    # Not fused, since the network may be exported.
    cut = prepared(outline.cut(stops), torch.device("cpu"), "fp32", fused_for=None)
    random = ""
    if not architecture.trusted:
        random = _require_determinism(
            name, network, cut, preprocessing.crop, allow_random
        )
    return Backbone(
        architecture.name,
        chosen.name,
        hash_weights(network, filled) if is_filled else "",
        preprocessing,
        stops,
        network,
        device=torch.device("cpu"),
        random=random,
        _outline=outline,
        _cut=cut,
    )


def _require_determinism(
    name: str, network: nn.Module, cut: nn.Module, side: int, allow_random: bool
) -> str:
    """Return why codes depend on more than the image; "" if they do not.

    Raises
    ------
    ValueError
        If they do, and that is not allowed.
    """
    reason = dependence(network, cut, side)
    if reason and not allow_random:
        raise ValueError(
            f"codes of backbone {name!r} are not a function of the image: {reason}; "
            "correct its forward, or accept it with --allow-random (in Python "
            "allow_random=True)"
        )
    return reason


def resolve(
    name: str = "resnet50", weights: str | os.PathLike[str] | None = None
) -> tuple[str, str]:
    """Return the canonical names of a backbone and its weights; build nothing.

    Parameters
    ----------
    name, weights
        As for `load`.

    Returns
    -------
    name : str
    weights : str

    Raises
    ------
    ValueError, FileNotFoundError
        As `load` does for names.

    Examples
    --------
    >>> resolve("resnet50")
    ('resnet50', 'IMAGENET1K_V1')
    """
    architecture = families.find(name)
    return architecture.name, choose(architecture, weights).name


def preprocessing_of(
    architecture: Architecture, chosen: Weights, input_size: int | None
) -> Preprocessing:
    """Return the preprocessing of the weights; files have that of the newest entry."""
    entry = chosen.entry
    if entry is None and architecture.newest is not None:
        entry = architecture.entries[architecture.newest]
    own = architecture.preprocessing if entry is None else entry.preprocessing
    if own is not None:
        return own.overridden(input_size=input_size)
    side = _DEFAULT_SIDE if input_size is None else input_size
    return Preprocessing(resize=side, crop=side)


def _built(architecture: Architecture, chosen: Weights, seed: int) -> nn.Module:
    """Build a network in eval mode, without gradients."""
    with torch.random.fork_rng(devices=[]):
        # `torch.manual_seed` would also seed the CUDA generators.
        torch.default_generator.manual_seed(seed)
        network = architecture.build(chosen.entry)
        if chosen.name == "none" and not architecture.entries:
            _reset(network)
    return network.eval().requires_grad_(False)


def _reset(network: nn.Module) -> None:
    """Set random weights, since the user's callable may have loaded others."""
    for module in network.modules():
        if callable(reset := getattr(module, "reset_parameters", None)):
            reset()


def outlined(architecture: Architecture, network: nn.Module, side: int) -> NetworkGraph:
    """Return the graph of a network; raise if it cannot take images of this size."""
    try:
        return network_graph.outline(network, side=side, trusted=architecture.trusted)
    # Networks raise any error for a size that they cannot take.
    except Exception as err:
        raise _size_error(architecture.name, side, err) from err


def _stops(
    outline: NetworkGraph, specs: Sequence[str], name: str, side: int
) -> tuple[Depth, ...]:
    """Return the depths of specs, each once; raise if one does not exist."""
    if isinstance(specs, str):
        specs = [specs]
    if not specs:
        raise ValueError("no depth was given; 'penultimate' is the usual one")
    requests = [parse(spec, outline.nodes, backbone=name) for spec in specs]
    nodes = list(dict.fromkeys(node for node, _ in requests))
    try:
        # At the real size, on which the width of flattened maps depends.
        seen = outline.look(nodes, side, side)
    except Exception as err:
        raise _size_error(name, side, err) from err
    layouts = layouts_of(outline, seen, side)
    for node in nodes:
        if node not in layouts:
            raise ValueError(
                f"the output of depth {node!r} of backbone {name!r} is no map, tokens "
                f"or vector per image; `featpipe depths {name}` lists other depths"
            )
    # Two specs may mean the same depth, such as layer3 and layer3:avg.
    stops = (
        name_depth(node, how, seen[node].shape, layouts[node]) for node, how in requests
    )
    return tuple({stop.spec: stop for stop in stops}.values())


def _size_error(name: str, side: int, err: Exception) -> ValueError:
    return ValueError(
        f"backbone {name!r} cannot take images of {side}x{side} px "
        f"({first_line(err)}); use its own input size, or choose another"
    )


def layouts_of(
    outline: NetworkGraph, seen: dict[str, NodeInfo], side: int
) -> dict[str, Layout]:
    """Return the layout of each node: a vector, tokens or a map, and its channels."""
    shapes = {node: s.shape for node, s in seen.items()}
    unclear = [n for n, s in shapes.items() if len(s) == 3 and not _tells_order(s)]
    wider: dict[str, Shape] = {}
    if unclear:
        # With images twice as wide, the axis that grows is the width. Not every network
        # takes them.
        try:
            wide = outline.look(unclear, side, 2 * side)
        except Exception:
            wide = {}
        wider = {node: s.shape for node, s in wide.items()}
    layouts = {}
    for node, shape in shapes.items():
        if len(shape) == 1:
            layouts[node] = Layout("vector")
        elif len(shape) == 2:
            layouts[node] = Layout("tokens", n_prefix=_n_prefix(outline.network, shape))
        elif len(shape) == 3:
            last = _is_channels_last(shape, wider.get(node, shape))
            layouts[node] = Layout("map", channels_last=last)
    return layouts


def _tells_order(shape: Shape) -> bool:
    """Return whether two of three axes are equal, so that they are height and width."""
    return (shape[0] == shape[1]) != (shape[1] == shape[2])


def _is_channels_last(shape: Shape, wider: Shape) -> bool:
    if _tells_order(shape):
        return shape[0] == shape[1]
    # With channels last, the second axis is the width, and the only one that grew.
    return shape[1] != wider[1] and shape[2] == wider[2]


def _n_prefix(network: nn.Module, shape: Shape) -> int:
    """Return the number of tokens before those of the patches, which form a square.

    A class token is a parameter of the width of a token. Without such a parameter there
    is none.
    """
    n_tokens, width = shape
    # 197 tokens are 14 * 14 patches and a class token.
    n_others = n_tokens - math.isqrt(n_tokens) ** 2
    has_class_token = any(
        p.ndim == 3 and tuple(p.shape) == (1, 1, width) for p in network.parameters()
    )
    return n_others if has_class_token else 0
