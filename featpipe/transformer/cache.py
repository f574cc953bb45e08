"""A codes file in which images are looked up by their content.

This module compares the file with the images that are asked for, has the missing ones
computed, and waits for other processes. `extraction` makes the file; scikit-learn is
not used here.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from featpipe import codes
from featpipe.codes import Codes, CodesError
from featpipe.files import Lock, LockedError
from featpipe.images import Failure, ImageError, ImageRow, ImageSet, build_image_set
from featpipe.inference import Recipe, Stream

__all__ = ["Cache"]


@dataclass(frozen=True)
class Cache:
    """Codes files in which images are looked up by their content.

    A row that the cache adds has the digest of the image as its path; rows that
    `extract` wrote stay as they are.

    Parameters
    ----------
    path : Path
    recipe : Recipe
    stream : callable
        Loads the network; called only where the file does not name its depths.
    compute : callable
        Writes the codes of an `ImageSet` to a file, and keeps the rows it has.
    """

    path: Path
    recipe: Recipe
    stream: Callable[[], Stream]
    compute: Callable[[Recipe, ImageSet, Path], Codes]

    def codes(self, image_set: ImageSet, timeout: float) -> np.ndarray:
        """Return the codes of images; compute those that no file has yet.

        Parameters
        ----------
        image_set : ImageSet
        timeout : float
            Seconds to wait for another process that writes to the cache.

        Returns
        -------
        (n_images, width) float32
        """
        digests = [self._digest(image_set, i) for i in range(len(image_set))]
        position = {digest: i for i, digest in enumerate(digests)}
        deadline, pause = time.monotonic() + timeout, 0.05
        checked = False
        while True:
            file = self._existing()
            complete = file is not None and position.keys() <= _digests(file)
            if file is not None and complete and (checked or self._has_recipe(file)):
                rows = self._rows(file, digests)
                if rows is not None:
                    return rows
                continue
            try:
                # A lock of its own, since `compute` locks the file itself; this one
                # also covers reading the file beforehand.
                with Lock(self.path.with_name(f"{self.path.name}.cache")):
                    self._add(image_set, position)
                checked = True
            except LockedError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(pause)
                pause = min(2 * pause, 2.0)

    def _digest(self, image_set: ImageSet, i: int) -> bytes:
        try:
            return hashlib.sha256(image_set.read(i)).digest()
        except ImageError as error:
            raise _failed(image_set.paths[i], error.stage, error.reason) from error

    def _existing(self) -> Codes | None:
        """Read the file that has the requested depths, if there is one."""
        # The sibling comes first: it exists only where the other file lacks the depths.
        # Its list of depths needs no check; codes are checked before they are used.
        for path in (self._sibling_path, self.path):
            if path.exists():
                file = codes.read(path, check=False)
                if set(self._specs(file)) <= set(file.depths):
                    return file
        return None

    @property
    def _sibling_path(self) -> Path:
        depth = "+".join(self.recipe.depths).replace(":", "-")
        return self.path.with_name(f"{self.path.stem}-{depth}{self.path.suffix}")

    def _specs(self, file: Codes) -> list[str]:
        """Return the canonical names of the requested depths."""
        specs = [self._spec(file, depth) for depth in self.recipe.depths]
        if None in specs:
            return [depth.spec for depth in self.stream().loaded.depths]
        return [spec for spec in specs if spec is not None]

    def _spec(self, file: Codes, depth: str) -> str | None:
        """Return the canonical name of a depth; None if the file does not tell it."""
        if depth in file.depths:
            return depth
        specs = [spec for spec in file.depths if spec.partition(":")[0] == depth]
        requested = depth in file.provenance.get("asked", ())
        return specs[0] if requested and len(specs) == 1 else None

    def _has_recipe(self, file: Codes) -> bool:
        """Return whether the file records that this very recipe made it."""
        provenance = file.provenance
        return (
            not self.recipe.uses_custom_code
            and provenance.get("request") == self.recipe.request()
            and self.recipe.agrees(provenance)
        )

    def _add(self, image_set: ImageSet, position: dict[bytes, int]) -> None:
        """Compute the missing codes; raise if the file has another recipe."""
        old = self._existing()
        if old is None:
            # Never add depths to a file that the user may have extracted with other
            # depths on purpose.
            path = self._sibling_path if self.path.exists() else self.path
        else:
            path = old.path
        new = {
            digest.hex(): i
            for digest, i in position.items()
            if digest not in _digests(old)
        }
        try:
            file = self.compute(self.recipe, _union(old, image_set, new), path)
        except CodesError:
            raise
        except ValueError as error:
            text = str(error)
            for name, i in new.items():
                # The cache names images by digest; the user knows them by path.
                text = text.replace(name, image_set.paths[i])
            raise ValueError(text) from error
        for name, stage, reason in file.failures:
            if name in new:
                raise _failed(image_set.paths[new[name]], stage, reason)

    def _rows(self, file: Codes, digests: list[bytes]) -> np.ndarray | None:
        """Return the codes of images; None if the file has been replaced meanwhile."""
        # By content: an image that has two names has one row.
        row = {digest.tobytes(): k for k, digest in enumerate(file.sha256)}
        at = np.array([row[digest] for digest in digests], np.int64)
        try:
            file = codes.checked(file)
            parts = [file.take(spec, at) for spec in self._specs(file)]
        except CodesError:
            if codes.read(file.path, check=False).stamp == file.stamp:
                raise
            return None
        return np.concatenate(parts, axis=1).astype(np.float32, copy=False)


def _digests(file: Codes | None) -> set[bytes]:
    return set() if file is None else {digest.tobytes() for digest in file.sha256}


def _failed(path: str, stage: str, reason: str) -> ValueError:
    return ValueError(f"{path}: {stage}: {reason}; leave the image out, or repair it")


@dataclass(frozen=True)
class _NewReader:
    """Reads new images by their digest."""

    images: ImageSet
    position: Mapping[str, int]

    def read(self, path: str) -> bytes:
        if path not in self.position:
            raise ImageError("read", "this image of the cache is not among those given")
        return self.images.read(self.position[path])


def _union(old: Codes | None, image_set: ImageSet, new: Mapping[str, int]) -> ImageSet:
    """Return the images of a cache and the new ones; only the new ones can be read.

    Parameters
    ----------
    old : Codes, optional
    image_set : ImageSet
        As given by the user.
    new : dict of str to int
        Digest of each new image to its position there.
    """
    sizes = image_set.sizes.tolist()
    # A file that is named by its content never changes, so any time but 0, which means
    # "unknown", is right.
    rows = [ImageRow(name, size=sizes[i], mtime=1) for name, i in new.items()]
    if old is not None:
        if not old.mtimes.all():
            raise CodesError(
                f"{old.path} was extracted from images without a modification time, so "
                "nothing can be added to it; give another file as the cache"
            )
        names = [*old.class_names, ""]
        tables = old.tables
        rows += [
            ImageRow(path, names[label], split, group, size, mtime)
            for path, label, split, group, size, mtime in zip(
                tables.paths,
                tables.labels.tolist(),
                tables.splits,
                tables.groups,
                tables.sizes.tolist(),
                tables.mtimes.tolist(),
                strict=True,
            )
        ]
    before = [] if old is None else old.failures
    return build_image_set(
        "the cache",
        "content:" if old is None else old.images_root,
        rows,
        _NewReader(image_set, new),
        # Repeated, since the new file has only the failures listed here.
        failures=[Failure(*failure) for failure in before if failure[0] not in new],
    )
