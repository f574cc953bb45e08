"""Names of folders and files: splits under other names, classes, what is set aside."""

import unicodedata
import warnings
import zipfile

import pytest
from test_images_folder import labels, make

import featpipe
from featpipe.images import scan
from featpipe.images.folder_names import splits_of

pytestmark = pytest.mark.filterwarnings("error")


@pytest.mark.parametrize(
    ("train", "test", "held_out"),
    [
        ("Training", "Testing", "test"),
        ("training_set", "test_set", "test"),
        ("TRAIN_DATA", "VALID_DATA", "val"),
        ("TrainingSet", "ValidationSet", "val"),
        ("train-images", "dev-images", "val"),
        ("train2017", "val2017", "val"),
        ("01_train", "02_test", "test"),
        ("trainset", "testset", "test"),
        ("seg_train", "seg_test", "test"),
        ("flowersTrain", "flowersTest", "test"),
        ("train", "hold-out", "test"),
        ("train", "Held Out", "test"),
        ("train", "evaluation", "test"),
        ("trainval", "test", "test"),
    ],
)
def test_splits_under_other_names_are_splits_and_said(tmp_path, train, test, held_out):
    make(tmp_path, f"{train}/cats/1", f"{train}/dogs/2", f"{test}/cats/3")
    if {train, test} <= {"train", "test", "val"}:
        images = scan(tmp_path)
    else:
        with pytest.warns(UserWarning, match="taken for splits: .*if they are classes"):
            images = scan(tmp_path)
    assert labels(images) == {
        f"{train}/cats/1": ("train", "cats"),
        f"{train}/dogs/2": ("train", "dogs"),
        f"{test}/cats/3": (held_out, "cats"),
    }


def test_an_evaluation_part_beside_a_test_part_validates():
    assert splits_of(["train", "eval", "test"])["eval"] == "val"
    assert splits_of(["training", "validation", "evaluation"])["evaluation"] == "test"


@pytest.mark.parametrize(
    "names",
    [
        ("steam_train", "bus"),
        ("attest", "contest"),
        ("strain", "devil"),
        ("valley", "a"),
    ],
)
def test_words_that_only_contain_a_split_are_classes(tmp_path, names):
    make(tmp_path, *(f"{name}/1" for name in names))
    assert scan(tmp_path).class_names == sorted(names)


@pytest.mark.parametrize(
    "paths",
    [
        ("first/cats/1", "first/dogs/2", "second/cats/3", "second/dogs/4"),
        ("trainA/1", "testA/2", "trainB/3", "testB/4"),
        ("test/1", "cats/2"),
    ],
)
def test_classes_that_look_like_splits_are_said_with_the_remedy(tmp_path, paths):
    make(tmp_path, *paths)
    remedy = "taken for classes, but .* CSV with path,label,split"
    with pytest.warns(UserWarning, match=remedy):
        images = scan(tmp_path)
    assert images.class_names == sorted({path.split("/")[0] for path in paths})


def test_classes_with_one_folder_of_the_same_name_are_no_splits(tmp_path):
    make(tmp_path, "cats/images/1", "dogs/images/2")
    assert scan(tmp_path).class_names == ["cats", "dogs"]


def test_splits_under_other_names_judge_from_the_command_line(tmp_path, capsys):
    from typer.testing import CliRunner

    from featpipe.cli.app import app

    make(tmp_path, "s/Training/a/1", "s/Training/b/2", "s/Testing/a/3")
    result = CliRunner().invoke(
        app, ["extract", str(tmp_path / "s"), "-o", str(tmp_path / "x.h5"), "--plan"]
    )
    assert "'Testing' = test, 'Training' = train" in result.output


def test_splits_without_a_common_class_are_refused(tmp_path):
    make(tmp_path, "train/cats/1", "train/dogs/2", "test/Cat/3")
    with pytest.raises(ValueError, match=r"no class of train .'cats', 'dogs'. is in"):
        scan(tmp_path)
    assert len(scan(tmp_path, unlabelled=True)) == 3


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ("Cats", "cats"),
        ("red cat", "redcat"),
        ("red_cat", "red-cat"),
        (unicodedata.normalize("NFC", "café"), unicodedata.normalize("NFD", "café")),
    ],
)
def test_class_names_that_differ_by_a_hair_are_said(tmp_path, one, two):
    rows = f"path,label\na.jpg,{one}\nb.jpg,{two}\n"
    make(tmp_path, "a.jpg", "b.jpg")
    (tmp_path / "t.csv").write_text(rows, encoding="utf-8")
    with pytest.warns(UserWarning, match="differ only by capitals, blanks or Unicode"):
        assert len(scan(tmp_path / "t.csv").class_names) == 2


@pytest.mark.parametrize(
    ("labels", "match"),
    [
        (["cat", "NaN"], r"'NaN' is taken for a class; leave the label empty"),
        ([f"{k / 4:.2f}" for k in range(9)], "such as '0.25' look like measurements"),
        (["cat|dog", "cat", "dog"], r"such as 'cat\|dog' look like several classes"),
        ([f"IMG_{k}" for k in range(12)], "12 classes for 12 labelled images"),
    ],
)
def test_labels_that_look_like_no_classes_are_named(tmp_path, labels, match):
    make(tmp_path, *(f"{k}.jpg" for k in range(12)))
    lines = [f"{k}.jpg,{labels[k % len(labels)]}" for k in range(12)]
    (tmp_path / "t.csv").write_text("\n".join(["path,label", *lines]))
    with pytest.warns(UserWarning, match=match):
        scan(tmp_path / "t.csv")


@pytest.mark.parametrize(
    "labels", [["tench, Tinca tinca", "crane", "crane, machine"], ["1", "2", "10"]]
)
def test_synonyms_and_whole_numbers_are_classes(tmp_path, labels):
    make(tmp_path, *(f"{k}.jpg" for k in range(12)))
    lines = [f'{k}.jpg,"{labels[k % len(labels)]}"' for k in range(12)]
    (tmp_path / "t.csv").write_text("\n".join(["path,label", *lines]))
    assert scan(tmp_path / "t.csv").class_names == sorted(labels)


def test_classes_that_print_alike_are_shown_by_their_characters(tmp_path):
    make(tmp_path, "cafe\u0301/a.jpg", "caf\u00e9/b.jpg")
    with pytest.warns(UserWarning, match=r"'cafe\\u0301', 'caf\\xe9' differ only"):
        scan(tmp_path)


def test_classes_that_differ_by_what_is_not_seen_are_named(tmp_path):
    make(tmp_path, "ant/a.jpg", "ant\u200b/b.jpg")
    with pytest.warns(UserWarning, match=r"'ant', 'ant\\u200b' differ only"):
        scan(tmp_path)


SYSTEM = [
    *("@eaDir/x.jpg", "$RECYCLE.BIN/y.jpg", "__MACOSX/z.jpg", "lost+found/q.jpg"),
    *("System Volume Information/v.jpg", ".ipynb_checkpoints/c.jpg", "a/@eaDir/x.jpg"),
    *(
        "Thumbs.db",
        "a/desktop.ini",
        "README",
        "README.md",
        "a/readme.txt",
        "SHA256SUMS",
    ),
    *("FOUND.000/FILE0.jpg", "Network Trash Folder/x.jpg", "a/1.jpg:Zone.Identifier"),
    *("b/2.xmp", "b/2.AAE"),
    *("photos.csv", "a/md5sums.txt", "a/1.jpg.md5", "LICENSE", "labels.txt", "x.json"),
]


def source_of(tmp_path, kind, paths):
    """Make a folder, or an archive, of these files."""
    make(tmp_path / "src", *paths)
    if kind == "folder":
        return tmp_path / "src"
    with zipfile.ZipFile(tmp_path / "src.zip", "w") as archive:
        for path in paths:
            archive.writestr(path, b"x")
    return tmp_path / "src.zip"


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_what_systems_and_collections_leave_is_set_aside_and_counted(tmp_path, kind):
    paths = ["a/1.jpg", "b/2.jpg", "b/readme.jpg", "a/notes", *SYSTEM]
    images = scan(source_of(tmp_path, kind, paths))
    assert images.paths == ["a/1.jpg", "a/notes", "b/2.jpg", "b/readme.jpg"]
    assert images.class_names == ["a", "b"]
    assert images.failures == []
    assert images.n_hidden + images.n_set_aside == len(SYSTEM)


@pytest.mark.parametrize("kind", ["folder", "zip"])
@pytest.mark.parametrize("around", ["data/", "data/flowers/", "a/b/c/"])
@pytest.mark.parametrize("tops", [("ant", "bee"), ("train/ant", "train/bee")])
def test_all_folders_around_the_classes_are_taken_off(tmp_path, kind, around, tops):
    paths = [f"{around}{top}/{k}.jpg" for k, top in enumerate(tops)]
    images = scan(source_of(tmp_path, kind, paths))
    assert images.class_names == ["ant", "bee"]
    assert images.paths == [path.removeprefix(around) for path in paths]


def test_splits_below_the_classes_are_named_as_such(tmp_path):
    make(
        tmp_path, *(f"{c}/{s}/1.jpg" for c in ("ant", "bee") for s in ("train", "test"))
    )
    with pytest.warns(UserWarning, match=r"'test', 'train' in each look like splits"):
        assert scan(tmp_path).class_names == ["ant", "bee"]


def test_a_folder_around_all_others_is_taken_off_as_in_an_archive(tmp_path):
    make(tmp_path, "flowers-1.0/train/rose/1.jpg", "flowers-1.0/test/rose/2.jpg")
    make(tmp_path, "README.md")
    images = scan(tmp_path)
    assert labels(images) == {
        "train/rose/1.jpg": ("train", "rose"),
        "test/rose/2.jpg": ("test", "rose"),
    }
    assert images.read(0) == b"flowers-1.0/test/rose/2.jpg"
    assert scan(make(tmp_path / "one", "rose/1.jpg")).class_names == ["rose"]


def test_backslashes_in_members_and_tables_are_slashes(tmp_path):
    with zipfile.ZipFile(tmp_path / "w.zip", "w") as archive:
        for name in ("src\\cats\\1.jpg", "src\\dogs\\2.jpg"):
            archive.writestr(name, b"x")
    assert labels(scan(tmp_path / "w.zip")) == {
        "cats/1.jpg": ("", "cats"),
        "dogs/2.jpg": ("", "dogs"),
    }
    make(tmp_path, "sub/1.jpg", "odd\\name.jpg")
    (tmp_path / "t.csv").write_text("path\nsub\\1.jpg\nodd\\name.jpg\n")
    images = scan(tmp_path / "t.csv")
    assert images.paths == ["odd\\name.jpg", "sub/1.jpg"]
    assert images.failures == []


@pytest.mark.parametrize(
    "encoding", ["utf-16", "utf-16-le", "utf-16-be", "cp1252", "utf-8-sig"]
)
def test_tables_in_the_encodings_of_spreadsheets_are_read(tmp_path, encoding):
    make(tmp_path, "müsli.jpg", "b.jpg")
    text = "path,label\r\nmüsli.jpg,Café\r\nb.jpg,Tür\r\n"
    (tmp_path / "t.csv").write_bytes(text.encode(encoding))
    images = scan(tmp_path / "t.csv")
    assert images.paths == ["b.jpg", "müsli.jpg"]
    assert images.class_names == ["Café", "Tür"]


def test_splits_in_a_table_may_have_other_names(tmp_path):
    make(tmp_path, "1", "2")
    rows = "path,label,split\n1,cat,Training\n2,cat,test set\n"
    (tmp_path / "t.csv").write_text(rows)
    assert scan(tmp_path / "t.csv").splits == ["train", "test"]


def test_python_callers_are_warned_and_not_stopped(tmp_path):
    make(tmp_path, "Training/a/1", "Testing/a/2")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        featpipe.images.scan(tmp_path)
    assert [w.category for w in caught] == [UserWarning]
