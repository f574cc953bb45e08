"""What a network keeps, shares and tries, seen by a backbone that only tells."""

import threading
import time
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from featpipe.backbones import Preprocessing
from featpipe.inference import Execution, Machine, Network, Recipe, execution, network
from featpipe.inference.lanes import with_threads

quick = settings(deadline=None, max_examples=30)

SIDE = 8


@dataclass(eq=False)
class Told:
    """A backbone that keeps no weights, and tells what becomes of it."""

    names: tuple[str, ...]
    placed: tuple[Any, ...] = ()
    device: str = "cpu"
    calls: list[torch.Tensor] = field(default_factory=list)

    preprocessing = Preprocessing(None, SIDE)

    @property
    def depths(self) -> list[Any]:
        return [SimpleNamespace(spec=f"{name}:avg") for name in self.names]

    def to(self, device: str, precision: str, **how: Any) -> "Told":
        way = (device, precision, how["fused"], how["batch_size"])
        return replace(self, placed=(*way, torch.get_num_threads()))

    def __call__(self, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
        self.calls.append(pixels)
        return {"x": pixels.flatten(1).float().mean(1)[:, None]}


@pytest.fixture
def loads(monkeypatch) -> list[tuple[tuple[str, ...], bool]]:
    """Return what is loaded from here on."""
    seen: list[tuple[tuple[str, ...], bool]] = []

    def load(self, depths, *, download=True):
        seen.append((tuple(depths), download))
        time.sleep(0.001)
        return Told(tuple(depth.partition(":")[0] for depth in depths))

    monkeypatch.setattr(Recipe, "load", load)
    return seen


def made(device: str = "cpu", batch_size: int | None = None, **named: Any) -> Network:
    """Return a network that believes in a device which need not be here."""
    result = Network(Recipe("any"), Machine("cpu", batch_size=batch_size), **named)
    result.device = device
    return result


WAY = Execution(fused=True, batch_size=4, n_lanes=2)


def test_a_network_is_loaded_once_by_any_names_of_its_depths_and_many_threads(loads):
    one = made(download=False)
    threads = [
        threading.Thread(target=lambda: one.lanes(["a"], "fp32", WAY)) for _ in range(5)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert one.backbone(["a:avg"]) is one.backbone(["a"])
    assert loads == [(("a",), False)]
    # Only one is kept: others are loaded when they are asked for.
    other = one.backbone(["b"])
    assert one.backbone(["b"]) is other
    one.backbone(["a"])
    assert loads == [(("a",), False), (("b",), False), (("a",), False)]


def test_lanes_of_a_device_share_a_copy_and_each_device_has_its_own(loads, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    unfused = replace(WAY, fused=False)
    with with_threads(6):
        lanes = made("cuda").lanes(["a"], "fp16", unfused)
        here = made("cpu").lanes(["a"], "fp32", replace(WAY, n_lanes=3))
    assert [lane.placed[0] for lane in lanes] == ["cuda:0", "cuda:1", "cuda:2"] * 2
    assert len({id(lane) for lane in lanes}) == 3
    assert len({id(lane) for lane in here}) == 1
    # Weights are packed for the batch, and for the threads of a lane.
    assert here[0].placed == ("cpu", "fp32", True, 4, 2)
    # By default a device runs in its safe way.
    assert made("cuda").lanes(["a"], "fp16")[0].placed[2:4] == (False, 128)


WAYS = st.builds(
    Execution, st.booleans(), st.sampled_from([1, 4, 8]), st.sampled_from([1, 2])
)


@quick
@given(st.lists(st.tuples(WAYS, st.sampled_from(["fp32", "bf16"])), max_size=8))
def test_copies_are_made_anew_only_where_their_weights_would_be_packed_otherwise(runs):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Recipe, "load", lambda self, depths, **_: Told(tuple(depths)))
        one, kept, before = made(), {}, None
        for way, precision in runs:
            # Only the copies of one precision are kept.
            if precision != before:
                kept.clear()
            before = precision
            # Only fused kernels pack weights for their batches and threads.
            key = way if way.fused else False
            lanes = one.lanes(["a"], precision, way)
            assert len(lanes) == way.n_lanes
            assert lanes[0].placed[:3] == ("cpu", precision, way.fused)
            assert kept.setdefault(key, lanes[0]) is lanes[0]
            assert len({id(copy) for copy in kept.values()}) == len(kept)


class Trial:
    """A trial in which it is known how fast each way is."""

    def __init__(self, monkeypatch, seconds=lambda way: 1.0) -> None:
        self.tried: list[Execution] = []
        monkeypatch.setattr(execution, "_LONG_SECONDS", 0.0)

        def measure(network, depths, precision, way):
            self.tried.append(way)
            network.lanes(depths, precision, way)
            return seconds(way)

        monkeypatch.setattr(Network, "seconds_per_image", measure)


@pytest.fixture
def fresh(tmp_path, monkeypatch, loads):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path


def chosen(one: Network, n_images: int = 1000, largest: int = 512, **named: Any):
    facts = {"depths": ["a"], "precision": "fp32", "side": 224, **named}
    return one.choose_execution(**facts, n_images=n_images, largest_batch=largest)


@pytest.mark.parametrize(
    ("device", "batch_size", "largest", "batches"),
    [
        # A processor tries twice as many, again and again while it is faster.
        ("cpu", None, 512, [4, 8, 16, 32, 64, 128, 256, 512]),
        ("cpu", None, 40, [4, 8, 16, 32]),
        ("cpu", None, 10_000, [4, 8, 16, 32, 64, 128, 256, 512]),
        ("cpu", 5, 512, [5]),
        ("cuda", None, 512, [128, 256, 512]),
        ("cuda", None, 255, [128]),
        # Its memory is that of all other programs.
        ("mps", None, 512, [32]),
        ("mps", 48, 512, [48]),
    ],
)
def test_a_trial_takes_larger_batches_where_they_are_faster_and_allowed(
    fresh, monkeypatch, device, batch_size, largest, batches
):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "a GPU")
    monkeypatch.setattr(execution.time, "perf_counter", lambda: 0.0)
    trial = Trial(monkeypatch, lambda way: 1 / way.batch_size)
    with with_threads(2):
        best = chosen(made(device, batch_size), largest=largest)
    assert sorted({way.batch_size for way in trial.tried}) == batches
    assert best.batch_size == batches[-1]
    fused = {way.fused for way in trial.tried}
    assert fused == ({True, False} if device == "cpu" else {False})
    n_lanes = {way.n_lanes for way in trial.tried}
    assert n_lanes == {"cpu": {1, 2}, "cuda": {2}, "mps": {1}}[device]


def test_after_a_trial_only_the_copy_of_the_winner_is_kept(fresh, monkeypatch):
    Trial(monkeypatch, lambda way: 1.0 - way.fused / 2)
    with with_threads(2):
        one = made()
        best = chosen(one)
        assert best.fused
        lanes = one.lanes(["a"], "fp32", best)
        assert [copies for copies in one._placed.values()] == [lanes[:1]]


def test_only_long_runs_are_measured_and_only_what_was_tried_is_remembered(
    fresh, monkeypatch
):
    trial = Trial(monkeypatch)
    safe = made().safe_execution(224, "fp32")
    assert chosen(made(), n_images=499) == safe
    assert trial.tried == []
    chosen(made(batch_size=7))  # the user's own batch size shows not the best one
    assert len(trial.tried) > 1
    monkeypatch.setattr(execution, "_LONG_SECONDS", 1e9)
    trial.tried.clear()
    assert chosen(made(), n_images=500) == safe  # measured, and short
    assert trial.tried == [safe]
    assert not (fresh / "cache").exists()
    monkeypatch.setattr(execution, "_LONG_SECONDS", 0.0)
    best = chosen(made())
    trial.tried.clear()
    assert chosen(made()) == best
    assert trial.tried == []
    assert chosen(made(), n_images=3, largest=2) == replace(best, batch_size=2)
    assert chosen(made(batch_size=9), largest=8) == replace(best, batch_size=8)


@pytest.mark.parametrize(
    "changed",
    [
        {"depths": ["a", "b"]},
        {"precision": "bf16"},
        {"side": 96},
        "backbone",
        "threads",
        "processor",
        "torch",
        "featpipe",
        "device",
    ],
    ids=str,
)
def test_what_is_remembered_holds_for_one_network_on_one_machine(
    fresh, monkeypatch, changed
):
    trial = Trial(monkeypatch)
    with with_threads(2):
        chosen(made())
        trial.tried.clear()
        chosen(made())
        assert trial.tried == []
        one, named = made(), changed if isinstance(changed, dict) else {}
        if changed == "backbone":
            one.recipe = Recipe("another")
        elif changed == "threads":
            torch.set_num_threads(3)
        elif changed == "processor":
            monkeypatch.setattr(network, "processor", lambda: "another")
        elif changed == "torch":
            monkeypatch.setattr(torch, "__version__", "99")
        elif changed == "featpipe":
            monkeypatch.setattr(network, "__version__", "99")
        elif changed == "device":
            one = made("mps")
        chosen(one, **named)
        assert trial.tried


class Ticks:
    """A clock that an act moves by known seconds."""

    def __init__(self, monkeypatch, seconds: list[float]) -> None:
        self.now, self.seconds = 0.0, iter(seconds)
        monkeypatch.setattr(network.time, "perf_counter", lambda: self.now)


@pytest.mark.parametrize(("rounds", "least"), [([9, 4, 2], 2), ([1, 4, 6], 4)])
def test_the_seconds_of_an_image_are_those_of_a_round_of_all_lanes(
    loads, monkeypatch, rounds, least
):
    ticks, calls = Ticks(monkeypatch, rounds), []
    guard = threading.Lock()

    def call(self, pixels):
        with guard:
            calls.append(pixels)
            if len(calls) % 2 == 0:  # two lanes
                ticks.now += next(ticks.seconds)
        return {"x": torch.zeros(len(pixels), 1)}

    monkeypatch.setattr(Told, "__call__", call)
    before = torch.get_num_threads(), torch.random.get_rng_state()
    way = Execution(fused=False, batch_size=5, n_lanes=2)
    seconds = made().seconds_per_image(["a"], "fp32", way)
    # The first round prepares, and the faster one of the others counts.
    assert seconds == pytest.approx(least / (2 * 5))
    assert [tuple(pixels.shape) for pixels in calls] == [(5, 3, SIDE, SIDE)] * 6
    assert len(np.unique(calls[0])) > 100
    assert not any(t.name.startswith("network") for t in threading.enumerate())
    assert torch.get_num_threads() == before[0]
    # The numbers that the user draws next are not changed.
    assert torch.equal(torch.random.get_rng_state(), before[1])


@pytest.mark.parametrize(
    ("cuda", "mps", "device"),
    [
        (True, True, "cuda"),
        (True, False, "cuda"),
        (False, True, "mps"),
        (False, False, "cpu"),
    ],
)
def test_auto_is_the_first_device_that_is_here(monkeypatch, cuda, mps, device):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert Network(Recipe("any"), Machine("auto")).device == device
    assert Network(Recipe("any")).device == device
    assert Network(Recipe("any"), Machine("cpu")).device == "cpu"


@quick
@given(st.integers(1, 2000))
def test_a_batch_of_a_processor_is_as_many_images_as_four_of_224_pixels(side):
    size = made().batch_size(side)
    assert 1 <= size <= 32
    assert size == 1 or size * side**2 <= 4 * 224**2
    assert size == 32 or (size + 1) * side**2 > 4 * 224**2


def test_a_processor_is_known_by_its_name_and_the_limit_to_its_instructions(
    monkeypatch, tmp_path
):
    info = tmp_path / "cpuinfo"
    info.write_text("vendor_id : X\nmodel name\t: A Processor: 9\nmodel name\t: B\n")
    monkeypatch.setattr(execution, "Path", lambda _: info)
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    assert execution.processor() == "A Processor: 9"
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    assert execution.processor() == "A Processor: 9 AVX2"
    monkeypatch.setattr(execution.platform, "processor", lambda: "")
    monkeypatch.setattr(execution.platform, "machine", lambda: "arm9")
    for path in (tmp_path / "gone", tmp_path / "empty"):
        (tmp_path / "empty").write_text("")
        monkeypatch.setattr(execution, "Path", lambda _, path=path: path)
        assert execution.processor() == "arm9 AVX2"
