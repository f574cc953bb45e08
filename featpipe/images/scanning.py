"""Recognise the kind of a source, and list its images.

Each kind has a module that lists it.
"""

from __future__ import annotations

import os
import re
import stat
import tarfile
import zipfile
from typing import TYPE_CHECKING

from featpipe.images.classes import check_classes
from featpipe.images.folder import scan_folder
from featpipe.images.imageset import ImageSet
from featpipe.images.reading import kind, problem
from featpipe.kinds import HEAD, describe_kind

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["scan"]

_TABLES = (".csv", ".tsv", ".tab")
_TARS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
_KINDS = "a folder, a .csv or .tsv table, a .zip or .tar archive, or torchvision:NAME"


def scan(
    source: str | os.PathLike[str] | ImageSet,
    *,
    unlabelled: bool = False,
    limit: int | None = None,
    ignore: Callable[[str], bool] | None = None,
) -> ImageSet:
    """List the images of a source, without decoding them.

    Every regular file counts as an image, until decoding fails. Hidden names, names of
    systems (``@eaDir``, ``Thumbs.db``) and well-known non-images (``README``,
    checksums, CSV) are only counted; all else is a `Failure`.

    Parameters
    ----------
    source : path, str or ImageSet
        - A folder. Its folders are classes. If all of them have names of splits
          (``train``, ``Training_Set``, ``val``, ``dev``, ``testing``, …; see
          `folder_names.splits_of`), they are splits, and the folders in them classes.
          Deeper folders belong to the class; files beside the class folders have no
          label. Folders that wrap all others are left out of the paths.
        - A ``.csv`` or ``.tsv`` table with a header and the columns
          ``path[,label][,split][,group]``; other columns are ignored. Paths are
          absolute, or relative to the folder of the table.
        - A ``.zip`` or ``.tar`` (also gzip, bzip2, xz) of such a folder. Members are
          read in place; a compressed tar is decompressed once, into a temporary file
          without a name.
        - ``torchvision:NAME?root=FOLDER&key=value``: a dataset of torchvision on the
          disk; nothing is downloaded.
        - An `ImageSet`, to which the other parameters are applied.
    unlabelled : bool
        Whether to leave out labels and splits.
    limit : int, optional
        Number of images to take, evenly from all classes and splits.
    ignore : callable, optional
        Takes the absolute path of an entry of a folder; true leaves it out, such as an
        output that is written into the folder.

    Returns
    -------
    ImageSet
        Sorted by path.

    Raises
    ------
    FileNotFoundError
        If there is no such path.
    PermissionError
        If it may not be read.
    ValueError
        If it is not a source or has no image, if folder names or a table are
        contradictory, if splits have no class in common, or if ``limit`` is below one.

    Warns
    -----
    UserWarning
        If folders with other names than train, val and test are read as splits, if
        folders that look like splits are read as classes, if class names differ only by
        capitals, blanks or Unicode form, or if labels do not look like classes.

    Examples
    --------
    >>> from featpipe import images
    >>> images.scan("flowers")
    <ImageSet flowers: 42 images in 3 classes>
    >>> images.scan("flowers", limit=6).labels.tolist()
    [0, 1, 2, 0, 1, 2]
    """
    images = (
        source if isinstance(source, ImageSet) else _scan(source, unlabelled, ignore)
    )
    if unlabelled:
        images = images.without_labels()
    # An ImageSet that is passed in has been checked already.
    elif images is not source:
        check_classes(images)
    return images if limit is None else images.first(limit)


def _scan(
    source: str | os.PathLike[str],
    unlabelled: bool,
    ignore: Callable[[str], bool] | None,
) -> ImageSet:
    text = os.fspath(source)
    if not isinstance(text, str):
        raise TypeError(f"{source!r} is no source; give {_KINDS}")
    if text.startswith("torchvision:"):
        from featpipe.images.datasets import scan_torchvision

        return scan_torchvision(text, unlabelled=unlabelled)
    try:
        opener = _opener(text)
        if opener is scan_folder:
            return scan_folder(text, unlabelled, ignore)
        return opener(text, unlabelled)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"no such folder or file: {text!r}{_hint(text)}"
        ) from error
    except PermissionError as error:
        raise PermissionError(f"{text!r} may not be read: permission denied") from error
    except OSError as error:
        raise OSError(f"{text!r} cannot be read: {problem(error)}") from error


def _hint(path: str) -> str:
    """Return what to do about a path that does not exist; "" if not known."""
    if re.match(r"[a-z][a-z0-9+.-]+://", path, re.IGNORECASE):
        return "; featpipe downloads no images: fetch them, and give the folder"
    if path.startswith("~"):
        return "; only shells expand ~: give the whole path"
    return ""


def _opener(path: str) -> Callable[[str, bool], ImageSet]:
    """Return the function that lists a path of this kind; open only regular files."""
    # The system would raise an error that names no path.
    if "\0" in path:
        raise ValueError(f"{path!r} is no path; give {_KINDS}")
    mode = os.stat(path).st_mode  # noqa: PTH116 - Path drops a trailing slash
    if stat.S_ISDIR(mode):
        return scan_folder
    if not stat.S_ISREG(mode):
        raise ValueError(f"{path!r} is {kind(mode)}; give {_KINDS}")
    with open(path, "rb") as file:  # noqa: PTH123 - as above
        described = describe_kind(file.read(HEAD))
    if described and described not in ("a zip archive", "an image"):
        raise ValueError(f"{path!r} is {described}, not images; give {_KINDS}")
    # By name before content: a tar whose last member is a zip looks like a zip.
    name = path.lower()
    if name.endswith(_TABLES):
        return _table
    if name.endswith(_TARS):
        return _tar
    if name.endswith(".zip") or zipfile.is_zipfile(path):
        return _zip
    if tarfile.is_tarfile(path):
        return _tar
    raise ValueError(
        f"{path!r} is a file that is no table and no archive; give {_KINDS}"
    )


# Most sources are folders, so the modules of other kinds are imported when needed.


def _table(path: str, unlabelled: bool) -> ImageSet:
    from featpipe.images.table import scan_table

    return scan_table(path)


def _zip(path: str, unlabelled: bool) -> ImageSet:
    from featpipe.images.ziparchive import scan_zip

    return scan_zip(path, unlabelled)


def _tar(path: str, unlabelled: bool) -> ImageSet:
    from featpipe.images.tararchive import scan_tar

    return scan_tar(path, unlabelled)
