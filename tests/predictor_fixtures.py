"""A folder, its codes and models of them: a plugin of the predictor's tests."""

from pathlib import Path

import pytest
from predictor_models import SMALL, draw

import featpipe
from featpipe import codes


@pytest.fixture(scope="module")
def kinds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return 24 train and 12 test images of three classes of brightness."""
    folder = tmp_path_factory.mktemp("predictor") / "kinds"
    draw(folder, "train", 8, 0)
    draw(folder, "test", 4, 1)
    return folder


@pytest.fixture(scope="module")
def kinds_h5(kinds: Path) -> codes.Codes:
    depths = ["stage1", "penultimate"]
    return featpipe.extract(kinds, kinds.parent / "kinds.h5", depth=depths, **SMALL)


@pytest.fixture(scope="module")
def logistic(kinds_h5: codes.Codes) -> featpipe.Predictor:
    return featpipe.fit(kinds_h5, C=0.1)


@pytest.fixture
def saved(logistic: featpipe.Predictor, tmp_path: Path) -> Path:
    logistic.save(tmp_path / "kinds.model")
    return tmp_path / "kinds.model"
