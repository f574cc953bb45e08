"""Hold networks of timm to timm's own codes, under timm's own evaluation transform.

    python benchmarks/check_timm.py              # one name of every family, some more
    python benchmarks/check_timm.py resnet18 …   # these

Prints the relative distance between featpipe's `penultimate` and timm's
``forward_head(forward_features(x), pre_logits=True)``, with the same random weights
read from a file. Ends with status 1 if one is farther than 1e-4, or of another width.
"""

import re
import sys
from pathlib import Path
from typing import Any

import timm
import torch
from own_codes import check, picture, relative_distance, write_weights

_SMALL = "zepto atto femto test_ xxs xx_small pico nano 050 b0 s0 tiny xs 18 small _s"
_LARGE = re.compile(r"giant|huge|large|gigantic|base|so400|[13]b_|384|448|512|640|896")
_MORE = (
    *("deit_tiny_distilled_patch16_224", "levit_128s", "mixer_s16_224", "dm_nfnet_f0"),
    *("efficientnet_b0", "mobilenetv2_050", "vit_tiny_patch16_224", "repvgg_a0"),
    *("vit_medium_patch16_gap_240", "regnetx_002", "vgg11", "xcit_nano_12_p16_224"),
)


def names() -> list[str]:
    """Return a small network of every family, and those that were once wrong."""
    families: dict[str, list[str]] = {}
    for name in timm.list_models():
        module = timm.model_entrypoint(name).__module__
        families.setdefault(module, []).append(name)
    words = _SMALL.split()

    def rank(name: str) -> tuple[bool, int, int]:
        place = next((k for k, word in enumerate(words) if word in name), len(words))
        return bool(_LARGE.search(name)), place, len(name)

    picked = [min(group, key=rank) for _, group in sorted(families.items())]
    return list(dict.fromkeys([*picked, *_MORE]))


def distance(name: str, folder: Path) -> float:
    """Return the relative distance of one network's code of one image."""
    torch.manual_seed(0)
    network: Any = timm.create_model(name, pretrained=False).eval()
    weights = write_weights(network, folder)
    # Two names that timm's types do not have.
    data: Any = timm.data
    configuration = data.resolve_model_data_config(network)
    transform = data.create_transform(**configuration, is_training=False)
    with torch.inference_mode():
        features = network.forward_features(transform(picture())[None])
        expected = network.forward_head(features, pre_logits=True)
    del network  # two large ones would not fit
    return relative_distance(f"timm:{name}", weights, expected)


if __name__ == "__main__":
    sys.exit(check(sys.argv[1:] or names(), distance))
