"""Labels, groups and splits drawn at random, for the tests of the protocol."""

import numpy as np
from hypothesis import assume
from hypothesis import strategies as st

from featpipe.protocol import LabelledRows, plan, split_rows

CLASS_NAMES = ["ant", "bee", "cat", "dog"]
# Two frequent classes and two rare ones; images alone, in several groups, or in one.
LABELS = [*[0] * 6, *[1] * 6, 2, 3]
GROUPS = st.sampled_from([["", "", "a", "b", "c", "d"], ["a", "b"], ["a"]])
NO_GROUPS = st.just([""])
SPLITS = st.sampled_from(["", "train", "val", "test"])
NO_SPLIT = st.just([""])
SEVERAL = st.sampled_from(
    [["train", "test", ""], ["train", "val"], ["train", "val", "test"], ["train"]]
)
SEEDS = st.integers(0, 2**32 - 1)


@st.composite
def labelled(draw, groups=GROUPS, splits=NO_SPLIT, n_least=12, lowest=0):
    """Draw images with labels, and perhaps groups and splits."""
    n = draw(st.integers(n_least, 40))

    def column(values):
        return draw(st.lists(values, min_size=n, max_size=n))

    return LabelledRows(
        np.array(column(st.sampled_from([lowest, *LABELS]))),
        np.array(column(st.sampled_from(draw(splits))), object),
        np.array(column(st.sampled_from(draw(groups))), object),
        CLASS_NAMES,
    )


def planned(images, **options):
    """Return the plan of drawn images, and draw others where there is none."""
    try:
        return plan(images, **options)
    except ValueError:
        assume(False)


def drawn_split(images):
    """Return who learns and who judges; draw others where their splits do not say."""
    try:
        rows = split_rows(images.splits)
    except ValueError:
        rows = None
    assume(rows is not None)
    return rows
