"""The docstrings of public names: complete sections, and examples that run."""

import inspect
import re
from collections.abc import Iterator

import pytest

import featpipe

# The names of `import featpipe`, and the public methods of its classes.


def documented() -> Iterator[tuple[str, object]]:
    for name in featpipe.__all__:
        item = getattr(featpipe, name)
        yield name, item
        if inspect.isclass(item):
            for method, value in vars(item).items():
                if not method.startswith("_") and inspect.isfunction(value):
                    yield f"{name}.{method}", value


NAMES = dict(documented())


def sections(item: object) -> dict[str, str]:
    parts = re.split(
        r"^([\w*][\w ]+)\n-{3,}$", inspect.getdoc(item) or "", flags=re.MULTILINE
    )
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def parameters_of(item: object) -> list[str]:
    signature = inspect.signature(item)  # type: ignore[arg-type]  # a class or function
    return [name for name in signature.parameters if name not in {"self", "cls"}]


@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_has_its_line(name: str) -> None:
    item = NAMES[name]
    if inspect.isclass(item) and issubclass(item, Exception):
        return
    shown = sections(item)
    text = shown.get("Parameters", "") + shown.get("Attributes", "")
    lines = re.findall(r"^([\w*][\w, *]*?)(?: : .*)?$", text, re.MULTILINE)
    described = {word.strip(" *") for line in lines for word in line.split(",")}
    missing = [p for p in parameters_of(item) if p not in described]
    assert missing == [], missing


@pytest.mark.parametrize("name", NAMES)
def test_the_first_line_is_one_sentence(name: str) -> None:
    first = (inspect.getdoc(NAMES[name]) or "").splitlines()[0]
    assert first.endswith("."), first
    assert not re.match(r"(Give|Say|Tell)\b", first), first
