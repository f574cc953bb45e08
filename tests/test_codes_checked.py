"""Codes that nobody has compared with their SHA-256 yet teach nobody anything."""

import numpy as np
import pytest
from predictor_models import SMALL, draw

import featpipe
from featpipe import codes
from featpipe.codes import CodesError

USES = {
    "compare": lambda file, _: featpipe.compare(file, classifiers=["nearest-mean"]),
    "fit": lambda file, _: featpipe.fit(file, "linear", depth="stage1", C=1.0),
    "advise": lambda file, _: featpipe.advise(file),
    "report": lambda file, _: featpipe.report.make_report(file),
    "finetune": lambda file, photos: featpipe.finetune(
        photos,
        **{**SMALL, "depth": "stage1", "epochs": 1, "lr": 0.01, "codes": file.path},
        train="head",
        augment="none",
    ),
}


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checked") / "photos"
    draw(folder, "train", 6, 0)
    draw(folder, "test", 4, 1)
    return folder


@pytest.fixture
def unseen(photos, tmp_path):
    """Return codes of a run with nothing to do, from a file damaged before it."""
    path = tmp_path / "c.h5"
    options = {**SMALL, "depth": "stage1"}
    file = featpipe.extract(photos, path, **options)
    assert file.is_checked
    levels = np.repeat(file.labels[:, None], 4, axis=1).astype(np.float32)
    codes.write(
        path,
        codes={"stage1:avg": levels},
        labels=file.labels,
        class_names=file.class_names,
        paths=file.paths,
        splits=file.splits,
        images_root=file.images_root,
        sizes=file.sizes,
        mtimes=file.mtimes,
        sha256=file.sha256,
        provenance=file.provenance,
    )
    whole = levels.tobytes()
    raw = bytearray(path.read_bytes())
    zero = whole.index(bytes(4)) // 4 * 4  # 0000 and ffff are one to Fletcher-32
    at = raw.index(whole) + zero
    raw[at : at + 4] = b"\xff" * 4
    path.write_bytes(raw)
    again = featpipe.extract(photos, path, **options)
    assert not again.is_checked
    assert np.isnan(again.rows("stage1", 0, len(again))).any()
    return again


@pytest.mark.parametrize("use", USES)
def test_damage_that_a_run_with_nothing_to_do_passed_over_is_refused(
    use, unseen, photos
):
    if use == "report":
        pytest.importorskip("bokeh", reason="the extra `report` is not installed")
    with pytest.raises(CodesError, match=r"c\.h5 is damaged"):
        USES[use](unseen, photos)


def test_codes_that_were_checked_are_not_read_again(photos, tmp_path, monkeypatch):
    path = tmp_path / "c.h5"
    featpipe.extract(photos, path, **{**SMALL, "depth": "stage1"})
    file = codes.checked(featpipe.read(path, check=False))
    assert file.is_checked
    monkeypatch.setattr(
        codes.block, "check", lambda *_, **__: pytest.fail("read again")
    )
    assert codes.checked(file) is file
