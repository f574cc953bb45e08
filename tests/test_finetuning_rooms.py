"""The parts of fine-tuning, each against an independent road."""

import math
import zlib

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import nn

from featpipe import codes, images
from featpipe.backbones import Preprocessing
from featpipe.finetuning import augment, learning_rate, views
from featpipe.finetuning.feeds import CachedFeed, CachedRows, parts
from featpipe.finetuning.network import Head, Tuned
from featpipe.finetuning.settings import Settings
from featpipe.finetuning.training import Trainer
from featpipe.inference.pixels import Decoding

RNG = np.random.default_rng(0)
X = RNG.normal(2, 3, (40, 6)).astype(np.float32)
Y = (X[:, 0] + X[:, 1] > 4).astype(np.int64) + (X[:, 2] > 4)


def written(path, X, labels=None, splits=None, groups=None):
    n = len(X)
    codes.write(
        path,
        codes={"deep": np.asarray(X, np.float32)},
        labels=np.zeros(n, np.int64) if labels is None else labels,
        class_names=["a", "b", "c"],
        paths=[f"{k:03d}.png" for k in range(n)],
        splits=splits,
        groups=groups,
    )
    return codes.read(path)


def trainer(path, options, weights=None):
    file = written(path, X, Y)
    feed = CachedFeed(
        [CachedRows(file, "deep", np.arange(len(X)))],
        np.arange(len(X)),
        channels_last=False,
        device=torch.device("cpu"),
    )
    return Trainer(
        Tuned(None, Head(X, 3, seed=1)),
        feed,
        Y,
        options,
        batch_size=16,
        weights=weights,
        device=torch.device("cpu"),
    )


def test_an_epoch_does_what_a_plain_loop_does(tmp_path):
    options = Settings(
        optimiser="sgd", label_smoothing=0.1, clip=0.5, weight_decay=0.01
    )
    weights = np.array([1.0, 2.0, 0.5])
    mine = trainer(tmp_path / "x.h5", options, weights)
    loss = mine.epoch(np.arange(40), (0, 1), lambda step: 0.1 * (step + 1))
    mean, std = X.mean(0, dtype=np.float64), X.std(0, dtype=np.float64)
    scaled = torch.from_numpy((X - mean) / std).float()
    torch.manual_seed(1)
    plain = nn.Linear(6, 3)
    descent = torch.optim.SGD(
        [
            {"params": [plain.weight], "weight_decay": 0.01},
            {"params": [plain.bias], "weight_decay": 0.0},
        ],
        lr=1,
        momentum=0.9,
        nesterov=True,
    )
    judge = nn.CrossEntropyLoss(torch.tensor(weights).float(), label_smoothing=0.1)
    order = np.random.default_rng([0, 1]).permutation(40)
    losses = []
    for step, rows in enumerate(np.array_split(order, 3)):
        for group in descent.param_groups:
            group["lr"] = 0.1 * (step + 1)
        descent.zero_grad()
        result = judge(plain(scaled[rows]), torch.from_numpy(Y[rows]))
        result.backward()
        nn.utils.clip_grad_norm_(plain.parameters(), 0.5)
        descent.step()
        losses.append(result.item() * len(rows))
    head = mine.network.head.linear
    torch.testing.assert_close(head.weight, plain.weight, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(head.bias, plain.bias, rtol=1e-5, atol=1e-6)
    assert loss == pytest.approx(sum(losses) / 40, rel=1e-5)


def test_a_batch_in_parts_gives_the_gradient_of_the_whole(tmp_path):
    options = Settings(clip=0.0)
    whole, small = (trainer(tmp_path / f"{k}.h5", options) for k in range(2))
    small._micro = 5
    for each in (whole, small):
        each.epoch(np.arange(40), (0,), lambda step: 0.01)
    torch.testing.assert_close(
        small.network.head.linear.weight, whole.network.head.linear.weight
    )


def test_the_head_folded_gives_the_same_scores():
    for n_classes in (2, 3):
        head = Head(X, n_classes)
        coef, intercept = head.folded()
        with torch.no_grad():
            expected = head(torch.from_numpy(X)).numpy()
        value = X @ coef.T + intercept
        if n_classes == 2:
            expected = expected[:, 1:] - expected[:, :1]
        np.testing.assert_allclose(value, expected, rtol=1e-4, atol=1e-5)


def test_a_constant_column_is_not_blown_up():
    still = X.copy()
    still[:, 0] = 7
    still[:, 1] = 1e-9 * X[:, 1]
    with torch.no_grad():
        assert Head(still, 2)(torch.from_numpy(still)).abs().max() < 100


@pytest.mark.parametrize("best", learning_rate.RATES)
def test_the_search_climbs_to_the_best_rate_within_its_trials(best):
    start = 1e-3

    def loss(rate):
        return abs(math.log(rate) - math.log(best))

    result = learning_rate.choose(loss, start)
    steps = abs(learning_rate.RATES.index(best) - learning_rate.RATES.index(start))
    assert len(result) <= learning_rate.MOST_TRIALS
    if steps <= 3:
        assert next(iter(result)) == best


def test_of_equal_rates_the_smaller_is_chosen_and_one_that_diverges_never():
    assert next(iter(learning_rate.choose(lambda rate: 1.0, 1e-3))) == 3e-5
    few = learning_rate.choose(lambda rate: math.inf if rate > 3e-4 else 1 / rate, 1e-3)
    assert next(iter(few)) == 3e-4
    with pytest.raises(ValueError, match="diverged at every learning rate"):
        learning_rate.choose(lambda rate: math.inf, 1e-3)


@given(st.integers(1, 200), st.integers(2, 40))
def test_no_batch_is_of_a_single_image_where_there_are_more(n, size):
    result = parts(np.arange(n), size)
    assert np.concatenate(result).tolist() == list(range(n))
    assert max(map(len, result)) <= size
    assert n == 1 or min(map(len, result)) > 1 or size <= 2


def picture(height=30, width=41):
    return torch.from_numpy(RNG.integers(0, 256, (3, height, width), dtype=np.uint8))


@pytest.mark.parametrize("size", [(30, 41), (41, 30), (16, 20), (24, 24)])
def test_the_centre_is_that_of_the_preprocessing(size):
    x = picture(*size)
    plain = Preprocessing(resize=None, crop=24)
    expected = plain.apply(Image.fromarray(x.permute(1, 2, 0).numpy()))
    np.testing.assert_array_equal(augment.centre(x, 24), expected)


def test_a_view_is_the_same_for_the_same_draw_and_only_what_was_asked():
    x = picture()
    kinds = ("flip", "vflip", "crop", "colour")
    one, two = (augment.view(x, 16, kinds, np.random.default_rng(3)) for _ in range(2))
    assert torch.equal(one, two)
    assert (one.shape, one.dtype) == ((3, 16, 16), torch.uint8)
    middle = augment.centre(x, 16)
    drawn = [augment.view(x, 16, ("flip",), np.random.default_rng(k)) for k in range(8)]
    mirrored = {view.numpy().tobytes() for view in drawn}
    assert mirrored == {middle.numpy().tobytes(), middle.flip(-1).numpy().tobytes()}
    assert torch.equal(augment.view(x, 16, (), np.random.default_rng(3)), middle)


def test_preprocessing_leaves_a_cached_view_as_it_was_drawn(tmp_path, draw):
    path = draw(tmp_path / "a" / "1.png", 1, (50, 60))
    image_set = images.scan(tmp_path)
    square = Preprocessing(resize=32, crop=24)
    kinds = ("flip", "crop")
    drawn = views.views_of(image_set, 2, square, kinds, Decoding(), seed=7)
    assert drawn.paths == ["1/a/1.png", "2/a/1.png"]
    shrunk = np.asarray(square.shrunk(Image.open(path))).transpose(2, 0, 1)
    for i in range(2):
        pixels = square.apply(images.decode(drawn.read(i)).image)
        rng = np.random.default_rng([7, i + 1, zlib.crc32(b"a/1.png")])
        expected = augment.view(torch.from_numpy(shrunk.copy()), 24, kinds, rng)
        np.testing.assert_array_equal(pixels, expected)


def test_the_cache_gives_each_row_its_own_map_in_memory_or_not(tmp_path):
    file = written(tmp_path / "x.h5", X, Y)
    rows = np.array([3, 5, 8, 13, 21])
    for memory in (0, 10**6):
        feed = CachedFeed(
            [CachedRows(file, "deep", np.arange(40))] * 2,
            rows,
            channels_last=False,
            device=torch.device("cpu"),
            memory=memory,
        )
        positions = np.array([21, 3, 13, 8])
        for part, x in feed.batches(positions, 2, draw=(1, 2)):
            np.testing.assert_array_equal(x, X[part])
