"""The architecture behind the name of a backbone: a builder, and its weights.

Nothing is built before `Architecture.build`, nothing downloaded until
`Entry.read`. Which names there are is the business of `families`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from featpipe.backbones.preprocessing import Preprocessing

__all__ = ["Architecture", "Entry", "State"]

State = Mapping[str, Tensor]


@dataclass(frozen=True)
class Entry:
    """Weights that can be had by name.

    Parameters
    ----------
    name : str
        ``IMAGENET1K_V1``.
    preprocessing : Preprocessing
        What these weights were trained to see.
    read : callable
        Returns the state dict; may download it.
    n_parameters : int or None
    accuracy : float or None
        Top-1 on ImageNet in percent.
    build_arguments : dict
        Arguments of the builder for these weights.
    url : str or None
        Where they are downloaded from.
    is_bundled : bool
        They come with featpipe, and are never downloaded.
    """

    name: str
    preprocessing: Preprocessing
    read: Callable[[], State]
    n_parameters: int | None = None
    accuracy: float | None = None
    build_arguments: Mapping[str, Any] = field(default_factory=dict)
    url: str | None = None
    is_bundled: bool = False


@dataclass(frozen=True)
class Architecture:
    """A network that can be built, and the weights entries it has.

    Parameters
    ----------
    name : str
        Canonical name.
    builder : callable
        Returns the network with random weights; takes any keyword arguments.
    entries : dict of str to Entry
        Empty for your own networks.
    default : str or None
        The entry taken when no weights are named; None: as the builder leaves them.
    newest : str or None
        The entry that ``DEFAULT`` names: torchvision's own choice.
    trusted : bool
        Its recorded graph is known to compute what the network computes.
    renamed : callable
        From the names of old weights files to today's.
    preprocessing : Preprocessing or None
        What a network without entries is made for, if that is known.
    """

    name: str
    builder: Callable[..., nn.Module]
    entries: Mapping[str, Entry] = field(default_factory=dict)
    default: str | None = None
    newest: str | None = None
    trusted: bool = True
    renamed: Callable[[str], str] = str
    preprocessing: Preprocessing | None = None

    def build(self, entry: Entry | None) -> nn.Module:
        """Build the network as these weights need it, filled at random.

        ``entry`` None takes the arguments of the newest entry, so that a weights
        file, and no weights, meet the network that the entry is made for.
        """
        if entry is None and self.newest is not None:
            # Random weights and files have no entry: the newest is what is usual.
            entry = self.entries[self.newest]
        return self.builder(**(entry.build_arguments if entry else {}))
