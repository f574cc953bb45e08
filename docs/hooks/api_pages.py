"""Write the pages of the public names; refuse the build where one has no docstring.

`featpipe.__all__` is the public door and gets a page of its own. Every package that
lists names gets a section on a second page.
"""

import inspect
import pkgutil
import re
from collections.abc import Iterator
from importlib import import_module
from types import ModuleType
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

import featpipe

# A command line has a page of its own.
_ELSEWHERE = {"__main__", "cli"}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add both pages, or raise where a public name says nothing about itself."""
    missing = [f"{module.__name__}.{name}" for module, name in undocumented()]
    if missing:
        raise PluginError(f"public names without a docstring: {', '.join(missing)}")
    files.append(File.generated(config, "reference/python.md", content=door()))
    files.append(File.generated(config, "reference/packages.md", content=packages()))
    return files


def on_page_content(html: str, **_: object) -> str:
    """Turn numpydoc's marks of a reference, ``[1]_`` and ``.. [1]``, into ``[1]``."""
    return re.sub(r"(?:\.\. )?(\[\d\])_?", r"\1", html)


def modules() -> list[ModuleType]:
    """Return featpipe and its packages."""
    names = sorted(module.name for module in pkgutil.iter_modules(featpipe.__path__))
    return [
        featpipe,
        *(
            import_module(f"featpipe.{name}")
            for name in names
            if name not in _ELSEWHERE
        ),
    ]


def undocumented() -> Iterator[tuple[ModuleType, str]]:
    """Yield the public classes and functions that have no docstring of their own."""
    for module in modules():
        for name in module.__all__:
            item = getattr(module, name)
            if (inspect.isclass(item) or inspect.isroutine(item)) and not item.__doc__:
                yield module, name


def door() -> str:
    """Return the page of the names that `import featpipe` gives."""
    lines = ["# Python", "", "```python", "import featpipe", "```", ""]
    lines += ["Every name below is loaded when it is first used, so that", ""]
    lines[-2] += " `import featpipe` imports no torch."
    for name in featpipe.__all__:
        lines += _section(name, getattr(featpipe, name), level=2)
    return "\n".join(lines) + "\n"


def packages() -> str:
    """Return the page of the packages behind the public door."""
    lines = ["# Packages", ""]
    lines += ["What each package offers to the others, and to programs that need", ""]
    lines[-2] += " more than the [public names](python.md)."
    public = {id(getattr(featpipe, name)) for name in featpipe.__all__}
    for module in modules()[1:]:
        lines += ["", f"## {module.__name__}", ""]
        lines += [(module.__doc__ or "").strip().splitlines()[0], ""]
        for name in module.__all__:
            item = getattr(module, name)
            if id(item) in public:
                lines += [f"`{name}`: see [{name}](python.md#{_address(item)})", ""]
            elif inspect.isclass(item) or inspect.isroutine(item):
                lines += _section(name, item, level=3)
    return "\n".join(lines) + "\n"


def _address(item: Any) -> str:
    return f"{item.__module__}.{item.__qualname__}"


def _section(name: str, item: object, *, level: int) -> list[str]:
    return [
        f"::: {_address(item)}",
        "    options:",
        f"      heading: {name}",
        f"      heading_level: {level}",
        "",
    ]
