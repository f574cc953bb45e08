"""Codes that stay on the disk and are read in blocks of rows."""

from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from featpipe.codes import layout
from featpipe.codes.access import Codes
from featpipe.codes.block import CodesError
from featpipe.codes.opening import stamp_of

__all__ = ["CodesView"]

# A range of rows is read as a whole where at least one row in so many is chosen.
_DENSE = 16
_CHECKSUM_BYTES = 4


class CodesView:
    """The codes of one depth and some images, read on request.

    Classifiers take it as ``X`` where an array would be too large, and read it in
    blocks of rows. Indexing chooses rows as numpy does, and reads none.

    Parameters
    ----------
    codes : Codes
        Checked before (`codes.checked`): blocks are read without their checksums.
    depth : str
        A depth, or several joined by ``+``, whose codes are put side by side.
    images : (n,) int64, optional
        Rows of the file; default all.

    Attributes
    ----------
    shape : (int, int)
        Rows and width.
    dtype : dtype
        Of what `rows` returns.

    Examples
    --------
    >>> import featpipe
    >>> codes = featpipe.read("flowers.h5")
    >>> X = CodesView(codes, "penultimate")[codes.splits == "train"]
    >>> X.shape, X.rows(0, 4).shape
    ((30, 8), (4, 8))
    """

    def __init__(
        self, codes: Codes, depth: str, images: np.ndarray | None = None
    ) -> None:
        self._codes = codes
        self._specs = [codes.spec(part) for part in depth.split("+")]
        self._images = np.arange(len(codes)) if images is None else images
        self._chunks = [_chunks(codes, spec) for spec in self._specs]
        self.shape = len(self._images), codes.width(depth)
        self.dtype = np.dtype(np.float32)
        if len(self._specs) == 1:
            self.dtype = codes.rows(self._specs[0], 0, 0).dtype

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, chosen: np.ndarray | slice) -> "CodesView":
        """Return the view of some rows: an array of numbers or of bools, or a slice."""
        # Without the constructor, which would look up the chunks in the file again.
        view = object.__new__(CodesView)
        view.__dict__ |= self.__dict__
        view._images = self._images[chosen]
        view.shape = len(view._images), self.shape[1]
        return view

    def rows(self, start: int, stop: int) -> np.ndarray:
        """Read rows ``start`` to ``stop``, (stop − start, width).

        Raises
        ------
        CodesError
            If the file has changed since it was read, or is damaged there.
        """
        images = self._images[start:stop]
        parts = [self._read(k, images) for k in range(len(self._specs))]
        if len(parts) == 1:
            return parts[0]
        return np.concatenate(parts, axis=1, dtype=np.float32)

    def _read(self, part: int, images: np.ndarray) -> np.ndarray:
        spec, chunks = self._specs[part], self._chunks[part]
        width = self._codes.width(spec)
        if len(images):
            first, last = int(images.min()), int(images.max()) + 1
            # Folds hold most rows between their first and last: one long read is
            # faster than many short ones.
            if last - first <= _DENSE * len(images):
                if chunks is None:
                    rows = self._codes.rows(spec, first, last)
                else:
                    rows = chunks.read(first, last)
                if last - first != len(images) or (np.diff(images) != 1).any():
                    rows = rows[images - first]
                return rows.reshape(len(images), width)
        return self._codes.take(spec, images).reshape(len(images), width)


@dataclass(frozen=True, eq=False)
class _Chunks:
    """The places of the rows of a depth in the file, for reading without HDF5.

    HDF5 would copy each chunk and compute its checksum on every pass, at a third of the
    rate of plain reading, and block the other threads.
    """

    path: Path
    stamp: tuple[int, ...]
    offsets: np.ndarray
    rows_each: int
    width: int
    dtype: np.dtype

    def read(self, start: int, stop: int) -> np.ndarray:
        """Read rows ``start`` to ``stop``, (stop − start, width)."""
        codes = np.empty((stop - start, self.width), self.dtype)
        # Without a buffer the bytes go straight into the array.
        with self.path.open("rb", buffering=0) as file:
            if stamp_of(file) != self.stamp:
                raise CodesError(
                    f"{self.path} has changed since it was read; read it again"
                )
            row = start
            while row < stop:
                # A slice may begin and end in the middle of a chunk.
                chunk, within = divmod(row, self.rows_each)
                end = min(stop, row - within + self.rows_each)
                part = codes[row - start : end - start].data.cast("B")
                skipped = within * self.width * self.dtype.itemsize
                file.seek(int(self.offsets[chunk]) + skipped)
                if file.readinto(part) != len(part):
                    raise CodesError(
                        f"{self.path} ends within its codes; read it again"
                    )
                row = end
        return codes


def _chunks(codes: Codes, spec: str) -> _Chunks | None:
    """Return the places of the rows; None where HDF5 has to read them."""
    with codes._dataset(spec) as dataset, codes.path.open("rb") as file:
        infos: list[h5py.h5d.StoreInfo] = []
        if len(dataset) and dataset.chunks is not None:
            dataset.id.chunk_iter(infos.append)
        width = int(np.prod(dataset.shape[1:]))
        # Other programs may lay out files differently; HDF5 then reads them.
        if not infos or not width or dataset.chunks[1:] != dataset.shape[1:]:
            return None
        rows_each, dtype = dataset.chunks[0], dataset.dtype
        size = rows_each * width * dtype.itemsize + _CHECKSUM_BYTES
        infos.sort(key=lambda info: info.chunk_offset[0])
        starts = [info.chunk_offset[0] for info in infos]
        # A chunk that was never written has no place in the file: HDF5 would fill it
        # with zeros.
        if starts != list(range(0, len(dataset), rows_each)):
            return None
        # A filter that was skipped, or compression, changes the bytes of a chunk.
        if any(info.size != size or info.filter_mask for info in infos):
            return None
        shift = layout._shift(dataset, infos[0], file, dataset.file.userblock_size)
        offsets = np.array([info.byte_offset + shift for info in infos], np.int64)
    return _Chunks(codes.path, codes.stamp, offsets, rows_each, width, dtype)
