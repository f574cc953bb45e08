import os
from pathlib import Path

import pytest

from featpipe.images import Failure, ImageError, scan


def table(folder: Path, text: str | bytes, name: str = "images.csv") -> Path:
    """Write a table, and the files a.jpg and b.jpg beside it."""
    (folder / "a.jpg").write_bytes(b"a")
    (folder / "sub").mkdir(exist_ok=True)
    (folder / "sub" / "b.jpg").write_bytes(b"bb")
    file = folder / name
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return file


def columns(images) -> list[tuple[str, str, str, str]]:
    names = [*images.class_names, ""]
    texts = (names[label] for label in images.labels)
    return list(zip(images.paths, texts, images.splits, images.groups, strict=True))


ALL = [("a.jpg", "cat", "train", "g1"), ("sub/b.jpg", "cat", "val", "")]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("t.csv", "path,label,split,group\nsub/b.jpg,cat,valid,\na.jpg,cat,train,g1\n"),
        (
            "t.tsv",
            "path\tlabel\tsplit\tgroup\nsub/b.jpg\tcat\tdev\t\na.jpg\tcat\ttrain\tg1",
        ),
        ("t.csv", "path;label;split;group\nsub/b.jpg;cat;val;\na.jpg;cat;train;g1\n"),
        ("t.tsv", "path,label,split,group\nsub/b.jpg,cat,val,\na.jpg,cat,train,g1\n"),
        (
            "t.csv",
            '\ufeff"Path","x", Label ,split,group\r\nsub/b.jpg,9,cat,Val,\r\n'
            '\r\n"./a.jpg",8,"cat",TRAIN,g1\r\n',
        ),
        ("t.csv", "group,split,label,path\n,val,cat,sub/b.jpg\ng1,train,cat,a.jpg\n"),
    ],
)
def test_tables_as_programs_write_them_say_the_same(tmp_path, name, text):
    images = scan(table(tmp_path, text, name))
    assert columns(images) == ALL
    assert images.root == str(tmp_path)
    assert images.sizes.tolist() == [1, 2]
    assert images.read(1) == b"bb"


def test_only_the_path_is_needed(tmp_path):
    images = scan(table(tmp_path, "path\na.jpg\n"))
    assert columns(images) == [("a.jpg", "", "", "")]
    assert images.class_names == []


def test_a_bar_parts_columns_and_blanks_around_a_path_are_none_of_it(tmp_path):
    text = "path|label|split|group\nsub\\b.jpg | cat|val|\n a.jpg |cat|train|g1\n"
    assert columns(scan(table(tmp_path, text))) == ALL


@pytest.mark.parametrize(
    ("header", "value", "match"),
    [
        ("class,width", "9", r"no column 'label'.*not read: 'class', 'width'"),
        (
            "label,part",
            "Training",
            r"no column 'split', and 'part', which holds splits",
        ),
    ],
)
def test_columns_that_may_have_been_meant_are_named(tmp_path, header, value, match):
    file = table(tmp_path, f"path,{header}\na.jpg,cat,{value}\nsub/b.jpg,cat,{value}\n")
    with pytest.warns(UserWarning, match=match):
        assert scan(file).splits == ["", ""]


def test_a_path_of_the_working_folder_and_a_url_say_why_they_are_not_there(
    tmp_path, monkeypatch
):
    table(tmp_path, "path\n")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lists").mkdir()
    text = "path\na.jpg\nhttps://example.org/c.jpg\n../a.jpg\n"
    (tmp_path / "lists" / "images.csv").write_text(text)
    assert [failure.reason for failure in scan("lists/images.csv").failures] == [
        "no such file; paths are taken from the folder of the table",
        "a URL; featpipe downloads no images, fetch them first",
    ]


def test_absolute_paths_and_odd_names_are_read(tmp_path):
    odd = b'with, "quotes"\nand \xff.jpg'
    Path(os.fsdecode(bytes(tmp_path) + b"/" + odd)).write_bytes(b"odd")
    quoted = b'"' + odd.replace(b'"', b'""') + b'"'
    lines = b"path\n" + quoted + b"\n" + bytes(tmp_path / "a.jpg") + b"\n"
    images = scan(table(tmp_path, lines))
    assert [os.fsencode(path) for path in images.paths] == [
        bytes(tmp_path / "a.jpg"),
        odd,
    ]
    assert [images.read(i) for i in range(2)] == [b"a", b"odd"]


def test_listed_files_that_are_not_there_are_failures(tmp_path):
    file = table(tmp_path, "path,label\na.jpg,x\ngone.jpg,y\nsub,y\nb\0d.jpg,z\n")
    images = scan(file)
    assert images.paths == ["a.jpg"]
    assert images.class_names == ["x"]
    assert images.failures == [
        Failure("b\0d.jpg", "scan", "embedded null byte"),
        Failure("gone.jpg", "scan", "no such file"),
        Failure("sub", "scan", "a folder, not a file"),
    ]
    (tmp_path / "a.jpg").unlink()
    with pytest.raises(ImageError, match="no such file"):
        images.read(0)
    with pytest.raises(ValueError, match=r"4 could not .* file\); check these paths"):
        scan(file)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("file,label\na.jpg,x\n", "no column 'path' but the header 'file,label'"),
        ("", "is empty; begin it with"),
        ("\x93\x01,\x00\x02\n", "is no text; begin it with"),
        ("path,label,label\na.jpg,x,y\n", "two columns 'label'"),
        ("path,split\na.jpg,trian\n", "line 2: 'trian' is no split; write train"),
        (
            "path\na.jpg\nsub/b.jpg\n./a.jpg\n",
            "line 4: 'a.jpg' is listed before, in line 2",
        ),
        ("path\na.jpg\nsub/../a.jpg\n", "listed before"),
        ("path,label\na.jpg,x\n,y\n", "line 3: the path is empty"),
        (
            "path,label\na.jpg,x,y\n",
            "line 2: 3 columns where the header has 2; quote texts that contain ','",
        ),
        (
            "path,label,split\na.jpg\n",
            "line 2: 1 column where the header has 3; end it with ',,' if the rest",
        ),
        (
            'path,label\n"a.jpg,x\nsub/b.jpg,y\n',
            "line 2: 1 column where the header has 2; look for a quotation mark",
        ),
        ("path\n", "no image in"),
        ('path\n"' + "x" * 200_000 + '"\n', "line 2: field larger than"),
    ],
)
def test_a_table_that_contradicts_itself_is_refused_with_its_line(
    tmp_path, text, match
):
    with pytest.raises(ValueError, match=match):
        scan(table(tmp_path, text))


def test_unlabelled_ignores_the_columns(tmp_path):
    images = scan(table(tmp_path, "path,label,split\na.jpg,x,val\n"), unlabelled=True)
    assert columns(images) == [("a.jpg", "", "", "")]
