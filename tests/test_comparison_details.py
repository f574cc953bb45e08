"""What is printed below the table: classes, confusions, mistakes, images needed."""

import io

import numpy as np
import pytest
from drawn_codes import draw, splits_of, write
from rich.console import Console
from scipy.stats import binom
from sklearn.metrics import recall_score
from typer.testing import CliRunner

import featpipe
from featpipe.cli.app import app
from featpipe.comparison.details import describe_details, mistakes
from featpipe.scores import images_needed


def printed(result, width=80, terminal=False):
    out = io.StringIO()
    console = Console(file=out, width=width, force_terminal=terminal, no_color=False)
    for part in describe_details(result):
        console.print(part)
    return out.getvalue()


def compared(tmp_path, *, n_classes=3, n=150, classifiers=("svm", "logistic"), **more):
    labels, made = draw(n, n_classes=n_classes, depths={"layer1:avg": 0.4})
    splits = splits_of(n, "train", "train", "test")
    file = write(tmp_path / "c.h5", labels, made, splits=splits, **more)
    return featpipe.compare(file, classifiers=list(classifiers))


def test_mistakes_are_those_of_the_recommended_row_most_confident_first(tmp_path):
    comparison = compared(tmp_path)
    wrong = mistakes(comparison)
    predicted = comparison.recommended.test_predicted
    triples = zip(comparison.paths, comparison.labels, predicted, strict=True)
    assert {m[:3] for m in wrong} == {t for t in triples if t[1] != t[2]}
    sure = [m.confidence for m in wrong]
    assert sure == sorted(sure, reverse=True)
    assert len(wrong) > 2


def test_confidence_is_the_probability_of_the_predicted_class(tmp_path):
    comparison = compared(tmp_path, classifiers=["logistic"])
    best = comparison.recommended
    codes = featpipe.read(best.codes)
    X, y = codes.arrays(best.depth, "train")
    model = featpipe.LogisticClassifier(C=best.C).fit(X, y)
    p = model.predict_proba(codes.arrays(best.depth, "test")[0])
    np.testing.assert_allclose(comparison.confidence, p.max(axis=1), atol=1e-3)


def test_without_probabilities_mistakes_come_by_path(tmp_path):
    comparison = compared(tmp_path, classifiers=["svm"])
    assert comparison.confidence is None
    paths = [m.path for m in mistakes(comparison)]
    assert paths == sorted(paths)
    text = printed(comparison)
    assert "sure %" not in text
    assert paths[0] in text


def test_classes_are_listed_with_their_recall_the_worst_first(tmp_path):
    comparison = compared(tmp_path)
    text = printed(comparison)
    predicted = comparison.recommended.test_predicted
    for name in ("ant", "bee", "cat"):
        recall = recall_score(
            comparison.labels, predicted, labels=[name], average="macro"
        )
        (line,) = [line for line in text.splitlines()
                   if line.split()[:1] == [name] and line.count(".") == 3]  # fmt: skip
        assert line.split()[2] == f"{100 * recall:.1f}"


def test_many_classes_are_shown_as_the_pairs_confused_most(tmp_path):
    names = [f"class {k}" for k in range(12)]
    comparison = compared(tmp_path, n_classes=12, n=180, class_names=names)
    text = printed(comparison)
    assert "the worst 10 of 12" in text
    assert "Confused most" in text
    assert "Label (lines)" not in text


def test_lines_hold_at_80_columns_and_colours_stay_on_terminals(tmp_path):
    paths = [f"{'long/' * 12}[red]{i}\udcff.png" for i in range(150)]
    comparison = compared(tmp_path, paths=paths)
    text = printed(comparison)
    assert max(map(len, text.splitlines())) <= 80
    assert "\x1b" not in text
    assert "[red]" in text.replace("\n", "")
    assert "\x1b[31m" in printed(comparison, terminal=True)


def test_the_command_prints_them_below_the_table(tmp_path):
    compared(tmp_path)
    options = ["compare", str(tmp_path / "c.h5"), "--classifiers", "logistic"]
    done = CliRunner(env={"COLUMNS": "80"}).invoke(app, options)
    assert done.exit_code == 0, done.output
    assert done.output.index("★") < done.output.index("mistakes")
    assert "\x1b" not in done.output


@pytest.mark.parametrize(
    ("difference", "discordance"), [(0.05, 0.1), (0.02, 0.06), (0.1, 0.2)]
)
def test_so_many_images_show_the_difference_four_times_of_five(difference, discordance):
    n = int(images_needed(difference, discordance))
    # The exact power: how many images differ, then how many of these the better wins.
    win = (discordance + difference) / 2 / discordance
    power = 0.0
    for m in range(n + 1):
        weight = binom.pmf(m, n, discordance)
        if weight > 1e-6 and m:
            wins = np.arange(m + 1)
            # McNemar's exact test, two-sided; a little weaker than Connor's formula.
            shown = 2 * binom.cdf(np.minimum(wins, m - wins), m, 0.5) <= 0.05
            power += weight * binom.pmf(wins, m, win)[shown].sum()
    assert 0.7 < power < 0.85


def test_no_difference_takes_more_images_than_there_are():
    assert images_needed(0.0, 0.1) == np.inf
    assert images_needed(-0.05, 0.1) == images_needed(0.05, 0.1)
