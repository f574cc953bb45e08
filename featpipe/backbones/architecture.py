"""The architecture of a backbone: a function that builds it, and its weights.

`Architecture.build` builds the network, and `Entry.read` downloads weights; nothing
does so before. `families` turns names into architectures.
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
    """Weights that have a name.

    Parameters
    ----------
    name : str
        Such as ``IMAGENET1K_V1``.
    preprocessing : Preprocessing
        That of the images that the weights were trained on.
    read : callable
        Returns the state dict; may download it.
    n_parameters : int or None
    accuracy : float or None
        Top-1 on ImageNet in percent.
    build_arguments : dict
        Arguments of the builder for these weights.
    url : str or None
        Address of the download.
    is_bundled : bool
        Whether they are part of featpipe, and never downloaded.
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
        The entry to use if no weights are named; None keeps those of the builder.
    newest : str or None
        The entry that ``DEFAULT`` means, which is torchvision's choice.
    trusted : bool
        Whether the recorded graph is known to compute what the network computes.
    renamed : callable
        Takes a name in an old weights file, and returns the present one.
    preprocessing : Preprocessing or None
        That of a network without entries, if known.
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
        """Build the network for these weights, with random ones.

        Without an entry, as for random weights and files, it is built for the newest.
        """
        if entry is None and self.newest is not None:
            # A file most likely holds the weights of the usual network.
            entry = self.entries[self.newest]
        return self.builder(**(entry.build_arguments if entry else {}))
