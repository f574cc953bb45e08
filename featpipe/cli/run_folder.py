"""Choose the folder of `run`: one for each source and backbone."""

import json
import re
from pathlib import Path
from typing import Any

from featpipe.files import read_json, write_bytes

__all__ = ["RECORD", "claim_folder", "default_folder"]

RECORD = "run.json"
"""The file in the folder that records source and backbone."""


def default_folder(source: str, backbone: str) -> Path:
    """Return the folder of `run` without ``-o``.

    Parameters
    ----------
    source : str
        Its suffix is kept, so that ``six.csv``, ``six.zip`` and ``six`` have different
        folders.
    backbone : str

    Examples
    --------
    >>> str(default_folder("photos/six.csv", "timm:resnet18"))
    'featpipe-six.csv-timm-resnet18'
    """
    if source.startswith("torchvision:"):
        name = source.partition("?")[0]
    else:
        name = Path(source).name or Path(source).resolve().name
        if name == "..":
            name = Path(source).resolve().name
    return Path("-".join(["featpipe", *filter(None, map(_plain, (name, backbone)))]))


def _plain(name: str) -> str:
    """Replace characters that a file system or shell does not take in a name."""
    return re.sub(r"[^\w.+]+", "-", name).strip("-")


def claim_folder(folder: Path, source: str, backbone: str, *, overwrite: bool) -> None:
    """Record source and backbone in a folder; raise if it holds another source.

    Parameters
    ----------
    folder : Path
        An existing folder.
    source, backbone : str
    overwrite : bool
        Whether to replace the run of another source.

    Raises
    ------
    ValueError
        If it holds the run of another source, which still exists.
    """
    now = _located(source)
    before = _recorded(folder / RECORD).get("source")
    # A run of another source would replace its codes.
    if isinstance(before, str) and not overwrite and not _same(before, now):
        raise ValueError(
            f"{folder} holds the run of {before}, not of {now}; give -o another "
            "folder, or --overwrite to replace it"
        )
    record = {"source": now, "backbone": backbone}
    content = json.dumps(record, indent=1).encode("utf-8", "backslashreplace")
    write_bytes(folder / RECORD, content)


def _located(source: str) -> str:
    return source if source.startswith("torchvision:") else str(Path(source).absolute())


def _recorded(path: Path) -> dict[str, Any]:
    try:
        record = read_json(path)
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def _same(before: str, now: str) -> bool:
    """Return whether two sources are the same: by path, by a link, or after a move."""
    if before == now:
        return True
    if "torchvision:" in before[:12] + now[:12]:
        return False
    try:
        return Path(before).samefile(now)
    except (OSError, ValueError):
        # A moved source has the same name, and nothing is left at its old place.
        return Path(before).name == Path(now).name and not Path(before).exists()
