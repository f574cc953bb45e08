"""The plan: what an extraction would do and take, without doing it."""

from pathlib import Path

import pytest
from extracting import OPTIONS, run
from torchvision import models

from featpipe import images
from featpipe.codes import CodesError
from featpipe.extraction import Cost, Extraction
from featpipe.inference import Machine, Recipe


def job(source: Path, path: Path, **changes) -> Extraction:
    options = {**OPTIONS, **changes}
    machine = Machine(
        options.pop("device"), options.pop("batch_size"), options.pop("workers")
    )
    depths = options.pop("depth")
    depths = (depths,) if isinstance(depths, str) else tuple(depths)
    return Extraction(
        Recipe(depths=depths, **options), images.scan(source), path, machine
    )


def cost(source: Path, path: Path, **changes) -> Cost:
    planned = job(source, path, **changes)
    return planned.cost(planned.plan_update())


@pytest.fixture
def many(tmp_path, draw) -> Path:
    for k in range(300):
        draw(tmp_path / "many" / f"{k:03}.png", k)
    return tmp_path / "many"


def test_the_plan_tells_the_size_of_the_file_and_writes_nothing(many, tmp_path):
    planned = cost(many, tmp_path / "a.h5")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["many"]
    file, _ = run(many, tmp_path / "a.h5")
    assert planned.n_images == 300
    # Headers and chunks weigh more where codes are as short as here.
    assert 0.5 < planned.disk / file.path.stat().st_size < 2


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """Make every download an error, and all caches of weights empty."""
    for name in ("TORCH_HOME", "HF_HOME", "HF_HUB_CACHE"):
        monkeypatch.setenv(name, str(tmp_path / "nothing"))

    def refuse(*arguments, **options):
        raise AssertionError("a download was tried")

    monkeypatch.setattr("torch.hub.download_url_to_file", refuse)
    monkeypatch.setattr("socket.socket.connect", refuse)
    monkeypatch.setattr("socket.getaddrinfo", refuse)


REAL = {"backbone": "squeezenet1_1", "input_size": 32, "depth": "penultimate"}


@pytest.mark.parametrize("weights", [None, "DEFAULT", "IMAGENET1K_V1"])
def test_a_plan_needs_no_weights(photos, tmp_path, offline, weights):
    planned = job(photos, tmp_path / "a.h5", **{**REAL, "weights": weights})
    update = planned.plan_update()
    assert update.provenance["weights"] == "IMAGENET1K_V1"
    assert update.provenance["weights_sha256"] is None
    assert planned.cost(update).seconds["network"] > 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["photos"]
    with pytest.raises((AssertionError, ConnectionError), match="download"):
        planned.run()


def test_a_plan_of_a_network_of_timm_needs_no_weights(photos, tmp_path, offline):
    pytest.importorskip("timm", reason="the extra featpipe[timm] is not installed")
    changes = {"backbone": "timm:resnet10t", "weights": None}
    planned = job(photos, tmp_path / "a.h5", **{**REAL, **changes})
    assert planned.plan_update().provenance["weights"] == "DEFAULT"


def test_a_plan_knows_the_weights_that_are_here(photos, tmp_path, offline):
    update = job(photos, tmp_path / "a.h5", **{**REAL, "weights": "none"}).plan_update()
    assert len(update.provenance["weights_sha256"]) == 64
    bundled = {"backbone": "mini", "weights": None}
    update = job(photos, tmp_path / "b.h5", **{**REAL, **bundled}).plan_update()
    assert len(update.provenance["weights_sha256"]) == 64


def test_a_plan_takes_the_digest_of_a_file_with_weights_of_that_name(
    photos, tmp_path, monkeypatch, offline
):
    path = tmp_path / "a.h5"
    state = models.squeezenet1_1(weights=None).state_dict()
    with monkeypatch.context() as patch:
        patch.setattr(
            "torchvision.models._api.load_state_dict_from_url", lambda *a, **k: state
        )
        codes, _ = run(photos, path, **{**REAL, "weights": None})
    update = job(
        photos, path, **{**REAL, "weights": None, "depth": ("features", "penultimate")}
    ).plan_update()
    assert update.added == ["features:avg"]
    assert len(update.kept) == len(codes)
    other = job(photos, path, **{**REAL, "weights": "none"})
    with pytest.raises(CodesError, match=r"'IMAGENET1K_V1 \(SHA.*'none \(SHA"):
        other.plan_update()


def test_time_grows_with_the_images_and_disk_with_the_depths(many, photos, tmp_path):
    small, large = cost(photos, tmp_path / "a.h5"), cost(many, tmp_path / "a.h5")
    for stage in ("write", "merge"):
        ratio = large.seconds[stage] / small.seconds[stage]
        assert ratio == pytest.approx(50)
    one = cost(many, tmp_path / "a.h5", depth="penultimate")
    assert one.disk < large.disk
    stages = {"start", "read", "decode", "network", "write", "merge"}
    assert large.seconds.keys() == stages
    assert large.bottleneck in stages
    assert large.total >= large.seconds["network"] + large.seconds["merge"]
    assert large.memory > 10**8


def test_what_is_done_costs_nothing_more(many, tmp_path, draw):
    run(many, tmp_path / "a.h5", depth="penultimate")
    done = cost(many, tmp_path / "a.h5", depth="penultimate")
    assert (done.n_images, done.total < 5) == (0, True)
    draw(many / "new.png", 1000)
    assert cost(many, tmp_path / "a.h5", depth="penultimate").n_images == 1
    # A further depth is computed of all.
    assert cost(many, tmp_path / "a.h5").n_images == 301
