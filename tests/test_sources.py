"""What people have in Python as a source: every kind, through every door."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
import torch
from PIL import Image
from torch.utils.data import Subset
from torchvision import transforms
from torchvision.datasets import FakeData, ImageFolder

import featpipe
from featpipe.codes import CodesError
from featpipe.inference import from_items, image_set_of

MINI = {"backbone": "mini", "input_size": 24, "device": "cpu", "precision": "fp32"}
NAMES = ["rose", "tulip"]


@pytest.fixture(scope="module")
def flowers(tmp_path_factory, draw) -> Path:
    folder = tmp_path_factory.mktemp("sources") / "flowers"
    for k in range(12):
        draw(folder / NAMES[k % 2] / f"{k}.png", k)
    return folder


@pytest.fixture(scope="module")
def codes(flowers) -> featpipe.codes.Codes:
    """The folder's own codes, by path: what every other kind has to give."""
    return featpipe.extract(flowers, flowers.parent / "folder.h5", **MINI)


@pytest.fixture(scope="module")
def model(codes) -> Path:
    path = codes.path.with_name("a.model")
    featpipe.fit(codes, C=1.0).save(path)
    return path


def paths_of(folder: Path) -> list[Path]:
    """List the images in an order that is not sorted."""
    paths = sorted(folder.rglob("*.png"))
    return paths[::-1][::2] + paths[::2]


def frame_of(folder: Path) -> pandas.DataFrame:
    paths = paths_of(folder)
    return pandas.DataFrame(
        {
            "Path": [str(path) for path in paths],
            "label": [path.parent.name for path in paths],
            "split": ["Training" if k % 3 else "test" for k in range(len(paths))],
            "price": 7.5,
        },
        index=range(100, 100 + len(paths)),
    )


def pairs(folder: Path):
    return ((path.name, path.read_bytes()) for path in paths_of(folder))


KINDS: dict[str, Callable[[Path], Any]] = {
    "list of Path": paths_of,
    "list of str": lambda folder: [str(path) for path in paths_of(folder)],
    "tuple": lambda folder: tuple(paths_of(folder)),
    "array of str": lambda folder: np.array([str(path) for path in paths_of(folder)]),
    "generator of paths": lambda folder: (path for path in paths_of(folder)),
    "Series": lambda folder: frame_of(folder)["Path"],
    "Series of Path": lambda folder: pandas.Series(
        paths_of(folder), index=range(9, 21)
    ),
    "frame": frame_of,
    "ImageFolder": ImageFolder,
    "ImageFolder with a transform": lambda folder: ImageFolder(
        folder, transforms.ToTensor()
    ),
    "Subset": lambda folder: Subset(ImageFolder(folder), [7, 2, 9, 0, 11, 4]),
    "Subset of a Subset's indices": lambda folder: Subset(
        ImageFolder(folder), np.array([3, 1, 8])
    ),
    "(name, bytes)": pairs,
    "list of (name, bytes)": lambda folder: list(pairs(folder)),
    "list of bytes": lambda folder: [path.read_bytes() for path in paths_of(folder)],
    "BytesIO": lambda folder: [
        io.BytesIO(path.read_bytes()) for path in paths_of(folder)
    ],
    "PIL images": lambda folder: [Image.open(path) for path in paths_of(folder)],
    "arrays": lambda folder: [
        np.asarray(Image.open(path)) for path in paths_of(folder)
    ],
    "one batch": lambda folder: np.stack(
        [np.asarray(Image.open(path)) for path in paths_of(folder)]
    ),
}
LABELLED = [kind for kind in KINDS if "frame" in kind or "Image" in kind[:5]]
LABELLED += [kind for kind in KINDS if kind.startswith("Subset")]


def files_of(kind: str, folder: Path) -> list[str]:
    """Return the files of a kind, in its order."""
    if kind.startswith("ImageFolder"):
        return [str(path) for path, _ in ImageFolder(folder).samples]
    if kind.startswith("Subset"):
        subset = KINDS[kind](folder)
        return [str(subset.dataset.samples[i][0]) for i in subset.indices]
    return [str(path) for path in paths_of(folder)]


def wanted(kind: str, codes) -> np.ndarray:
    """Return the folder's codes in the order of a kind."""
    X, _ = codes.arrays("penultimate")
    folder = Path(codes.images_root)
    row = {str(folder / path): k for k, path in enumerate(codes.paths)}
    return X[[row[name] for name in files_of(kind, folder)]]


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("kind", KINDS)
def test_extract_gives_the_codes_of_the_folder_in_the_order_given(
    flowers, codes, tmp_path, kind
):
    file = featpipe.extract(KINDS[kind](flowers), tmp_path / "x.h5", **MINI)
    assert file.failures == []
    assert np.allclose(file.arrays("penultimate")[0], wanted(kind, codes), atol=1e-5)
    labels = [*file.class_names, ""]
    expected = [Path(name).parent.name for name in files_of(kind, flowers)]
    if kind not in LABELLED:
        expected = [""] * len(file)
    assert [labels[k] for k in file.labels] == expected
    if kind == "frame":
        splits = ["train" if k % 3 else "test" for k in range(12)]
        assert list(file.splits) == splits
    again = featpipe.extract(KINDS[kind](flowers), tmp_path / "x.h5", **MINI)
    assert np.array_equal(again.arrays()[0], file.arrays()[0])


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("kind", KINDS)
def test_predict_and_transform_take_it_too(flowers, codes, model, kind):
    X = featpipe.CNNCodes(**MINI).fit_transform(KINDS[kind](flowers))
    assert np.allclose(X, wanted(kind, codes), atol=1e-5)
    predictor = featpipe.load(model, device="cpu")
    expected = predictor.model.estimator().decision_function(X)
    predictions = predictor.classify(KINDS[kind](flowers))
    assert np.allclose(predictions.scores[:, 1], expected, atol=1e-4)
    if kind in LABELLED:
        assert [
            Path(name).parent.name for name in files_of(kind, flowers)
        ] == predictions.truth


@pytest.mark.parametrize("kind", ["frame", "ImageFolder", "Subset"])
def test_finetune_takes_what_has_labels(flowers, tmp_path, kind):
    options = {"train": "head", "epochs": 1, "lr": 0.01, "folds": 2}
    tuned = featpipe.finetune(KINDS[kind](flowers), **MINI, **options)
    assert tuned.score.n_test >= 2


@pytest.mark.parametrize("kind", ["list of Path", "(name, bytes)", "arrays"])
def test_finetune_says_that_labels_are_missing(flowers, kind):
    with pytest.raises(ValueError, match="label"):
        featpipe.finetune(KINDS[kind](flowers), **MINI)


def test_a_frame_is_compared(flowers, tmp_path):
    codes = featpipe.extract(frame_of(flowers), tmp_path / "x.h5", **MINI)
    comparison = featpipe.compare(codes, classifiers=["nearest-mean"])
    assert comparison.recommended.protocol == "test"
    assert comparison.recommended.n_test == 4


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        ([3, 10, 3], ["03", "10"]),
        ([1.0, float("nan"), 0.0], ["0", "1"]),
        (["a", None, pandas.NA], ["a"]),
        ([True, False, True], ["False", "True"]),
        (pandas.Categorical(["b", "a", "b"]), ["a", "b"]),
        (["", "b", "b"], ["b"]),
    ],
    ids=["int", "float", "missing", "bool", "categorical", "empty"],
)
def test_labels_of_a_frame_are_texts_and_gaps_are_unlabelled(flowers, labels, names):
    frame = pandas.DataFrame({"path": paths_of(flowers)[:3], "label": labels})
    image_set = image_set_of(frame)
    assert image_set.class_names == names
    assert len(image_set_of(frame, unlabelled=True).class_names) == 0


def test_a_frame_with_two_columns_of_a_name_is_refused(flowers):
    frame = frame_of(flowers)
    frame.insert(0, " Label ", "rose")
    with pytest.raises(ValueError, match="the frame has two columns 'label'; keep one"):
        image_set_of(frame)


def test_a_column_of_a_frame_that_holds_splits_under_another_name_is_named(flowers):
    frame = frame_of(flowers).rename(columns={"split": "part"})
    with pytest.warns(UserWarning, match="the frame has no column 'split', and 'part'"):
        assert set(image_set_of(frame).splits) == {""}


def test_relative_paths_are_those_of_the_folder_where_python_runs(
    flowers, tmp_path, monkeypatch
):
    monkeypatch.chdir(flowers)
    file = featpipe.extract(["rose/0.png", "tulip/1.png"], tmp_path / "x.h5", **MINI)
    assert file.paths == ["rose/0.png", "tulip/1.png"]
    assert file.images_root == str(flowers)
    assert file.mtimes.all()


def test_a_file_that_is_not_there_is_a_failure_with_its_path(flowers, tmp_path):
    items = [*paths_of(flowers)[:2], flowers / "gone.png", b"no image"]
    file = featpipe.extract(items, tmp_path / "x.h5", **MINI)
    assert len(file) == 2
    gone, bytes_ = sorted(file.failures)
    assert gone[:2] == (str(flowers / "gone.png"), "read")
    assert bytes_[:2] == ("image 3", "decode")


def test_another_list_does_not_replace_the_rows_of_one(flowers, tmp_path):
    items = list(pairs(flowers))
    featpipe.extract(items[:6], tmp_path / "x.h5", **MINI)
    assert len(featpipe.extract(items[:9], tmp_path / "x.h5", **MINI)) == 9
    with pytest.raises(CodesError, match="holds 9 images of another list, none of"):
        featpipe.extract(items[9:], tmp_path / "x.h5", **MINI)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ([], "no images were given"),
        ({"path": ["a.png"]}, "is one thing; give a list"),
        ([3.5], "image 0 is 3.5; give paths"),
        ([None], "image 0 is None"),
        ([torch.zeros(3, 9, 9)], r"image 0 is a torch.Tensor; give paths"),
        (pandas.DataFrame({"file": ["a.png"]}), "no column 'path' but file; rename"),
        (pandas.DataFrame({"path": []}), "no images were given"),
        (
            pandas.DataFrame({"path": ["a.png", None]}),
            r"image 1 is (None|nan); give paths",
        ),
        (
            pandas.DataFrame({"path": ["a.png"], "split": ["trian"]}),
            "'trian' is no split; give train, val, test",
        ),
        (["a.png", "b.png", "a.png"], "images 0 and 2 are both 'a.png'"),
        (Subset(FakeData(4), [0, 1]), "a Subset of FakeData names no image files"),
        (7, "images=7 is no source; give a folder"),
    ],
    ids=lambda value: None,
)
def test_what_is_no_source_is_one_sentence(tmp_path, source, message):
    for door in (
        lambda: featpipe.extract(source, tmp_path / "x.h5", **MINI),
        lambda: featpipe.finetune(source, **MINI),
    ):
        with pytest.raises(ValueError, match=message) as caught:
            door()
        assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_only_some_images_travel_to_another_process(flowers):
    items = [
        *paths_of(flowers)[:2],
        *list(pairs(flowers))[:2],
        np.zeros((4, 5), np.uint8),
    ]
    whole = from_items(items)
    part = whole.detached([1, 3, 4])
    assert [part.read(i) for i in range(3)] == [whole.read(i) for i in (1, 3, 4)]
    assert set(part.reader.contents) == {whole.paths[3]}
    assert set(part.reader.drawn.pictures) == {whole.paths[4]}
