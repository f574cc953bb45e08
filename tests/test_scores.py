"""The score record and its JSON document."""

import json
from dataclasses import fields, replace

import pytest

from featpipe import scores
from featpipe.finetuning import Finetuned
from featpipe.scores import Score

FIELDS_OF_THE_DESIGN = [
    "codes", "backbone", "weights", "depth", "width", "classifier", "C", "protocol",
    "n_train", "n_test", "cv_accuracy", "accuracy", "accuracy_low", "accuracy_high",
    "balanced_accuracy", "macro_f1", "log_loss", "recommended", "p_value",
    "tied_with_recommended", "difference", "difference_low", "difference_high",
    "majority_p_value", "better_than_majority", "fit_seconds", "predict_seconds",
    "C_curve", "warnings", "test_paths", "test_predicted",
]  # fmt: skip


def example(**changes):
    score = Score(
        codes="pets.h5", backbone="resnet18", weights="IMAGENET1K_V1",
        depth="layer3:avg", width=256, classifier="logistic", C=0.01, protocol="test",
        n_train=20, n_test=2, cv_accuracy=0.9, accuracy=0.5, accuracy_low=0.1,
        accuracy_high=0.9, balanced_accuracy=0.5, macro_f1=0.4, log_loss=float("nan"),
        C_curve=[[0.01, 0.9], [0.1, float("nan")]],
        test_paths=["cat/0.jpg", "dog/\udcff.jpg"], test_predicted=["cat", "cat"],
    )  # fmt: skip
    return replace(score, **changes)


def test_the_record_has_exactly_the_fields_of_the_design():
    own = [field.name for field in fields(Score)]
    assert own == [*FIELDS_OF_THE_DESIGN, *scores.FINETUNE_FIELDS]
    assert list(example().as_dict()) == FIELDS_OF_THE_DESIGN


def test_a_trained_network_has_what_it_cost_in_its_record_too(tmp_path):
    tuned = example(log_loss=0.5, C_curve=[], trained="all, probe", image_passes=70)
    scores.write_json(tmp_path / "s.json", [tuned], seed=0)
    assert scores.read_json(tmp_path / "s.json") == [tuned]
    record = json.loads((tmp_path / "s.json").read_text(encoding="utf-8"))["scores"][0]
    assert (record["trained"], record["image_passes"]) == ("all, probe", 70)


def test_the_document_is_strict_json_and_reads_back_equal(tmp_path):
    scores.write_json(tmp_path / "s.json", [example()], seed=7)
    text = (tmp_path / "s.json").read_text(encoding="utf-8")
    document = json.loads(text, parse_constant=pytest.fail)
    assert document["seed"] == 7
    assert document["scores"][0]["log_loss"] is None
    assert document["scores"][0]["C_curve"] == [[0.01, 0.9], [0.1, None]]
    (read,) = scores.read_json(tmp_path / "s.json")
    assert read == replace(example(), log_loss=None, C_curve=[[0.01, 0.9], [0.1, None]])


def test_writing_leaves_nothing_but_the_document(tmp_path):
    scores.write_json(tmp_path / "s.json", [example()], seed=0)
    scores.write_json(tmp_path / "s.json", [example()], seed=1)
    assert [path.name for path in tmp_path.iterdir()] == ["s.json"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "s.json' is not a scores file"),
        ("[]", "is not a scores file"),
        ('{"seed": 0}', "scores"),
        ('{"scores": [{"codes": "a"}]}', "lacks fields"),
        ('{"scores": [{"C": NaN}]}', "NaN is not JSON"),
    ],
)
def test_what_is_no_document_is_refused_by_name(tmp_path, text, says):
    (tmp_path / "s.json").write_text(text)
    with pytest.raises(ValueError, match=says):
        scores.read_json(tmp_path / "s.json")


def test_predictions_must_pair_up_with_paths():
    record = example().as_dict() | {"test_predicted": ["cat"]}
    with pytest.raises(ValueError, match="2 test_paths but 1 test_predicted"):
        Score.from_dict(record)


def test_a_score_is_one_line_and_a_table_in_a_notebook():
    score = example(depth="<b>layer3")
    assert repr(score) == (
        "<Score of logistic on <b>layer3: 50.0 % [10.0, 90.0] of 2 images>"
    )
    html = score._repr_html_()
    assert "<th>depth</th><td>&lt;b&gt;layer3</td>" in html
    assert "dog/" not in html


def test_a_fine_tuning_is_one_line_and_its_epochs_a_table():
    history = [{"epoch": k, "loss": 0.5, "held_out_score": 0.9} for k in range(3)]
    score = example(classifier="finetune", trained="all, from a probe")
    result = Finetuned(score=score, rates={1e-3: 0.2}, epoch=2, history=history)
    assert repr(result) == (
        "<Finetuned resnet18 (all, from a probe): 50.0 % of 2 images, epoch 2, "
        "rate 0.001>"
    )
    assert result._repr_html_().count("<tr>") == 4


def test_a_record_written_before_the_comparison_fields_is_read():
    record = example().as_dict()
    for name in ("difference", "difference_low", "difference_high",
                 "majority_p_value", "better_than_majority"):  # fmt: skip
        del record[name]
    read = Score.from_dict(record)
    assert read.difference is None
    assert read.better_than_majority is None


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("depth", 5),
        ("codes", None),
        ("accuracy", "much"),
        ("accuracy", True),
        ("accuracy_low", None),
        ("accuracy_high", 1.5),
        ("macro_f1", -0.1),
        ("n_test", 2.5),
        ("recommended", 1),
        ("p_value", []),
        ("C_curve", [[1.0]]),
        ("C_curve", [1.0, 2.0]),
        ("warnings", "careful"),
        ("warnings", [1]),
        ("test_paths", [[]]),
        ("trained", {}),
    ],
)
def test_a_field_of_another_type_is_an_error_with_the_path(name, value, tmp_path):
    path = tmp_path / "s.json"
    scores.write_json(path, [example()], seed=0)
    assert len(scores.read_json(path)) == 1
    document = json.loads(path.read_text())
    document["scores"][0][name] = value
    path.write_text(json.dumps(document))
    with pytest.raises(ValueError, match=rf"s\.json' is not a scores file .*{name}"):
        scores.read_json(path)


@pytest.mark.parametrize(
    "change",
    [{"seed": "x"}, {"options": 5}, {"options": {"folds": "5"}},
     {"options": {"metric": 1}}, {"options": {"class_weight": 2}}],
)  # fmt: skip
def test_options_of_another_type_are_an_error_with_the_path(change, tmp_path):
    path = tmp_path / "s.json"
    scores.write_json(path, [example()], seed=0)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ValueError, match=r"s\.json' is not a scores file"):
        scores.read_json(path)
