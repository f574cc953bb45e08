"""Every block of code and every command of README and docs runs, on small images.

A page runs in a folder of its own with the images that pages speak of. A file that it
uses but does not make (`flowers.h5` where it begins with `compare`) is made once, the
same for all pages. Shown output is compared line by line with numbers masked, since the
images are others here.
"""

import ast
import asyncio
import contextlib
import functools
import hashlib
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbclient
import nbformat
import numpy as np
import pytest
import torch
import torchvision
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output
from matplotlib import pyplot
from PIL import Image
from sklearn.datasets import load_digits
from traitlets.config import Config
from trapping import apart
from typer.main import get_command
from typer.testing import CliRunner

from featpipe.cli.app import app

SqueezeNet = torchvision.models.SqueezeNet1_0_Weights.IMAGENET1K_V1
ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)

# How the files are made that a page may begin with.
MADE = {
    "flowers.h5": "extract flowers -o flowers.h5 --backbone mini --depth stage2 "
    "--depth stage3 --depth penultimate",
    "bees.h5": "extract hymenoptera_data -o bees.h5 --backbone mini",
    "scores.json": "compare flowers.h5 --classifiers logistic --json scores.json",
    "flowers.model": "fit flowers.h5 --classifier logistic -o flowers.model",
    "flowers.onnx": "export flowers.model -o flowers.onnx",
    "tuned.json": "finetune flowers --backbone mini --train head --json tuned.json",
}
OUTPUTS = {"-o", "--output", "--json", "--csv", "--predictions", "--report", "--png"}

# Weights that would be downloaded, a package that is an extra, a file that only its
# reader has: of such commands the name and the options are checked.
ABSENT = re.compile(r"timm:|fcn_|rcnn_|resnet50|my_cells")
# Training takes minutes where a page shows it, and one short epoch here.
SHORT = (("--epochs", "1"), ("--lr", "0.01"), ("--views", "1"), ("--input-size", "32"))
# Commands that take long; the same one on the same files runs once for all pages.
DEAR = {"advise", "compare", "export", "finetune", "fit", "report"}
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
    "optional-dependencies"
]


def blocks(page: Path) -> list[tuple[str, str]]:
    return FENCE.findall(page.read_text())


def commands(text: str) -> Iterator[tuple[str, list[str]]]:
    """Yield each command of a console block, and the lines shown below it."""
    for part in re.split(r"^\$ ", text.replace("\\\n", " "), flags=re.MULTILINE)[1:]:
        command, *shown = part.splitlines()
        yield command, shown


def run(words: list[str]) -> str:
    """Run a command in this process and return what it printed."""
    if words[0] == "finetune":
        words = [*words, *(w for pair in SHORT if pair[0] not in words for w in pair)]
    result = CliRunner(env={"COLUMNS": "120", "NO_COLOR": "1"}).invoke(app, words)
    assert result.exit_code == 0, (shlex.join(words), result.output)
    return result.output


# Made anew on each call, of signatures.
known_commands = functools.cache(lambda: get_command(app).commands)  # type: ignore[attr-defined]


def check_options(words: list[str]) -> None:
    """Check that a command exists with all options that are shown."""
    known = known_commands()[words[0]]
    options = {name for parameter in known.params for name in parameter.opts}
    assert {word for word in words if re.match(r"--?[a-zA-Z]", word)} <= options, words


def needs_download(words: list[str]) -> bool:
    """Tell whether a command needs weights or a package that are not here."""
    default = words[0] in {"run", "extract", "finetune"} and "--backbone" not in words
    return default or bool(ABSENT.search(" ".join(words)))


def masked(text: str) -> str:
    """Return text without what differs between data sets, machines and runs."""
    text = re.sub(r"\S+/\S+\.(jpg|png)", "PATH", text)
    text = re.sub(r"[─★=!]", " ", text)
    text = re.sub(r"held back by \w+", "held back by #", text)
    text = re.sub(r"-?\d[\d,.]*(e[-+]?\d+)?", "#", text)
    # The recommended row has no difference to itself; here it is another row.
    text = re.sub(r"(# \[# #\]\s*)+", "# [# #] ", text)
    # Which of the two it is the processor decides.
    text = text.replace("fp#, exact", "bf#, scaled")
    return " ".join(text.split())


def copy(names: set[str], source: Path, target: Path) -> None:
    """Copy files and folders of these names."""
    for name in names:
        if (source / name).is_dir():
            shutil.copytree(source / name, target / name, dirs_exist_ok=True)
        else:
            shutil.copy(source / name, target / name)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, draw) -> Path:
    """Make the images and tables that pages speak of; later, what is made of them."""
    folder = tmp_path_factory.mktemp("docs")
    for source, held, names in (
        ("flowers", "test", ("daisy", "rose")),
        ("hymenoptera_data", "val", ("ants", "bees")),
    ):
        for split, count in (("train", 12), (held, 6)):
            for k in range(count):
                draw(folder / source / split / names[k % 2] / f"{k}.jpg", k + count)
    for k in range(12):
        draw(folder / "photos" / f"{k:03}.jpg", k)
    for k in range(3):
        draw(folder / "new_photos" / f"{k}.png", 50 + k)
    draw(folder / "new.jpg", 60)
    digits = load_digits()
    for digit in range(3):
        for k, i in enumerate(np.flatnonzero(digits.target == digit)[:16]):
            split = ("train", "test")[k % 2]
            path = folder / "demo" / "digits" / split / str(digit) / f"{i:04}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray((digits.images[i] * 15).astype(np.uint8)).save(path)
    labels = [f"photos/{k:03}.jpg,{('daisy', 'rose')[k % 2]}" for k in range(12)]
    (folder / "photos.csv").write_text(
        "\n".join(["path,label,split", *(f"{row},train" for row in labels[:8])])
        + "\n"
        + "\n".join(f"{row},test" for row in labels[8:])
    )
    (folder / "grouped.csv").write_text(
        "\n".join(
            ["path,label,group", *(f"{r},p{k // 2}" for k, r in enumerate(labels))]
        )
    )
    return folder


@pytest.fixture(scope="module", autouse=True)
def random_weights(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Put random weights where torchvision keeps what it has downloaded."""
    folder = tmp_path_factory.mktemp("torch")
    (folder / "hub" / "checkpoints").mkdir(parents=True)
    torch.manual_seed(0)
    path = folder / "hub" / "checkpoints" / Path(SqueezeNet.url).name
    torch.save(torchvision.models.squeezenet1_0().state_dict(), path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCH_HOME", str(folder))
        yield


class Page:
    """A page, run from its top to its end in a folder of its own."""

    def __init__(self, folder: Path, store: Path) -> None:
        self.folder, self.store = folder, store
        self.names: dict[str, Any] = {}
        self.last: object = None
        # Of each file here that other pages have alike, how it was made.
        self.origins: dict[str, str] = {}
        shutil.copytree(
            store,
            folder,
            dirs_exist_ok=True,
            ignore=shutil.ignore_patterns("ran", *MADE),
        )

    def run(self, language: str, text: str) -> None:
        if language == "console":
            for command, shown in commands(text):
                printed = masked(self.command(shlex.split(command, comments=True)))
                for line in shown:
                    assert line == "…" or masked(line) in printed, (command, line)
        elif language == "python":
            self.python(text)
            return
        elif language == "text" and self.last is not None:
            assert repr(self.last) == text.strip()
        self.last = None

    def python(self, text: str) -> None:
        """Run a block. One that names a file is that file, or an excerpt of it."""
        name = re.match(r"# (excerpt: )?(\S+\.py)\n", text)
        if name and name[1]:
            here = re.sub(r"^ +", "", (ROOT / name[2]).read_text(), flags=re.MULTILINE)
            excerpt = text.partition("\n")[2]
            assert re.sub(r"^ +", "", excerpt, flags=re.MULTILINE) in here, text
            return
        if name:
            (self.folder / name[2]).write_text(text)
        self.provide(re.findall(r'"([\w.]+)"', text))
        tree = ast.parse(text)
        final = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
        exec(compile(tree, "page", "exec"), self.names)
        if isinstance(final, ast.Expr):
            value = compile(ast.Expression(final.value), "page", "eval")
            self.last = eval(value, self.names)

    def command(self, words: list[str]) -> str:
        """Run one command, or check one that would change this machine."""
        if words[0] == "featpipe":
            check_options(words[1:])
            if needs_download(words[1:]):
                return ""
            options = zip(words, [*words[1:], ""], strict=True)
            outputs = {value for option, value in options if option in OUTPUTS}
            inputs = [word for word in words if word not in outputs]
            self.provide(inputs)
            return self._run_once(words[1:], inputs, outputs)
        if words[0] in {"head", "cat"}:
            return subprocess.run(
                words, capture_output=True, text=True, check=True
            ).stdout
        if words[0] == "pip":
            extra = re.fullmatch(r"featpipe(?:\[(\w+)\])?", words[2])
            assert extra, words
            assert extra[1] is None or extra[1] in EXTRAS
        elif words[0] == "make":
            assert f"\n{words[1]}:" in (ROOT / "Makefile").read_text()
        elif words[0] == "python":
            assert (ROOT / words[1]).exists()
        else:
            raise AssertionError(f"nothing here runs {words}")
        return ""

    def provide(self, words: list[str]) -> None:
        """Put files here that the page uses and has not made; make each once."""
        for name in MADE:
            if name in words and not (self.folder / name).exists():
                if not (self.store / name).exists():
                    self._make(name)
                shutil.copy(self.store / name, self.folder)
                self.origins[name] = MADE[name]

    def _run_once(self, words: list[str], inputs: list[str], outputs: set[str]) -> str:
        """Run a command; of what other pages ran on the same files, take the result."""
        here = [name for name in inputs if (self.folder / name).is_file()]
        if words[0] not in DEAR or not self.origins.keys() >= set(here):
            for name in outputs:
                self.origins.pop(name, None)
            return run(words)
        origin = repr((sorted(words), [self.origins[name] for name in here]))
        kept = self.store / "ran" / hashlib.sha256(origin.encode()).hexdigest()
        if not kept.exists():
            printed = run(words)
            kept.mkdir(parents=True)
            (kept / "printed").write_text(printed)
            copy(outputs, Path(), kept)
        copy(outputs, kept, Path())
        self.origins |= dict.fromkeys(outputs, origin)
        return (kept / "printed").read_text()

    def _make(self, name: str) -> None:
        recipe = MADE[name].split()
        for word in recipe[1:]:
            if word in MADE and word != name and not (self.store / word).exists():
                self._make(word)
        with contextlib.chdir(self.store):
            run(recipe)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_every_block_of_the_page_runs(
    path: Path, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = Page(tmp_path, store)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    for language, text in blocks(path):
        page.run(language, text)
    sys.modules.pop("my_nets", None)


def test_pages_have_blocks_of_known_languages_only() -> None:
    known = {"console", "python", "text", "bash"}
    for path in PAGES:
        fences = re.findall(r"^ *```(.*)$", path.read_text(), re.MULTILINE)
        assert set(fences[::2]) <= known, path
        assert len(blocks(path)) * 2 == len(fences), path


def test_every_link_of_the_readme_leads_somewhere() -> None:
    text = (ROOT / "README.md").read_text()
    links = re.findall(r"\]\(([^)#]+)", text) + re.findall(r"`([\w-]+/[\w./-]+)`", text)
    assert len(links) > 15
    local = [link for link in links if not link.startswith("https://")]
    assert [link for link in local if not (ROOT / link).exists()] == []


def test_the_readme_is_short_enough_to_be_read() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) < 150


@pytest.mark.parametrize(
    "where", ["in a fork", pytest.param("in a kernel", marks=pytest.mark.slow)]
)
def test_the_notebook_runs_and_prints_what_it_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    path = ROOT / "docs" / "first-look.ipynb"
    shown = nbformat.read(path, as_version=4)
    cells = [cell for cell in shown.cells if cell.cell_type == "code"]
    if where == "in a fork":
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
        result = apart(lambda: run_cells([cell.source for cell in cells]))
        assert "value" in result, result
        ran = result["value"]
    else:
        client = nbclient.NotebookClient(
            nbformat.read(path, as_version=4),
            timeout=120,
            resources={"metadata": {"path": str(tmp_path)}},
        )
        # Not `execute`: the event loop that it makes is never closed.
        asyncio.run(client.async_execute())
        ran = [cell.outputs for cell in client.nb.cells if cell.cell_type == "code"]
    for cell, outputs in zip(cells, ran, strict=True):
        texts = [[shown_text(o) for o in each] for each in (cell.outputs, outputs)]
        assert texts[0] == texts[1], cell.source


def run_cells(sources: list[str]) -> list[list[dict[str, Any]]]:
    """Run cells in this process as a kernel does, and return the outputs of each."""
    config = Config()
    config.HistoryManager.enabled = False
    shell = InteractiveShell.instance(config=config)
    shell.enable_gui = lambda gui=None: None
    shell.enable_matplotlib("inline")
    pyplot.close("all")  # of other tests, which it would show
    outputs = []
    for source in sources:
        # Entered first, or it would hide what captures.
        with shell.display_trap, capture_output() as captured:
            shell.run_cell(source, store_history=False).raise_error()
        lines = [captured.stdout, captured.stderr]
        shown = [{"data": {"text/plain": repr_of(o)}} for o in captured.outputs]
        outputs.append([*({"text": text} for text in lines if text), *shown])
    return outputs


def repr_of(output: Any) -> str:
    return str(output.data["text/plain"])


def shown_text(output: dict[str, Any]) -> str:
    """Return the text of an output, masked; rounding decides between equal rows."""
    text = output.get("data", {}).get("text/plain", output.get("text", ""))
    text = re.sub(r"linear|logistic", "CLASSIFIER", masked(text))
    return re.sub(r"(\(# #\) ?)+", "(# #) ", text)
