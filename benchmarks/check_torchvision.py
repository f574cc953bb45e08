"""Hold torchvision's classification networks to torchvision's own codes.

    python benchmarks/check_torchvision.py              # all of them
    python benchmarks/check_torchvision.py resnet18 …   # these

Prints the relative distance between featpipe's `penultimate` and what enters the last
layer that makes class scores (seen by a hook; a mean over places where that layer is a
convolution), under the transform of the DEFAULT weights entry, with the same random
weights read from a file. Ends with status 1 if one is farther than 1e-4, or of another
width.
"""

import sys
from pathlib import Path

import torch
from own_codes import check, picture, relative_distance, write_weights
from torch import nn
from torchvision import models


def names() -> list[str]:
    """Return all classification networks, the small ones first."""

    def size(name: str) -> int:
        return int(models.get_model_weights(name).DEFAULT.meta["num_params"])

    return sorted(models.list_models(module=models), key=size)


def _options(name: str) -> dict[str, bool | int]:
    if name.startswith("vit_"):
        # Vision transformers are built for one size, that of their weights.
        size = models.get_model_weights(name).DEFAULT.meta["min_size"][0]
        return {"image_size": size}
    # Drawing weights takes minutes; with an entry, both change their input first.
    slow = ("googlenet", "inception_v3")
    return {"init_weights": False, "transform_input": True} if name in slow else {}


def _head(network: nn.Module) -> nn.Module:
    """Return the last layer that makes 1,000 scores and belongs to no auxiliary."""
    layers: list[nn.Module] = [
        layer
        for path, layer in network.named_modules()
        if not path.lower().startswith("aux")
        and 1000
        in (getattr(layer, "out_features", 0), getattr(layer, "out_channels", 0))
    ]
    return layers[-1]


def distance(name: str, folder: Path) -> float:
    """Return the relative distance of one network's code of one image."""
    torch.manual_seed(0)
    network = models.get_model(name, weights=None, **_options(name)).eval()
    weights = write_weights(network, folder)
    transform = models.get_model_weights(name).DEFAULT.transforms()
    seen: list[torch.Tensor] = []
    _head(network).register_forward_pre_hook(
        lambda _, inputs: seen.append(inputs[0].clone())
    )
    with torch.inference_mode():
        network(transform(picture())[None])
    del network  # two large ones would not fit
    return relative_distance(name, weights, seen[0])


if __name__ == "__main__":
    sys.exit(check(sys.argv[1:] or names(), distance))
