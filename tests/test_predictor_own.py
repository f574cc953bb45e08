"""A network of the user's own, outside torchvision, with its own checkpoint."""

from pathlib import Path

import numpy as np
import own_networks
import pytest
import torch
from PIL import Image
from test_cli import featpipe_says, refused

import featpipe
from featpipe.predictor import export

NAME = "own_networks:small?width=12"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return 12 small images of two classes, and a checkpoint of a training script."""
    folder = tmp_path_factory.mktemp("own")
    rng = np.random.default_rng(0)
    for k in range(12):
        low = 120 * (k % 2)
        pixels = rng.integers(low, low + 135, (32, 32, 3), dtype=np.uint8)
        path = folder / "tiles" / ("dark", "light")[k % 2] / f"{k}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    torch.manual_seed(1)
    state = own_networks.small(width=12, n_classes=7).state_dict()
    named = {f"module.backbone.{key}": tensor for key, tensor in state.items()}
    torch.save({"epoch": 9, "model_state_dict": named}, folder / "epoch_9.tar")
    return folder


@pytest.fixture(scope="module")
def model(folder: Path) -> Path:
    """Extract and fit on the command line."""
    result = featpipe_says(
        *("extract", folder / "tiles", "-o", folder / "own.h5", "--backbone", NAME),
        *("--weights", folder / "epoch_9.tar", "--input-size", "32"),
        *("--depth", "block1", "--precision", "fp32"),
    )
    assert result.exit_code == 0, result.output
    path = folder / "own.model"
    result = featpipe_says("fit", folder / "own.h5", "-o", path, "--C", "0.1")
    assert result.exit_code == 0, result.output
    return path


def test_its_codes_are_those_of_the_network_itself(folder: Path, model: Path) -> None:
    torch.manual_seed(1)
    network = own_networks.small(width=12, n_classes=7).eval()
    file = featpipe.read(folder / "own.h5")
    X, _ = file.arrays("block1")
    mean = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    for row, path in zip(X, file.paths, strict=True):
        pixels = np.asarray(Image.open(folder / "tiles" / path)).transpose(2, 0, 1)
        x = (torch.from_numpy(pixels.copy()) / 255 - mean) / std
        with torch.no_grad():
            maps = network.block1(network.stem(x[None]))
        np.testing.assert_allclose(row, maps.mean((2, 3))[0], rtol=1e-3, atol=1e-5)


def test_predict_runs_it_only_where_it_is_named(folder: Path, model: Path) -> None:
    line = refused("predict", model, folder / "tiles")
    assert "code that would be run" in line
    assert NAME in line
    result = featpipe_says("predict", model, folder / "tiles", "--backbone", NAME)
    assert result.exit_code == 0, result.output
    assert "12 of 12 images labelled" in result.stdout


def test_it_may_have_moved_but_not_changed(folder: Path, model: Path) -> None:
    expected = featpipe.load(model, backbone=NAME).predict_proba(folder / "tiles")
    # The same network under another name; the file beside the model.
    moved = featpipe.load(model, backbone="own_networks:small?width=12&n_classes=3")
    np.testing.assert_array_equal(moved.predict_proba(folder / "tiles"), expected)
    other = featpipe.load(model, backbone="own_networks:small?width=6")
    with pytest.raises(ValueError, match=r"own\.model.*(do not fit|another shape)"):
        other.predict(folder / "tiles")
    gone = featpipe.load(model, backbone="own_networks:gone")
    with pytest.raises(ValueError, match=r"own\.model cannot be made.*gone"):
        gone.predict(folder / "tiles")


def test_it_travels_with_its_weights_and_as_onnx(
    folder: Path, model: Path, tmp_path: Path
) -> None:
    before = featpipe.load(model, backbone=NAME)
    before.save(tmp_path / "whole.model", embed_weights=True)
    whole = featpipe.load(tmp_path / "whole.model", backbone=NAME)
    expected = before.predict_proba(folder / "tiles")
    np.testing.assert_array_equal(whole.predict_proba(folder / "tiles"), expected)
    agreement = export(whole, tmp_path / "whole.onnx", check=folder / "tiles")
    assert agreement.n_images == 12


def test_weights_that_a_file_cannot_bring_back_are_not_embedded(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A builder that makes another network the next time.
    predictor = featpipe.load(model, backbone=NAME)
    predictor.load_backbone()
    monkeypatch.setattr(own_networks, "Block", lambda *sizes: torch.nn.Identity())
    with pytest.raises(ValueError, match=r"epoch_9\.tar' of .* cannot be embedded"):
        predictor.save(tmp_path / "whole.model", embed_weights=True)
    assert not list(tmp_path.iterdir())


def test_control_flow_that_no_graph_records_is_exported_or_refused_in_one_line(
    folder: Path, tmp_path: Path
) -> None:
    name = "own_networks:Restless"
    file = featpipe.extract(
        folder / "tiles",
        tmp_path / "r.h5",
        backbone=name,
        weights="none",
        depth="small.block1",
        input_size=32,
    )
    model = featpipe.fit(file, C=0.1).using(backbone=name)
    assert len(model.predict(folder / "tiles")) == 12
    with pytest.raises(
        ValueError, match=r"Restless' cannot be exported by torch\.onnx"
    ):
        export(model, tmp_path / "r.onnx")
    assert not (tmp_path / "r.onnx").exists()
