"""Every public name has a worked example, and every example does what it shows."""

import ast
import doctest
import functools
import importlib
import inspect
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import featpipe
from featpipe import codes, images, report

PACKAGE = Path(featpipe.__file__).parent
PACKAGES = sorted(path.parent for path in PACKAGE.glob("*/__init__.py"))
KINDS = ("daisy", "rose", "tulip")
COLOURS = ((225, 225, 215), (190, 40, 60), (225, 190, 50))


def exported(path: Path) -> list[str]:
    """Return the strings of a module's ``__all__``."""
    for node in ast.parse(path.read_bytes()).body:
        if isinstance(node, ast.Assign):
            targets = {t.id for t in node.targets if isinstance(t, ast.Name)}
            if "__all__" in targets:
                constants = [n for n in ast.walk(node) if isinstance(n, ast.Constant)]
                return [node.value for node in constants]
    return []


def sources(package: Path) -> dict[str, str]:
    """Return the module of each name that a package's ``__init__`` has."""
    modules = {}
    for node in ast.walk(ast.parse((package / "__init__.py").read_bytes())):
        if isinstance(node, ast.ImportFrom):
            modules |= {alias.asname or alias.name: node.module for alias in node.names}
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            modules[node.name] = f"featpipe.{package.name}"
    return modules


def public() -> Iterator[tuple[str, str]]:
    for package in PACKAGES:
        modules = sources(package)
        for name in exported(package / "__init__.py"):
            item = getattr(importlib.import_module(f"featpipe.{package.name}"), name)
            if inspect.isclass(item) or inspect.isfunction(item):
                yield modules[name], name


PUBLIC = sorted(set(public()))


@pytest.mark.parametrize(("module", "name"), PUBLIC, ids=[n for _, n in PUBLIC])
def test_a_public_name_has_an_example(module: str, name: str) -> None:
    path = PACKAGE.parent.joinpath(*module.split("."))
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    for node in ast.parse(path.read_bytes()).body:
        if getattr(node, "name", None) == name:
            # The whole definition: some docstrings are put together with f"…".
            text = ast.get_source_segment(path.read_text(), node)
            assert text is not None
            assert "Examples\n" in text, f"{module}.{name} has no example"
            assert ">>>" in text


def test_the_names_of_the_package_are_among_them() -> None:
    assert set(featpipe.__all__) <= {name for _, name in PUBLIC}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with what the examples read: images, codes, scores, a model."""
    folder = tmp_path_factory.mktemp("examples")
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1, 2], 14)
    splits = (["train"] * 10 + ["test"] * 4) * 3
    paths = [
        f"{split}/{KINDS[label]}/{k:02d}.png"
        for k, (split, label) in enumerate(zip(splits, labels, strict=True))
    ]
    for path, label in zip(paths, labels, strict=True):
        (folder / "flowers" / path).parent.mkdir(parents=True, exist_ok=True)
        pixels = COLOURS[label] + rng.integers(-30, 31, (8, 8, 3))
        Image.fromarray(pixels.astype(np.uint8)).save(folder / "flowers" / path)
    preprocessing = {"resize": 8, "crop": 8, "interpolation": "bilinear"}
    preprocessing |= {"antialias": True, "mean": [0.5] * 3, "std": [0.5] * 3}
    codes.write(
        folder / "flowers.h5",
        codes={
            depth: (distance * np.eye(3, 8)[labels] + rng.normal(size=(42, 8)))
            .round(3)
            .astype(np.float32)
            for depth, distance in {"layer3:avg": 2, "penultimate": 8}.items()
        },
        labels=labels,
        class_names=KINDS,
        paths=paths,
        splits=splits,
        images_root=str(folder / "flowers"),
        provenance={
            "backbone": "mini",
            "weights": "MINI_V1",
            "weights_sha256": "0" * 64,
            "preprocessing": {**preprocessing, "hflip": False},
            "decoding": {**images.DECODING, "mode": "exact"},
            "precision": "fp32",
            "dtype": "float32",
            "request": {"seed": 0, "weights_file_sha256": None},
        },
    )
    before = Path.cwd()
    os.chdir(folder)
    try:
        names = ("linear", "logistic")
        comparison = featpipe.compare("flowers.h5", classifiers=names, device="cpu")
        comparison.write_json("flowers.json")
        # Codes that a network made: their model can predict.
        mini = featpipe.extract("flowers", "mini.h5", backbone="mini", device="cpu")
        featpipe.fit(mini, "logistic", C=0.01, device="cpu").save("flowers.model")
    finally:
        os.chdir(before)
    return folder


@pytest.fixture(scope="module")
def one_report() -> Iterator[None]:
    """Make the report that three examples show once; it takes seconds."""
    with pytest.MonkeyPatch.context() as patch:
        once = functools.cache(report.make_report)
        patch.setattr("featpipe.report.make_report", once)
        patch.setattr("featpipe.report.making.make_report", once)
        yield


# `export` takes seconds; tests/test_export.py runs its example for what it exports.
RUN = [(module, name) for module, name in PUBLIC if name != "export"]


@pytest.mark.usefixtures("one_report")
@pytest.mark.parametrize(("module", "name"), RUN, ids=[n for _, n in RUN])
def test_an_example_gives_what_it_shows(
    module: str, name: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setattr("sys.argv", ["featpipe"])
    code = importlib.import_module(module)
    # A factory behind a decorator has its text in the wrapped function.
    text = getattr(code, name).__doc__ or ""
    test = doctest.DocTestParser().get_doctest(text, dict(vars(code)), name, None, 0)
    assert not any(example.options.get(doctest.SKIP) for example in test.examples)
    output: list[str] = []
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    doctest.DocTestRunner(optionflags=flags).run(test, out=output.append)
    assert not output, "".join(output)
