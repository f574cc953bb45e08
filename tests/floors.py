"""Print the oldest dependencies that pyproject.toml allows, as constraints for pip.

`python tests/floors.py > floors.txt`, then `PIP_CONSTRAINT=floors.txt make test`.
"""

import re
import tomllib
from pathlib import Path

# Extras that the tests do not install, and what is written for one Python only.
_LEFT_OUT = {"timm", "docs"}


def floors() -> list[str]:
    """Return ``name==version`` for every dependency that has a floor."""
    text = (Path(__file__).parents[1] / "pyproject.toml").read_text()
    project = tomllib.loads(text)["project"]
    extras = project["optional-dependencies"]
    needed = list(project["dependencies"])
    for name in extras.keys() - _LEFT_OUT:
        needed += extras[name]
    parts = [re.match(r"([\w-]+)(?:\[.*\])?>=([\w.]+)", each) for each in needed]
    return sorted({f"{part[1]}=={part[2]}" for part in parts if part})


if __name__ == "__main__":
    print("\n".join(floors()))
