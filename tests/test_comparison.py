"""`compare` end to end: who is chosen, by what, and what is judged."""

import numpy as np
import pytest
from drawn_codes import CLASS_NAMES, draw, splits_of, write
from scipy import stats
from sklearn.linear_model import RidgeClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import featpipe
from featpipe import protocol, scores

CS = (1e-3, 1e-2, 1e-1, 1.0)


def compare(path, *, classifiers=("linear",), **options):
    return featpipe.compare(path, classifiers=classifiers, Cs=CS, **options)


def ridge(C):
    # Half the squared norm plus C times the squares is ridge with alpha = 1 / 2C.
    return make_pipeline(StandardScaler(), RidgeClassifier(alpha=1 / (2 * C)))


def choose_C(X, y, pairs):
    """Choose C by plain loops over scikit-learn: the road the tests compare with."""
    curve = [
        np.mean([(ridge(C).fit(X[t], y[t]).predict(X[h]) == y[h]).mean()
                 for t, h in pairs])
        for C in CS
    ]  # fmt: skip
    return CS[int(np.argmax(curve))], curve


def repeated(X, y, C, n_folds=5, seed=0):
    """Score the chosen C over five repeats of the folds, by plain loops."""
    cuts = [protocol.folds(y, n_folds=n_folds, seed=seed + 7919 * k) for k in range(5)]
    return np.mean([(ridge(C).fit(X[t], y[t]).predict(X[h]) == y[h]).mean()
                    for cut in cuts for t, h in cut])  # fmt: skip


def names(y):
    return [CLASS_NAMES[label] for label in y]


def decision(comparison):
    """Everything that held-out labels must not change."""
    return [
        (s.depth, s.classifier, s.C, s.cv_accuracy, s.C_curve, s.recommended,
         s.test_predicted)
        for s in sorted(comparison.scores, key=lambda s: (s.depth, s.classifier))
    ]  # fmt: skip


def test_held_out_rows_are_judged_by_a_model_of_the_training_rows(tmp_path):
    labels, made = draw()
    path = write(tmp_path / "a.h5", labels, made, splits=splits_of(90, "train", "val"))
    comparison = compare(path)
    train, held = np.arange(45), np.arange(45, 90)
    pairs = protocol.folds(labels[train])
    for score in comparison.scores:
        X = made[score.depth]
        C, curve = choose_C(X[train], labels[train], pairs)
        predicted = ridge(C).fit(X[train], labels[train]).predict(X[held])
        assert score.protocol == "val"
        assert score.C == C
        assert np.allclose(score.C_curve, np.column_stack([CS, curve]))
        assert score.cv_accuracy == pytest.approx(repeated(X[train], labels[train], C))
        assert score.test_predicted == names(predicted)
        assert score.accuracy == (predicted == labels[held]).mean()
        assert (score.n_train, score.n_test) == (45, 45)
        assert (score.backbone, score.weights, score.width) == ("tiny", "none", 12)


def test_held_out_labels_choose_nothing(tmp_path):
    labels, made = draw()
    other = labels.copy()
    other[45:] = np.random.default_rng(1).permutation(other[45:])
    classifiers = ("linear", "logistic", "nearest-mean", "ensemble")
    items = [
        compare(
            write(tmp_path / f"{k}.h5", y, made, splits=splits_of(90, "train", "val")),
            classifiers=classifiers,
        )
        for k, y in enumerate((labels, other))
    ]
    assert decision(items[0]) == decision(items[1])
    assert items[0].recommended.accuracy != items[1].recommended.accuracy
    order = [[(s.depth, s.classifier) for s in each.scores] for each in items]
    assert order[0] == order[1]


def test_the_recommended_row_leads_in_cross_validation_and_rows_follow_it(tmp_path):
    labels, made = draw()
    comparison = compare(
        write(tmp_path / "a.h5", labels, made, splits=splits_of(90, "train", "test")),
        classifiers=("linear", "nearest-mean", "knn"),
    )
    cv = [score.cv_accuracy for score in comparison.scores]
    assert cv == sorted(cv, reverse=True)
    assert [score.recommended for score in comparison.scores] == [True] + [False] * 5
    assert comparison.recommended is comparison.scores[0]
    assert comparison.recommended.p_value is None
    assert not comparison.recommended.tied_with_recommended


def test_equal_rows_are_ordered_by_width_then_as_asked(tmp_path):
    labels = np.arange(40) % 2
    far = np.where(labels == 0, -9.0, 9.0)[:, None].astype(np.float32)
    made = {"wide:avg": np.tile(far, 6), "slim:avg": np.tile(far, 3)}
    comparison = compare(
        write(tmp_path / "a.h5", labels, made),
        classifiers=("nearest-mean", "linear"),
        folds=2,
    )
    assert [(s.depth, s.classifier) for s in comparison.scores] == [
        ("slim:avg", "nearest-mean"), ("slim:avg", "linear"),
        ("wide:avg", "nearest-mean"), ("wide:avg", "linear"),
    ]  # fmt: skip


def test_val_chooses_C_where_train_val_and_test_exist(tmp_path):
    labels, made = draw(120)
    splits = splits_of(120, "train", "val", "test")
    (score,) = compare(
        write(tmp_path / "a.h5", labels, made, splits=splits), depths=["layer1"]
    ).scores
    X, learn, held = made["layer1:avg"], np.arange(80), np.arange(80, 120)
    C, curve = choose_C(X, labels, [(np.arange(40), np.arange(40, 80))])
    predicted = ridge(C).fit(X[learn], labels[learn]).predict(X[held])
    assert score.protocol == "test"
    assert score.C == C
    assert np.allclose(score.C_curve, np.column_stack([CS, curve]))
    assert score.cv_accuracy == pytest.approx(max(curve))
    assert score.test_predicted == names(predicted)
    assert (score.n_train, score.n_test) == (80, 40)


def test_without_a_split_C_is_chosen_inside_each_training_part(tmp_path):
    labels, made = draw(60)
    (score,) = compare(
        write(tmp_path / "a.h5", labels, made), depths=["layer1"], folds=3, seed=4
    ).scores
    X, predicted = made["layer1:avg"], np.empty(60, int)
    outer = protocol.folds(labels, n_folds=3, seed=4)
    for train, held in outer:
        # The other folds choose, each left out in turn.
        inner = [
            (np.flatnonzero(~np.isin(train, other)), np.searchsorted(train, other))
            for _, other in outer
            if other is not held
        ]
        C, _ = choose_C(X[train], labels[train], inner)
        predicted[held] = ridge(C).fit(X[train], labels[train]).predict(X[held])
    assert score.protocol == "3-fold"
    assert score.test_predicted == names(predicted)
    C, curve = choose_C(X, labels, protocol.folds(labels, n_folds=3, seed=4))
    assert score.C == C
    assert np.allclose(score.C_curve, np.column_stack([CS, curve]))
    assert score.cv_accuracy == pytest.approx(repeated(X, labels, C, 3, 4))


def test_the_luck_of_the_choice_is_scored_where_there_is_no_split(tmp_path):
    labels, made = draw(60)
    path = write(tmp_path / "a.h5", labels, made)
    assert "the row chosen anew inside each training part" in compare(path).headline
    assert compare(path, depths=["layer1"]).headline == ""


def test_p_values_are_corrected_mcnemar_tests_against_the_recommended(tmp_path):
    labels, made = draw(120, depths={"a:avg": 1.5, "b:avg": 0.1, "c:avg": 1.4})
    comparison = compare(
        write(tmp_path / "a.h5", labels, made, splits=splits_of(120, "train", "test"))
    )
    truth = np.array(comparison.labels)
    correct = [np.array(score.test_predicted) == truth for score in comparison.scores]
    raw = [scores.mcnemar(correct[0], each) for each in correct[1:]]
    assert [score.p_value for score in comparison.scores[1:]] == scores.holm(raw)
    tied = {score.depth: score.tied_with_recommended for score in comparison.scores[1:]}
    assert tied["b:avg"] is False
    assert tied["c:avg"] is True or tied.get("a:avg") is True


def test_groups_stay_together_and_are_tested_as_wholes(tmp_path):
    labels, made = draw(96)
    groups = [f"g{i // 4}" for i in range(96)]
    comparison = compare(write(tmp_path / "a.h5", labels, made, groups=groups), folds=4)
    truth = np.array(comparison.labels)
    correct = [np.array(score.test_predicted) == truth for score in comparison.scores]
    expected = scores.max_t(
        np.column_stack(correct),
        protocol.group_numbers(groups),
        variance_ratio=scores.fold_variance_ratio(4),
    )
    assert comparison.scores[1].p_value == expected[1]
    assert "sign flips of groups" in comparison.test
    assert any("24 groups" in note for note in comparison.notes)


def test_groups_of_a_given_split_are_tested_by_exact_sign_flips(tmp_path):
    labels, made = draw(96)
    groups = [f"g{i // 4}" for i in range(96)]
    splits = splits_of(96, "train", "test")
    path = write(tmp_path / "a.h5", labels, made, groups=groups, splits=splits)
    comparison = compare(path)
    truth = np.array(comparison.labels)
    correct = [np.array(score.test_predicted) == truth for score in comparison.scores]
    numbers = protocol.group_numbers(groups[48:])
    expected = scores.sign_flip(correct[0], correct[1], numbers)
    assert comparison.scores[1].p_value == pytest.approx(expected)
    low, high = scores.grouped_interval(correct[0], numbers)
    assert (comparison.scores[0].accuracy_low, comparison.scores[0].accuracy_high) == (
        low,
        high,
    )
    difference = scores.grouped_difference(correct[1], correct[0], numbers)
    row = comparison.scores[1]
    assert (row.difference, row.difference_low, row.difference_high) == difference


def test_same_seed_gives_the_same_table(tmp_path):
    labels, made = draw(60)
    path = write(tmp_path / "a.h5", labels, made)
    asked = {"classifiers": ("linear", "knn"), "folds": 3}
    first, again = (compare(path, seed=3, **asked) for _ in "12")
    timed = ("fit_seconds", "predict_seconds")
    for one, two in zip(first.scores, again.scores, strict=True):
        one, two = one.as_dict(), two.as_dict()
        assert {k: v for k, v in one.items() if k not in timed} == {
            k: v for k, v in two.items() if k not in timed
        }
    assert first.notes == again.notes


def test_the_order_of_rows_in_a_file_does_not_reach_the_scores(tmp_path):
    labels, made = draw(90)
    splits = splits_of(90, "train", "val")
    shuffled = np.random.default_rng(0).permutation(90)
    one = compare(write(tmp_path / "a.h5", labels, made, splits=splits))
    two = compare(write(tmp_path / "b.h5", labels, made, splits=splits, order=shuffled))
    assert sorted(two.paths) == sorted(one.paths)
    assert set(two.paths) == {f"images/{i:03d}.png" for i in range(45, 90)}


def test_unlabelled_rows_never_enter(tmp_path):
    labels, made = draw(100)
    labels[90:] = -1
    with_strangers = compare(write(tmp_path / "a.h5", labels, made))
    alone = {depth: X[:90] for depth, X in made.items()}
    without = compare(write(tmp_path / "b.h5", labels[:90], alone))
    assert decision(with_strangers) == decision(without)
    assert any("10 unlabelled" in note for note in with_strangers.notes)


def test_a_test_part_is_cut_by_class(tmp_path):
    labels, made = draw(90)
    comparison = compare(write(tmp_path / "a.h5", labels, made), test_size=0.2)
    assert comparison.recommended.protocol == "test"
    assert comparison.recommended.n_test == 18
    assert [comparison.labels.count(name) for name in CLASS_NAMES] == [6, 6, 6]


def test_metric_chooses_and_is_shown(tmp_path):
    labels, made = draw(80)
    labels[20:] = 0  # seven of eight images are ants
    path = write(tmp_path / "a.h5", labels, made, class_names=CLASS_NAMES)
    plain = compare(path, depths=["layer1"]).recommended
    comparison = compare(path, depths=["layer1"], metric="balanced_accuracy")
    assert comparison.recommended.cv_accuracy < plain.cv_accuracy
    assert comparison.metric == "balanced_accuracy"


def test_several_files_and_joined_depths_share_one_table(tmp_path):
    labels, made = draw(60)
    _, others = draw(60, width=5, seed=9, depths={"penultimate": 1.0})
    order = np.random.default_rng(0).permutation(60)
    files = [
        write(tmp_path / "a.h5", labels, made),
        write(tmp_path / "b.h5", labels, others, order=order),
    ]
    comparison = compare(files, depths=["layer1+layer2", "penultimate"])
    by_depth = {score.depth: score for score in comparison.scores}
    assert set(by_depth) == {"layer1:avg+layer2:avg", "penultimate"}
    assert by_depth["layer1:avg+layer2:avg"].width == 24
    (alone,) = compare(write(tmp_path / "c.h5", labels, others)).scores
    assert by_depth["penultimate"].test_predicted == alone.test_predicted
    side_by_side = {"both": np.hstack(list(made.values()))}
    (joined,) = compare(write(tmp_path / "d.h5", labels, side_by_side)).scores
    assert by_depth["layer1:avg+layer2:avg"].test_predicted == joined.test_predicted


def test_progress_counts_every_fit(tmp_path):
    labels, made = draw(60)
    seen = []
    compare(
        write(tmp_path / "a.h5", labels, made),
        classifiers=("nearest-mean", "knn"),
        folds=2,
        progress=lambda done, total, what: seen.append((done, total, what)),
    )
    assert [done for done, _, _ in seen] == [0, 1, 2, 3, 4]
    assert {total for _, total, _ in seen} == {4}
    assert seen[0][2] == "nearest-mean on layer1:avg"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"classifiers": ["logstic"]}, "no classifier 'logstic'; choose from linear"),
        ({"classifiers": "linear"}, "is not a list"),
        ({"metric": "auc"}, "no metric 'auc'; choose from accuracy"),
        ({"depths": ["layer9"]}, "no depth 'layer9'; choose from layer1:avg"),
        ({"folds": 1}, "folds=1"),
        ({"test_size": 1.5}, "test_size=1.5 is not a share"),
        ({"test_size": 0.001}, "holds out none"),
        ({"class_weight": {"dog": 2.0}}, "'dog', which is no class"),
    ],
)
def test_senseless_options_are_refused_before_any_fit(tmp_path, options, says):
    labels, made = draw(30)
    path = write(tmp_path / "a.h5", labels, made)
    with pytest.raises(ValueError, match=says):
        featpipe.compare(path, **options)


def test_one_class_is_one_clear_error(tmp_path):
    labels, made = draw(30)
    path = write(tmp_path / "a.h5", labels * 0, made)
    with pytest.raises(ValueError, match=r"all of class 'ant'.*at least two classes"):
        featpipe.compare(path)


def test_no_labels_is_one_clear_error(tmp_path):
    labels, made = draw(30)
    path = write(tmp_path / "a.h5", labels * 0 - 1, made, class_names=["ant"])
    with pytest.raises(ValueError, match=r"not one image in .* has a label"):
        featpipe.compare(path)


def test_no_files_is_an_error():
    with pytest.raises(ValueError, match="at least one codes file"):
        featpipe.compare([])


def test_rows_that_learned_nothing_are_marked_and_the_remedy_named(tmp_path):
    labels, made = draw(200, depths={"noise:avg": 0.0})
    labels[:] = np.arange(200) % 20 == 0  # 95 ants in 100 for each bee in 20
    splits = ["train", "test"] * 100
    splits = [splits[i // 20] for i in range(200)]
    path = write(tmp_path / "a.h5", labels, made, splits=splits)
    comparison = compare(path, classifiers=("linear", "logistic"))
    assert comparison.majority_accuracy == 0.95
    for score in comparison.scores:
        assert score.majority_p_value > 0.05
        assert score.better_than_majority is False
    notes = " ".join(comparison.notes)
    assert "2 of 2 rows, marked !, are not told apart" in notes
    assert "'ant', which is right for 95.0 %" in notes
    assert "--metric balanced_accuracy --class-weight balanced" in notes


def test_a_row_better_than_the_most_frequent_class_is_not_marked(tmp_path):
    labels, made = draw(120, depths={"a:avg": 2.0})
    path = write(tmp_path / "a.h5", labels, made, splits=splits_of(120, "train", "val"))
    comparison = compare(path)
    (score,) = comparison.scores
    correct = np.array(score.test_predicted) == np.array(comparison.labels)
    always = np.array(comparison.labels) == "ant"
    gains, losses = (correct & ~always).sum(), (always & ~correct).sum()
    exact = stats.binomtest(gains, gains + losses, alternative="greater").pvalue
    assert score.better_than_majority is True
    assert score.majority_p_value == pytest.approx(exact, abs=2e-4)
    assert not any("marked !" in note for note in comparison.notes)


def test_too_few_groups_for_any_difference_are_said_with_the_rows_counted(tmp_path):
    labels, made = draw(120, depths={"a:avg": 1.5, "b:avg": 0.1, "c:avg": 1.4})
    groups = [f"g{i // 10}" for i in range(120)]
    splits = splits_of(120, "train", "test")  # six groups to judge by
    path = write(tmp_path / "a.h5", labels, made, groups=groups, splits=splits)
    # Two rows: 2^-5 = 0.031 may be significant. Three: twice that is not.
    two = compare(path, depths=["a", "b"]).notes
    assert not any("no difference can be significant" in note for note in two)
    three = compare(path).notes
    assert any("no difference can be significant" in note for note in three)


def test_equal_rows_inside_a_fold_are_chosen_by_width_then_as_asked(tmp_path):
    labels, made = draw(60, depths={"a:avg": 1.0})
    X = made["a:avg"]
    # The same row twice: what is chosen inside the folds cannot depend on their order.
    both = {"first:avg": X, "second:avg": X.copy()}
    path = write(tmp_path / "a.h5", labels, both)
    one = compare(path, depths=["first", "second"])
    two = compare(path, depths=["second", "first"])
    alone = compare(path, depths=["first"]).recommended
    assert one.headline == two.headline
    assert f"{100 * alone.accuracy:.1f} %" in one.headline
    assert one.recommended.depth == "first:avg"
    assert two.recommended.depth == "second:avg"
