"""The plan: what an extraction would do and take, without doing it."""

from pathlib import Path

import pytest
from extracting import OPTIONS, run

from featpipe import images
from featpipe.extraction import Cost, Job
from featpipe.inference import Machine, Recipe


def job(source: Path, path: Path, **changes) -> Job:
    options = {**OPTIONS, **changes}
    machine = Machine(
        options.pop("device"), options.pop("batch_size"), options.pop("workers")
    )
    depths = options.pop("depth")
    depths = (depths,) if isinstance(depths, str) else tuple(depths)
    return Job(Recipe(depths=depths, **options), images.scan(source), path, machine)


def cost(source: Path, path: Path, **changes) -> Cost:
    planned = job(source, path, **changes)
    return planned.cost(planned.look())


@pytest.fixture
def many(tmp_path, draw) -> Path:
    for k in range(300):
        draw(tmp_path / "many" / f"{k:03}.png", k)
    return tmp_path / "many"


def test_the_plan_tells_the_size_of_the_file_and_writes_nothing(many, tmp_path):
    planned = cost(many, tmp_path / "a.h5")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["many"]
    found, _ = run(many, tmp_path / "a.h5")
    assert planned.n_images == 300
    # Headers and chunks weigh more where codes are as short as here.
    assert 0.5 < planned.disk / found.path.stat().st_size < 2


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
