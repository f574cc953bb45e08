"""The same plan on the same machine gives the same bytes, whichever way it was run."""

import json
import os
import signal
import tarfile
import zipfile
from pathlib import Path

import pytest
from extracting import run
from safetensors import safe_open

import featpipe
from featpipe import codes
from featpipe.extraction import plan, runner
from featpipe.inference import loader

N_IMAGES = 24
OPTIONS = {"depth": ["stem:avg", "penultimate"], "batch_size": 3}


@pytest.fixture(scope="module")
def photos(tmp_path_factory, draw):
    folder = tmp_path_factory.mktemp("repeated") / "photos"
    for k in range(N_IMAGES):
        split = ("train", "train", "val")[k % 3]
        draw(folder / split / ("ant", "bee")[k // 3 % 2] / f"{k:02}.png", k)
    (folder / "train" / "ant" / "broken.png").write_text("no image")
    return folder


@pytest.fixture(autouse=True)
def small_slices(monkeypatch):
    monkeypatch.setattr(plan, "SLICE", 6)
    monkeypatch.setattr(runner, "_SECONDS", 0.0)  # every slice ends a part


def content_of(path: Path) -> dict[str, object]:
    """Return the codes' bytes and all that goes with them."""
    file = codes.verify(path)
    return {
        "codes": {d: file.rows(d, 0, len(file)).tobytes() for d in file.depths},
        "labels": file.labels.tolist(),
        "splits": file.splits.tolist(),
        "paths": file.paths,
        "class names": file.class_names,
        "contents": file.sha256.tobytes(),
        "failures": file.failures,
    }


@pytest.fixture(scope="module")
def reference(photos, tmp_path_factory):
    path = tmp_path_factory.mktemp("reference") / "c.h5"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plan, "SLICE", 6)
        patch.setattr(runner, "_SECONDS", 0.0)
        run(photos, path, **OPTIONS, workers=1)
    return content_of(path)


@pytest.mark.parametrize("workers", [1, 2, 4, 8])
def test_any_number_of_workers_gives_the_same_bytes(
    workers, photos, tmp_path, reference, monkeypatch
):
    if workers == 8:  # processes, as with many images
        monkeypatch.setattr(loader, "_FEW_IMAGES", 1)
    run(photos, tmp_path / "c.h5", **OPTIONS, workers=workers)
    assert content_of(tmp_path / "c.h5") == reference


def test_the_whole_file_is_the_same_to_the_byte(photos, tmp_path):
    for name, workers in (("a.h5", 1), ("b.h5", 4)):
        run(photos, tmp_path / name, **OPTIONS, workers=workers)
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "b.h5").read_bytes()


def as_zip(photos: Path, path: Path) -> Path:
    with zipfile.ZipFile(path.with_suffix(".zip"), "w") as archive:
        for image in sorted(photos.rglob("*.png"), reverse=True):
            archive.write(image, image.relative_to(photos))
    return path.with_suffix(".zip")


def as_tar(photos: Path, path: Path) -> Path:
    with tarfile.open(path.with_suffix(".tar"), "w") as archive:
        archive.add(photos, arcname=".")
    return path.with_suffix(".tar")


def as_gzipped_tar(photos: Path, path: Path) -> Path:
    with tarfile.open(path.with_suffix(".tar.gz"), "w:gz") as archive:
        archive.add(photos, arcname="photos")
    return path.with_suffix(".tar.gz")


PACKS = [as_zip, as_tar, as_gzipped_tar]


@pytest.mark.parametrize("workers", [1, 4])
@pytest.mark.parametrize("pack", PACKS)
def test_an_archive_gives_the_bytes_of_its_folder(
    pack, workers, photos, tmp_path, reference
):
    run(
        pack(photos, tmp_path / "photos"), tmp_path / "c.h5", **OPTIONS, workers=workers
    )
    assert content_of(tmp_path / "c.h5") == reference


def killed(source: Path, path: Path, parts: int, workers: int) -> None:
    """Extract in a fork that dies when it has named so many parts."""
    child = os.fork()
    if child == 0:
        plain, done = Path.replace, 0

        def replace(self: Path, target: Path) -> Path:
            nonlocal done
            result = plain(self, target)
            done += 1
            if done == parts:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        Path.replace = replace
        run(source, path, **OPTIONS, workers=workers)
        os._exit(1)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    left = path.with_name(f"{path.name}.parts").glob("[!.]*.h5")
    assert len(list(left)) == parts


@pytest.mark.parametrize("workers", [1, 4, 8])
@pytest.mark.parametrize("parts", [1, 3])
def test_killed_and_resumed_it_gives_the_bytes_of_an_unbroken_run(
    parts, workers, photos, tmp_path, reference
):
    path = tmp_path / "c.h5"
    killed(photos, path, parts, workers)
    # Gone on with by another number of workers.
    _, seen = run(photos, path, **OPTIONS, workers=9 - workers)
    assert seen.kept >= 6 * parts - 1  # one of the list is broken
    assert content_of(path) == reference


@pytest.mark.parametrize("pack", PACKS)
def test_an_archive_too_can_be_resumed(pack, photos, tmp_path, reference):
    archive, path = pack(photos, tmp_path / "photos"), tmp_path / "c.h5"
    killed(archive, path, 2, 2)
    _, seen = run(archive, path, **OPTIONS, workers=4)
    assert seen.kept >= 11
    assert content_of(path) == reference


def timeless(document: object) -> object:
    """Take out what tells seconds."""
    if isinstance(document, dict):
        return {name: timeless(value) for name, value in document.items()
                if "seconds" not in name}  # fmt: skip
    return (
        [timeless(each) for each in document]
        if isinstance(document, list)
        else document
    )


def test_compare_twice_writes_the_same_json_but_for_seconds(photos, tmp_path):
    run(photos, tmp_path / "c.h5", **OPTIONS, workers=1)
    written = []
    for k in range(2):
        comparison = featpipe.compare(tmp_path / "c.h5", folds=3)
        comparison.write_json(tmp_path / f"{k}.json")
        comparison.write_predictions(tmp_path / f"{k}.csv")
        written.append(timeless(json.loads((tmp_path / f"{k}.json").read_text())))
    assert written[0] == written[1]
    assert (tmp_path / "0.csv").read_bytes() == (tmp_path / "1.csv").read_bytes()


def test_a_model_fitted_twice_holds_the_same_but_for_seconds(photos, tmp_path):
    run(photos, tmp_path / "c.h5", **OPTIONS, workers=1)
    items = []
    for name in "ab":
        model = featpipe.fit(tmp_path / "c.h5", "logistic", depth="stem:avg")
        model.save(tmp_path / name)
        with safe_open(tmp_path / name, framework="np") as file:
            record = timeless(json.loads(file.metadata()["record"]))
            tensors = {key: file.get_tensor(key).tobytes() for key in file.keys()}  # noqa: SIM118 - no mapping
        items.append((record, tensors))
    assert items[0] == items[1]
