"""Fine-tuning: what is promised of the network that comes out, and of its score."""

import csv
import json

import numpy as np
import pytest
from PIL import Image
from predictor_models import SMALL, draw
from safetensors import safe_open
from sklearn.datasets import load_sample_images

import featpipe
from featpipe.protocol import folds

FAST = {**SMALL, "epochs": 2, "lr": 0.003, "device": "cpu", "codes": None}
# Narrow codes: a probe takes no time on them.
HEAD = {"train": "head", "augment": "none", "depth": "stage1"}


@pytest.fixture(scope="module")
def kinds(tmp_path_factory):
    """Return 36 train and 12 test images of three classes of brightness."""
    folder = tmp_path_factory.mktemp("tuned") / "kinds"
    draw(folder, "train", 12, 0)
    draw(folder, "test", 4, 1)
    return folder


def tensors(path):
    with safe_open(path, framework="np") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping


def same(one, two, **tolerance):
    one, two = tensors(one), tensors(two)
    assert one.keys() == two.keys()
    for name in one:
        if tolerance:
            np.testing.assert_allclose(one[name], two[name], err_msg=name, **tolerance)
        else:
            np.testing.assert_array_equal(one[name], two[name], err_msg=name)


# A rate at which a step changes nothing that float32 could show; where batch norm
# learns too, one that diverges, so that the start is what is left.
@pytest.mark.parametrize(("train", "lr"), [("head", 1e-12), ("all", 1e30)])
def test_before_the_first_step_it_predicts_what_the_classifier_does(
    train, lr, kinds, tmp_path
):
    h5 = tmp_path / "kinds.h5"
    options = {**FAST, **HEAD, "codes": h5, "train": train, "lr": lr, "epochs": 1}
    featpipe.finetune(kinds, tmp_path / "m", **options, init="probe", views=0)
    tuned = featpipe.load(tmp_path / "m").predict_proba(kinds / "test")
    probe = featpipe.fit(h5, "logistic").predict_proba(kinds / "test")
    np.testing.assert_allclose(tuned, probe, atol=1e-5)


def test_the_labels_held_out_change_nothing_but_the_score(kinds, tmp_path):
    paths = sorted(path.relative_to(kinds) for path in kinds.rglob("*.png"))
    scores = []
    for shift in (0, 1):
        rows = [["path", "label", "split"]]
        for path in paths:
            split, name = path.parts[:2]
            if split == "test" and shift:
                name = "grey"
            rows.append([kinds / path, name, split])
        table = tmp_path / f"{shift}.csv"
        with table.open("w", newline="") as file:
            csv.writer(file).writerows(rows)
        options = {**FAST, "lr": None, "depth": "stage2"}
        tuned = featpipe.finetune(table, tmp_path / f"{shift}.model", **options)
        scores.append(tuned.score)
    same(tmp_path / "0.model", tmp_path / "1.model")
    assert scores[0].test_predicted == scores[1].test_predicted
    assert scores[0].accuracy != scores[1].accuracy


def photos(folder):
    """Cut scikit-learn's two photos into pieces: real images, unlike noise."""
    for name, photo in zip(
        ("china", "flower"), load_sample_images().images, strict=True
    ):
        for k in range(20):
            top, left = 60 * (k // 5), 100 * (k % 5)
            path = folder / ("test" if k % 5 == 4 else "train") / name / f"{k}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(photo[top : top + 96, left : left + 96]).save(path)
    return folder


def test_from_the_cache_comes_what_the_whole_network_learns(tmp_path):
    images = photos(tmp_path / "photos")
    for views in (0, 1):
        featpipe.finetune(
            images,
            tmp_path / f"{views}",
            **{**FAST, "weights": None, "input_size": 64, "epochs": 1},
            train="from:stage4",
            augment="none",
            views=views,
            refit=False,
        )
    same(tmp_path / "0", tmp_path / "1", rtol=1e-4, atol=1e-4)


def test_the_model_predicts_what_it_was_judged_by(kinds, tmp_path):
    tuned = featpipe.finetune(kinds, tmp_path / "m", **FAST, depth="stage2")
    model = featpipe.load(tmp_path / "m")
    assert repr(model).startswith("<Predictor: finetune on mini stage2:avg, 3")
    again = model.classify(kinds / "test")
    assert again.labels.tolist() == tuned.score.test_predicted
    assert model.model.score == tuned.score
    assert tuned.score.accuracy == pytest.approx(again.measures()["accuracy"])
    assert tuned.score.log_loss == pytest.approx(again.measures()["log_loss"])
    model.save(tmp_path / "copy")
    same(tmp_path / "m", tmp_path / "copy")
    with pytest.raises(ValueError, match="nowhere but in its model"):
        model.save(tmp_path / "none", embed_weights=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["copy", "m"]


def test_the_model_is_exported_like_any_other(tmp_path):
    pytest.importorskip("onnxscript", reason="needs the extra featpipe[export]")
    draw(tmp_path / "two", "train", 6, 0)
    draw(tmp_path / "two", "test", 2, 1)
    for split in ("train", "test"):
        for path in (tmp_path / "two" / split / "grey").iterdir():
            path.unlink()
        (tmp_path / "two" / split / "grey").rmdir()
    short = {**FAST, "epochs": 1, "depth": "stage1"}
    featpipe.finetune(tmp_path / "two", tmp_path / "m", **short)
    from featpipe.predictor import export

    model = featpipe.load(tmp_path / "m")
    result = export(model, tmp_path / "m.onnx", check=tmp_path / "two" / "test")
    assert (result.n_images, result.n_label_differences) == (4, 0)


def test_compare_takes_its_score_into_the_table_and_the_tests(kinds, tmp_path):
    h5 = tmp_path / "kinds.h5"
    result = featpipe.finetune(kinds, **{**FAST, "codes": h5})
    result.write_json(tmp_path / "tuned.json")
    document = json.loads((tmp_path / "tuned.json").read_text())
    assert document["scores"][0]["classifier"] == "finetune"
    table = featpipe.compare(
        h5, classifiers=["nearest-mean"], with_=[tmp_path / "tuned.json"]
    )
    tuned = table.scores[[s.classifier for s in table.scores].index("finetune")]
    assert tuned.p_value is not None
    assert (tuned.trained, tuned.protocol) == ("all, new head", "test")
    assert (tuned.n_train, tuned.n_test) == (36, 12)
    # Codes once, then 2 epochs of fit and select after a look at the start, then again.
    n_fit, n_select = 28, 8
    looks = 36 + 3 * n_select + 2 * n_fit + result.epoch * 36
    assert tuned.image_passes == looks


def test_without_a_split_the_first_fold_of_compare_is_held_out(kinds, tmp_path):
    h5 = tmp_path / "c.h5"
    tuned = featpipe.finetune(kinds / "train", **{**FAST, **HEAD, "codes": h5}, seed=5)
    codes = featpipe.read(h5)
    held = folds(codes.labels, codes.groups, seed=5)[0][1]
    assert tuned.score.test_paths == [codes.paths[row] for row in held]
    tuned.write_json(tmp_path / "tuned.json")
    table = featpipe.compare(
        h5, classifiers=["nearest-mean"], with_=[tmp_path / "tuned.json"], seed=5
    )
    assert "first fold only" in " ".join(table.notes)


def test_a_rate_that_diverges_keeps_the_start_and_says_so(kinds, tmp_path):
    options = {**FAST, "lr": 1e30, "optimiser": "sgd", "clip": 0.0, "depth": "stage1"}
    tuned = featpipe.finetune(kinds, tmp_path / "m", **options, init="probe")
    (text,) = tuned.warnings
    assert text.startswith("training diverged in epoch 1 at learning rate 1e+30")
    assert tuned.epoch == 0
    kept = (tmp_path / "m").read_bytes()
    with pytest.raises(ValueError, match="nothing to keep; give a smaller rate"):
        featpipe.finetune(kinds, tmp_path / "m", **options, overwrite=True)
    assert (tmp_path / "m").read_bytes() == kept


def test_a_network_that_does_not_learn_is_noticed(kinds):
    tuned = featpipe.finetune(kinds, **{**FAST, "lr": 1e-12, "depth": "stage2"})
    assert "the network did not learn" in tuned.warnings[0]


def test_a_class_that_is_only_held_out_counts_as_wrong(kinds, tmp_path):
    table = tmp_path / "images.csv"
    rows = [["path", "label", "split"]]
    for path in sorted(kinds.rglob("*.png")):
        split, name = path.relative_to(kinds).parts[:2]
        if (split, name) != ("train", "grey"):
            rows.append([path, name, split])
    with table.open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    tuned = featpipe.finetune(table, tmp_path / "m", **{**FAST, **HEAD}, init="probe")
    assert "no training images of class 'grey'" in tuned.warnings[0]
    assert featpipe.load(tmp_path / "m").class_names == ["dark", "light"]
    assert tuned.score.accuracy <= 8 / 12
    assert tuned.score.log_loss is None


def test_one_image_a_class_is_refused_in_one_sentence(kinds, tmp_path):
    for name in ("dark", "light"):
        folder = tmp_path / "one" / "train" / name
        folder.mkdir(parents=True)
        (folder / "0.png").write_bytes((kinds / "train" / name / "0.png").read_bytes())
        folder = tmp_path / "one" / "test" / name
        folder.mkdir(parents=True)
        (folder / "0.png").write_bytes((kinds / "test" / name / "0.png").read_bytes())
    with pytest.raises(ValueError, match="too few to spare one that chooses"):
        featpipe.finetune(tmp_path / "one", tmp_path / "m", **FAST)
    assert not list(tmp_path.glob("m*"))


def test_codes_of_other_images_are_not_cut_down(kinds, tmp_path):
    h5 = tmp_path / "all.h5"
    featpipe.extract(kinds, h5, **SMALL)
    with pytest.raises(ValueError, match="images that the source does not have"):
        featpipe.finetune(kinds / "train", **{**FAST, "codes": h5})
    assert len(featpipe.read(h5)) == 48


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"train": "stage4"}, "use 'all', 'head' or 'from:NODE'"),
        ({"init": "zero"}, "use random or probe"),
        ({"epochs": 0}, "epochs=0 has to be a whole number"),
        ({"augment": "rotate"}, "use auto, none, or some of flip, vflip"),
        ({"label_smoothing": 1.0}, "label_smoothing=1.0 has to be"),
        ({"depth": "stage4:map"}, "a head needs one depth of vectors"),
        ({"class_weight": {"pink": 2.0}}, "the classes are dark, grey, light"),
        ({"train": "from:head"}, "nothing to train from 'head'"),
    ],
)
def test_options_that_do_not_fit_are_named(options, reason, kinds, tmp_path):
    with pytest.raises(ValueError, match=reason):
        featpipe.finetune(kinds, tmp_path / "m", **{**FAST, **options})
    assert not (tmp_path / "m").exists()


def test_where_there_is_no_folder_nothing_is_computed(kinds, tmp_path):
    with pytest.raises(FileNotFoundError, match="no folder"):
        featpipe.finetune(kinds, tmp_path / "none" / "m", **FAST)


def test_views_are_cached_and_so_no_image_runs_again(kinds):
    tuned = featpipe.finetune(
        kinds, **FAST, train="from:stage4", augment=("flip",), views=3
    )
    assert tuned.score.image_passes == 3 * 36
    assert tuned.notes[0] == "augmentation: flip"
    assert "3 views of each image" in tuned.notes[1]


def test_an_augmentation_that_makes_another_class_of_an_image_is_left_out(tmp_path):
    rng = np.random.default_rng(0)
    for k in range(40):
        pixels = rng.integers(0, 60, (48, 48, 3), dtype=np.uint8)
        name, half = (("lit left", slice(0, 24)), ("lit right", slice(24, 48)))[k % 2]
        pixels[:, half] += 150
        path = tmp_path / "lit" / ("test" if k < 8 else "train") / name / f"{k}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    tuned = featpipe.finetune(
        tmp_path / "lit", **{**FAST, "weights": None, "depth": "stage3", "epochs": 1}
    )
    record = tuned.notes[0]
    assert "flip" not in record.partition("(")[0]
    assert "flip" in record
