"""A codes file in which images are looked up by their content.

Lives here: what is there, what is missing, waiting for other processes. Never here:
scikit-learn, and how a codes file is made, which is the business of `extraction`.
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
    """Codes files in which images are found by their content.

    An image that was computed here is a row whose path is its digest; rows that
    `extract` wrote keep all they have.

    Parameters
    ----------
    path : Path
    recipe : Recipe
    stream : callable
        Loads the network; asked only where the file does not tell what it holds.
    compute : callable
        Makes a codes file of an `ImageSet`, keeping what it holds.
    """

    path: Path
    recipe: Recipe
    stream: Callable[[], Stream]
    compute: Callable[[Recipe, ImageSet, Path], Codes]

    def codes(self, image_set: ImageSet, timeout: float) -> np.ndarray:
        """Return the codes of images, computing those that are nowhere yet."""
        digests = [self._digest(image_set, i) for i in range(len(image_set))]
        position = {digest: i for i, digest in enumerate(digests)}
        deadline, pause = time.monotonic() + timeout, 0.05
        checked = False
        while True:
            file = self._existing()
            whole = file is not None and position.keys() <= _digests(file)
            if file is not None and whole and (checked or self._is_mine(file)):
                rows = self._rows(file, digests)
                if rows is not None:
                    return rows
                continue
            try:
                # Not the lock of the file itself, which the job takes: this one
                # covers reading what is there as well.
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
        # The one beside first: it was made because the other lacks them.
        # `check=False` is enough to see the depths; codes are checked before they are
        # used.
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
        """Name a depth from the file alone; None if it does not tell."""
        if depth in file.depths:
            return depth
        specs = [spec for spec in file.depths if spec.partition(":")[0] == depth]
        requested = depth in file.provenance.get("asked", ())
        return specs[0] if requested and len(specs) == 1 else None

    def _is_mine(self, file: Codes) -> bool:
        """Return whether the file itself shows that it was made by this very recipe."""
        provenance = file.provenance
        return (
            not self.recipe.uses_custom_code
            and provenance.get("request") == self.recipe.request()
            and self.recipe.agrees(provenance)
        )

    def _add(self, image_set: ImageSet, position: dict[bytes, int]) -> None:
        """Compute what is missing; raise if the file has another recipe."""
        old = self._existing()
        if old is None:
            # Never add depths to a file that the user may have extracted with other
            # depths on purpose.
            path = self._sibling_path if self.path.exists() else self.path
        else:
            path = old.path
        named = {
            digest.hex(): i
            for digest, i in position.items()
            if digest not in _digests(old)
        }
        try:
            file = self.compute(self.recipe, _union(old, image_set, named), path)
        except CodesError:
            raise
        except ValueError as error:
            text = str(error)
            for name, i in named.items():
                # Images are named by digest in the cache; the user knows them by path.
                text = text.replace(name, image_set.paths[i])
            raise ValueError(text) from error
        for name, stage, reason in file.failures:
            if name in named:
                raise _failed(image_set.paths[named[name]], stage, reason)

    def _rows(self, file: Codes, digests: list[bytes]) -> np.ndarray | None:
        """Read rows; None if another process has replaced the file meanwhile."""
        # By content: the same picture under two names has one row.
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
    return ValueError(f"{path}: {stage}: {reason}; leave it out, or mend it")


@dataclass(frozen=True)
class _NewReader:
    """Reads the images that are new, by their digest."""

    images: ImageSet
    position: Mapping[str, int]

    def read(self, path: str) -> bytes:
        if path not in self.position:
            raise ImageError("read", "in the cache, and not among the images given")
        return self.images.read(self.position[path])


def _union(
    old: Codes | None, image_set: ImageSet, named: Mapping[str, int]
) -> ImageSet:
    """List what a cache holds, and the new images, which alone can be read.

    Parameters
    ----------
    old : Codes, optional
    image_set : ImageSet
        As given by the user.
    named : dict of str to int
        Digest of each new image to its position there.
    """
    sizes = image_set.sizes.tolist()
    # What is named by its content never changes: any time will do, but 0 is none.
    rows = [ImageRow(name, size=sizes[i], mtime=1) for name, i in named.items()]
    if old is not None:
        if not old.mtimes.all():
            raise CodesError(
                f"{old.path} was extracted from images without a time, so nothing can "
                "be added to it; give another file as the cache"
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
        _NewReader(image_set, named),
        # Listed again, or they would be forgotten.
        failures=[Failure(*failure) for failure in before if failure[0] not in named],
    )
