"""An extraction killed anywhere goes on, and ends as if it had never been killed.

`crashing.py` does the killing, in forks; here its work is judged.
"""

from pathlib import Path

import crashing
import numpy as np
import pytest
from trapping import apart

from featpipe import codes

N_IMAGES, BROKEN = 40, (5, 17, 30)
# Images that failed, in each of the five slices of 8.
N_BROKEN = [1, 0, 1, 1, 0]
DEPTHS = ["stem:avg", "penultimate"]


@pytest.fixture(scope="module")
def work(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("work")


@pytest.fixture(scope="module")
def runs(tmp_path_factory, work, draw) -> dict[str, dict]:
    photos = tmp_path_factory.mktemp("photos")
    for k in range(N_IMAGES):
        path = photos / ("ant", "bee")[k >= 20] / f"{k:03}.png"
        # The last five are the first five over again: what a resumed run knows by
        # content and an unbroken one does not must make no difference.
        draw(path, seed=k % 35)
        if k in BROKEN:
            path.write_text("not an image")
    result = apart(lambda: crashing.experiments(photos, work), 500)
    assert "value" in result, result
    return result["value"]


def same(one: codes.Codes, two: codes.Codes) -> None:
    for name in ("labels", "sizes", "mtimes", "sha256", "splits", "groups"):
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name))
    for name in ("paths", "class_names", "failures", "notes", "provenance", "shapes"):
        assert getattr(one, name) == getattr(two, name)


def test_an_unbroken_run_accounts_for_every_image(runs, work):
    assert runs["unbroken"] == {"signal": 0, "computed": 37, "kept": 0, "failed": 3}
    file = codes.verify(work / "unbroken" / "codes.h5")
    assert file.depths == DEPTHS
    assert len(file) + len(file.failures) == N_IMAGES
    assert [stage for _, stage, _ in file.failures] == ["decode"] * 3


@pytest.mark.parametrize("name", crashing.POINTS)
def test_a_stopped_run_goes_on_to_the_same_bytes(runs, work, name):
    run, act = runs[name], crashing.POINTS[name][3]
    expected = {crashing.die: 9, crashing.terminate: 15}.get(act, 0)
    assert run["first"]["signal"] == expected
    if act is crashing.interrupt:
        assert run["first"]["error"] == "KeyboardInterrupt"
    if act is crashing.full_disk:
        assert run["first"]["error"] == "OSError"
        assert "make room there and run the same command" in run["first"]["text"]
    if act in (crashing.interrupt, crashing.full_disk):
        # It could still clean up: nothing but finished work is left.
        assert set(run["between"]["left"]) <= {"codes.h5", "codes.h5.parts"}

    # What was finished is not done again.
    parts, final = run["between"]["parts"], run["between"]["final"]
    slices = 8 * parts - sum(N_BROKEN[:parts])
    kept = 37 if final else run["between"]["rows"]
    if act in (crashing.die, crashing.terminate):
        assert final or kept == slices
    assert run["again"] == {
        "signal": 0,
        "computed": 37 - kept,
        "kept": kept,
        "failed": 3,
    }

    path = work / name.replace(" ", "-") / "codes.h5"
    assert [result.name for result in path.parent.iterdir()] == ["codes.h5"]
    unbroken, again = codes.read(work / "unbroken" / "codes.h5"), codes.verify(path)
    same(unbroken, again)
    assert path.read_bytes() == unbroken.path.read_bytes()


def test_the_points_are_where_they_say(runs):
    parts = {
        name: run["between"]["parts"] for name, run in runs.items() if "first" in run
    }
    assert parts["before part 1 is named"] == 0
    assert parts["with part 3 just named"] == 3
    assert parts["before the file is named"] == 5
    assert parts["with one part gone"] == 3
    finals = [name for name, run in runs.items() if run.get("between", {}).get("final")]
    assert finals == [
        "with the file just named",
        "before the parts go",
        "with one part gone",
        "with the parts just gone",
        "before the lock is left",
    ]


def test_nine_kills_at_odd_times_end_in_the_same_bytes(runs, work):
    path = work / "at random" / "codes.h5"
    assert runs["at random"]["again"]["signal"] == 0
    assert path.read_bytes() == (work / "unbroken" / "codes.h5").read_bytes()


def test_finished_parts_serve_a_folder_that_has_grown_since_the_kill(runs, work):
    # Three parts hold 22 rows, five more images have the content of rows in them.
    assert runs["grown"]["again"] == {
        "signal": 0,
        "computed": 11,
        "kept": 27,
        "failed": 3,
    }
    result, fresh = (
        codes.verify(work / "grown" / f"{n}.h5") for n in ("codes", "fresh")
    )
    same(result, fresh)
    assert result.paths[0] == "ant/!first.png"
    for spec in DEPTHS:
        X, expected = result.rows(spec, 0, 99), fresh.rows(spec, 0, 99)
        np.testing.assert_allclose(X, expected, rtol=1e-5, atol=1e-6)


def test_a_depth_whose_adding_was_killed_is_added_and_others_stay(runs, work):
    assert runs["deeper"]["again"]["computed"] == 37 - 24
    before = codes.read(work / "unbroken" / "codes.h5")
    result, fresh = (
        codes.verify(work / "deeper" / f"{n}.h5") for n in ("codes", "fresh")
    )
    assert result.depths == fresh.depths == [*DEPTHS, "body:max"]
    assert result.failures == fresh.failures
    for spec in DEPTHS:
        X = result.rows(spec, 0, 99)
        assert X.tobytes() == before.rows(spec, 0, 99).tobytes()
    X, expected = result.rows("body", 0, 99), fresh.rows("body", 0, 99)
    np.testing.assert_allclose(X, expected, rtol=1e-5, atol=1e-6)
