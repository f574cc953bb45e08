"""A stream over images whose codes are known numbers, or have none for many reasons."""

import contextlib
import io
import json
import shutil
import threading
import time
import warnings
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from featpipe import backbones, images
from featpipe.inference import Machine, Progress, Recipe, Stream, from_items, loading
from featpipe.inference import stream as streaming
from featpipe.inference.recipe import package_versions

quick = settings(deadline=None, max_examples=15)


class Bright(torch.nn.Module):
    """A hundred thousand times the brightness; no number for a black image."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 1e5 * x / (x.flatten(1).amax(1) > 0)[:, None, None, None]


def bright() -> torch.nn.Module:
    layers = OrderedDict(
        scaled=Bright(),
        pool=torch.nn.AdaptiveAvgPool2d(1),
        flat=torch.nn.Flatten(),
        head=torch.nn.Linear(3, 2),
    )
    return torch.nn.Sequential(layers)


OPTIONS = {
    "weights": "none",
    "precision": "fp32",
    "input_size": 4,
    "mean": 0.0,
    "std": 1.0,
}


def recipe(**changes) -> Recipe:
    return Recipe("test_inference_stream:bright", **OPTIONS | changes)


def grey(level: int) -> bytes:
    file = io.BytesIO()
    Image.new("L", (4, 4), level).save(file, "PNG")
    return file.getvalue()


# 65,504 is the largest number of float16: that of 167.
CODES = {k: 1e5 * k / 255 for k in (1, 60, 160, 200)}
REASONS = {
    "broken": ("decode", "not an image"),
    "black": ("network", "the code at penultimate is not finite"),
    200: ("network", "its code is too large for float16"),
}


@pytest.fixture(scope="module")
def streams() -> dict[str, Stream]:
    kinds = ("float32", "float16")
    return {d: Stream(recipe(dtype=d), Machine("cpu", 3, 2)) for d in kinds}


@quick
@given(
    st.lists(st.sampled_from([*CODES, "broken", "black"]), min_size=1, max_size=12),
    st.sampled_from(["float32", "float16"]),
)
def test_every_image_has_its_number_or_its_reason_in_order(streams, kinds, dtype):
    content = {"broken": b"no image", "black": grey(0)}
    image_set = from_items([content.get(kind) or grey(kind) for kind in kinds])
    seen: list[tuple[int, int, int]] = []

    def tell(progress: Progress) -> None:
        seen.append((progress.computed, progress.failed, progress.n_images))

    failed = {"broken", "black"} | ({200} if dtype == "float16" else set())
    n_computed = n_failed = 0
    for batch in streams[dtype].run(image_set, tell):
        at = range(n_computed + n_failed, min(n_computed + n_failed + 3, len(kinds)))
        good = [i for i in at if kinds[i] not in failed]
        assert batch.positions.tolist() == good
        expected = [[CODES[kinds[i]]] * 3 for i in good]
        np.testing.assert_allclose(
            batch.codes, np.reshape(expected, (-1, 3)), rtol=1e-3
        )
        # In float16 a code is one of its numbers, though it is given as float32.
        if dtype == "float16":
            assert (batch.codes.astype(np.float16) == batch.codes).all()
        bad = [i for i in at if kinds[i] in failed]
        assert [i for i, _ in batch.failures] == bad
        for i, failure in batch.failures:
            stage, reason = REASONS[kinds[i]]
            assert (failure.path, failure.stage) == (f"image {i}", stage)
            assert reason in failure.reason or kinds[i] == "broken"
        n_computed, n_failed = n_computed + len(good), n_failed + len(bad)
        assert seen[-1] == (n_computed, n_failed, len(kinds))
    assert n_computed + n_failed == len(kinds)


def test_the_whole_is_every_code_or_the_first_failure(streams):
    kinds = [1, 60, 160, 200, 60]
    whole = streams["float32"].whole(from_items([grey(k) for k in kinds]))
    assert (whole.shape, whole.dtype) == ((5, 3), np.float32)
    assert streams["float32"].width == 3
    np.testing.assert_allclose(whole[:, 0], [CODES[k] for k in kinds], rtol=1e-5)
    with pytest.raises(ValueError, match=r"image 3: network: its code is too large"):
        streams["float16"].whole(from_items([grey(k) for k in kinds]))


def test_a_network_that_is_not_the_expected_one_computes_no_image():
    checked = []

    def refuse(backbone: backbones.Backbone) -> None:
        checked.append([depth.spec for depth in backbone.depths])
        raise KeyError("another network")

    def accept(backbone: backbones.Backbone) -> None:
        checked.append([depth.spec for depth in backbone.depths])

    seen: list[Progress] = []
    stream = Stream(recipe(), Machine("cpu", 3, 2), check=refuse)
    with pytest.raises(KeyError, match="another network"):
        list(stream.run(from_items([grey(7)]), seen.append))
    assert (checked, seen) == ([["penultimate"]], [])
    checked.clear()
    stream = Stream(recipe(), Machine("cpu", 3, 2), check=accept)
    for _ in range(2):
        stream.whole(from_items([grey(7)]))
    assert checked == [["penultimate"]]


def test_a_stream_that_is_left_early_ends_its_threads(streams):
    image_set = from_items([grey(1 + k % 100) for k in range(60)])
    batches = streams["float32"].run(image_set)
    next(batches)
    batches.close()
    until = time.monotonic() + 5
    while time.monotonic() < until:
        names = {thread.name.partition("_")[0] for thread in threading.enumerate()}
        if not names & {"load", "network"}:
            break
        time.sleep(0.005)
    assert not names & {"load", "network"}


def deep(level: int) -> bytes:
    """Return an image of 16 bits that uses the lowest twelve."""
    file = io.BytesIO()
    Image.fromarray(np.full((4, 4), level, np.uint16)).save(file, "PNG")
    return file.getvalue()


def test_dark_images_of_many_bits_are_said_once_and_the_range_is_taken(streams):
    image_set = from_items([deep(level) for level in (1000, 2000, 4095) * 3])
    with pytest.warns(UserWarning, match="0:4095") as caught:
        list(streams["float32"].run(image_set))
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        stretched = Stream(recipe(value_range="0:4095"), Machine("cpu", 3, 2))
        codes = stretched.whole(image_set)[:3, 0]
    # Rounded down to one of 256 levels.
    expected = 1e5 * np.floor(255 * np.array([1000, 2000, 4095]) / 4095) / 255
    np.testing.assert_allclose(codes, expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"precision": "fp8"}, "unknown precision 'fp8'; use auto, fp32"),
        ({"decoding": "fast"}, "unknown decoding 'fast'; use auto, exact, scaled"),
        ({"dtype": "float64"}, "unknown dtype 'float64'; use float32 or float16"),
        ({"depths": ()}, "no depth was asked for; give one"),
        ({"hflip": "yes"}, "hflip='yes' has to be True or False"),
        ({"allow_random": 2}, "allow_random=2 has to be True or False"),
        ({"input_size": 0}, "input_size=0 has to be a whole number from 1 to 8,192"),
        ({"crop": 0}, "crop=0 has to be a whole number from 1"),
        ({"resize": -1}, "resize=-1 has to be a whole number from 0"),
        ({"resize": 8193}, "resize=8193 has to be"),
        ({"mean": [[0.5]]}, r"mean=\[\[0.5\]\] must be one finite number or three"),
        ({"std": "0.5"}, "std='0.5' must be one finite number or three"),
        ({"std": [True]}, r"std=\[True\] must be"),
    ],
)
def test_a_recipe_names_the_option_that_cannot_be(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        Recipe("mini", **options)


def test_numbers_of_numpy_and_paths_become_plain_ones_that_json_takes():
    odd = Recipe(
        "mini",
        np.str_("none"),
        hflip=np.bool_(True),
        seed=np.int64(3),
        input_size=np.int16(40),
        mean=np.array([0.5, 0.25, 0.125], np.float32),
        std=np.float64(0.5),
    )
    plain = Recipe(
        "mini", "none", hflip=True, seed=3, input_size=40,
        mean=(0.5, 0.25, 0.125), std=(0.5,),
    )  # fmt: skip
    assert json.loads(json.dumps(odd.request())) == plain.request()
    assert type(odd.hflip) is bool
    assert type(Recipe("mini", Path("a.pth")).weights) is str


def test_a_file_of_weights_is_known_by_its_content_and_not_by_its_name(tmp_path):
    first, moved, other = (tmp_path / name for name in ("a.pth", "b.pth", "c.pth"))
    first.write_bytes(b"the weights")
    shutil.copy(first, moved)
    other.write_bytes(b"other weights")
    requests = [Recipe("mini", path).request() for path in (first, moved, other)]
    assert requests[0] == requests[1] != requests[2]
    assert str(tmp_path) not in json.dumps(requests)
    # A name that is no file stays a name.
    assert Recipe("mini", "DEFAULT").request()["weights"] == "DEFAULT"
    assert Recipe("mini").request() != Recipe("mini", "DEFAULT").request()


def test_a_request_changes_with_the_packages_and_rules_that_change_codes(monkeypatch):
    before = Recipe("mini").request()
    assert set(before["versions"]) == {"featpipe", "torchvision", "timm"}
    assert before["versions"] == package_versions("featpipe", "torchvision", "timm")
    monkeypatch.setattr(images, "DECODING", {**images.DECODING, "alpha": "white"})
    assert Recipe("mini").request() != before


@pytest.mark.parametrize(
    ("name", "custom"),
    [
        ("resnet50", False),
        ("timm:vit_tiny_patch16_224", False),
        ("package.module:make", True),
    ],
)
def test_only_code_of_ones_own_may_change_unnoticed(name, custom):
    assert Recipe(name).uses_custom_code is custom


def test_every_option_of_the_preprocessing_reaches_the_network():
    options = {
        "resize": 9,
        "crop": 7,
        "interpolation": "bicubic",
        "mean": (0.1, 0.2, 0.3),
        "std": (0.4, 0.5, 0.6),
    }
    square = Recipe("mini", "none", **options).load(["penultimate"]).preprocessing
    assert {name: getattr(square, name) for name in options} == options


def test_random_weights_are_those_of_the_seed():
    weights = [
        Recipe("networks:tiny", "none", seed=seed, input_size=8)
        .load(["penultimate"])
        .cut.state_dict()["stem.weight"]
        for seed in (1, 1, 2)
    ]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


@quick
@given(
    st.sampled_from(["fp32", "bf16", "fp16"]),
    st.sampled_from(["auto", "exact", "scaled"]),
    st.booleans(),
    st.sampled_from(["file", "auto", (0.0, 99.0)]),
    st.none() | st.integers(1, 999),
)
def test_a_fingerprint_holds_all_that_changes_codes(
    precision, decoding, hflip, value_range, limit
):
    made = recipe(
        decoding=decoding, hflip=hflip, value_range=value_range, max_pixels=limit
    )
    fingerprint = made.fingerprint(tiny_backbone(), precision)
    assert fingerprint["precision"] == precision
    assert fingerprint["preprocessing"]["hflip"] is hflip
    assert fingerprint["preprocessing"]["crop"] == 4
    facts = fingerprint["decoding"]
    exact = {"auto": precision == "fp32"}.get(decoding, decoding == "exact")
    assert facts["mode"] == ("exact" if exact else "scaled")
    ranges = {"file": None, (0.0, 99.0): [0.0, 99.0]}
    assert facts.get("value_range") == ranges.get(value_range, value_range)
    others = {k: v for k, v in images.DECODING.items() if k != "max_pixels"}
    assert {name: facts[name] for name in others} == others
    assert facts["max_pixels"] == limit
    assert made.decoding_at(precision).max_pixels == limit
    json.dumps(fingerprint)


_BACKBONES: list[backbones.Backbone] = []


def tiny_backbone() -> backbones.Backbone:
    """Return the network, loaded once."""
    if not _BACKBONES:
        _BACKBONES.append(recipe().load(["penultimate"]))
    return _BACKBONES[0]


@pytest.mark.parametrize(
    ("precision", "decoding", "exact"),
    [
        ("fp32", "auto", True),
        ("bf16", "auto", False),
        ("bf16", "exact", True),
        ("fp32", "scaled", False),
    ],
)
def test_images_are_decoded_as_the_precision_and_the_option_say(
    monkeypatch, precision, decoding, exact
):
    told: list[bool] = []

    def watched(content, preprocessing, how):
        told.append(how.exact)
        return np.zeros((3, 4, 4), np.uint8), ()

    @contextlib.contextmanager
    def no_server(n_workers, n_images, *, exact):
        assert (n_workers, n_images) == (2, 4)
        told.append(exact)
        yield None

    monkeypatch.setattr(loading.pixels, "pixels_of", watched)
    monkeypatch.setattr(streaming, "worker_server", no_server)
    one = Stream(recipe(precision=precision, decoding=decoding), Machine("cpu", 3, 2))
    list(one.run(from_items([grey(k) for k in range(4)])))
    # What the processes import, and then each of the images.
    assert told == [exact] * 5
