"""Check that a model gets the network it was fitted with: its weights and its width.

A wrong network would label every image without an error. Nothing is run here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from featpipe import images
from featpipe.predictor.model import Model

if TYPE_CHECKING:
    from featpipe.backbones import Backbone

__all__ = [
    *("WeightsLocation", "check_backbone", "find_weights", "add_model_name"),
    *("require_named_backbone", "require_same_decoding"),
]


class WeightsLocation(NamedTuple):
    """The place of the weights, as `backbones.load` takes it, and their digest."""

    weights: str | None
    sha256: str


def find_weights(
    model: Model, path: Path | None, weights: str | None
) -> WeightsLocation:
    """Return the present place of a model's weights.

    Parameters
    ----------
    model : Model
    path : Path or None
        Its file; weights are looked for in it, and beside it.
    weights : str or None
        The place that the user names.

    Raises
    ------
    FileNotFoundError
        If they were a file that is missing now.
    """
    expected = model.fingerprint["weights_sha256"]
    if weights is not None:
        return WeightsLocation(weights, expected)
    # Embedded weights are those of the layers up to the depth, so their digest differs
    # from that of the whole network.
    if model.embedded_sha256 is not None and path is not None:
        return WeightsLocation(str(path), model.embedded_sha256)
    if model.weights_file is not None:
        return WeightsLocation(str(_file(Path(model.weights_file), path)), expected)
    return WeightsLocation(None if model.weights == "own" else model.weights, expected)


def _file(hint: Path, path: Path | None) -> Path:
    # Beside the model too, since both files are often moved together.
    for place in (hint, *([] if path is None else [path.with_name(hint.name)])):
        if place.is_file():
            return place
    raise FileNotFoundError(
        f"{path or 'the model'} needs the weights file {str(hint)!r}, which is neither "
        "in the current folder nor beside the model; name it with --weights FILE (in "
        "Python weights=…)"
    )


def require_named_backbone(model: Model, name: str, backbone: str | None) -> None:
    """Raise unless the user, and not only the file, names a callable to run.

    Raises
    ------
    ValueError
        If the model names a callable, and the user did not.
    """
    if model.uses_custom_code and backbone is None:
        raise ValueError(
            f"{name} names {model.backbone!r} as its backbone, code that would be run; "
            f"if you trust it, name it with --backbone {model.backbone!r} (in Python "
            "backbone=…)"
        )


def check_backbone(
    model: Model, name: str, where: WeightsLocation, backbone: Backbone
) -> None:
    """Raise unless a network is the one that the model was fitted with.

    Raises
    ------
    ValueError
        If its weights or the width of its codes differ.
    """
    actual = backbone.weights_sha256
    if actual != where.sha256:
        raise ValueError(
            f"the weights {where.weights or backbone.weights!r} are not those that "
            f"{name} was fitted with (SHA-256 of the tensors {actual[:12]}…, not "
            f"{where.sha256[:12]}…); name the right file with --weights"
        )
    # Another version of the network's code may cut the same weights at another place.
    if sum(depth.width for depth in backbone.depths) != model.width:
        raise ValueError(
            f"the backbone {backbone.name!r} gives codes of another width at "
            f"{model.depth!r} than {name} was fitted on; it has changed since"
        )


@contextmanager
def add_model_name(name: str) -> Iterator[None]:
    """Add the name of the model to the error that its backbone raises."""
    try:
        yield
    # The type is kept, since the message for a missing package tells how to install it.
    except ImportError as error:
        raise type(error)(f"{name}: {error}") from error
    except ValueError as error:
        if name in str(error):
            raise
        raise ValueError(f"the backbone of {name} cannot be made: {error}") from error


def require_same_decoding(fingerprint: Mapping[str, Any]) -> None:
    """Raise if the codes were decoded by rules that this version does not have.

    Raises
    ------
    ValueError
        If a rule has changed; names it.
    """
    # The rules are how decoding and value ranges work. Which of them was chosen is in
    # the recipe, and the limit of pixels is the user's.
    chosen = ("mode", "value_range", "max_pixels")
    rules, recorded = images.DECODING, fingerprint["decoding"]
    differ = sorted(
        name
        for name in {*rules, *recorded} - {*chosen}
        if rules.get(name) != recorded.get(name)
    )
    if not differ:
        return
    raise ValueError(
        f"images are decoded by other rules now ({', '.join(differ)}); extract the "
        "codes again and fit anew"
    )
