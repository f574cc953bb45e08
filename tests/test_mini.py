"""`mini`: its shape, its weights file, and the script that trained them."""

import dataclasses
import hashlib
import importlib.util
import io
import json
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import safetensors
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import nn

from featpipe.backbones import mini

ROOT = Path(__file__).parents[1]
ZIP = ROOT.parent / "shared" / "data" / "tinyimagenet.zip"

needs_weights = pytest.mark.skipif(
    not mini.WEIGHTS_PATH.is_file(), reason="the weights of mini are missing"
)


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(0)
    return mini.Mini().eval()


@pytest.fixture(scope="module")
def pretraining() -> Iterator[ModuleType]:
    pytest.importorskip("matplotlib", reason="the script draws its curve")
    path = ROOT / "pipelines" / "pretrain_mini.py"
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # dataclasses look their module up
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(path.parent)  # as it is where the script is run
        spec.loader.exec_module(module)
        yield module


def write_zip(
    path: Path, n_classes: int = 2, n_train: int = 64, n_val: int = 2
) -> None:
    rng = np.random.default_rng(0)
    with zipfile.ZipFile(path, "w") as archive:
        wnids = [f"n{c:08d}" for c in range(n_classes)]
        lines = "".join(f"{wnid}\tclass {wnid}\n" for wnid in wnids)
        archive.writestr("tinyimagenet/classes.tsv", lines)
        for split, n_images in (("train", n_train), ("val", n_val)):
            for c, wnid in enumerate(wnids):
                for i in range(n_images):
                    pixels = rng.integers(100 * c, 100 * c + 100, (64, 64, 3))
                    file = io.BytesIO()
                    Image.fromarray(pixels.astype(np.uint8)).save(file, "JPEG")
                    name = f"tinyimagenet/{split}/{wnid}/{wnid}_{i}.JPEG"
                    archive.writestr(name, file.getvalue())


def test_it_has_at_most_1_3_million_parameters(network: nn.Module) -> None:
    assert sum(p.numel() for p in network.parameters()) == 1_265_000


def test_its_children_are_the_named_depths_in_order(network: nn.Module) -> None:
    names = [name for name, _ in network.named_children()]
    stages = ["stem", "stage1", "stage2", "stage3", "stage4"]
    assert names == [*stages, "pool", "flatten", "head"]


def test_the_maps_have_the_shapes_its_docstring_states(network: nn.Module) -> None:
    x = torch.zeros(2, 3, 64, 64)
    shapes = {}
    for name, child in network.named_children():
        x = child(x)
        shapes[name] = tuple(x.shape[1:])
    assert shapes == {
        "stem": (32, 32, 32),
        "stage1": (32, 32, 32),
        "stage2": (64, 16, 16),
        "stage3": (128, 8, 8),
        "stage4": (384, 8, 8),
        "pool": (384, 1, 1),
        "flatten": (384,),
        "head": (200,),
    }


@settings(max_examples=10, deadline=None)
@given(height=st.integers(32, 99), width=st.integers(32, 99))
def test_it_takes_any_size_from_32_pixels_up(height: int, width: int) -> None:
    network = mini.Mini(n_classes=7).eval()
    with torch.inference_mode():
        scores = network(torch.rand(1, 3, height, width))
    assert scores.shape == (1, 7)
    assert scores.isfinite().all()


def test_a_traced_copy_computes_the_same(network: nn.Module) -> None:
    images = torch.rand(2, 3, 64, 64)
    with torch.inference_mode():
        assert torch.equal(torch.fx.symbolic_trace(network)(images), network(images))


def test_codes_follow_a_relu(network: nn.Module) -> None:
    codes: list[torch.Tensor] = []
    hook = network.get_submodule("head").register_forward_pre_hook(
        lambda _, inputs: codes.append(inputs[0])
    )
    with torch.inference_mode():
        network(torch.rand(2, 3, 64, 64))
    hook.remove()
    assert codes[0].shape == (2, 384)
    assert codes[0].min() >= 0


def test_scores_do_not_depend_on_batch_mates(network: nn.Module) -> None:
    images = torch.rand(5, 3, 64, 64)
    with torch.inference_mode():
        together = network(images)
        alone = torch.cat([network(image[None]) for image in images])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


def test_only_convolutions_that_batch_norm_folds_into(network: nn.Module) -> None:
    kinds = {type(m) for m in network.modules() if not list(m.children())}
    assert kinds - {nn.Sequential} == {  # an empty Sequential is the identity
        nn.Conv2d,
        nn.BatchNorm2d,
        nn.ReLU,
        nn.AvgPool2d,
        nn.AdaptiveAvgPool2d,
        nn.Flatten,
        nn.Linear,
    }
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            assert module.groups == 1
            assert module.out_channels % 32 == 0


def test_missing_weights_say_where_they_should_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mini, "WEIGHTS_PATH", tmp_path / "mini.safetensors")
    with pytest.raises(FileNotFoundError, match=r"mini\.safetensors.*pretrain_mini"):
        mini.load_weights()


@needs_weights
def test_the_weights_file_is_small_float16_and_finite() -> None:
    assert mini.WEIGHTS_PATH.stat().st_size <= 3_000_000
    stored = safetensors.torch.load_file(mini.WEIGHTS_PATH)
    for tensor in stored.values():
        assert tensor.dtype in (torch.float16, torch.int64)
        assert tensor.isfinite().all()


@needs_weights
def test_the_weights_fit_the_network_exactly() -> None:
    weights = mini.load_weights()
    mini.Mini().load_state_dict(weights, strict=True)
    assert {t.dtype for t in weights.values()} == {torch.float32, torch.int64}


@needs_weights
def test_the_weights_file_names_its_classes_and_recipe() -> None:
    with safetensors.safe_open(mini.WEIGHTS_PATH, "pt") as file:
        about = json.loads(file.metadata()["about"])
    assert len(set(about["wnids"])) == 200
    assert about["recipe"]["seed"] == 0


@needs_weights
def test_the_published_log_ends_with_the_sha256_of_the_weights_file() -> None:
    last = (ROOT / "docs" / "reference" / "mini-log.txt").read_text().splitlines()[-1]
    digest = hashlib.sha256(mini.WEIGHTS_PATH.read_bytes()).hexdigest()
    assert last == f"SHA-256 {digest}"


@needs_weights
@pytest.mark.skipif(not ZIP.is_file(), reason=f"{ZIP} is missing; see CONTRIBUTING.md")
def test_the_weights_recognise_validation_images() -> None:
    network = mini.Mini().eval()
    network.load_state_dict(mini.load_weights())
    mean = torch.tensor(mini.PREPROCESSING["mean"]).view(3, 1, 1)
    std = torch.tensor(mini.PREPROCESSING["std"]).view(3, 1, 1)
    images, labels = [], []
    with zipfile.ZipFile(ZIP) as archive:
        names = [n for n in archive.namelist() if n.startswith("tinyimagenet/val/")]
        wnids = sorted({name.split("/")[2] for name in names})
        for name in sorted(names)[::8]:
            with Image.open(io.BytesIO(archive.read(name))) as image:
                images.append(torch.from_numpy(np.array(image.convert("RGB"))))
            labels.append(wnids.index(name.split("/")[2]))
    x = torch.stack(images).permute(0, 3, 1, 2) / 255
    with torch.inference_mode():
        predicted = network((x - mean) / std).argmax(1)
    assert (predicted == torch.tensor(labels)).float().mean() > 0.5


def test_augmented_images_keep_their_colours_when_nothing_is_drawn_wide(
    pretraining: ModuleType,
) -> None:
    images = torch.randint(0, 256, (6, 3, 64, 64), dtype=torch.uint8)
    draw = torch.Generator().manual_seed(1)
    whole = pretraining.augment(images, 64, 1.0, 0.0, draw)
    plain = pretraining.normalise(images.float() / 255)
    # With an area of 1 the wider side is whole and the other follows the aspect ratio.
    assert whole.shape == plain.shape
    assert (whole.mean((2, 3)) - plain.mean((2, 3))).abs().max() < 0.1


def test_the_rate_warms_up_stays_and_falls_to_zero(pretraining: ModuleType) -> None:
    recipe = pretraining.Recipe(epochs=12, fall_epochs=8, extra_epochs=0)
    rates = [recipe.rate(epoch / 10) for epoch in range(121)]
    rise, fall = 10, 10 * (12 - recipe.fall_epochs)
    assert rates[: rise + 1] == sorted(rates[: rise + 1])
    assert set(rates[rise : fall + 1]) == {recipe.peak_rate}
    assert rates[fall:] == sorted(rates[fall:], reverse=True)
    assert rates[0] == rates[-1] == 0


def test_a_second_fall_starts_lower_and_ends_at_zero(pretraining: ModuleType) -> None:
    recipe = pretraining.Recipe(epochs=12, fall_epochs=8, extra_epochs=5)
    rates = [recipe.rate(12 + epoch / 10) for epoch in range(50)]
    assert rates[0] == recipe.extra_rate < recipe.peak_rate
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] < 1e-3
    assert {recipe.side_px(epoch) for epoch in range(12, 17)} == {64}


def test_crops_get_milder_at_the_end_of_each_fall_and_are_nearly_whole_at_last(
    pretraining: ModuleType,
) -> None:
    recipe = pretraining.Recipe(epochs=12, extra_epochs=5, extra_falls=2)
    assert recipe.last == 22
    areas = [recipe.area(epoch) for epoch in range(recipe.last)]
    assert [epoch for epoch in range(22) if areas[epoch] > recipe.min_area] == [
        *(10, 11),
        *(15, 16),
        *(19, 20, 21),
    ]
    assert areas[16] == recipe.mild_min_area < areas[19] == recipe.whole_min_area


def test_an_interrupted_training_goes_on_to_the_same_weights(
    pretraining: ModuleType, tmp_path: Path
) -> None:
    write_zip(tmp_path / "tiny.zip", n_train=16)
    images, labels, _ = pretraining.read_split(tmp_path / "tiny.zip", "train")
    recipe, cpu = pretraining.Recipe(epochs=3, batch_size=16), torch.device("cpu")

    def train(training: object, n_epochs: int) -> None:
        for _ in range(n_epochs):
            loss = training.train_epoch(images, labels)  # type: ignore[attr-defined]
            training.history.append({"loss": loss})  # type: ignore[attr-defined]

    unbroken = pretraining.Training(recipe, cpu, tmp_path)
    train(unbroken, 2)
    broken = pretraining.Training(recipe, cpu, tmp_path)
    train(broken, 1)
    broken.save()
    resumed = pretraining.Training(recipe, cpu, tmp_path)
    resumed.resume()
    train(resumed, 1)
    for name, tensor in unbroken.average.state_dict().items():
        torch.testing.assert_close(resumed.average.state_dict()[name], tensor)


@pytest.mark.parametrize(
    ("n_done", "change", "accepted"),
    [
        (3, {}, True),
        (11, {}, True),
        (3, {"epochs": 11}, True),
        (3, {"epochs": 30}, True),
        (3, {"epochs": 10}, False),  # whose rate would have begun to fall at 2
        (5, {"epochs": 30}, False),  # the rate has begun to fall at 4
        (3, {"fall_epochs": 9}, True),
        (3, {"fall_epochs": 10}, False),
        (12, {"extra_epochs": 5}, True),
        (13, {"extra_epochs": 5}, False),
        (16, {"extra_falls": 3}, True),  # at the end of its two falls
        (13, {"extra_falls": 1}, True),
        (3, {"seed": 1}, False),
    ],
)
def test_only_epochs_of_the_flat_stretch_may_change_on_resume(
    pretraining: ModuleType,
    tmp_path: Path,
    n_done: int,
    change: dict[str, int],
    accepted: bool,
) -> None:
    cpu = torch.device("cpu")
    recipe = pretraining.Recipe(epochs=12, fall_epochs=8, extra_epochs=2)
    assert recipe.flat_until == 4
    training = pretraining.Training(recipe, cpu, tmp_path)
    training.history = [{"loss": 1.0}] * n_done
    training.save()
    other = dataclasses.replace(recipe, **change)
    resumed = pretraining.Training(other, cpu, tmp_path)
    if accepted:
        resumed.resume()
        assert len(resumed.history) == n_done
    else:
        with pytest.raises(ValueError, match="same numbers of epochs"):
            resumed.resume()


def test_a_run_without_its_checkpoint_goes_on_from_its_weights_and_log(
    pretraining: ModuleType, tmp_path: Path
) -> None:
    write_zip(tmp_path / "tiny.zip")
    run = tmp_path / "run"
    options = [str(tmp_path / "tiny.zip"), "--run", str(run)]
    options += ["--epochs", "1", "--extra-epochs", "1", "--threads", "1"]
    pretraining.main([*options, "--extra-falls", "0"])
    (run / "checkpoint.pt").unlink()
    first = safetensors.torch.load_file(run / "mini.safetensors")
    recipe = pretraining.Recipe(epochs=1, extra_epochs=1, extra_falls=1)
    training = pretraining.Training(recipe, torch.device("cpu"), run)
    training.resume()
    assert len(training.history) == 1
    for name, tensor in training.network.state_dict().items():
        torch.testing.assert_close(tensor, first[name].to(tensor.dtype))
    pretraining.main([*options, "--extra-falls", "1", "--resume"])
    lines = (run / "log.txt").read_text().splitlines()
    assert [line[:9] for line in lines if line[:5] == "epoch"] == [
        "epoch   1",
        "epoch   2",
    ]


def test_resuming_where_nothing_was_begun_says_so(
    pretraining: ModuleType, tmp_path: Path
) -> None:
    training = pretraining.Training(pretraining.Recipe(), torch.device("cpu"), tmp_path)
    with pytest.raises(FileNotFoundError, match="start without --resume"):
        training.resume()


def test_the_script_leaves_weights_log_and_curve(
    pretraining: ModuleType, tmp_path: Path
) -> None:
    write_zip(tmp_path / "tiny.zip")
    run = tmp_path / "run"
    n_threads = str(torch.get_num_threads())
    options = ["--run", str(run), "--epochs", "1", "--extra-epochs", "0"]
    options += ["--threads", n_threads]
    pretraining.main([str(tmp_path / "tiny.zip"), *options])
    digest = hashlib.sha256((run / "mini.safetensors").read_bytes()).hexdigest()
    assert (run / "log.txt").read_text().splitlines()[-1] == f"SHA-256 {digest}"
    mini.Mini().load_state_dict(safetensors.torch.load_file(run / "mini.safetensors"))
    with Image.open(run / "curve.png") as curve:
        assert curve.width > 500
