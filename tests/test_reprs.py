"""What a notebook and an interpreter show: one line each, a table, no list of paths."""

import html.parser
import re

import numpy as np
import pytest
from predictor_models import SMALL

import featpipe
from featpipe import images
from featpipe.codes import CodesError

pytest_plugins = ["predictor_fixtures"]


@pytest.fixture(scope="module")
def shown(kinds, kinds_h5, logistic):
    comparison = featpipe.compare(kinds_h5, classifiers=["nearest-mean"])
    return {
        "Codes": kinds_h5,
        "ImageSet": images.scan(kinds),
        "Predictor": logistic,
        "Predictions": logistic.classify(kinds / "test"),
        "Comparison": comparison,
        "Score": comparison.scores[0],
        "Advice": featpipe.advise(kinds_h5),
        "Finetuned": featpipe.finetune(kinds, **SMALL, train="head", epochs=1, lr=0.01),
    }


NAMES = (
    *("Codes", "ImageSet", "Predictor", "Predictions"),
    *("Comparison", "Score", "Finetuned", "Advice"),
)


class Table(html.parser.HTMLParser):
    """Collects the cells of a table, and refuses tags that are not closed."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.rows: list[list[str]] = []

    def handle_starttag(self, tag, attrs):
        self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] in ("td", "th"):
            self.rows[-1][-1] += data


def rows_of(text: str) -> list[list[str]]:
    table = Table()
    table.feed(text)
    assert table.open == []
    return table.rows


@pytest.mark.parametrize("name", NAMES)
def test_a_repr_is_one_line_without_paths(shown, name):
    text = repr(shown[name])
    assert text.startswith(f"<{name}")
    assert text.endswith(">")
    assert "\n" not in text
    assert len(text) < 160 + len(str(shown["Codes"].path))
    assert ".png" not in text


@pytest.mark.parametrize("name", [n for n in NAMES if n not in ("Predictor", "Advice")])
def test_a_notebook_shows_a_table(shown, name):
    rows = rows_of(shown[name]._repr_html_())
    assert len(rows) > 1
    assert len({len(row) for row in rows}) == 1


@pytest.mark.parametrize("name", ["Comparison", "Advice"])
def test_print_shows_what_a_terminal_would(shown, name):
    lines = str(shown[name]).splitlines()
    assert max(map(len, lines)) <= 96
    assert any("penultimate" in line for line in lines)
    assert "\x1b" not in str(shown[name])


@pytest.mark.parametrize("name", ["Codes", "ImageSet"])
def test_a_table_counts_images_by_class_and_split(shown, name):
    header, *rows = rows_of(shown[name]._repr_html_())
    assert header == ["class", "test", "train"]
    assert rows == [[name, "4", "8"] for name in shown["Codes"].class_names]


def test_names_are_escaped(draw, tmp_path):
    draw(tmp_path / "x" / "<b>bold" / "1.png", 1)
    draw(tmp_path / "x" / "plain" / "2.png", 2)
    result = images.scan(tmp_path / "x")._repr_html_()
    assert "&lt;b&gt;bold" in result
    assert "<b>" not in result


def test_many_images_and_classes_are_cut(kinds, logistic, draw, tmp_path):
    for k in range(40):
        draw(tmp_path / "many" / f"c{k:02}" / "1.png", k)
    codes = featpipe.extract(tmp_path / "many", tmp_path / "many.h5", **SMALL)
    rows = rows_of(codes._repr_html_())
    assert rows[-1] == ["… and 10 more", ""]
    result = rows_of(logistic.classify(tmp_path / "many")._repr_html_())
    assert result[-1][0] == "… and 20 more"


INDICES = [
    *(0, -1, np.int32(3), [0, 5, 5, 2], [-1, 0], [], (1, 2)),
    *(
        np.array([7, -7]),
        np.array([], int),
        np.array([[1, 2], [3, -4]]),
        range(3, 9, 2),
    ),
    *([True] + [False] * 35, np.arange(36) % 5 == 0, np.array([2], np.uint8)),
]


@pytest.mark.parametrize("rows", INDICES, ids=str)
def test_take_indexes_as_numpy_does(kinds_h5, rows):
    X, _ = kinds_h5.arrays("penultimate")
    index = np.array(rows, np.int64) if np.size(rows) == 0 else np.asarray(rows)
    expected = X[index]
    result = kinds_h5.take("penultimate", rows)
    assert result.shape == expected.shape
    assert np.array_equal(result, expected)


@pytest.mark.parametrize("rows", [36, -37, [0, 36], [1.0], ["a"], [True], None, 2**40])
def test_take_refuses_what_numpy_refuses(kinds_h5, rows):
    with pytest.raises(IndexError, match="36"):
        kinds_h5.take("penultimate", rows)


@pytest.mark.parametrize("cut", [(0, 3), (-3, 36), (5, -5), (30, 99), (9, 2), (-99, 2)])
def test_rows_are_those_of_a_slice(kinds_h5, cut):
    X, _ = kinds_h5.arrays("stage1")
    assert np.array_equal(kinds_h5.rows("stage1", *cut), X[slice(*cut)])


def test_the_only_depth_and_the_penultimate_need_no_name(kinds, kinds_h5, tmp_path):
    one = featpipe.extract(kinds, tmp_path / "1.h5", depth="stage1", **SMALL)
    assert np.array_equal(one.arrays()[0], one.arrays("stage1")[0])
    assert one.to_frame().equals(one.to_frame("stage1"))
    assert kinds_h5.to_frame().equals(kinds_h5.to_frame("penultimate"))
    X, _ = kinds_h5.arrays(split="test")
    assert X.shape == (12, kinds_h5.width("penultimate"))
    depths = ["stage1", "stage2"]
    two = featpipe.extract(kinds, tmp_path / "2.h5", depth=depths, **SMALL)
    with pytest.raises(CodesError, match="no depth 'penultimate'; choose from stage1:"):
        two.to_frame()


@pytest.mark.parametrize(
    "depth", ["stage1", ["stage1", "penultimate"], "stage1+penultimate", None]
)
def test_compare_takes_depth_as_extract_does(kinds_h5, depth):
    comparison = featpipe.compare(kinds_h5, classifiers=["nearest-mean"], depth=depth)
    short = {re.sub(":avg", "", score.depth) for score in comparison.scores}
    options = ["stage1", "penultimate"] if depth is None else depth
    assert short == {options} if isinstance(options, str) else set(options)


def test_a_depth_is_no_list_of_letters(kinds_h5):
    with pytest.raises(CodesError, match="no depth 'nothing'"):
        featpipe.compare(kinds_h5, depth="nothing")
    with pytest.raises(ValueError, match="depth or depths, not both"):
        featpipe.compare(kinds_h5, depth="stage1", depths=["stage1"])
