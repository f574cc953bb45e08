"""The report: its numbers by another way, and nothing of an image's name as markup."""

import json
import re
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from drawn_codes import draw, splits_of, write
from PIL import Image
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.metrics import confusion_matrix, f1_score, log_loss
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from typer.testing import CliRunner

import featpipe
from featpipe.cli.app import app
from featpipe.comparison import gather_warnings
from featpipe.comparison.learning_curve import learning_curve
from featpipe.protocol import folds
from featpipe.report import doubtful_labels, make_report, making
from featpipe.report.out_of_sample import out_of_sample
from featpipe.report.plots import plot_C_curves
from featpipe.report.projection import project, sample_rows
from featpipe.report.thumbnails import make_sheet

pytest.importorskip("bokeh", reason="the extra `report` is not installed")
pytest.importorskip("jinja2", reason="the extra `report` is not installed")
pytest.importorskip("matplotlib", reason="the extra `report` is not installed")

EVIL = ["<script>alert('x')</script>", "\"quoted\" & 'single'", "שלום 🐝 $x^2$"]


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    labels, made = draw(150)
    splits = splits_of(150, "train", "train", "test")
    folder = tmp_path_factory.mktemp("report")
    return write(folder / "codes.h5", labels, made, splits=splits)


@pytest.fixture(scope="module")
def comparison(file):
    return featpipe.compare(file, classifiers=["logistic", "linear"])


@pytest.fixture(scope="module")
def report(file, comparison):
    return make_report(file, comparison.scores, notes=comparison.notes)


def test_confident_learning_equals_the_paper_spelled_out():
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.ones(4), size=200)
    labels = rng.integers(0, 4, 200)
    threshold = [p[labels == k, k].mean() for k in range(4)]
    doubtful = doubtful_labels(p, labels)
    for i in range(200):
        above = [k for k in range(4) if p[i, k] >= threshold[k]]
        counted = max(above, key=lambda k: p[i, k]) if above else labels[i]
        assert doubtful.suspected[i] == (counted != labels[i])
        others = [p[i, k] for k in range(4) if k != labels[i]]
        assert doubtful.margin[i] == pytest.approx(p[i, labels[i]] - max(others))
    assert (np.diff(doubtful.margin[doubtful.order]) >= 0).all()


def test_changed_labels_come_first_among_the_doubtful():
    from sklearn.datasets import load_digits

    X, y = load_digits(return_X_y=True)
    X, y = X[:600].astype(np.float32), y[:600]
    rng = np.random.default_rng(0)
    changed = rng.choice(600, 30, replace=False)
    copied = y.copy()
    copied[changed] = (y[changed] + rng.integers(1, 10, 30)) % 10
    p = out_of_sample(X, copied, np.zeros(600, bool), C=0.01)
    first = doubtful_labels(p, copied).order[:30]
    assert len(np.intersect1d(first, changed)) >= 26


def test_out_of_sample_probabilities_are_those_of_fits_without_the_image():
    labels, made = draw(90)
    X, judged = made["layer1:avg"], np.arange(90) >= 60
    probabilities = out_of_sample(X, labels, judged, C=0.1)

    def plain(fitted, options):
        model = make_pipeline(
            StandardScaler(), LogisticRegression(C=0.1, tol=1e-8, max_iter=2000)
        )
        return model.fit(X[fitted], labels[fitted]).predict_proba(X[options])

    expected = np.empty_like(probabilities)
    expected[60:] = plain(np.arange(60), np.arange(60, 90))
    for fitted, left_out in folds(labels[:60]):
        expected[left_out] = plain(fitted, left_out)
    np.testing.assert_allclose(probabilities, expected, atol=2e-3)


def test_the_probabilities_of_linear_are_scaled_ridge_scores_of_fits_without_it():
    labels, made = draw(90)
    X, judged = made["layer1:avg"], np.arange(90) >= 60
    probabilities = out_of_sample(X, labels, judged, classifier="linear", C=0.1)
    scores = np.empty_like(probabilities)

    def plain(fitted, options):
        model = make_pipeline(StandardScaler(), RidgeClassifier(alpha=1 / 0.2))
        return model.fit(X[fitted], labels[fitted]).decision_function(X[options])

    scores[60:] = plain(np.arange(60), np.arange(60, 90))
    for fitted, left_out in folds(labels[:60]):
        scores[left_out] = plain(fitted, left_out)

    def loss(scale):
        return log_loss(labels[:60], softmax(scale * scores[:60], axis=1))

    # One factor for all, and no other explains the cross-validated labels better.
    scale = np.log(probabilities[0, 0] / probabilities[0, 1]) / (
        scores[0, 0] - scores[0, 1]
    )
    np.testing.assert_allclose(
        probabilities, softmax(scale * scores, axis=1), atol=1e-5
    )
    assert loss(scale) < min(loss(0.99 * scale), loss(1.01 * scale))


def test_two_classes_and_a_class_the_fit_never_saw_have_probabilities_of_linear():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(60, 5)).astype(np.float32)
    labels = np.arange(60) % 2
    probabilities = out_of_sample(
        X, labels, np.zeros(60, bool), classifier="linear", C=0.1
    )
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)
    labels[-1], judged = 2, np.arange(60) == 59
    probabilities = out_of_sample(X, labels, judged, classifier="linear")
    assert probabilities.shape == (60, 3)
    assert (probabilities[:, 2] == 0).all()


def test_a_large_sheet_has_the_best_quality_that_fits(monkeypatch):
    from featpipe.report import thumbnails

    rng = np.random.default_rng(0)
    tiles = rng.integers(0, 256, (20, 20, 3), np.uint8)
    sheet = Image.fromarray(tiles).resize((640, 640), Image.Resampling.BICUBIC)
    sizes = [len(thumbnails._encode(sheet, q)) for q in thumbnails._QUALITIES]
    for size in sizes:  # a few lines tell a size to a tenth
        monkeypatch.setattr(thumbnails, "_MOST_BYTES", int(1.1 * size))
        assert len(thumbnails._webp(sheet, 32)) == size
    monkeypatch.setattr(thumbnails, "_MOST_BYTES", 10)
    assert len(thumbnails._webp(sheet, 32)) == sizes[-1]


def test_the_learning_curve_ends_at_the_fit_on_all_images():
    labels, made = draw(150)
    X = made["layer1:avg"]
    train, judged = np.arange(100), np.arange(100, 150)
    curve = learning_curve(X, labels, train, judged, C=0.1, n_draws=4)
    assert [point.n_per_class for point in curve.points] == [5, 10, 20, 34]
    assert [len(point.accuracies) for point in curve.points] == [4, 4, 4, 1]
    model = featpipe.LogisticClassifier(C=0.1).fit(X[train], labels[train])
    assert curve.points[-1].mean == (model.predict(X[judged]) == labels[judged]).mean()
    first = curve.points[0]
    half = 3.182446 * np.std(first.accuracies, ddof=1) / 2  # t of 3 degrees, 4 draws
    assert first.mean - first.low == pytest.approx(half, abs=1e-6)
    assert learning_curve(X, labels, train, judged, C=0.1, n_draws=4) == curve
    with pytest.raises(ValueError, match="two classes"):
        learning_curve(X, labels, train[:1], judged)


def test_the_findings_are_those_of_the_recommended_row(report, comparison):
    f = report.findings
    truth = np.array(comparison.labels)
    predicted = np.array(comparison.recommended.test_predicted)
    names = f.class_names
    np.testing.assert_array_equal(
        f.confusion, confusion_matrix(truth, predicted, labels=names)
    )
    by_name = {each.name: each.f1 for each in f.class_scores}
    plain = f1_score(truth, predicted, labels=names, average=None)
    assert by_name == pytest.approx(dict(zip(names, plain, strict=True)))
    wrong = {path for path, a, b in zip(comparison.paths, truth, predicted, strict=True)
             if a != b}  # fmt: skip
    assert {f.codes.paths[f.rows[i]] for i in f.mistakes} == wrong
    assert (np.diff(f.confidence[f.mistakes]) <= 0).all()


def test_the_same_seed_draws_the_same_map():
    X = np.random.default_rng(0).normal(size=(60, 8))
    np.testing.assert_array_equal(project(X)[0], project(X)[0])
    assert sample_rows(7000).tolist() == sample_rows(7000).tolist()
    assert len(sample_rows(7000)) == 5000
    assert project(X[:3])[0].shape == (3, 2)
    assert project(X[:1])[0].shape == (1, 2)


class Outside(HTMLParser):
    """Collects what a page would load or run."""

    def __init__(self):
        super().__init__()
        self.tags, self.addresses = [], []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        for name, value in attributes:
            if name in ("src", "href", "action") or name.startswith("on"):
                self.addresses.append((tag, name, value))


def test_the_page_loads_nothing_and_is_small(report, tmp_path):
    report.write(tmp_path / "r.html")
    text = (tmp_path / "r.html").read_text()
    assert len(text) < 10_000_000
    seen = Outside()
    seen.feed(text)
    outside = [a for a in seen.addresses if not a[2].startswith(("#", "data:,"))]
    assert outside == []
    assert f"{100 * report.findings.recommended.accuracy:.1f} %" in text
    for words in ("not available", "Use ", "featpipe compare", "Would more labels"):
        assert words in text


def test_a_warning_is_one_line_for_all_its_rows(report, comparison, file, tmp_path):
    def lines(report, path):
        report.write(path)
        return re.findall(r"<li>(.*?)</li>", path.read_text())

    scores = comparison.scores
    for score, n in zip(scores, (4, 9, 6, 5), strict=False):
        score.warnings.append(f"{n} of 45 values were not solved")
    notes = list(gather_warnings(scores))
    told = "of 45 values were not solved"
    # Of a file of scores, and beside the notes of a comparison that was made now.
    for given in ([], notes):
        shown = lines(replace(report, notes=given), tmp_path / "page.html")
        (line,) = [line for line in shown if told in line]
        assert line.endswith(f"4 to 9 {told}")
        assert len(set(shown)) == len(shown)
    for score in scores[:4]:
        score.warnings.pop()


def test_the_names_of_the_curves_of_C_cover_no_curve(comparison):
    ax = plot_C_curves(comparison.scores)
    ax.figure.draw_without_rendering()
    names = ax.get_legend().get_window_extent()
    assert not names.overlaps(ax.get_window_extent())
    assert ax.figure.bbox.x1 >= names.x1


def test_names_are_text_whatever_is_in_them(tmp_path):
    labels, made = draw(60)
    paths = [f"{EVIL[i % 3]}/{i}\udcff.png" for i in labels.tolist()]
    paths = [f"{i}-{path}" for i, path in enumerate(paths)]
    splits = splits_of(60, "train", "test")
    file = write(
        tmp_path / "evil.h5",
        labels,
        made,
        splits=splits,
        paths=paths,
        class_names=sorted(EVIL),
    )
    report = make_report(file)
    report.write(tmp_path / "evil.html")
    assert len(report.write_png(tmp_path / "plots")) == 6
    text = (tmp_path / "evil.html").read_text()
    assert "<script>alert" not in text
    assert "&lt;script&gt;alert" in text
    assert "\u003cscript\u003ealert" not in text.split('id="data"')[1][:200]
    (data,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>',
                         text, re.DOTALL)  # fmt: skip
    assert json.loads(data)["names"] == sorted(EVIL)


def test_unlabelled_images_get_a_map_of_clusters(tmp_path):
    _, made = draw(60)
    path = write(tmp_path / "u.h5", np.full(60, -1), made, class_names=["ant"])
    out = tmp_path / "u.html"
    done = CliRunner().invoke(app, ["report", str(path), "-o", str(out)])
    assert done.exit_code == 0, done.output
    text = out.read_text()
    assert "60 images without labels" in text
    assert "cluster 1" in text
    assert 'id="scores"' not in text


def test_pictures_are_shown_only_if_they_are_those_of_the_codes(photos):
    codes = featpipe.extract(photos, photos.parent / "codes.h5", backbone="mini")
    sheet = make_sheet(codes, range(6))
    assert sorted(sheet.place) == list(range(6))
    assert sheet.webp[8:12] == b"WEBP"
    changed = Path(codes.images_root) / codes.paths[2]
    changed.write_bytes(changed.read_bytes() + b"x")
    (Path(codes.images_root) / codes.paths[4]).unlink()
    sheet = make_sheet(codes, range(6))
    assert sorted(sheet.place) == [0, 1, 3, 5]
    assert "changed" in sheet.missing[2]
    assert "no such file" in sheet.missing[4]


def test_compare_and_report_write_the_page_and_the_plots(file, tmp_path):
    page, scores = tmp_path / "a.html", tmp_path / "s.json"
    options = ["--classifiers", "logistic", "--json", scores, "--report", page]
    done = CliRunner().invoke(app, ["compare", str(file), *map(str, options)])
    assert done.exit_code == 0, done.output
    assert "near-duplicates" in page.read_text()
    options = ["--scores", scores, "--png", tmp_path / "plots"]
    done = CliRunner().invoke(app, ["report", str(file), *map(str, options)])
    assert done.exit_code == 0, done.output
    names = {path.stem for path in (tmp_path / "plots").iterdir()}
    assert names == {"accuracy-by-depth", "C-curves", "confusion", "class-scores",
                     "learning-curve", "map"}  # fmt: skip
    done = CliRunner().invoke(app, ["report", str(file), "-o", str(file)])
    assert done.exit_code == 1
    assert "-o would replace codes file 1" in done.output
    featpipe.read(file)
    done = CliRunner().invoke(app, ["report", str(file)])
    assert done.exit_code == 2
    assert "nothing to write" in done.output


def test_scores_of_other_images_are_refused(report, file, tmp_path):
    labels, made = draw(30)
    other = write(
        tmp_path / "o.h5", labels, made, paths=[f"{i}.png" for i in range(30)]
    )
    with pytest.raises(ValueError, match=r"images/100.png.*does not have"):
        make_report(other, report.findings.scores)


def test_without_the_extra_one_sentence_names_it(file, tmp_path, monkeypatch):
    for name in ["bokeh", *sys.modules]:
        if name.partition(".")[0] == "bokeh":
            monkeypatch.setitem(sys.modules, name, None)
    plain = making.find_spec
    monkeypatch.setattr(
        making, "find_spec", lambda name: None if name == "bokeh" else plain(name)
    )
    out = tmp_path / "r.html"
    done = CliRunner().invoke(app, ["report", str(file), "-o", str(out)])
    assert done.exit_code == 1
    assert done.stderr.strip().endswith(
        "a report needs bokeh; pip install 'featpipe[report]'"
    )
    assert not out.exists()
