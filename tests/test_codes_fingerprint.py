"""What makes two extractions differ, and how a sentence tells it."""

import pytest

from featpipe.codes import CodesError, require_same_fingerprint
from featpipe.codes.fingerprint import first_difference

HAVE = {
    "backbone": "mini",
    "weights": "DEFAULT",
    "weights_sha256": "a" * 64,
    "preprocessing": {"resize": 64, "crop": 64, "mean": [0.5, 0.5, 0.5]},
    "decoding": {"mode": "exact", "max_pixels": 100},
    "precision": "fp32",
}


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        ({}, None),
        ({"device": "cuda", "featpipe": "9.9"}, None),
        ({"decoding": {"mode": "exact", "max_pixels": None}}, None),
        ({"precision": "bf16"}, ("precision", "fp32", "bf16")),
        (
            {"preprocessing": {"resize": 64, "crop": 60, "mean": [0.5, 0.5, 0.5]}},
            ("preprocessing.crop", 64, 60),
        ),
        (
            {"decoding": {"mode": "scaled", "max_pixels": 7}, "precision": "bf16"},
            ("decoding.mode", "exact", "scaled"),
        ),
        ({"backbone": None}, ("backbone", "mini", None)),
    ],
)
def test_the_first_entry_that_changes_a_number_is_told(change, difference):
    assert first_difference(HAVE, {**HAVE, **change}) == difference


def test_weights_are_told_by_name_and_as_much_of_the_digest_as_a_person_compares():
    other = HAVE | {"weights": "none", "weights_sha256": "b" * 64}
    with pytest.raises(CodesError) as caught:
        require_same_fingerprint(HAVE, other, "x.h5")
    message = str(caught.value)
    assert "x.h5 was made with weights = 'DEFAULT (SHA-256 aaaaaaaaaaaa…)'" in message
    assert "'none (SHA-256 bbbbbbbbbbbb…)'" in message
    assert "--overwrite" in message
    # The same tensors under another name are the same weights.
    require_same_fingerprint(HAVE, HAVE | {"weights": "IMAGENET1K_V1"}, "x.h5")
