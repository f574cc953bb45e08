"""Every number a user can give has bounds, and one sentence for what is beyond them."""

import inspect
import math
import typing
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_cli import featpipe_says

import featpipe
from featpipe.bounds import LARGEST_SEED, require_number
from featpipe.cli.app import app

MINI = {"backbone": "mini", "input_size": 16, "device": "cpu", "precision": "fp32"}
NEVER = [-0.5, math.nan, math.inf, 10**400, "7", True, [1], 1e300]


@pytest.fixture(scope="module")
def here(tmp_path_factory, draw) -> Path:
    folder = tmp_path_factory.mktemp("bounds")
    for k in range(12):
        draw(folder / "six" / "ab"[k % 2] / f"{k}.png", k)
    codes = featpipe.extract(folder / "six", folder / "six.h5", **MINI)
    featpipe.fit(codes, C=1.0).save(folder / "six.model")
    return folder


def doors(here: Path) -> dict[str, typing.Callable]:
    """Return what calls each public function with one option, quickly."""
    X, y = featpipe.read(here / "six.h5").arrays()

    def classify(kind):
        return lambda **options: kind(**options).fit(X, y)

    return {
        "extract": lambda **o: featpipe.extract(
            here / "six", here / "never.h5", **MINI | o
        ),
        "compare": lambda **o: featpipe.compare(
            here / "six.h5", **{"classifiers": ["linear"], **o}
        ),
        "fit": lambda **o: featpipe.fit(here / "six.h5", **o),
        "finetune": lambda **o: featpipe.finetune(
            here / "six", **{**MINI, "train": "head", "lr": 0.01, "epochs": 1, **o}
        ),
        "load": lambda **o: featpipe.load(here / "six.model", **o).predict(
            [here / "six" / "a" / "0.png"]
        ),
        "advise": lambda **o: featpipe.advise(here / "six.h5", **o),
        "CNNCodes": lambda **o: featpipe.CNNCodes(**MINI | o).fit_transform(
            [here / "six" / "a" / "0.png"]
        ),
        "LinearClassifier": classify(featpipe.LinearClassifier),
        "SVMClassifier": classify(featpipe.SVMClassifier),
        "LogisticClassifier": classify(featpipe.LogisticClassifier),
    }


def numbers_of(function: typing.Callable) -> list[str]:
    """Name the parameters of a function that are numbers, by their annotations."""
    return [
        name
        for name, parameter in inspect.signature(function).parameters.items()
        if {"int", "float"} & set(str(parameter.annotation).replace("[", " ").split())
        and "Sequence" not in str(parameter.annotation)
    ]


PYTHON = [
    (door, name)
    for door in (
        *("extract", "compare", "fit", "finetune", "load", "advise", "CNNCodes"),
        *("LinearClassifier", "SVMClassifier", "LogisticClassifier"),
    )
    for name in numbers_of(getattr(featpipe, door))
]
# A RandomState is scikit-learn's to check; memory is a text too.
PYTHON = [pair for pair in PYTHON if pair[1] not in ("random_state", "memory")]


def test_the_numbers_are_found():
    assert len(PYTHON) > 40
    assert ("finetune", "weight_decay") in PYTHON
    assert ("CNNCodes", "timeout") in PYTHON
    assert ("compare", "test_size") in PYTHON


@pytest.mark.parametrize(("door", "name"), PYTHON)
def test_python_refuses_in_one_sentence_what_no_number_may_be(here, door, name):
    call = doors(here)[door]
    for value in NEVER:
        if name == "C" and value == "7":
            continue
        with pytest.raises((ValueError, TypeError)) as caught:
            call(**{name: value})
        assert type(caught.value) is ValueError, (value, caught.value)
        text = str(caught.value)
        assert name in text.replace(" ", "_"), (value, text)
        assert len(text) < 300, text
        assert "\n" not in text
    assert not (here / "never.h5").exists()


COMMANDS = {
    "extract": ["six", "-o", "never.h5", "--backbone", "mini", "--device", "cpu"],
    "run": ["six", "-o", "never", "--backbone", "mini", "--classifiers", "linear"],
    "compare": ["six.h5", "--classifiers", "linear"],
    "fit": ["six.h5", "-o", "never.model"],
    "predict": ["six.model", "six"],
    "finetune": ["six", "-o", "never", "--backbone", "mini", "--init", "probe"],
    "advise": ["six.h5"],
    "report": ["six.h5", "-o", "never.html"],
    "depths": ["mini"],
}


def declared() -> list[tuple[str, str, object]]:
    """Return each option of each command, and its type."""
    items = []
    for registered in app.registered_commands:
        for parameter in inspect.signature(registered.callback).parameters.values():
            kind, *_, option = typing.get_args(parameter.annotation)
            # In an Annotated, typer keeps the first name in the place of the default.
            names = map(str, (option.default, *(option.param_decls or ())))
            names = [name for name in names if name.startswith("--")]
            items += [(registered.callback.__name__, name, kind) for name in names[:1]]
    return items


OPTIONS = [
    (command, option)
    for command, option, kind in declared()
    if {int, float} & {kind, *typing.get_args(kind)}
]
# Numbers that come as text, with what they may not be beside NEVER.
TEXTS = {
    "--shard": ["1/0", "-1/2", "2/2", "0/999999999", "0/1/2", "1.0/2", "/"],
    "--C-grid": [
        "0:1:3",
        "-1:1:3",
        "1:2:0",
        "1:inf:3",
        "nan:1:2",
        "1e-99:1:3",
        "1:2:9999",
    ],
    "--mean": ["1,2,3", "0.5,0.5", "nan,0,0", "-0.1,0,0", "123.7"],
    "--std": ["0,0,0", "58.4", "nan,1,1", "1e-9"],
    "--memory": ["-5GB", "0GB", "1.5.5GB", ".GB", "5XB", "1e3", "9999TB"],
    "--value-range": ["0:0", "5", "1:0", "0:inf"],
    "--C": ["0", "-1", "1e31", "inf"],
}
OPTIONS += [(name, option) for name, option, _ in declared() if option in TEXTS]


def test_the_options_are_found():
    assert {name for name, _ in OPTIONS} == set(COMMANDS)
    assert len(OPTIONS) > 60


@pytest.mark.parametrize(("command", "option"), OPTIONS)
def test_the_command_line_refuses_in_one_sentence(here, command, option, monkeypatch):
    monkeypatch.chdir(here)
    values = ["", "nan", "-1", "1e400", "9" * 40, *TEXTS.get(option, [])]
    if option == "--top":
        values.remove("9" * 40)  # as many as there are
    for value in values:
        result = featpipe_says(command, *COMMANDS[command], f"{option}={value}")
        assert result.exit_code in (1, 2), (value, result.output)
        assert "unexpected" not in result.output, (value, result.output)
        assert "Warning" not in result.output, (value, result.output)
        if result.exit_code == 1:
            assert result.stderr.count("error: ") == 1
            assert len(result.stderr.splitlines()[-1]) < 300
            name = option.strip("-").replace("-", "_").replace("C_grid", "Cs")
            assert name in result.stderr.replace(" ", "_").replace("-", "_")
    assert not list(here.glob("never*"))


@given(
    st.one_of(st.integers(), st.floats(), st.text(), st.none(), st.booleans()),
    st.integers(-5, 5),
    st.integers(6, 99),
)
def test_a_number_is_let_through_only_between_its_bounds(value, low, high):
    def lets(**options) -> bool:
        try:
            require_number("x", value, low, high, **options)
        except ValueError:
            return False
        return True

    is_number = type(value) in (int, float) and math.isfinite(value)
    assert lets(whole=False) == (is_number and low <= value <= high)
    assert lets() == (type(value) is int and low <= value <= high)
    assert lets(above=True) == (type(value) is int and low < value <= high)
    assert lets(below=True) == (type(value) is int and low <= value < high)


@pytest.mark.parametrize("kind", [np.int64, np.uint8, np.int32])
def test_numbers_of_numpy_are_numbers(kind):
    require_number("x", kind(7), 1, 9)
    require_number("x", np.float32(7), 1, 9, whole=False)


def test_the_largest_seed_seeds_everything(here):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        comparison = featpipe.compare(
            here / "six.h5", classifiers=["nearest-mean"], seed=LARGEST_SEED
        )
    assert comparison.seed == LARGEST_SEED
    codes = featpipe.extract(
        here / "six", here / "large.h5", **MINI, weights="none", seed=LARGEST_SEED
    )
    assert len(codes) == 12


@pytest.mark.parametrize("weight", [-1, math.nan, math.inf, "2", None, 1e300])
def test_class_weights_have_bounds(here, weight):
    for door in ("compare", "fit", "finetune"):
        with pytest.raises(
            ValueError, match=r"class_weight.*has to be a number from 0"
        ):
            doors(here)[door](class_weight={"a": weight})
