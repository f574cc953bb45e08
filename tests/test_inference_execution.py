"""The fastest way to run is found by trying, remembered, and kept by a resumed run."""

import json
import math
import platform
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from extracting import OPTIONS
from hypothesis import given
from hypothesis import strategies as st

import featpipe
from featpipe import backbones, codes
from featpipe.inference import Machine, Recipe, execution
from featpipe.inference.execution import Execution, Memory, try_out
from featpipe.inference.lanes import InferenceWorkers, with_threads
from featpipe.inference.network import Network

SAFE = Execution(fused=False, batch_size=4, n_lanes=2)


class Clock:
    """A processor of which it is known how fast each way to run is."""

    def __init__(self, monkeypatch, seconds: dict[Execution, float]) -> None:
        self.now, self.seconds, self.tried = 0.0, seconds, []
        monkeypatch.setattr(execution.time, "perf_counter", lambda: self.now)

    def __call__(self, way: Execution) -> float:
        self.tried.append(way)
        self.now += 0.1
        return self.seconds.get(way, math.inf)


def others(best: Execution) -> Iterator[Execution]:
    yield replace(best, fused=not best.fused)
    yield replace(best, batch_size=2 * best.batch_size)


FUSED, LARGER = replace(SAFE, fused=True), replace(SAFE, fused=True, batch_size=8)


def test_the_fastest_way_is_found_step_by_step(monkeypatch):
    clock = Clock(monkeypatch, {SAFE: 0.1, FUSED: 0.06, LARGER: 0.04})
    assert try_out(SAFE, others, clock, 10_000) == (LARGER, True)
    # What is fastest is tried against what would be next, and nothing a third time.
    assert clock.tried.count(FUSED) == 2
    assert clock.tried[-1] == replace(LARGER, batch_size=16)


def test_what_is_hardly_faster_or_cannot_run_changes_nothing(monkeypatch):
    clock = Clock(monkeypatch, {SAFE: 0.1, FUSED: 0.098})
    assert try_out(SAFE, others, clock, 10_000) == (SAFE, True)


def test_a_moment_of_noise_makes_no_winner(monkeypatch):
    clock = Clock(monkeypatch, {SAFE: 0.1, FUSED: 0.2})

    def disturbed(way: Execution) -> float:
        return clock(way) * (3 if len(clock.tried) == 1 else 1)

    assert try_out(SAFE, others, disturbed, 10_000)[0] == SAFE


def test_short_runs_try_nothing_and_long_ones_a_second(monkeypatch):
    clock = Clock(monkeypatch, {SAFE: 0.1, FUSED: 0.05})
    assert try_out(SAFE, others, clock, 290) == (SAFE, False)
    assert clock.tried == [SAFE]

    def endless(best: Execution) -> Iterator[Execution]:
        yield replace(best, batch_size=best.batch_size + 1)

    clock.seconds = {Execution(False, n, 2): 1 / n for n in range(1, 99)}
    begin = clock.now
    try_out(SAFE, endless, clock, 10_000)
    assert 1.0 <= clock.now - begin < 1.3


def test_what_is_remembered_is_that_of_the_same_facts(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    one, other = Memory({"processor": "a"}), Memory({"processor": "b"})
    assert one.recall() is None
    one.remember(FUSED)
    assert (one.recall(), other.recall()) == (FUSED, None)
    (file,) = (tmp_path / "featpipe" / "execution").iterdir()
    for damage in ("", "{", "[]", '{"execution": {"fused": 1}}', "7"):
        file.write_text(damage)
        assert one.recall() is None
    one.remember(SAFE)
    assert one.recall() == SAFE


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    Memory({}).remember(FUSED)
    assert Memory({}).recall() is None


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)
NAMES = st.sampled_from(["fused", "batch_size", "n_lanes", "other"])


@given(JSON | st.dictionaries(NAMES, JSON))
def test_a_record_from_anywhere_is_a_way_to_run_or_none(record):
    result = Execution.from_dict(record)
    if result is not None:
        assert result.as_dict() == record
        assert result.batch_size > 0
        assert result.n_lanes > 0


@pytest.fixture
def network(tmp_path, monkeypatch) -> Network:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return Network(Recipe("mini", "none"), Machine("cpu"))


def chosen(network: Network, n_images: int, largest: int = 512) -> Execution:
    return network.choose_execution(
        ["penultimate"], "fp32", 64, n_images=n_images, largest_batch=largest
    )


def test_a_long_run_tries_and_the_next_one_remembers(network, tmp_path, monkeypatch):
    monkeypatch.setattr(execution, "_LONG_SECONDS", 0.0)
    best = chosen(network, 1000)
    (file,) = (tmp_path / "cache" / "featpipe" / "execution").iterdir()
    record = json.loads(file.read_text())
    assert record["execution"] == best.as_dict()
    assert record["facts"]["backbone"] == "mini"
    assert record["facts"]["torch"] == torch.__version__
    monkeypatch.setattr(Network, "seconds_per_image", None)
    assert chosen(network, 10) == best
    # A short list takes no larger batch than it has, and an option overrules.
    assert chosen(network, 10, largest=2).batch_size == 2
    of_three = Network(Recipe("mini", "none"), Machine("cpu", batch_size=3))
    assert chosen(of_three, 10) == replace(best, batch_size=3)


def test_a_trial_follows_what_is_faster_to_the_largest_batch(network, monkeypatch):
    monkeypatch.setattr(execution, "_LONG_SECONDS", 0.0)

    def seconds(self, depths, precision, way):
        return (way.fused + way.n_lanes) / way.batch_size

    monkeypatch.setattr(Network, "seconds_per_image", seconds)
    best = chosen(network, 1000, largest=40)
    assert (best.fused, best.n_lanes) == (False, 1)
    assert 20 < best.batch_size <= 40
    monkeypatch.setattr(Network, "seconds_per_image", None)
    assert chosen(network, 10, largest=40) == best


def test_a_short_run_loads_no_network_to_choose(network, monkeypatch):
    monkeypatch.setattr(Network, "backbone", None)
    assert chosen(network, 100) == network.safe_execution(64, "fp32")


@pytest.mark.parametrize(
    ("able", "limit", "native"),
    [
        ({"avx512_bf16": True}, "", True),
        ({"amx_bf16": True}, "", True),
        ({"avx512_bf16": True}, "AVX512_CORE_BF16", True),
        ({"avx512_bf16": True, "amx_bf16": True}, "AVX2", False),
        ({}, "", False),
    ],
)
def test_the_safe_way_in_bf16_is_fused_where_the_processor_multiplies_it(
    network, monkeypatch, able, limit, native
):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: able, raising=False)
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", limit)
    assert network.safe_execution(64, "bf16").fused == native
    assert network.safe_execution(64, "fp32").fused
    assert network.precision("auto") == ("bf16" if native else "fp32")


@pytest.mark.skipif(
    platform.machine() not in ("x86_64", "AMD64"), reason="nothing is fused here"
)
@pytest.mark.parametrize("n_lanes", [1, 2])
def test_weights_are_packed_for_the_threads_that_run_them(capfd, n_lanes):
    # oneDNN packs these weights for two threads otherwise than for one.
    network = Network(
        Recipe("own_networks:wide", "none", input_size=14), Machine("cpu", batch_size=4)
    )
    pixels = torch.zeros(4, 3, 14, 14, dtype=torch.uint8)

    def run(backbone: backbones.Backbone) -> dict[str, np.ndarray]:
        return {spec: code.numpy() for spec, code in backbone(pixels).items()}

    with with_threads(2):
        way = replace(network.safe_execution(14, "fp32"), n_lanes=n_lanes)
        lanes = InferenceWorkers(network.lanes(["penultimate"], "fp32", way), run)
        with torch.backends.mkldnn.verbose(torch.backends.mkldnn.VERBOSE_ON):
            lanes.submit().result()
        lanes.close()
    printed = capfd.readouterr().out
    assert "exec,cpu,convolution" in printed
    assert "exec,cpu,reorder" not in printed


def test_unfused_is_the_same_network():
    backbone = backbones.load("mini", weights="none")
    pixels = torch.randint(0, 256, (4, 3, 64, 64), dtype=torch.uint8)
    fused, plain = (backbone.to("cpu", fused=fused) for fused in (True, False))
    kinds = {type(module).__name__ for module in plain.cut.modules()}
    assert "FusedConvolution" not in kinds
    np.testing.assert_allclose(
        fused(pixels)["penultimate"], plain(pixels)["penultimate"], rtol=1e-4, atol=1e-5
    )


def test_a_resumed_run_computes_as_the_run_before(
    tmp_path, draw, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for k in range(20):
        draw(tmp_path / "p" / f"{k:02}.png", k)
    first, later = Execution(False, 3, 1), Execution(True, 5, 2)
    recalled = [first]
    monkeypatch.setattr(Memory, "recall", lambda self: recalled[0])
    used: list[Execution] = []
    lanes = Network.lanes

    def spied(self, depths, precision, execution):
        used.append(execution)
        return lanes(self, depths, precision, execution)

    monkeypatch.setattr(Network, "lanes", spied)

    def extracted(name: str, stop_at: int = 99) -> Path:
        def stop(progress):
            if progress.computed >= stop_at:
                raise KeyboardInterrupt

        options = {**OPTIONS, "batch_size": None, "progress": stop}
        featpipe.extract(tmp_path / "p", tmp_path / name, **options)
        return tmp_path / name

    def bytes_of(name: str) -> bytes:
        return extracted(name).read_bytes()

    unbroken = bytes_of("unbroken.h5")
    with pytest.raises(KeyboardInterrupt):
        extracted("a.h5", stop_at=9)
    (part,) = (tmp_path / "a.h5.parts").glob("*.h5")
    assert codes.read(part).provenance["execution"] == first.as_dict()
    recalled[0] = later
    assert bytes_of("a.h5") == unbroken
    assert set(used) == {first}
    bytes_of("other.h5")
    assert used[-1] == later


def on(device: str, batch_size: int | None = None) -> Network:
    """Return a network that believes in a device which need not be here."""
    network = Network(Recipe("mini", "none"), Machine("cpu", batch_size=batch_size))
    network.device = device
    return network


def test_a_device_has_its_batch_size_and_precision(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert on("cuda").devices == ["cuda:0", "cuda:1"]
    assert on("cuda:1").devices == ["cuda:1"]
    assert {on(d).kind for d in ("cuda", "cuda:1")} == {"cuda"}
    assert [on(d).batch_size(224) for d in ("cpu", "cuda", "mps")] == [4, 128, 32]
    assert on("cuda", batch_size=5).batch_size(224) == 5
    for native, precision in ((True, "bf16"), (False, "fp16")):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda n=native: n)
        assert on("cuda").precision("auto") == precision
    assert on("cuda").precision("fp32") == "fp32"
    assert on("mps").precision("auto") == "fp32"
    assert on("cuda").safe_execution(224, "fp32") == Execution(False, 128, 2)
    assert on("mps").safe_execution(224, "fp32") == Execution(False, 32, 1)


@pytest.mark.parametrize(
    ("device", "reason"),
    [("cuda:99", "torch finds none"), ("quantum", "no device of torch")],
)
def test_a_device_that_is_not_here_is_named_with_the_remedy(device, reason):
    with pytest.raises(ValueError, match=rf"{device}.*{reason}.*give auto"):
        _ = Network(Recipe("mini", "none"), Machine(device)).device


def test_a_way_to_run_that_takes_too_much_memory_is_the_slowest(network, monkeypatch):
    def exhausted(workers: object) -> None:
        raise torch.OutOfMemoryError("it is too much")

    monkeypatch.setattr(InferenceWorkers, "submit", exhausted)
    execution = network.safe_execution(64, "fp32")
    assert network.seconds_per_image(("penultimate",), "fp32", execution) == math.inf
