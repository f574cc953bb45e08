"""Few images: what has nothing to choose is fitted, a choice of C refused."""

import re

import numpy as np
import pytest
from drawn_codes import draw, write
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier

import featpipe
from featpipe import protocol


def small(folder, n_train, n_test=12):
    """Write codes with ``n_train`` training images of each of three classes."""
    labels, made = draw(3 * (n_train + n_test))
    splits = ["train"] * 3 * n_train + ["test"] * 3 * n_test
    return write(folder / "small.h5", labels, made, splits=splits)


def test_one_training_image_a_class_is_enough_where_nothing_is_chosen(tmp_path):
    path = small(tmp_path, 1)
    comparison = featpipe.compare(path, classifiers=["knn", "nearest-mean"])
    assert [score.cv_accuracy for score in comparison.scores] == [None] * 4
    assert comparison.scores[0].recommended
    # Codes of three centres far apart: one example of each is enough.
    assert max(score.accuracy for score in comparison.scores) > 0.8


def test_a_single_C_is_used_as_it_is_where_nothing_can_choose(tmp_path):
    path = small(tmp_path, 1)
    comparison = featpipe.compare(path, classifiers=["logistic"], Cs=[0.37])
    assert {score.C for score in comparison.scores} == {0.37}


def test_a_choice_of_C_without_folds_is_refused_with_what_would_do(tmp_path):
    path = small(tmp_path, 1)
    says = re.escape("too few to choose C by cross-validation") + ".*single C"
    with pytest.raises(ValueError, match=says):
        featpipe.compare(path)


def test_two_images_a_class_without_a_split_are_judged_by_each_other(tmp_path):
    labels, made = draw(6)
    path = write(tmp_path / "two.h5", labels, made)
    comparison = featpipe.compare(path, classifiers=["knn", "nearest-mean"])
    for score in comparison.scores:
        assert score.protocol == "2-fold"
        assert score.n_test == 6
    one = featpipe.compare(path, classifiers=["linear", "svm"], Cs=[1.0])
    assert {score.C for score in one.scores} == {1.0}
    with pytest.raises(ValueError, match="too few to choose C"):
        featpipe.compare(path, classifiers=["linear"])


def test_an_ensemble_of_too_few_images_to_choose_members_takes_all(tmp_path):
    comparison = featpipe.compare(
        small(tmp_path, 1), classifiers=["logistic", "ensemble"], Cs=[1.0]
    )
    (ensemble,) = (
        score for score in comparison.scores if score.classifier == "ensemble"
    )
    depths = {score.depth for score in comparison.scores} - {ensemble.depth}
    assert set(ensemble.depth.split("+")) == depths
    assert ensemble.cv_accuracy is None


@pytest.mark.parametrize("name", ["knn", "ensemble"])
def test_few_images_are_ranked_by_repeated_folds(tmp_path, name):
    labels, made = draw(150)
    path = write(tmp_path / "a.h5", labels, made)
    comparison = featpipe.compare(path, classifiers=[name], depths=["layer1", "layer2"],
                             Cs=[0.1])  # fmt: skip
    cuts = [protocol.folds(labels, seed=7919 * k) for k in range(5)]
    right = []
    for train, held in (pair for cut in cuts for pair in cut):
        votes = []
        for X in made.values():
            mean, std = X[train].mean(0), X[train].std(0)
            A, B = (X[train] - mean) / std, (X[held] - mean) / std
            if name == "knn":
                A, B = (Z / np.linalg.norm(Z, axis=1, keepdims=True) for Z in (A, B))
                near = KNeighborsClassifier(5).fit(A, labels[train])
                votes.append(near.predict_proba(B))
            else:
                model = LogisticRegression(C=0.1, tol=1e-8, max_iter=1000)
                votes.append(model.fit(A, labels[train]).predict_proba(B))
        if name == "ensemble":
            votes = [np.mean(votes, axis=0)]
        right.append([(p.argmax(1) == labels[held]).mean() for p in votes])
    expected = sorted(np.mean(right, axis=0), reverse=True)
    assert [s.cv_accuracy for s in comparison.scores] == pytest.approx(expected)
    assert any(
        "fewer than 200 images to learn from" in note for note in comparison.notes
    )


def test_enough_images_are_ranked_by_the_folds_that_choose(tmp_path):
    labels, made = draw(210)
    path = write(tmp_path / "a.h5", labels, made)
    comparison = featpipe.compare(path, classifiers=["linear"], Cs=[0.01, 1.0])
    for score in comparison.scores:
        assert score.cv_accuracy == max(value for _, value in score.C_curve)
    assert not any("fewer than 200" in note for note in comparison.notes)
