"""The packages and who may import whom, as the design has it; read with `ast`.

No module is imported here but by a fresh Python that reports what came with it.
"""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import featpipe

PACKAGE = Path(featpipe.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))

# Package: what it may import. Imports go one way: there is no cycle among packages.
MAY_IMPORT: dict[str, set[str]] = {
    "bounds": set(),
    "defaults": set(),
    "devices": set(),
    "errors": set(),
    "files": set(),
    "kinds": set(),
    "images": {"bounds", "errors", "kinds"},
    "backbones": {"bounds", "errors"},
    "codes": {"files", "kinds"},
    "solvers": {"devices"},
    "scores": {"files"},
    "protocol": {"bounds", "defaults"},
    "parallel": {"bounds", "errors"},
    "inference": {"bounds", "devices", "images", "backbones", "files"},
    "extraction": {"images", "backbones", "codes", "inference", "files", "parallel"},
    "transformer": {
        "bounds",
        "images",
        "backbones",
        "codes",
        "inference",
        "extraction",
        "files",
    },
    "classifiers": {"bounds", "defaults", "solvers"},
    "comparison": {
        "bounds",
        "defaults",
        "codes",
        "solvers",
        "classifiers",
        "scores",
        "protocol",
        "files",
        "parallel",
    },
    "predictor": {
        "bounds",
        "defaults",
        "errors",
        "images",
        "kinds",
        "backbones",
        "codes",
        "inference",
        "extraction",
        "classifiers",
        "scores",
        "protocol",
        "files",
    },
    "finetuning": {
        "bounds",
        "defaults",
        "errors",
        "images",
        "backbones",
        "codes",
        "inference",
        "extraction",
        "solvers",
        "classifiers",
        "scores",
        "protocol",
        "files",
        "predictor",
    },
    "advice": {"codes", "defaults", "scores", "protocol", "comparison"},
    "report": {
        "defaults",
        "images",
        "codes",
        "classifiers",
        "scores",
        "protocol",
        "files",
        "comparison",
        "advice",
    },
}
# The top: they put everything together.
ANYTHING = {"__init__", "__main__", "cli", "demo"}


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_bytes())


@cache  # A walk takes longer than parsing, and a module is walked by many tests.
def nodes(tree: ast.AST) -> tuple[ast.AST, ...]:
    return tuple(ast.walk(tree))


@cache
def package_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def name_of(path: Path) -> str:
    return str(path.relative_to(PACKAGE))


def imports(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Yield each module imported, in functions and for types too, with its line."""
    for node in nodes(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield "." * node.level + (node.module or ""), node.lineno
            if node.module == "featpipe":
                for alias in node.names:
                    yield f"featpipe.{alias.name}", node.lineno


@cache
def packages_imported(path: Path) -> dict[str, int]:
    results = {}
    for name, line in imports(parsed(path)):
        top, _, rest = name.partition(".")
        # Names of `featpipe` itself, such as its version, are no package.
        if top == "featpipe" and rest and not rest.startswith("__"):
            results[rest.partition(".")[0]] = line
    return results


def test_every_package_is_in_the_table():
    assert {package_of(path) for path in MODULES} <= MAY_IMPORT.keys() | ANYTHING


def test_the_table_has_no_cycle():
    done: set[str] = set()
    while packages := {r for r, needs in MAY_IMPORT.items() if r not in done}:
        free = {package for package in packages if MAY_IMPORT[package] <= done}
        assert free, f"a cycle among {packages}"
        done |= free


@pytest.mark.parametrize("package", sorted(MAY_IMPORT))
def test_a_package_imports_only_what_it_may(package):
    allowed = MAY_IMPORT[package] | {package}
    for path in MODULES:
        if package_of(path) == package:
            odd = {
                r: at for r, at in packages_imported(path).items() if r not in allowed
            }
            assert not odd, f"{name_of(path)} imports {odd}; {package} may {allowed}"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_module_says_what_it_is_and_what_it_gives(path):
    tree = parsed(path)
    assert ast.get_docstring(tree), f"{name_of(path)} has no docstring"
    relative = [name for name, _ in imports(tree) if name.startswith(".")]
    assert not relative, f"{name_of(path)} imports {relative}; write featpipe.…"
    if path.name != "__main__.py":
        public = exported(tree)
        assert public is not None, f"{name_of(path)} states no __all__"
        defined = {
            node.name: node
            for node in tree.body
            if isinstance(node, ast.FunctionDef | ast.ClassDef)
        }
        for name in public:
            node = defined.get(name)
            assert node is None or documented(node), f"{name} is not documented"
            if isinstance(node, ast.ClassDef):
                for method in methods(node):
                    assert documented(method), f"{name}.{method.name} is not documented"


@cache
def interface(package: str) -> set[str]:
    """Return the names that a package offers to others: its `__all__`."""
    path = PACKAGE / package / "__init__.py"
    path = path if path.exists() else PACKAGE / f"{package}.py"
    return set(exported(parsed(path)) or ())


def uses_of_others(path: Path) -> Iterator[tuple[str, str, int]]:
    """Yield each name that a module takes from another package, with its line.

    Whether imported by name, or reached through the package: ``codes.read``.
    """
    tree, own = parsed(path), package_of(path)
    packages = {package_of(module) for module in MODULES}
    aliases = {}
    for node in nodes(tree):
        if not isinstance(node, ast.ImportFrom) or not node.module:
            continue
        top, _, package = node.module.partition(".")
        is_other = top == "featpipe" and package.partition(".")[0] != own
        for alias in node.names:
            if node.module == "featpipe" and alias.name in packages - {own}:
                aliases[alias.asname or alias.name] = alias.name
            elif is_other and package:
                yield package, alias.name, node.lineno
    for node in nodes(tree):
        match node:
            case ast.Attribute(value=ast.Name(id=name)) if name in aliases:
                yield aliases[name], node.attr, node.lineno


@cache
def assigned(path: Path) -> set[str]:
    """Return the names that a module assigns, which then are no package."""
    every = nodes(parsed(path))
    stored = {
        node.id
        for node in every
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
    }
    return stored | {node.arg for node in every if isinstance(node, ast.arg)}


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_module_uses_other_packages_by_their_interface(path):
    for package, name, line in uses_of_others(path):
        assert "." not in package, f"line {line} imports the inside {package}"
        if package not in assigned(path):
            offered = interface(package)
            assert name in offered, f"line {line}: {package} does not export {name}"


def strings(tree: ast.AST) -> list[str]:
    constants = (node for node in nodes(tree) if isinstance(node, ast.Constant))
    return [node.value for node in constants if isinstance(node.value, str)]


def documented(node: ast.FunctionDef | ast.ClassDef) -> bool:
    # Or `__doc__ = f"…"`, for what several classes have in common.
    assigned = [n.targets for n in node.body if isinstance(n, ast.Assign)]
    names = {t.id for ts in assigned for t in ts if isinstance(t, ast.Name)}
    return bool(ast.get_docstring(node)) or "__doc__" in names


def exported(tree: ast.Module) -> list[str] | None:
    for node in tree.body:
        if isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            if any(isinstance(t, ast.Name) and t.id == "__all__" for t in targets):
                assert node.value is not None
                return strings(node.value)
    return None


def methods(node: ast.ClassDef) -> list[ast.FunctionDef]:
    items = [item for item in node.body if isinstance(item, ast.FunctionDef)]
    return [method for method in items if not method.name.startswith("_")]


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_what_all_names_is_there(path):
    tree = parsed(path)
    there: set[str] = set()
    for node in nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            there.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            there |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            there.add(node.id)
    lazy = set(getattr(featpipe, "_ROOM_OF", ())) if path.parent == PACKAGE else set()
    assert set(exported(tree) or ()) <= there | lazy


WITHOUT_TORCH = """
import importlib, sys
for name in sys.argv[1:]:
    importlib.import_module(name)
    if "torch" in sys.modules:
        sys.exit(f"{name} imports torch")
import featpipe
dir(featpipe)
"""


def test_torch_is_imported_only_where_networks_run():
    # The lightest first, so that the first to bring torch is the one named.
    packages = [
        "cli",
        "codes",
        "images",
        "inference",
        "extraction",
        "scores",
        "comparison",
    ]
    packages += ["classifiers"]
    names = ["featpipe", *(f"featpipe.{package}" for package in packages)]
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, *names],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_every_public_name_is_there_and_documented():
    for name in featpipe.__all__:
        assert getattr(featpipe, name).__doc__, f"featpipe.{name} is not documented"
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        featpipe.nothing  # noqa: B018


def files_used(path: Path, *, for_types: bool) -> set[str]:
    """Return the files that a module imports names from, through `__init__` too."""
    tree = parsed(path)
    only_types = {
        id(node)
        for test in nodes(tree)
        if isinstance(test, ast.If) and ast.unparse(test.test) == "TYPE_CHECKING"
        for node in nodes(test)
    }
    files = set()
    for node in nodes(tree):
        if not isinstance(node, ast.ImportFrom) or not node.module:
            continue
        top, _, module = node.module.partition(".")
        if top != "featpipe" or (id(node) in only_types and not for_types):
            continue
        inner = module.replace(".", "/")
        files.add(f"{inner}.py")
        for alias in node.names:
            files.add(f"{inner}/{alias.name}.py")
            package, names = inner, {alias.name}
            if not inner:  # from featpipe import codes
                package = alias.name
                used = rf"\b{alias.asname or package}\.(\w+)"
                names = set(re.findall(used, path.read_text()))
            if (PACKAGE / package / "__init__.py").is_file():
                files |= files_that_export(package, names)
    return files


def files_that_export(package: str, names: set[str]) -> set[str]:
    return {
        f"{node.module.removeprefix('featpipe.').replace('.', '/')}.py"
        for node in nodes(parsed(PACKAGE / package / "__init__.py"))
        if isinstance(node, ast.ImportFrom) and node.module
        if names & {alias.name for alias in node.names}
    }


def test_the_walks_of_the_documentation_are_short_and_lead_from_file_to_file():
    text = (PACKAGE.parent / "docs/inside/one-feature.md").read_text()
    sections = [
        re.findall(r"^\|[ \d]*\| `([\w/]+\.py)` \|", section, re.MULTILINE)
        for section in text.split("\n## ")
    ]
    extract, compare = filter(None, sections)
    assert len(extract) == len(set(extract)) <= 18
    assert len(compare) - len(set(compare)) <= 4
    for walk in extract, compare:
        above: set[str] = set(walk[:1])
        for file in walk:
            assert file in above, f"no file above leads to {file}"
            above |= files_used(PACKAGE / file, for_types=True)
    for k, file in enumerate(extract):
        back = files_used(PACKAGE / file, for_types=False) & set(extract[:k])
        assert not back, f"{file} leads back to {back}"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_no_module_has_more_than_four_hundred_lines(path: Path):
    assert len(path.read_text().splitlines()) <= 400
