"""The options that decide the codes, and the network that they choose.

A codes file keeps `Recipe.request`, the options as JSON, so that the next run can tell
without torch that they are the same.
"""

import functools
import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from featpipe import __version__, images
from featpipe.bounds import require_number, require_seed
from featpipe.images import MAX_PIXELS, ValueRange, parse_value_range
from featpipe.inference.pixels import Decoding

if TYPE_CHECKING:
    from featpipe.backbones import Backbone

__all__ = ["Recipe", "package_versions"]

_PRECISIONS = ("auto", "fp32", "bf16", "fp16")
_DECODINGS = ("auto", "exact", "scaled")
_DTYPES = ("float32", "float16")


@dataclass(frozen=True)
class Recipe:
    """A backbone, its weights, depths, and how its codes are computed.

    Parameters
    ----------
    backbone : str
        A name of `backbones`.
    weights : str, optional
        An entry, ``"DEFAULT"``, ``"none"`` or a file; default as `backbones.load`.
    depths : tuple of str
        SPECs, ``NODE[:POOL]``.
    precision : str
        ``"auto"``, ``"fp32"``, ``"bf16"`` or ``"fp16"``; auto is the file's where
        there is one, else bf16 where the processor multiplies it natively.
    decoding : str
        ``"exact"``, ``"scaled"`` (large JPEGs are decoded smaller, by themselves) or
        ``"auto"``: the file's where there is one, else exact with fp32 and scaled
        otherwise.
    value_range : str or (low, high)
        The values of images of more than 8 bits that become black and white: ``"file"``
        (0, and the largest that the bits can hold), ``"auto"`` (the lowest and the
        highest of each image), ``"LO:HI"`` or ``(LO, HI)``; kept as a pair.
    max_pixels : int, optional
        Width times height of the largest image that is decoded; None: no limit.
    dtype : str, optional
        ``"float32"`` or ``"float16"``, as stored; default the file's, else float32.
    hflip : bool
        Average the codes of each image and its mirror image.
    seed : int
        Of random weights.
    input_size, resize, crop, interpolation, mean, std
        Overrides of the preprocessing, as in `backbones.load`.
    allow_random : bool
        Accept a network whose codes depend on more than their image.

    Examples
    --------
    >>> recipe = Recipe("resnet18", depths=("layer3",), value_range="0:4095")
    >>> recipe.value_range, recipe.uses_custom_code
    ((0.0, 4095.0), False)
    >>> Recipe(precision="fp8")
    Traceback (most recent call last):
        ...
    ValueError: unknown precision 'fp8'; use auto, fp32, bf16, fp16
    """

    backbone: str = "resnet50"
    weights: str | None = None
    depths: Sequence[str] = ("penultimate",)
    precision: str = "auto"
    decoding: str = "auto"
    value_range: ValueRange = "file"
    max_pixels: int | None = MAX_PIXELS
    dtype: str | None = None
    hflip: bool = False
    seed: int = 0
    input_size: int | None = None
    resize: int | None = None
    crop: int | None = None
    interpolation: str | None = None
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None
    allow_random: bool = False

    def __post_init__(self) -> None:
        if self.precision not in _PRECISIONS:
            raise ValueError(
                f"unknown precision {self.precision!r}; use {', '.join(_PRECISIONS)}"
            )
        if self.decoding not in _DECODINGS:
            raise ValueError(
                f"unknown decoding {self.decoding!r}; use {', '.join(_DECODINGS)}"
            )
        # Parsed here, so that an invalid one is refused before images are listed.
        value_range = parse_value_range(self.value_range)
        object.__setattr__(self, "value_range", value_range)
        if self.dtype not in (None, *_DTYPES):
            raise ValueError(
                f"unknown dtype {self.dtype!r}; use {' or '.join(_DTYPES)}"
            )
        if not isinstance(self.backbone, str) or not self.backbone:
            raise ValueError(
                f"the backbone is {self.backbone!r}; give the name of a network, as "
                "'resnet50'"
            )
        self._make_plain()
        self._check_depths()

    def _check_depths(self) -> None:
        # A number or None is given by mistake for a list.
        is_list = isinstance(self.depths, Iterable) and not isinstance(self.depths, str)
        depths = tuple(self.depths) if is_list else (self.depths,)
        if not depths:
            raise ValueError("no depth was asked for; give one, or leave it out")
        for depth in depths:
            if not isinstance(depth, str):
                raise ValueError(
                    f"the depth is {depth!r}; give the name of a node, as 'penultimate'"
                )
        object.__setattr__(self, "depths", depths)

    def _make_plain(self) -> None:
        """Turn numbers, flags and paths into Python's own types, which JSON takes."""
        plain: dict[str, Any] = {"seed": require_seed(self.seed)}
        plain["max_pixels"] = images.check_max_pixels(self.max_pixels)
        for name, low in (("input_size", 1), ("resize", 0), ("crop", 1)):
            if (pixels := getattr(self, name)) is not None:
                plain[name] = require_number(name, pixels, low, 8192)
        for name in ("mean", "std"):
            plain[name] = _plain_numbers(name, getattr(self, name))
        for name in ("hflip", "allow_random"):
            # By comparison: numpy's bool is no subclass of Python's.
            if getattr(self, name) not in (False, True):
                raise ValueError(
                    f"{name}={getattr(self, name)!r:.60} has to be True or False"
                )
            plain[name] = bool(getattr(self, name))
        if self.weights is not None:
            if not isinstance(self.weights, str | os.PathLike):
                raise ValueError(
                    f"weights={self.weights!r:.60} is no name of weights and no path; "
                    "give an entry, 'none' or a file, such as one of torch.save"
                )
            plain["weights"] = os.fspath(self.weights)
        for name, value in plain.items():
            object.__setattr__(self, name, value)

    def request(self) -> dict[str, Any]:
        """Return all options that decide the network, for JSON, without torch.

        Depths, precision, decoding and dtype are left out: a file may hold more depths,
        and "auto" means those of the file. So is the limit of pixels, which changes no
        code.

        Returns
        -------
        dict
        """
        record = asdict(self)
        for name in ("depths", "precision", "decoding", "dtype", "max_pixels"):
            del record[name]
        if not self.allow_random:
            del record["allow_random"]  # files from before this option lack it
        if self.value_range == "file":
            del record["value_range"]  # likewise
        record = {k: list(v) if isinstance(v, tuple) else v for k, v in record.items()}
        record["weights_file_sha256"] = digest = _file_digest(self.weights)
        # By digest: the file may have moved.
        record["weights"] = None if digest else self.weights
        record["versions"] = package_versions("featpipe", "torchvision", "timm")
        record["decoding"] = images.DECODING
        return record

    def agrees(self, provenance: Mapping[str, Any]) -> bool:
        """Return whether a provenance has this precision and decoding."""
        return self.precision in (
            "auto",
            provenance.get("precision"),
        ) and self.decoding in (
            "auto",
            _mode_of(provenance),
        )

    def resolve_auto(self, provenance: Mapping[str, Any]) -> "Recipe":
        """Return the recipe with "auto" replaced by the values of a provenance."""
        changes = {}
        if self.precision == "auto" and "precision" in provenance:
            changes["precision"] = provenance["precision"]
        if self.decoding == "auto" and (mode := _mode_of(provenance)) is not None:
            changes["decoding"] = mode
        return replace(self, **changes)

    @property
    def uses_custom_code(self) -> bool:
        """Whether the backbone is a user's callable, which may change unnoticed."""
        # The form package.module:callable.
        return ":" in self.backbone and not self.backbone.startswith("timm:")

    def load(self, depths: Sequence[str], *, download: bool = True) -> "Backbone":
        """Load the network, cut at the deepest of ``depths``, on the CPU.

        Without ``download`` it has random weights instead of those that would have to
        be downloaded.
        """
        from featpipe import backbones

        return backbones.load(
            self.backbone,
            weights=self.weights,
            depths=tuple(depths),
            seed=self.seed,
            input_size=self.input_size,
            resize=self.resize,
            crop=self.crop,
            interpolation=self.interpolation,
            mean=self.mean,
            std=self.std,
            allow_random=self.allow_random,
            download=download,
        )

    def decoding_at(self, precision: str) -> Decoding:
        """Return how images are decoded at a precision.

        Scaled decoding is for precisions below float32, whose rounding is larger than
        the difference.
        """
        exact = self.decoding == "exact"
        if self.decoding == "auto":
            exact = precision == "fp32"
        return Decoding(exact, self.value_range, self.max_pixels)

    def fingerprint(self, backbone: "Backbone", precision: str) -> dict[str, Any]:
        """Return the facts that change the codes."""
        # An explicit list: a codes file stays valid if anything else changes.
        own = backbone.fingerprint()
        return {
            **own,
            "preprocessing": {**own["preprocessing"], "hflip": self.hflip},
            "decoding": {
                **images.DECODING,
                **self.decoding_at(precision).as_record(),
            },
            "precision": precision,
        }


def _plain_numbers(name: str, values: Any) -> Any:
    if values is None:
        return values
    array = np.asarray(values)
    if array.dtype.kind not in "iuf" or array.ndim > 1:
        raise ValueError(f"{name}={values!r:.60} must be one finite number or three")
    return tuple(array.ravel().astype(float).tolist())


def _mode_of(provenance: Mapping[str, Any]) -> str | None:
    """Return the mode of decoding; None where a file does not have it."""
    mode: str | None = provenance.get("decoding", {}).get("mode")
    return mode


def _file_digest(weights: str | None) -> str | None:
    path = Path(weights) if weights else None
    if path is None or not path.is_file():
        return None
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def package_versions(*names: str) -> dict[str, str | None]:
    """Return the version of each package; None for one that is not installed.

    Reads the metadata of installed packages and imports none of them. featpipe knows
    its own version, so that it may run without being installed.

    Examples
    --------
    >>> versions = package_versions("numpy", "no-such-package")
    >>> versions["numpy"] == np.__version__, versions["no-such-package"]
    (True, None)
    """
    return {name: _version(name) for name in names}


@functools.cache  # 5 ms each, and read by every extraction
def _version(package: str) -> str | None:
    if package == "featpipe":
        return __version__
    try:
        return version(package)
    except PackageNotFoundError:
        return None
