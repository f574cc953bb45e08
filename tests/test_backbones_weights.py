"""Which weights are meant, files in the shapes people have, and what is refused."""

import argparse
import hashlib
import re
from collections import OrderedDict

import own_networks
import pytest
import safetensors.torch
import torch
from torch import nn
from torchvision import models

from featpipe import backbones
from featpipe.backbones.mini import Mini

NAME = "squeezenet1_1"


@pytest.fixture(scope="module")
def network() -> nn.Module:
    return models.get_model("resnet18", weights=None)


def load(path, name="resnet18", **arguments):
    return backbones.load(name, weights=path, input_size=32, **arguments)


def test_default_is_the_first_recipe_and_nothing_is_built():
    assert backbones.resolve() == ("resnet50", "IMAGENET1K_V1")
    assert backbones.resolve("resnet50", "DEFAULT") == ("resnet50", "IMAGENET1K_V2")
    full = "ResNet50_Weights.IMAGENET1K_V2"
    assert backbones.resolve("resnet50", full) == ("resnet50", "IMAGENET1K_V2")
    swag = ("vit_h_14", "IMAGENET1K_SWAG_E2E_V1")
    assert backbones.resolve("vit_h_14") == swag
    assert backbones.resolve("mini") == ("mini", "DEFAULT")
    assert backbones.resolve("resnet50", "none") == ("resnet50", "none")
    assert backbones.resolve("torchvision.models:resnet18")[1] == "own"


def test_no_weights_are_seeded_and_leave_the_global_generator_alone():
    before = torch.get_rng_state()
    first = load("none", NAME)
    assert torch.equal(torch.get_rng_state(), before)
    assert first.weights == "none"
    assert load("none", NAME).weights_sha256 == first.weights_sha256
    assert load("none", NAME, seed=1).weights_sha256 != first.weights_sha256


def test_own_network_without_weights_forgets_what_its_callable_read(
    tmp_path, monkeypatch
):
    (tmp_path / "reading.py").write_text(
        "import torch\n"
        "def net():\n"
        "    net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3))\n"
        "    torch.nn.init.constant_(net[0].weight, 7.0)\n"
        "    return net\n"
    )
    monkeypatch.chdir(tmp_path)
    kept = load(None, "reading:net").network[0].weight
    assert (kept == 7).all()
    assert not (load("none", "reading:net").network[0].weight == 7).any()


def test_hash_is_of_name_dtype_shape_and_bytes(tmp_path, network):
    torch.save(network.state_dict(), tmp_path / "a.pth")
    expected = hashlib.sha256()
    for key, x in sorted(network.state_dict().items()):
        if not key.endswith("num_batches_tracked"):
            expected.update(f"{key} {x.dtype} {tuple(x.shape)}\n".encode())
            expected.update(x.numpy().tobytes())
    assert load(tmp_path / "a.pth").weights_sha256 == expected.hexdigest()


def wrapped(state):
    half = {key: x.half() if x.is_floating_point() else x for key, x in state.items()}
    yield "state dict", state
    for key in ("state_dict", "model", "model_state_dict", "net", "anything"):
        yield key, {"epoch": 3, key: state, "optimizer": {"state": {0: torch.ones(2)}}}
    for prefix in ("module.", "_orig_mod.", "backbone.", "module.model.", "my.own."):
        yield prefix, {prefix + key: x for key, x in state.items()}
    both = {f"module.{key}": x for key, x in state.items()}
    yield "both", {"state_dict": OrderedDict(both), "args": {"lr": 0.1}}
    headless = {key: x for key, x in state.items() if not key.startswith("head.")}
    yield "no head", headless
    head = {"head.weight": torch.zeros(7, 384), "head.bias": torch.zeros(7)}
    yield "other head", headless | head
    yield "deeper head", headless | {"head.1.weight": torch.zeros(7, 384)}
    yield "another name", headless | {"projector.0.weight": torch.zeros(7, 384)}
    old = {key: x for key, x in state.items() if "num_batches" not in key}
    yield "before torch 0.4.1", old
    yield (
        "averaged too",
        {"model": state, "model_ema": {k: 0 * x for k, x in half.items()}},
    )


def test_checkpoints_in_the_shapes_people_have(tmp_path):
    images = torch.randint(0, 256, (1, 3, 32, 32), dtype=torch.uint8)
    state = Mini().state_dict()
    torch.save(state, tmp_path / "plain")
    expected = load(tmp_path / "plain", "mini")(images)["penultimate"]
    for what, checkpoint in wrapped(state):
        torch.save(checkpoint, tmp_path / "weights.bin")
        result = load(tmp_path / "weights.bin", "mini")(images)["penultimate"]
        assert torch.equal(result, expected), what


def test_files_are_known_by_content(tmp_path, network):
    state = {key: x.contiguous() for key, x in network.state_dict().items()}
    safetensors.torch.save_file(state, tmp_path / "a.pth")
    torch.save(state, tmp_path / "b.safetensors")
    torch.save(state, tmp_path / "c", _use_new_zipfile_serialization=False)
    hashes = {
        load(tmp_path / name).weights_sha256 for name in ("a.pth", "b.safetensors", "c")
    }
    assert len(hashes) == 1
    assert load(tmp_path / "a.pth").weights == "a.pth"


def test_half_precision_files_are_widened(tmp_path, network):
    state = {
        k: x.half() if x.is_floating_point() else x
        for k, x in network.state_dict().items()
    }
    torch.save(state, tmp_path / "half")
    weight = load(tmp_path / "half").network.conv1.weight
    assert weight.dtype == torch.float32
    assert torch.equal(weight, state["conv1.weight"].float())


def test_old_names_in_densenet_files_are_understood(tmp_path):
    network = models.get_model("densenet121", weights=None)
    state = network.state_dict()
    old = {
        re.sub(r"(denselayer\d+\.(?:norm|conv))([12]\.)", r"\1.\2", k): x
        for k, x in state.items()
    }
    assert old.keys() != state.keys()
    torch.save(old, tmp_path / "old")
    loaded = load(tmp_path / "old", "densenet121", depths=["features.denseblock2"])
    for key, x in loaded.network.state_dict().items():
        assert torch.equal(x, state[key])


def test_only_the_layers_up_to_the_depth_have_to_be_there(tmp_path, network):
    state = {
        k: x
        for k, x in network.state_dict().items()
        if not k.startswith(("layer3", "layer4", "fc"))
    }
    torch.save(state, tmp_path / "trunk")
    assert load(tmp_path / "trunk", depths=["layer2"]).depths[0].width == 128
    with pytest.raises(ValueError, match=r"missing: layer3\.0\.bn1\.bias"):
        load(tmp_path / "trunk", depths=["layer3"])


def test_mismatch_names_at_most_ten_keys_of_each_kind(tmp_path, network):
    torch.save(network.state_dict(), tmp_path / "w")
    with pytest.raises(ValueError, match="do not fit") as caught:
        load(tmp_path / "w", NAME)
    facts = dict(
        part.split(": ") for part in str(caught.value).split("(", 1)[1].split("; ")[:2]
    )
    assert [*facts] == ["missing", "unexpected"]
    for keys in facts.values():
        assert re.search(r"and \d+ more", keys)
        assert len(keys.rsplit(" and ", 1)[0].split(", ")) == 10


def test_deeper_network_of_the_same_family_is_refused(tmp_path):
    torch.save(models.get_model("resnet34", weights=None).state_dict(), tmp_path / "w")
    with pytest.raises(ValueError, match=r"unexpected: layer1\.2\.bn1\.bias"):
        load(tmp_path / "w")


def test_other_shapes_are_named(tmp_path, network):
    state = network.state_dict() | {"conv1.weight": torch.zeros(64, 1, 7, 7)}
    torch.save(state, tmp_path / "w")
    with pytest.raises(ValueError, match=r"conv1\.weight \(64, 1, 7, 7\) for \(64, 3"):
        load(tmp_path / "w")


def test_weights_that_are_not_finite_are_refused(tmp_path, network):
    state = network.state_dict() | {"bn1.bias": torch.full((64,), torch.nan)}
    torch.save(state, tmp_path / "w")
    with pytest.raises(ValueError, match=r"not finite in bn1\.bias"):
        load(tmp_path / "w")


def test_an_infinite_bound_that_the_network_is_built_with_is_no_damage(tmp_path):
    state = own_networks.Bounded().state_dict()
    torch.save(state, tmp_path / "w")
    name = "own_networks:Bounded"
    backbone = backbones.load(name, weights=tmp_path / "w", input_size=16)
    assert (
        backbone(torch.zeros(1, 3, 16, 16, dtype=torch.uint8))["penultimate"]
        .isfinite()
        .all()
    )
    torch.save(state | {"limit": torch.tensor(torch.nan)}, tmp_path / "w")
    with pytest.raises(ValueError, match="not finite in limit"):
        backbones.load(name, weights=tmp_path / "w", input_size=16)


class Hostile:
    def __reduce__(self):
        return (print, ("this ran",))


def test_nothing_in_a_file_is_run(tmp_path, network, capsys):
    for content in (Hostile(), {"w": Hostile()}, network, argparse.Namespace(a=1)):
        torch.save(content, tmp_path / "w")
        with pytest.raises(ValueError, match="code in files is not run"):
            load(tmp_path / "w")
    assert capsys.readouterr().out == ""


def test_files_that_are_none_are_refused(tmp_path, network):
    torch.save(network.state_dict(), tmp_path / "whole")
    state = {key: x.contiguous() for key, x in network.state_dict().items()}
    safetensors.torch.save_file(state, tmp_path / "safe")
    (tmp_path / "cut").write_bytes((tmp_path / "whole").read_bytes()[:90_000])
    (tmp_path / "safe cut").write_bytes((tmp_path / "safe").read_bytes()[:90_000])
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "text").write_text("not weights at all, just a text file")
    torch.save(torch.ones(3), tmp_path / "tensor")
    torch.save({"epoch": 3}, tmp_path / "no tensors")
    for name in ("cut", "safe cut", "empty", "text", "tensor", "no tensors"):
        with pytest.raises(ValueError, match=re.escape(name)):
            load(tmp_path / name)


def test_missing_file_and_unknown_entry_are_told_apart(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no weights file 'absent\.pth'"):
        load("absent.pth")
    with pytest.raises(ValueError, match="choose from IMAGENET1K_V1, DEFAULT, none"):
        load("IMAGENET1K_V9")
    with pytest.raises(ValueError, match="is a folder"):
        load(tmp_path)


def test_failed_download_says_what_else_would_do_and_leaves_nothing(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    # A proxy that is not there: no download, with or without a network.
    for scheme in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(scheme, "http://127.0.0.1:9")
    with pytest.raises(ConnectionError, match=r"--weights FILE .*`mini`"):
        load("IMAGENET1K_V1")
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
    assert capsys.readouterr().out == ""
