"""Networks of which codes are no function of the image, and heads nobody can name."""

import itertools
import json
import random
import sys

import pytest
import torch
from PIL import Image

import featpipe
from featpipe import backbones
from featpipe.backbones import trial

NETS = """
import random
import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

class Base(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 8, 3, 2), nn.Linear(8, 5)
    def middle(self, x):
        return x
    def forward(self, x):
        return self.fc(self.middle(self.conv(x)).mean((2, 3)))

class Dropout(Base):
    def middle(self, x): return F.dropout(x, 0.5)
class Rarely(Base):
    def middle(self, x): return x * (torch.rand(()) > 1e-6)
class Numpy(Base):
    def middle(self, x): return x + float(np.random.rand())
class Python(Base):
    def middle(self, x): return x + random.random()
class Noise(Base):
    def middle(self, x): return x + torch.randn_like(x)
class NoStatistics(Base):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(8, track_running_stats=False)
    def middle(self, x): return self.norm(x)
class BatchMean(Base):
    def middle(self, x): return x - x.mean()
class SortsBatch(Base):
    def middle(self, x): return x.sort(0).values
class Training(Base):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(8)
    def middle(self, x):
        self.norm.train()
        return self.norm(x)
class Plain(Base):
    pass
class Instance(Base):
    def __init__(self):
        super().__init__()
        self.norm, self.drop = nn.InstanceNorm2d(8), nn.Dropout(0.5)
    def middle(self, x): return self.drop(self.norm(x))

class TwoHeads(Base):
    def __init__(self):
        super().__init__()
        self.other = nn.Linear(8, 5)
    def forward(self, x):
        x = self.conv(x).mean((2, 3))
        return (self.fc(x) + self.other(x)) / 2
class Stacked(TwoHeads):
    def forward(self, x):
        x = self.conv(x).mean((2, 3))
        return torch.maximum(self.fc(x), self.other(x))
class Product(Base):
    def forward(self, x):
        return self.conv(x).mean((2, 3)) @ self.fc.weight.t()
class Unrecorded(TwoHeads):
    def forward(self, x):
        x = x if float(x.abs().max()) > 0 else x + 1
        return super().forward(x)
class Gate(Base):
    def forward(self, x):
        x = self.conv(x)
        return (x * torch.sigmoid(x.mean((2, 3), keepdim=True))).mean((2, 3))
"""


@pytest.fixture(autouse=True)
def nets(tmp_path, monkeypatch):
    name = f"nets_{random.Random(str(tmp_path)).randrange(10**9)}"
    (tmp_path / f"{name}.py").write_text(NETS)
    monkeypatch.chdir(tmp_path)
    yield name
    sys.modules.pop(name, None)


def load(nets, name, **options):
    return backbones.load(f"{nets}:{name}", input_size=32, **options)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("Dropout", "draws random numbers"),
        ("Rarely", "draws random numbers"),
        ("Numpy", "draws random numbers"),
        ("Python", "draws random numbers"),
        ("Noise", "draws random numbers"),
        ("NoStatistics", "batch norm 'norm' has no running statistics"),
        ("BatchMean", "depends on the other images"),
        ("SortsBatch", "depends on the other images"),
    ],
)
def test_codes_that_are_no_function_of_the_image_are_refused(nets, name, reason):
    with pytest.raises(ValueError, match=f"{reason}.*--allow-random"):
        load(nets, name)
    assert reason in load(nets, name, allow_random=True).random


@pytest.mark.parametrize("name", ["Plain", "Instance"])
def test_usual_networks_pass_and_leave_the_generators_alone(nets, name):
    states = torch.get_rng_state(), random.getstate()
    assert load(nets, name).random == ""
    assert torch.equal(states[0], torch.get_rng_state())
    assert states[1] == random.getstate()


def test_what_was_allowed_is_recorded_in_the_file(nets, tmp_path):
    for folder, k in itertools.product("ab", range(2)):
        (tmp_path / "src" / folder).mkdir(parents=True, exist_ok=True)
        image = Image.new("RGB", (40, 40), (40 * k, 90, 10))
        image.save(tmp_path / "src" / folder / f"{k}.png")
    options = {"backbone": f"{nets}:BatchMean", "input_size": 32}
    with pytest.raises(ValueError, match="not a function of the image"):
        featpipe.extract(tmp_path / "src", tmp_path / "x.h5", **options)
    assert not (tmp_path / "x.h5").exists()
    codes = featpipe.extract(
        tmp_path / "src", tmp_path / "x.h5", allow_random=True, **options
    )
    assert "other images" in json.dumps(codes.provenance["preprocessing"])


@pytest.mark.parametrize("name", ["TwoHeads", "Stacked", "Product", "Unrecorded"])
def test_penultimate_is_an_error_where_it_would_be_class_scores(nets, name):
    message = "which layer of backbone .* computes the class scores"
    with pytest.raises(ValueError, match=message):
        load(nets, name)
    assert load(nets, name, depths=["conv"]).depths[0].width == 8


def test_a_trunk_without_a_head_has_its_output_as_penultimate(nets):
    assert load(nets, "Gate").depths[0].width == 8


def test_a_thread_that_draws_now_and_then_is_not_taken_for_the_network():
    network, calls = (
        torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 2)),
        [],
    )

    def run(x):
        calls.append(x)
        if len(calls) in (2, 4):
            random.random()  # as another thread does meanwhile
        return [network(x)]

    assert trial.dependence(network, run, 8) == ""
    assert len(calls) == 7
