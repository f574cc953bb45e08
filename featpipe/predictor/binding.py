"""Finding a model's network again: where its weights are, and whether they are right.

What is refused here would otherwise be a label from another network. Never here:
running anything.
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
    *("Whereabouts", "accept", "find_weights", "naming"),
    *("require_consent", "require_same_decoding"),
]


class Whereabouts(NamedTuple):
    """Where weights are now, as `backbones.load` takes it, and their digest."""

    given: str | None
    sha256: str


def find_weights(model: Model, path: Path | None, given: str | None) -> Whereabouts:
    """Say where the weights of a model are now.

    Parameters
    ----------
    model : Model
    path : Path or None
        Its file; weights are looked for in it, and beside it.
    given : str or None
        Where the user says they are.

    Raises
    ------
    FileNotFoundError
        If they were a file that is not there any more.
    """
    expected = model.fingerprint["weights_sha256"]
    if given is not None:
        return Whereabouts(given, expected)
    if model.embedded_sha256 is not None and path is not None:
        return Whereabouts(str(path), model.embedded_sha256)
    if model.weights_file is not None:
        return Whereabouts(str(_file(Path(model.weights_file), path)), expected)
    return Whereabouts(None if model.weights == "own" else model.weights, expected)


def _file(hint: Path, path: Path | None) -> Path:
    for place in (hint, *([] if path is None else [path.with_name(hint.name)])):
        if place.is_file():
            return place
    raise FileNotFoundError(
        f"the weights of {path or 'the model'} were in the file {str(hint)!r}, which "
        "is not here; say where it is with --weights FILE (in Python weights=…)"
    )


def require_consent(model: Model, name: str, backbone: str | None) -> None:
    """Refuse to run somebody's callable on the word of a file alone.

    Raises
    ------
    ValueError
        If the model names one, and the user did not.
    """
    if model.uses_custom_code and backbone is None:
        raise ValueError(
            f"{name} names {model.backbone!r} as its backbone, code that would be run; "
            f"if you trust it, say so with --backbone {model.backbone!r} (in Python "
            "backbone=…)"
        )


def accept(model: Model, name: str, where: Whereabouts, backbone: Backbone) -> None:
    """Refuse a network that is not the one that the model was fitted with.

    Raises
    ------
    ValueError
        If its weights, or the width of its codes, are others.
    """
    found = backbone.weights_sha256
    if found != where.sha256:
        raise ValueError(
            f"the weights {where.given or backbone.weights!r} are not those that "
            f"{name} was fitted with (SHA-256 of the tensors {found[:12]}…, not "
            f"{where.sha256[:12]}…); give the right ones with --weights"
        )
    if sum(depth.width for depth in backbone.depths) != model.width:
        raise ValueError(
            f"the backbone {backbone.name!r} gives codes of another width at "
            f"{model.depth!r} than {name} was fitted on; it has changed since"
        )


@contextmanager
def naming(name: str) -> Iterator[None]:
    """Say which model it is whose backbone cannot be made."""
    try:
        yield
    except ImportError as error:
        raise type(error)(f"{name}: {error}") from error
    except ValueError as error:
        if name in str(error):
            raise
        raise ValueError(f"the backbone of {name} cannot be made: {error}") from error


def require_same_decoding(fingerprint: Mapping[str, Any]) -> None:
    """Refuse codes that were decoded by rules that this version does not have.

    Raises
    ------
    ValueError
        Names the rule.
    """
    # How scaled is scaled, what exact is, and what a value range does, are the rules;
    # which of them was chosen is the recipe's, and the limit of pixels the user's.
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
