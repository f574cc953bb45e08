"""No command replaces what it reads, or reads what it writes."""

import os
import shutil
import stat
from pathlib import Path

import h5py
import numpy as np
import pytest
from extracting import run
from test_cli import SMALL, featpipe_says, refused

import featpipe
from featpipe import codes, files
from featpipe.codes import CodesError
from featpipe.extraction.parts import Parts
from featpipe.report.making import Report

pytest_plugins = ["predictor_fixtures"]


@pytest.fixture(scope="module")
def model(kinds_h5: codes.Codes) -> Path:
    path = kinds_h5.path.with_name("a.model")
    featpipe.fit(kinds_h5, C=0.1).save(path)
    return path


@pytest.fixture
def here(tmp_path: Path, kinds: Path, kinds_h5: codes.Codes, model: Path) -> Path:
    """Return a folder with a source, a codes file, a model and links to them."""
    shutil.copytree(kinds, tmp_path / "src")
    shutil.copy(kinds_h5.path, tmp_path / "c.h5")
    shutil.copy(model, tmp_path / "m")
    shutil.make_archive(str(tmp_path / "i"), "zip", tmp_path / "src")
    for name in ("c.h5", "m", "i.zip"):
        (tmp_path / f"to {name}").symlink_to(name)
        os.link(tmp_path / name, tmp_path / f"hard {name}")
    return tmp_path


CLASHES = [
    ("fit {c} -o c.h5", "c.h5"),
    ("compare c.h5 --json {c}", "c.h5"),
    ("compare c.h5 --csv {c}", "c.h5"),
    ("compare c.h5 --predictions {c}", "c.h5"),
    ("compare c.h5 --json x --csv x", ""),
    ("compare c.h5 --with m --json m", "m"),
    ("predict m src -o {m}", "m"),
    ("predict m i.zip -o i.zip", "i.zip"),
    ("export m -o {m}", "m"),
    ("extract {i} -o i.zip", "i.zip"),
    ("extract i.zip -o {i} --overwrite", "i.zip"),
    ("extract src -o c.h5 --json {c}", "c.h5"),
    ("extract src -o new.h5 --json new.h5", ""),
    ("merge c.h5 {c} -o c.h5", "c.h5"),
    ("finetune src -o x --json x", ""),
    ("finetune src -o x --codes x", ""),
]


@pytest.mark.parametrize("link", ["", "to ", "hard ", "./"])
@pytest.mark.parametrize(("command", "kept"), CLASHES)
def test_an_output_that_is_an_input_is_refused(here, monkeypatch, command, kept, link):
    if link and "{" not in command:
        return
    monkeypatch.chdir(here)
    names = {k: link + name for k, name in (("c", "c.h5"), ("m", "m"), ("i", "i.zip"))}
    before = {path: path.stat().st_ino for path in here.rglob("*")}
    content = (here / kept).read_bytes() if kept else b""
    arguments = [word.format(**names) for word in command.split()]
    result = refused(*arguments)
    assert (
        "would replace" in result
        or "are one file" in result
        or "not a featpipe" in result
    )
    assert {path: path.stat().st_ino for path in here.rglob("*")} == before
    assert not kept or (here / kept).read_bytes() == content


@pytest.mark.parametrize("option", [[], ["--overwrite"]])
@pytest.mark.parametrize("name", ["src/train/dark/0.png", "m", "other.h5"])
def test_only_a_codes_file_is_replaced(here, name, option):
    with h5py.File(here / "other.h5", "w") as file:
        file["codes"] = np.ones(3)
    content = (here / name).read_bytes()
    result = refused("extract", here / "src", "-o", here / name, *SMALL, *option)
    assert "not a featpipe codes file" in result
    assert "--overwrite" not in result
    assert (here / name).read_bytes() == content
    result = refused("merge", here / "c.h5", "-o", here / name)
    assert "only those are replaced" in result
    assert (here / name).read_bytes() == content


# Names that featpipe itself gives to what lies beside a file, and folders of such.
OWN_NAMES = (
    "extract src -o new.h5 --json new.h5.lock",
    "extract src -o new.h5 --json new.h5.parts",
    "extract src -o new.h5.lock",
    "extract src -o src/new.h5 --json src/new.h5.lock",
    "compare c.h5 --json c.h5.lock",
    "compare c.h5 --csv to_lock",
    f"fit c.h5 --classifier linear -o .x.{'0' * 32}.tmp",
    "predict m src -o m.lock",
    "finetune src -o x --json x.work",
    "finetune src -o x --json x.work.lock",
    "finetune src -o x.work",
    "merge c.h5 -o c.h5.lock",
    "report c.h5 --png c.h5.parts",
    "export m -o m.cache.lock",
    "extract src -o new.h5 --json new.h5.parts/x.json",
    "run src -o out --json out/codes.h5.lock",
)


@pytest.mark.parametrize("command", OWN_NAMES)
def test_a_name_that_is_used_beside_a_file_is_refused(here, monkeypatch, command):
    monkeypatch.chdir(here)
    (here / "new.h5.parts").mkdir()
    (here / "to_lock").symlink_to("c.h5.lock")
    before = sorted(here.rglob("*"))
    result = refused(*command.split())
    assert "choose another name" in result or "give --json another folder" in result
    assert sorted(here.rglob("*")) == before


@pytest.mark.parametrize("name", ["x.lock", "x.work", f".x.{'0' * 32}.tmp"])
def test_python_too_refuses_a_name_that_is_used_beside_a_file(tmp_path, name):
    with pytest.raises(ValueError, match="choose another name"):
        files.write_text(tmp_path / name, "x")
    assert not list(tmp_path.iterdir())


def test_run_replaces_neither_its_table_nor_its_codes(here, monkeypatch):
    monkeypatch.chdir(here)
    (here / "t.csv").write_text("path,label\nsrc/train/dark/0.png,a\n")
    for source, option in (
        ("t.csv", "t.csv"),
        ("src", "o/codes.h5"),
        ("src", "o/run.json"),
    ):
        result = refused("run", source, "-o", "o", "--csv", option)
        assert "--csv would replace" in result
    assert (here / "t.csv").read_text().startswith("path")
    assert not (here / "o").exists()


def test_plots_replace_no_image_and_no_file(here, monkeypatch):
    monkeypatch.chdir(here)
    result = refused("report", "c.h5", "-o", "r.html", "--png", "r.html")
    assert (
        "-o and --png are one file" in result or "--png and -o are one file" in result
    )
    assert "c.h5 is a file; give --png a folder" in refused(
        "report", "c.h5", "--png", "c.h5"
    )
    file = featpipe.read("c.h5")
    image = Path(file.images_root) / file.paths[0]
    made = Report([file], None, None, [])
    with pytest.raises(ValueError, match="is one of the images"):
        made._require_no_image(image)
    made._require_no_image(image.with_name("map.png"))


SHORT = "--backbone mini --weights none --depth stage1 --train head --epochs 1"
IMAGES = (
    "predict m src -o {image}",
    "predict m src/val -o {image}",  # beside the source
    "fit c.h5 --classifier linear -o {image}",
    f"finetune src {SHORT} -o {{image}}",
    f"finetune src {SHORT} -o x --json {{image}}",
    "extract src -o new.h5 --json {image}",
    "compare c.h5 --predictions {image}",
    "report c.h5 -o {image}",
    "export m -o {image}",
)


@pytest.mark.parametrize("command", IMAGES)
def test_no_output_replaces_an_image(here, monkeypatch, command):
    monkeypatch.chdir(here)
    image = "src/train/dark/0.png"
    (here / "to an image").symlink_to(image)
    before = (here / image).read_bytes()
    for name in (image, "to an image"):
        words = [name if word == "{image}" else word for word in command.split()]
        result = refused(*words)
        assert f"would replace {name}, which is an image" in result
    assert (here / image).read_bytes() == before


WRITES_A_MODEL = (IMAGES[2], IMAGES[3])
KEPT = [
    *((command, "c.h5", "a codes file of `featpipe extract`") for command in IMAGES),
    *(
        (command, "m", "a model of `featpipe fit`")
        for command in IMAGES
        if command not in WRITES_A_MODEL
    ),
]


@pytest.mark.parametrize(("command", "other", "kind"), KEPT)
def test_no_output_replaces_codes_or_a_model_of_other_work(
    here, monkeypatch, command, other, kind
):
    monkeypatch.chdir(here)
    shutil.copy(other, "kept")
    before = (here / "kept").read_bytes()
    result = refused(*command.replace("{image}", "kept").split())
    assert f"would replace kept, which is {kind}; give" in result
    assert (here / "kept").read_bytes() == before


def test_a_model_may_replace_a_model(here, monkeypatch):
    monkeypatch.chdir(here)
    shutil.copy("m", "older")
    fit = ("fit", "c.h5", "--classifier", "linear", "-o", "older", "--C", "3")
    result = featpipe_says(*fit)
    assert result.exit_code == 0, result.output
    assert featpipe.load("older").model.C == 3


@pytest.mark.parametrize("kind", ["fifo", "link"])
def test_json_and_csv_go_into_a_fifo_or_through_a_link(here, kind):
    import threading

    path, got = here / "out", []
    if kind == "fifo":
        os.mkfifo(path)
        reader = threading.Thread(target=lambda: got.append(path.read_bytes()))
        reader.start()
    else:
        path.symlink_to("elsewhere.json")
    result = featpipe_says(
        "compare", here / "c.h5", "--classifiers", "linear", "--json", path
    )
    assert result.exit_code == 0, result.output
    if kind == "fifo":
        reader.join()
        assert path.is_fifo()
    else:
        assert path.is_symlink()
        got = [(here / "elsewhere.json").read_bytes()]
    assert got[0].startswith(b"{")


def test_predictions_go_to_a_device_and_leave_nothing_beside_it(here):
    node = here / "null"
    try:
        os.mknod(node, stat.S_IFCHR | 0o666, os.makedev(1, 3))
        node.open("wb").close()
    except PermissionError:
        pytest.skip("device nodes cannot be made here")
    (here / "src" / "train" / "dark" / "cut.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    result = featpipe_says("predict", here / "m", here / "src", "-o", node)
    assert result.exit_code == 0, result.output
    assert node.is_char_device()
    assert not [path for path in here.iterdir() if "failures" in path.name]


def images_of(path: Path) -> tuple[list[str], list[str], list]:
    file = codes.read(path)
    return file.paths, file.class_names, file.failures


@pytest.mark.parametrize("place", ["codes.h5", "ant/codes.h5"])
def test_what_belongs_to_an_output_in_the_source_is_no_image(photos, tmp_path, place):
    run(photos, tmp_path / "aside.h5")
    expected = images_of(tmp_path / "aside.h5")
    path = photos / place
    # As after a kill: parts, a temporary file, and a lock of a process that is gone.
    parts = path.with_name(f"{path.name}.parts")
    parts.mkdir()
    (parts / f"{'0' * 32}-000000000-000000128.h5").write_bytes(b"half")
    path.with_name(f".{path.name}.{'0' * 32}.tmp").write_bytes(b"half")
    run(photos, path)
    assert images_of(path) == expected
    # Once more, with the file itself there.
    assert run(photos, path)[1].computed == 0
    assert images_of(path) == expected
    # Its lock, while another process asks.
    path.with_name(f"{path.name}.lock").write_text("{}")
    assert run(photos, path, break_lock=True)[1].computed == 0
    assert images_of(path) == expected


def test_files_of_others_among_the_parts_stay(photos, tmp_path):
    path = tmp_path / "a.h5"
    parts = tmp_path / "a.h5.parts"
    parts.mkdir()
    for name in ("notes.txt", "mine.h5", ".mine.tmp"):
        (parts / name).write_text("of somebody else")
    own = parts / f"{'0' * 32}-000000000-000000128.h5"
    own.write_bytes(b"half")
    run(photos, path)
    run(photos, path, overwrite=True)
    assert {each.name for each in parts.iterdir()} == {
        "notes.txt",
        "mine.h5",
        ".mine.tmp",
    }
    shutil.rmtree(parts)
    parts.write_text("a file")
    with pytest.raises(FileExistsError, match="move it away"):
        run(photos, path, overwrite=True)
    assert Parts(path).existing == {}


@pytest.mark.parametrize("change", ["an image more", "a depth more", "a label changed"])
def test_damage_that_hdf5_does_not_see_is_not_sealed_anew(
    photos, tmp_path, draw, change
):
    path = tmp_path / "a.h5"
    run(photos, path, depth=["stem:avg"])
    # A 0.0 that became a NaN: Fletcher-32 takes 0000 and ffff for the same.
    X = codes.read(path).rows("stem", 0, 99)
    flat = X.ravel()
    flat[3] = 0.0
    file = codes.read(path)
    codes.write(
        path,
        codes={"stem:avg": X},
        labels=file.labels,
        class_names=file.class_names,
        paths=file.paths,
        images_root=file.images_root,
        sizes=file.sizes,
        mtimes=file.mtimes,
        sha256=file.sha256,
        provenance=file.provenance,
    )
    raw = bytearray(path.read_bytes())
    at = raw.index(X.tobytes()) + 12
    assert raw[at : at + 4] == bytes(4)
    raw[at : at + 4] = b"\xff" * 4
    path.write_bytes(raw)
    assert np.isnan(codes.read(path, check=False).rows("stem", 0, 1)).any()
    depth = ["stem:avg"]
    if change == "an image more":
        draw(photos / "ant" / "new.png", 99)
    elif change == "a depth more":
        depth = ["stem:avg", "penultimate"]
    else:
        (photos / "ant" / "0.png").rename(photos / "bee" / "0.png")
    with pytest.raises(CodesError, match=r"a\.h5 is damaged: .* --overwrite"):
        run(photos, path, depth=depth)
    assert path.read_bytes() == raw
    file, _ = run(photos, path, depth=depth, overwrite=True)
    codes.verify(file.path)
