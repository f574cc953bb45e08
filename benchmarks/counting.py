"""Count what docs/inside/numbers.md states about the code: lines, comments, imports.

    python benchmarks/counting.py

Counted by `ast` and `tokenize` over the files of the package, tests apart. "Functions"
are all `def`, nested ones too; "comments" are comment tokens per 100 lines;
"docstrings" is the share of lines inside docstrings.
"""

import ast
import io
import statistics
import tokenize
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import featpipe

PACKAGE = Path(featpipe.__file__).parent
TESTS = PACKAGE.parent / "tests"
_LESS_OPEN = ("inference", "solvers", "protocol")


def comments(text: str) -> int:
    """Count the comment tokens of a module."""
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    return sum(token.type == tokenize.COMMENT for token in tokens)


def docstring_lines(tree: ast.AST) -> int:
    """Count the lines inside docstrings."""
    kinds = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    lines = 0
    for node in ast.walk(tree):
        if isinstance(node, kinds) and ast.get_docstring(node) is not None:
            first = node.body[0]
            lines += (first.end_lineno or first.lineno) - first.lineno + 1
    return lines


def functions(tree: ast.AST) -> Iterator[int]:
    """Yield the length in lines of each function, nested ones too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield (node.end_lineno or node.lineno) - node.lineno + 1


def inner_imports(path: Path, tree: ast.AST) -> Iterator[tuple[str, str]]:
    """Yield the modules inside other packages that a module imports."""
    own = path.relative_to(PACKAGE).parts[0]
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            parts = node.module.split(".")
            is_inner = parts[0] == "featpipe" and len(parts) > 2
            if is_inner and parts[1] != own:
                yield own, node.module


# A file of tests counts for the package whose promises it checks. Most names begin with
# that of the package; these files check another, or have a name of another kind.
ALSO_OF = {
    "codes": ("mutants", "test_hostile_files"),
    "extraction": ("test_repeatability", "crashing"),
    "files": ("surviving", "test_survival", "test_small_disk", "trapping"),
    "images": ("test_max_pixels", "test_value_range", "test_hostile_paths"),
    # Lanes, batches, scaled decoding and progress, seen through `extract`.
    "inference": ("test_sources", "test_extraction_speed"),
    # Hard cases are held to a plain minimisation of the solvers' objective.
    "solvers": ("test_streaming", "test_classifiers_hard_cases"),
}
NOT_OF = {"extraction": ("test_extraction_speed",)}


def tests_of(package: str) -> int:
    """Count the lines of the tests of a package, its fixtures apart."""
    also, other = ALSO_OF.get(package, ()), NOT_OF.get(package, ())
    return sum(
        len(path.read_text().splitlines())
        for path in TESTS.glob("*.py")
        if path.stem in also
        or (path.stem.startswith(f"test_{package}") and path.stem not in other)
    )


def main() -> None:
    """Print the numbers."""
    texts = {path: path.read_text() for path in sorted(PACKAGE.rglob("*.py"))}
    trees = {path: ast.parse(text) for path, text in texts.items()}
    sizes = [len(text.splitlines()) for text in texts.values()]
    lengths = [length for tree in trees.values() for length in functions(tree)]
    n_lines = sum(sizes)
    n_comments = sum(map(comments, texts.values()))
    n_docstrings = sum(map(docstring_lines, trees.values()))
    n_tests = sum(len(path.read_text().splitlines()) for path in TESTS.glob("*.py"))
    examples = sum(text.count("    Examples\n") for text in texts.values())
    inner = [pair for path, tree in trees.items() for pair in inner_imports(path, tree)]
    rows: dict[str, object] = {
        "modules": len(texts),
        "lines": f"{n_lines:,}",
        "median module": int(statistics.median(sizes)),
        "largest module": max(sizes),
        "modules over 400 lines": sum(size > 400 for size in sizes),
        "functions per module": f"{len(lengths) / len(texts):.1f}",
        "median function": int(statistics.median(lengths)),
        "comments per 100 lines": f"{100 * n_comments / n_lines:.2f}",
        "docstrings": f"{100 * n_docstrings / n_lines:.0f} %",
        "tests per line": f"{n_tests / n_lines:.2f}",
        "docstrings with an example": examples,
        "imports of modules inside another package": len(inner),
    }
    for name, value in rows.items():
        print(f"{name:45} {value}")
    for package in ("codes", "files", "extraction", "images", *_LESS_OPEN):
        inside = [
            path for path in texts if path.relative_to(PACKAGE).parts[0] == package
        ]
        n_inside = sum(len(texts[path].splitlines()) for path in inside)
        print(f"  tests per line of {package:26} {tests_of(package) / n_inside:.2f}")
    for (package, module), n in Counter(inner).most_common():
        print(f"  {package} imports {module} ({n})")


if __name__ == "__main__":
    main()
