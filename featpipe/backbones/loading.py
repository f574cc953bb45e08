"""Load a frozen backbone by its name.

The one place where names, weights, preprocessing and depths meet.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence

import torch
from torch import nn

from featpipe.backbones import families, network_graph
from featpipe.backbones.architecture import Architecture
from featpipe.backbones.depths import (
    PENULTIMATE,
    Depth,
    Layout,
    NodeInfo,
    Shape,
    name_depth,
    parse,
)
from featpipe.backbones.network import Backbone, prepared
from featpipe.backbones.network_graph import NetworkGraph
from featpipe.backbones.preprocessing import Preprocessing
from featpipe.backbones.trial import dependence
from featpipe.backbones.weights import Weights, choose, fill, hash_weights, read

__all__ = ["layouts_of", "load", "outlined", "preprocessing_of", "resolve"]

# What a network without entries gets: the usual square of ImageNet.
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
        None: IMAGENET1K_V1 where the network has it, else its default. Or
        ``DEFAULT``, an entry's name, ``none`` (random, the control), or a file.
    depths : sequence of str
        ``NODE[:POOL]`` each; see `describe_depths` for the nodes.
    seed : int
        Of random weights; the global generator is left alone.
    input_size : int or None
        Pixels of the crop; the resize follows in proportion.
    resize, crop, mean, std, interpolation
        Replace those of the weights; see `Preprocessing`. ``resize=0``: no resizing.
    allow_random : bool
        Accept a network whose codes depend on more than their image; the reason is
        then in `Backbone.random`.
    download : bool
        Read weights that may first have to be downloaded. Without, the network has
        random ones in their place, and `Backbone.weights_sha256` is empty: enough to
        tell shapes and times.

    Raises
    ------
    ValueError
        Unknown name, weights or depth; weights that do not fit; an input size the
        network cannot take; codes that are not a function of the image.
    FileNotFoundError
        No such weights file.
    ConnectionError
        Weights that cannot be downloaded.

    Examples
    --------
    >>> backbone = load("squeezenet1_1", weights="none", depths=["features"])
    >>> backbone.depths[0].spec, backbone.depths[0].width
    ('features:avg', 512)
    """
    architecture = families.find(name)
    # Before the network is built: a misspelt entry should not cost seconds.
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
        needed = outline.keys(stop.node for stop in stops)
        file = read(chosen, name)
        source = str(chosen.path or chosen.name)
        filled = fill(
            network, file, needed, source=source, renamed=architecture.renamed
        )
    # Not fused: it may be exported.
    cut = prepared(outline.cut(stops), torch.device("cpu"), "fp32", fused_for=None)
    random = ""
    if not architecture.trusted:
        random = _tried(name, network, cut, preprocessing.crop, allow_random)
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


def _tried(
    name: str, network: nn.Module, cut: nn.Module, side: int, allow_random: bool
) -> str:
    """Return why codes are no function of their image, if that is allowed, or nothing.

    Raises
    ------
    ValueError
        If they are none, and that is not allowed.
    """
    reason = dependence(network, cut, side)
    if reason and not allow_random:
        raise ValueError(
            f"codes of backbone {name!r} are not a function of the image: {reason}; "
            "mend its forward, or accept it with --allow-random (in Python "
            "allow_random=True)"
        )
    return reason


def resolve(
    name: str = "resnet50", weights: str | os.PathLike[str] | None = None
) -> tuple[str, str]:
    """Return the canonical names of a backbone and its weights; builds nothing.

    Parameters
    ----------
    name, weights
        As `load` takes them.

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
    """Take that of the entry; a file and no weights take that of the newest."""
    entry = chosen.entry
    if entry is None and architecture.newest is not None:
        entry = architecture.entries[architecture.newest]
    own = architecture.preprocessing if entry is None else entry.preprocessing
    if own is not None:
        return own.overridden(input_size=input_size)
    side = _DEFAULT_SIDE if input_size is None else input_size
    return Preprocessing(resize=side, crop=side)


def _built(architecture: Architecture, chosen: Weights, seed: int) -> nn.Module:
    """Build in eval mode without gradients; the global generator is left alone."""
    with torch.random.fork_rng(devices=[]):
        # Not torch.manual_seed, which would also seed every CUDA generator.
        # The same seed gives the same random weights, which the codes file records by
        # digest.
        torch.default_generator.manual_seed(seed)
        network = architecture.build(chosen.entry)
        if chosen.name == "none" and not architecture.entries:
            _reset(network)
    return network.eval().requires_grad_(False)


def _reset(network: nn.Module) -> None:
    """Make weights random that your own callable may have read from somewhere."""
    for module in network.modules():
        if callable(reset := getattr(module, "reset_parameters", None)):
            reset()


def outlined(architecture: Architecture, network: nn.Module, side: int) -> NetworkGraph:
    """Return the graph of a network, or raise with the image size that it refuses."""
    try:
        return network_graph.outline(network, side=side, trusted=architecture.trusted)
    # Networks raise different errors for a size that they cannot take.
    except Exception as err:
        raise _size_error(architecture.name, side, err) from err


def _stops(
    outline: NetworkGraph, specs: Sequence[str], name: str, side: int
) -> tuple[Depth, ...]:
    """Turn specs into depths that exist, each once, with their widths."""
    if isinstance(specs, str):
        specs = [specs]
    if not specs:
        raise ValueError("no depth was asked for; 'penultimate' is the usual one")
    requests = [parse(spec, outline.nodes, backbone=name) for spec in specs]
    nodes = list(dict.fromkeys(node for node, _ in requests))
    try:
        # Run once at the real size: widths depend on it where maps are flattened.
        seen = outline.look(nodes, side, side)
    except Exception as err:
        raise _size_error(name, side, err) from err
    layouts = layouts_of(outline, seen, side)
    for node in nodes:
        if node not in layouts:
            raise ValueError(
                f"depth {node!r} of backbone {name!r} gives no map, tokens or vector "
                f"per image; `featpipe depths {name}` lists those that do"
            )
    stops = (
        name_depth(node, how, seen[node].shape, layouts[node]) for node, how in requests
    )
    return tuple({stop.spec: stop for stop in stops}.values())


def _size_error(name: str, side: int, err: Exception) -> ValueError:
    reason = (str(err).strip() or type(err).__name__).splitlines()[0][:200]
    return ValueError(
        f"backbone {name!r} cannot take images of {side}x{side} px ({reason}); leave "
        "the input size at its own, or choose another"
    )


def layouts_of(
    outline: NetworkGraph, seen: dict[str, NodeInfo], side: int
) -> dict[str, Layout]:
    """Return whether a shape is a vector, tokens or a map, and where channels are."""
    shapes = {node: s.shape for node, s in seen.items()}
    unclear = [n for n, s in shapes.items() if len(s) == 3 and not _tells_order(s)]
    wider: dict[str, Shape] = {}
    if unclear:
        # Twice as wide: the axis that grows is the width. Some cannot take it.
        try:
            looked = outline.look(unclear, side, 2 * side)
        except Exception:
            looked = {}
        wider = {node: s.shape for node, s in looked.items()}
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
    """Return whether two of three axes are equal: then they are height and width."""
    return (shape[0] == shape[1]) != (shape[1] == shape[2])


def _is_channels_last(shape: Shape, wider: Shape) -> bool:
    if _tells_order(shape):
        return shape[0] == shape[1]
    # Channels last has the width second; only that axis grew.
    return shape[1] != wider[1] and shape[2] == wider[2]


def _n_prefix(network: nn.Module, shape: Shape) -> int:
    """Return how many tokens come before the square grid of those of the patches.

    A class token is a parameter of one token's width that is put in front; without
    such a parameter, or with exactly a square of tokens, there is none.
    """
    n_tokens, width = shape
    # 196 patches and a class token are 14 * 14 + 1.
    spare = n_tokens - math.isqrt(n_tokens) ** 2
    learned = any(
        p.ndim == 3 and tuple(p.shape) == (1, 1, width) for p in network.parameters()
    )
    return spare if learned else 0
