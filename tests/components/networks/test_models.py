"""Networks from settings: sizes, fresh cells, and the SavedModel that says the same."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from components.networks import models
from components.served.encoding import Slot
from conf.schema import ModelSettings

SIZES: dict[str, Any] = {"slots": (Slot("numbers", 3),), "num_classes": 4, "seed": 0}


def randomised(settings: ModelSettings, task: str) -> Any:
    network = models.build(settings, task=task, **SIZES)
    rng = np.random.default_rng(5)
    network.load([rng.normal(0.0, 0.6, value.shape).astype(np.float32) for value in network.weights()])
    return network


@pytest.mark.parametrize(("cell", "gates", "biases"), [("gru", 3, 2), ("lstm", 4, 1)])
def test_the_number_of_parameters_follows_the_formula(cell: Any, gates: int, biases: int) -> None:
    settings = ModelSettings(cell=cell, units=5, layers=2, bidirectional=True)
    network = models.build(settings, task="labelling", **SIZES)
    per_layer = [2 * gates * 5 * (width + 5 + biases) for width in (3, 10)]
    assert network.num_parameters == sum(per_layer) + (10 + 1) * 4


def test_layers_and_directions_have_cells_of_their_own() -> None:
    settings = ModelSettings(units=5, layers=2, bidirectional=True)
    network = models.build(settings, task="labelling", **SIZES)
    assert len({id(variable) for variable in network.variables}) == len(network.variables) == 2 * 2 * 3 + 2
    recurrent = [weights for weights in network.weights() if weights.shape == (5, 15)]
    assert len(recurrent) == 4
    assert all((one != other).any() for i, one in enumerate(recurrent) for other in recurrent[:i])


def test_the_same_seed_gives_the_same_first_weights() -> None:
    one, same, other = (
        models.build(ModelSettings(units=4), task="labelling", **{**SIZES, "seed": seed})
        for seed in (0, 0, 1)
    )
    for a, b in zip(one.weights(), same.weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert any((a != b).any() for a, b in zip(one.weights(), other.weights(), strict=True))


@pytest.mark.parametrize("readout", ["last", "mean", "max"])
def test_a_classifier_answers_a_row_the_same_alone_and_in_a_padded_batch(readout: Any) -> None:
    network = randomised(ModelSettings(units=4, bidirectional=True, readout=readout), "classification")
    x = np.random.default_rng(1).normal(size=(3, 6, 3)).astype(np.float32)
    lengths = np.array([6, 1, 4], np.int32)
    together = network(tf.constant(x), tf.constant(lengths)).numpy()
    assert together.shape == (3, 4)
    for row, length in enumerate(lengths):
        alone = network(tf.constant(x[row : row + 1, :length]), tf.constant([length], tf.int32)).numpy()
        np.testing.assert_allclose(together[row], alone[0], atol=1e-5)


@pytest.mark.parametrize("task", ["labelling", "classification"])
def test_the_exported_model_says_the_same_at_any_length_and_batch_size(task: str, tmp_path: Path) -> None:
    network = randomised(ModelSettings(cell="lstm", units=4, layers=2, bidirectional=True), task)
    models.export(network, tmp_path / "model")
    loaded = tf.saved_model.load(str(tmp_path / "model"))
    for rows, length in ((1, 1), (2, 7), (5, 12)):
        x = tf.constant(np.random.default_rng(length).normal(size=(rows, length, 3)).astype(np.float32))
        lengths = tf.constant([length] * rows, tf.int32)
        expected = tf.nn.log_softmax(network(x, lengths)).numpy()
        found = loaded.signatures["serving_default"](x=x, length=lengths)["log_probabilities"].numpy()
        np.testing.assert_allclose(found, expected, atol=1e-6)


def test_weights_of_another_network_are_refused() -> None:
    network = models.build(ModelSettings(units=4), task="labelling", **SIZES)
    with pytest.raises(ValueError, match="zip"):
        network.load(network.weights()[:-1])
