"""Plan an update: compare the codes file with the request, and list the work.

Computes nothing, and imports no torch where the request has not changed.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from featpipe import codes
from featpipe.codes import Codes, CodesError, FailureRecord, Row
from featpipe.extraction.parts import RowIndex
from featpipe.images import ImageError, ImageSet
from featpipe.inference import GIVEN, Network, Recipe, package_versions

if TYPE_CHECKING:
    from featpipe.backbones import Backbone

__all__ = [
    "CHANGED",
    "UpdatePlan",
    "expected_digests",
    "plan_update",
    "require_same_image",
]

CHANGED = (
    "its content has changed while its size and time have not; run the same command "
    "again to compute it anew"
)
"""The reason why an image may not get a further depth."""


@dataclass
class UpdatePlan:
    """The work of an extraction: rows to keep, images and depths to compute.

    Parameters
    ----------
    provenance : dict
        Of the new file.
    depths : list of str
        All depths of the new file, those of the old one first.
    added : list of str
        Depths to add to existing rows.
    kept : dict of position to Row
        Images whose rows in the old file are kept.
    failed : dict of position to FailureRecord
        Images that failed before and have not changed.
    todo : (n,) int64
        Positions to compute.

    Examples
    --------
    >>> update = UpdatePlan({}, ["penultimate"], [], todo=np.arange(3))
    >>> update.todo.shape, update.kept
    ((3,), {})
    """

    provenance: dict[str, Any]
    depths: list[str]
    added: list[str]
    kept: dict[int, Row] = field(default_factory=dict)
    failed: dict[int, FailureRecord] = field(default_factory=dict)
    todo: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))

    @property
    def fingerprint(self) -> dict[str, Any]:
        """The part of the provenance that changes the codes."""
        return {name: self.provenance[name] for name in codes.FINGERPRINT}


def plan_update(
    path: Path, old: Codes | None, images: ImageSet, recipe: Recipe, network: Network
) -> UpdatePlan:
    """Compare the request with the codes file.

    Parameters
    ----------
    path : Path
        The codes file, for messages.
    old : Codes, optional
        The file, if it exists.
    images : ImageSet
    recipe : Recipe
    network : Network
        Loaded only if the file was not made by the same request.

    Returns
    -------
    UpdatePlan

    Raises
    ------
    CodesError
        If the file was made with other options, or of other images.
    """
    if old is not None:
        _require_same_source(old, images)
    update = _kept_network(old, recipe) or _loaded_network(path, old, recipe, network)
    before = RowIndex([] if old is None else [old])
    before.add(range(len(before.files)))
    failures = _lasting_failures(old, update)
    todo = []
    stamps = zip(images.sizes.tolist(), images.mtimes.tolist(), strict=True)
    for i, (name, stamp) in enumerate(zip(images.paths, stamps, strict=True)):
        row = before.unchanged(name, stamp)
        if row is not None:
            update.kept[i] = row
        # A file that was mended has another size or time.
        elif name in failures and failures[name][3:] == stamp:
            update.failed[i] = failures[name]
        else:
            todo.append(i)
    update.todo = np.array(todo, np.int64)
    return update


def _require_same_source(old: Codes, images: ImageSet) -> None:
    """Raise if the rows of one source would be replaced by those of another.

    A folder that has moved, grown or been copied still shares paths with the file.
    """
    if not len(old) or not len(images):
        return
    # The root of a list is the current folder, or none.
    is_list = images.source == GIVEN
    if old.images_root == images.root and not is_list:
        return
    # A source that is gone may have been moved, and its rows are then kept.
    is_there = bool(old.images_root) and Path(old.images_root).exists()
    if (is_there or is_list) and not set(old.paths) & set(images.paths):
        raise CodesError(
            f"{old.path} holds {len(old):,} images of "
            f"{old.images_root or 'another list'}, none of "
            f"which is in {images.source}; choose another file, or --overwrite"
        )


def _lasting_failures(
    old: Codes | None, update: UpdatePlan
) -> dict[str, FailureRecord]:
    """Return failures that would repeat: same image, same decoder, same limit."""
    # Another version of a decoder may read what failed before.
    if old is None or old.provenance.get("versions") != _versions():
        return {}
    if old.provenance.get("decoding") != update.provenance["decoding"]:
        return {}
    # Reading may succeed now; a time of 0 is unknown.
    again = [f for f in old.tables.failures if f.stage in ("decode", "network")]
    return {failure.path: failure for failure in again if failure.mtime}


def _kept_network(old: Codes | None, recipe: Recipe) -> UpdatePlan | None:
    """Return the plan from the file alone, if it was made by the same request."""
    if old is None or recipe.uses_custom_code:
        return None
    before = old.provenance
    same = (
        before.get("request") == recipe.request()
        and set(recipe.depths) <= set(before.get("asked", ()))
        and recipe.agrees(before)
        and recipe.dtype in (None, before.get("dtype"))
    )
    if not same:
        return None
    limit = {"max_pixels": recipe.max_pixels}
    provenance = before | {"decoding": before["decoding"] | limit}
    return UpdatePlan(provenance, list(old.depths), [])


def _loaded_network(
    path: Path, old: Codes | None, recipe: Recipe, network: Network
) -> UpdatePlan:
    before = {} if old is None else old.provenance
    backbone = network.backbone(recipe.depths)
    specs = [depth.spec for depth in backbone.depths]
    provenance = _provenance(before, backbone, recipe, network)
    if old is not None:
        codes.require_same_fingerprint(before, provenance, path)
        if provenance["dtype"] != before.get("dtype"):
            raise CodesError(
                f"{path} holds {before.get('dtype')}, not {recipe.dtype}; leave out "
                "--dtype, choose another file, or --overwrite"
            )
    depths = [] if old is None else list(old.depths)
    added = [spec for spec in dict.fromkeys(specs) if spec not in depths]
    # As the user writes them, so that the next run can compare them without torch.
    requested = sorted({*before.get("asked", ()), *recipe.depths, *specs})
    provenance |= {"asked": requested, "depths": depths + added}
    return UpdatePlan(provenance, depths + added, [] if old is None else added)


def _provenance(
    before: dict[str, Any], backbone: "Backbone", recipe: Recipe, network: Network
) -> dict[str, Any]:
    recipe = recipe.resolve_auto(before)
    precision = network.precision(recipe.precision)
    fingerprint = recipe.fingerprint(backbone, precision)
    if not backbone.weights_sha256:
        # A plan downloads no weights, and compares their names instead.
        same = before.get("weights") == backbone.weights
        fingerprint["weights_sha256"] = before.get("weights_sha256") if same else None
    return {
        **fingerprint,
        "weights": backbone.weights,
        "dtype": recipe.dtype or before.get("dtype") or "float32",
        # Of the run that began the file, so that a run without work changes nothing.
        "device": before.get("device") or network.device,
        "batch_size": before.get("batch_size")
        or network.batch_size(backbone.preprocessing.crop),
        "versions": _versions(),
        "request": recipe.request(),
    }


def _versions() -> dict[str, str | None]:
    return package_versions("featpipe", "torch", "torchvision", "pillow", "numpy")


def require_same_image(
    base: Codes | None, update: UpdatePlan, i: int, sha256: bytes
) -> None:
    """Raise if a depth would be added to a row whose image has changed."""
    if base is not None and base.sha256[update.kept[i].row].tobytes() != sha256:
        raise ImageError("read", CHANGED)


def expected_digests(
    base: Codes | None, update: UpdatePlan, positions: Sequence[int]
) -> np.ndarray | None:
    """Return the digests of the rows that get further depths."""
    if base is None:
        return None
    return base.sha256[[update.kept[i].row for i in positions]]
