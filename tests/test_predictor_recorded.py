"""`fit` takes C from the record of a comparison, or says why it cannot."""

import json

import numpy as np
import pytest

import featpipe
from featpipe.classifiers import choosing

pytest_plugins = ["predictor_fixtures"]


@pytest.fixture(scope="module")
def recorded(kinds_h5, tmp_path_factory):
    path = tmp_path_factory.mktemp("scores") / "scores.json"
    featpipe.compare(kinds_h5, classifiers=["svm", "logistic"]).write_json(path)
    return path


def test_the_model_is_the_one_of_a_search(kinds_h5, recorded, monkeypatch):
    searched = featpipe.fit(kinds_h5, "svm", depth="stage1").model

    def refuse(*_):
        raise AssertionError("C is searched for again")

    monkeypatch.setattr(choosing, "make_folds", refuse)
    model = featpipe.fit(kinds_h5, "svm", depth="stage1", recorded=recorded).model
    assert model.C == searched.C
    np.testing.assert_allclose(model.coef, searched.coef, rtol=1e-4, atol=1e-7)
    assert model.training["cv_score"] == searched.training["cv_score"]
    assert model.training["C_curve"] == searched.training["C_curve"]


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"seed": 1}, "seed=0, not 1"),
        ({"folds": 3}, "folds=5, not 3"),
        ({"metric": "macro_f1"}, "metric='accuracy', not 'macro_f1'"),
        ({"class_weight": "balanced"}, "class_weight=None, not 'balanced'"),
        ({"Cs": [0.1, 1.0]}, "not from the 2 asked for"),
        ({"C": 0.1}, "give one of them"),
    ],
)
def test_another_question_is_refused(kinds_h5, recorded, options, match):
    with pytest.raises(ValueError, match=match):
        featpipe.fit(kinds_h5, "svm", depth="stage1", recorded=recorded, **options)


def test_a_missing_row_and_other_images_are_refused(kinds_h5, recorded, tmp_path):
    with pytest.raises(ValueError, match="0 rows of linear on stage1"):
        featpipe.fit(kinds_h5, "linear", depth="stage1", recorded=recorded)
    document = json.loads(recorded.read_text())
    for score in document["scores"]:
        score["n_train"] += 1
    other = tmp_path / "other.json"
    other.write_text(json.dumps(document))
    with pytest.raises(ValueError, match="compare this file again"):
        featpipe.fit(kinds_h5, "svm", depth="stage1", recorded=other)
    del document["options"]
    other.write_text(json.dumps(document))
    with pytest.raises(ValueError, match="an unknown value"):
        featpipe.fit(kinds_h5, "svm", depth="stage1", recorded=other)


def test_compare_solves_every_C_where_asked(kinds_h5):
    comparison = featpipe.compare(kinds_h5, classifiers=["svm"], full_path=True)
    assert all(score is not None for s in comparison.scores for _, score in s.C_curve)
