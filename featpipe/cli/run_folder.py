"""The folder of `run`: one for each source and backbone, never two sources in one."""

import json
import re
from pathlib import Path
from typing import Any

from featpipe.files import read_json, write_bytes

__all__ = ["RECORD", "claim_folder", "default_folder"]

RECORD = "run.json"
"""The file in the folder that records source and backbone."""


def default_folder(source: str, backbone: str) -> Path:
    """Return the folder that `run` takes where none is given.

    Parameters
    ----------
    source : str
        With its suffix, so that ``six.csv``, ``six.zip`` and ``six`` have folders of
        their own.
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
    """Replace what some file system or shell would not take in a name."""
    return re.sub(r"[^\w.+]+", "-", name).strip("-")


def claim_folder(folder: Path, source: str, backbone: str, *, overwrite: bool) -> None:
    """Record what is run in a folder, or refuse one that holds another source.

    Parameters
    ----------
    folder : Path
        There already.
    source, backbone : str
    overwrite : bool
        Whatever it holds is to be replaced.

    Raises
    ------
    ValueError
        If it holds the run of another source, which still exists.
    """
    now = _located(source)
    before = _recorded(folder / RECORD).get("source")
    # Two sources in one folder would each replace the other's codes.
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
    """Return whether two sources are one: by name, by a link, or moved meanwhile."""
    if before == now:
        return True
    if "torchvision:" in before[:12] + now[:12]:
        return False
    try:
        return Path(before).samefile(now)
    except (OSError, ValueError):
        # Moved meanwhile: the same name, and nothing at the old place.
        return Path(before).name == Path(now).name and not Path(before).exists()
