"""Rivals, ensemble, scikit-learn's classifiers, files written, the table printed."""

import csv
import json
from dataclasses import replace

import numpy as np
import pytest
from drawn_codes import CLASS_NAMES, draw, splits_of, write
from rich.console import Console

import featpipe
from featpipe import protocol, scores

CS = (1e-2, 1e-1, 1.0)


@pytest.fixture(scope="module")
def comparison(tmp_path_factory):
    labels, made = draw()
    path = tmp_path_factory.mktemp("table") / "pets.h5"
    write(path, labels, made, splits=splits_of(90, "train", "val"))
    return featpipe.compare(path, classifiers=["linear", "lda", "ensemble"], Cs=CS)


def printed(renderable, width=80):
    console = Console(width=width)
    with console.capture() as capture:
        console.print(renderable)
    return capture.get()


def test_the_table_fits_eighty_columns_and_marks_rows(comparison):
    text = printed(comparison)
    assert max(map(len, text.splitlines())) <= 80
    assert sum(line.lstrip().startswith("★ ") for line in text.splitlines()) == 2
    for score in comparison.scores:
        assert f"{100 * score.accuracy:.1f} [" in text
    assert "Accuracy on 45 images" in " ".join(text.split())
    assert "held out and choose nothing" in " ".join(text.split())


def test_the_difference_to_the_recommended_row_stands_in_the_table(comparison):
    wide = printed(comparison, width=120)
    truth = np.array(comparison.labels)
    best = np.array(comparison.recommended.test_predicted) == truth
    for score in comparison.scores[1:]:
        correct = np.array(score.test_predicted) == truth
        difference, low, high = scores.difference_interval(correct, best)
        assert score.difference == pytest.approx(score.accuracy - best.mean())
        limits = f"[{100 * low:.1f}, {100 * high:.1f}]"
        assert f"{100 * difference:.1f} {limits}" in wide
        assert limits in printed(comparison)


def test_folds_are_headed_by_the_nested_figure_and_called_too_narrow(tmp_path):
    labels, made = draw(60)
    path = write(tmp_path / "a.h5", labels, made)
    here = featpipe.compare(path, classifiers=["linear"], Cs=CS)
    text = printed(here, width=200)
    first = text.splitlines()[0]
    assert first.startswith("To expect of the recommended row: ")
    assert "95 % (too narrow)" in text
    assert "(too narrow)" not in printed(featpipe.compare(
        path, classifiers=["linear"], Cs=CS, test_size=0.3
    ), width=200)  # fmt: skip


def test_the_metric_that_chooses_has_a_column(tmp_path):
    labels, made = draw(60)
    path = write(tmp_path / "a.h5", labels, made, splits=splits_of(60, "train", "val"))
    here = featpipe.compare(path, classifiers=["linear"], Cs=CS, metric="macro_f1")
    for width in (80, 120):
        text = printed(here, width=width)
        assert "F1 %" in text
        assert max(map(len, text.splitlines())) <= width
        for score in here.scores:
            assert f" {100 * score.macro_f1:.1f} " in text


def test_a_comparison_is_one_line_and_a_table_in_a_notebook(comparison):
    best = comparison.recommended
    assert repr(comparison) == (
        f"<Comparison of {len(comparison.scores)} rows on 45 images: "
        f"{best.classifier} on {best.depth}, {100 * best.accuracy:.1f} %>"
    )
    odd = replace(comparison.scores[0], depth="<b>&layer")
    html = replace(comparison, scores=[odd, *comparison.scores[1:]])._repr_html_()
    assert html.count("<tr>") == 1 + len(comparison.scores)
    assert "&lt;b&gt;&amp;layer" in html
    assert "<b>" not in html


def test_names_are_shown_as_they_are_not_as_markup(comparison):
    odd = replace(comparison.scores[0], depth="[b]layer2[/b]", codes="[red]pets.h5")
    shown = printed(replace(comparison, scores=[odd, comparison.scores[1]]), width=120)
    assert "[b]layer2[/b]" in shown
    assert "[red]pets" in shown


def test_the_frame_and_the_csv_hold_the_record_without_predictions(
    comparison, tmp_path
):
    comparison.write_csv(tmp_path / "s.csv")
    with (tmp_path / "s.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    frame = comparison.to_frame()
    assert list(frame.columns) == list(rows[0])
    assert list(rows[0]) == list(comparison.scores[0].as_dict())[:-2]
    for row, score in zip(rows, comparison.scores, strict=True):
        assert float(row["accuracy"]) == score.accuracy
        assert json.loads(row["C_curve"]) == score.C_curve
        assert row["C"] == ("" if score.C is None else str(score.C))


def test_the_json_reads_back_as_the_same_scores(comparison, tmp_path):
    comparison.write_json(tmp_path / "s.json")
    assert scores.read_json(tmp_path / "s.json") == comparison.scores


def test_predictions_have_a_column_for_each_contender(comparison, tmp_path):
    comparison.write_predictions(tmp_path / "p.csv")
    with (tmp_path / "p.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0][:4] == [
        "path", "truth", "split",
        f"{comparison.recommended.classifier}@{comparison.recommended.depth}",
    ]  # fmt: skip
    assert len(set(rows[0])) == 3 + len(comparison.scores)
    assert [row[0] for row in rows[1:]] == comparison.paths
    assert [row[3] for row in rows[1:]] == comparison.recommended.test_predicted
    assert {row[2] for row in rows[1:]} == {"val"}


def test_paths_that_are_not_utf8_come_out_as_their_bytes(tmp_path):
    labels, made = draw(30)
    paths = [f"a\udcff{i:02d}.png" for i in range(30)]
    path = write(tmp_path / "a.h5", labels, made, paths=paths)
    here = featpipe.compare(path, classifiers=["nearest-mean"])
    here.write_predictions(tmp_path / "p.csv")
    assert b"a\xff00.png,ant" in (tmp_path / "p.csv").read_bytes()
    here.write_json(tmp_path / "s.json")
    assert scores.read_json(tmp_path / "s.json")[0].test_paths == paths


def test_the_ensemble_averages_the_logistic_rows(tmp_path):
    labels, made = draw(90, depths={"a:avg": 0.8, "b:avg": 0.8})
    path = write(tmp_path / "a.h5", labels, made, splits=splits_of(90, "train", "val"))
    here = featpipe.compare(path, classifiers=["logistic", "ensemble"], Cs=CS)
    (together,) = [s for s in here.scores if s.classifier == "ensemble"]
    chosen = {s.depth: s.C for s in here.scores if s.classifier == "logistic"}
    probabilities = []
    for depth, C in chosen.items():
        model = featpipe.LogisticClassifier(C=C).fit(made[depth][:45], labels[:45])
        probabilities.append(model.predict_proba(made[depth][45:]))
    mean = np.mean(probabilities, axis=0)
    assert together.depth == "a:avg+b:avg"
    assert (together.C, together.C_curve, together.width) == (None, [], 24)
    assert together.test_predicted == [CLASS_NAMES[i] for i in mean.argmax(1)]
    truth = mean[np.arange(45), labels[45:]]
    assert together.log_loss == pytest.approx(-np.log(truth).mean(), rel=1e-3)


def test_the_ensemble_leaves_out_a_depth_that_does_not_help(tmp_path):
    depths = {"a:avg": 1.2, "noise:avg": 0.0, "b:avg": 1.2}
    labels, made = draw(120, depths=depths)
    path = write(tmp_path / "a.h5", labels, made, splits=splits_of(120, "train", "val"))
    here = featpipe.compare(path, classifiers=["ensemble"], Cs=CS)
    assert [s.depth for s in here.scores] == ["a:avg+b:avg"]


def test_an_ensemble_of_one_depth_is_refused(tmp_path):
    labels, made = draw(30)
    path = write(tmp_path / "a.h5", labels, made)
    with pytest.raises(ValueError, match="at least two depths"):
        featpipe.compare(path, classifiers=["ensemble"], depths=["layer1"])


def test_classifiers_without_C_come_from_scikit_learn(tmp_path):
    labels, made = draw(90)
    path = write(tmp_path / "a.h5", labels, made, splits=splits_of(90, "train", "val"))
    here = featpipe.compare(
        path, classifiers=["knn", "nearest-mean", "lda"], depths=["layer2"],
        class_weight="balanced",
    )  # fmt: skip
    X = made["layer2:avg"]
    Z = (X - X[:45].mean(0)) / X[:45].std(0)
    means = np.array([Z[:45][labels[:45] == k].mean(0) for k in range(3)])
    nearest = ((Z[45:, None] - means) ** 2).sum(-1).argmin(1)
    unit = Z / np.linalg.norm(Z, axis=1, keepdims=True)
    closest = np.argsort(-unit[45:] @ unit[:45].T, axis=1)[:, :5]
    votes = np.array([np.bincount(labels[row], minlength=3) for row in closest])
    by_name = {score.classifier: score for score in here.scores}
    for name, predicted in (("nearest-mean", nearest), ("knn", votes.argmax(1))):
        assert by_name[name].test_predicted == [CLASS_NAMES[k] for k in predicted]
        assert by_name[name].log_loss is None
        assert by_name[name].C is None
    assert by_name["lda"].log_loss > 0
    assert any("class_weight does not apply" in note for note in here.notes)


def rival(comparison, tmp_path, **changes):
    claims = {"classifier": "finetune", "cv_accuracy": None, "C": None}
    claims |= {"accuracy_low": 0.0, "balanced_accuracy": 0.3, "macro_f1": 0.2}
    score = replace(comparison.recommended, **claims | changes)
    scores.write_json(tmp_path / "f.json", [score], seed=0)
    return tmp_path / "f.json"


def judged_as(comparison, predicted, **changes):
    truth = np.array(comparison.labels)
    return {"test_predicted": list(predicted),
            "accuracy": float((truth == predicted).mean()), **changes}  # fmt: skip


def again(comparison, file):
    return featpipe.compare(
        comparison.recommended.codes, classifiers=["linear"], Cs=CS, with_=[file]
    )


def test_a_rival_enters_the_table_and_the_tests_but_is_not_recommended(
    comparison, tmp_path
):
    perfect = judged_as(comparison, comparison.labels)
    # Its own order of the images must not matter.
    backwards = {
        "test_paths": comparison.paths[::-1],
        "test_predicted": comparison.labels[::-1],
    }
    here = again(comparison, rival(comparison, tmp_path, **perfect | backwards))
    last = here.scores[-1]
    assert (last.classifier, last.recommended) == ("finetune", False)
    correct = np.array(here.recommended.test_predicted) == np.array(here.labels)
    raw = [scores.mcnemar(correct, np.array(s.test_predicted) == np.array(here.labels))
           for s in here.scores[1:-1]]  # fmt: skip
    raw.append(scores.mcnemar(correct, np.ones(45, bool)))
    assert last.p_value == scores.holm(raw)[-1]
    # What the file claims of itself is judged anew.
    assert (last.accuracy_low, last.accuracy_high) == scores.exact(45, 45)
    assert (last.balanced_accuracy, last.macro_f1) == (1.0, 1.0)
    here.write_predictions(tmp_path / "p.csv")
    with (tmp_path / "p.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    title = f"finetune@{last.depth}"
    assert [row[title] for row in rows] == comparison.labels


def test_a_rival_judged_on_other_images_is_refused(comparison, tmp_path):
    file = rival(
        comparison, tmp_path, test_paths=["images/x.png", *comparison.paths[1:]]
    )
    with pytest.raises(ValueError, match=r"f\.json' was judged on other images"):
        again(comparison, file)


def test_a_rival_with_other_labels_is_refused(comparison, tmp_path):
    with pytest.raises(ValueError, match=r"claims accuracy 0\.0123"):
        again(comparison, rival(comparison, tmp_path, accuracy=0.0123))


def test_a_rival_by_another_program_may_round_and_miscount(comparison, tmp_path):
    shouted = [name.upper() for name in comparison.labels[:1]] + comparison.labels[1:]
    claims = judged_as(comparison, shouted, n_test=7)
    claims["accuracy"] = round(claims["accuracy"], 3)
    last = again(comparison, rival(comparison, tmp_path, **claims)).scores[-1]
    assert (last.n_test, last.accuracy) == (45, 44 / 45)
    assert f"predicts {shouted[0]!r}, which is no class" in " ".join(last.warnings)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"test_paths": [], "test_predicted": []}, "does not tell which image was"),
        ({"log_loss": -3.0}, "log_loss is -3.0, below 0"),
        ({"fit_seconds": -1.0}, "fit_seconds is -1.0, below 0"),
    ],
)
def test_a_rival_that_cannot_be_is_refused(changes, message, comparison, tmp_path):
    with pytest.raises(ValueError, match=message):
        again(comparison, rival(comparison, tmp_path, **changes))


def test_a_rival_without_any_score_is_refused(comparison, tmp_path):
    scores.write_json(tmp_path / "f.json", [], seed=0)
    with pytest.raises(ValueError, match=r"f\.json' holds no score; leave it out"):
        again(comparison, tmp_path / "f.json")


def test_a_rival_of_the_first_fold_is_paired_on_that_fold(tmp_path):
    labels, made = draw(60)
    path = write(tmp_path / "a.h5", labels, made)
    plain = featpipe.compare(path, classifiers=["linear"], Cs=CS, seed=2)
    held = protocol.folds(labels, seed=2)[0][1]
    fold = {
        "test_paths": [plain.paths[i] for i in held],
        "test_predicted": [plain.labels[i] for i in held],
        "accuracy": 1.0,
    }
    file = rival(plain, tmp_path, **fold)
    here = featpipe.compare(path, classifiers=["linear"], Cs=CS, seed=2, with_=[file])
    last = here.scores[-1]
    assert any("first fold only (12 of 60" in text for text in last.warnings)
    correct = np.array(here.recommended.test_predicted) == np.array(here.labels)
    everyone = [np.array(s.test_predicted) == np.array(here.labels)
                for s in here.scores[:-1]]  # fmt: skip
    columns = [*(each[held] for each in everyone), np.ones(12, bool)]
    assert last.p_value == scores.max_t(
        np.column_stack(columns), variance_ratio=2.25, seed=2
    )[-1]  # fmt: skip
    assert last.p_value >= scores.mcnemar(correct[held], np.ones(12, bool))
    assert last.difference == 1 - correct[held].mean()


def test_a_rivals_own_cross_validated_score_is_left_blank(comparison, tmp_path):
    file = rival(comparison, tmp_path, cv_accuracy=0.999)
    here = again(comparison, file)
    assert here.scores[-1].classifier == "finetune"
    assert here.scores[-1].cv_accuracy is None
    assert any("99.9 %, is of other images" in note for note in here.notes)
