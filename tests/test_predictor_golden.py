"""A model file of every format version is read for ever, and labels the same."""

import numpy as np
from make_golden_model import GOLDEN, NAMES, drawn

import featpipe

# As printed when the file was made.
SCORES = [
    [-2.238727, -3.051517, 1.994408],
    [-2.457447, 1.874274, -2.712664],
    [1.672928, -2.654770, -2.313995],
    [-2.468706, -2.769407, 1.942277],
    [-2.184378, 2.071130, -3.182589],
    [1.914789, -2.335249, -2.875376],
]
PROBABILITIES = [
    [0.136324, 0.132088, 0.731589],
    [0.158524, 0.699798, 0.141679],
    [0.734638, 0.138086, 0.127276],
    [0.128235, 0.133261, 0.738503],
    [0.162225, 0.713297, 0.124478],
    [0.753957, 0.141888, 0.104156],
]


def test_the_golden_model_is_read() -> None:
    model = featpipe.load(GOLDEN[1]).model
    assert GOLDEN[1].stat().st_size < 50_000
    assert model.classifier == "logistic"
    assert model.C == 1.0
    assert model.class_names == sorted(NAMES)
    assert model.backbone == "squeezenet1_1"
    assert model.depth == "features.0:gem"
    assert model.weights == "none"
    assert model.fingerprint["precision"] == "fp32"
    assert model.fingerprint["preprocessing"]["crop"] == 32
    assert model.training["n_images"] == 6
    assert model.coef.shape == (3, 64)
    assert np.isclose(np.abs(model.coef).sum(), 31.181887611588188, rtol=1e-12)


def test_the_golden_model_labels_images_as_it_did() -> None:
    predictions = featpipe.load(GOLDEN[1], device="cpu").classify(drawn())
    # Float32 convolutions on another processor: 1e-5; a wrong pixel would show.
    np.testing.assert_allclose(predictions.scores, SCORES, atol=1e-3)
    assert predictions.labels.tolist() == NAMES * 2


def test_the_golden_model_of_version_2_gives_probabilities_as_it_did() -> None:
    model = featpipe.load(GOLDEN[2], device="cpu")
    assert model.model.classifier == "svm"
    predictions = model.classify(drawn())
    np.testing.assert_allclose(predictions.probabilities, PROBABILITIES, atol=1e-3)
    assert predictions.labels.tolist() == NAMES * 2
    assert model.model.error_curve.shape[1] == 3
