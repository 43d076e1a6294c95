"""A network of the user's own: trained like ours, refused where it could not be exact."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from components.errors import ModelError
from components.networks import models
from components.networks.own import Own
from components.served.encoding import Slot
from conf.schema import ModelSettings

SOURCE = """
import keras
from keras import layers

def masked(num_features, per_step):
    x = keras.Input((None, num_features))
    return keras.Model(x, layers.Bidirectional(layers.LSTM(4, return_sequences=per_step))(x))

def lengths(num_features, per_step):
    x, n = keras.Input((None, num_features)), keras.Input((), dtype="int32")
    def share(args):
        return keras.ops.tanh(args[0]) / keras.ops.cast(args[1], "float32")[:, None, None]
    return keras.Model([x, n], layers.Lambda(share)([layers.Dense(3)(x), n]))

def careless(num_features, per_step):
    return keras.Sequential([keras.Input((None, num_features)), layers.Conv1D(3, 3, padding="same")])

def with_state(num_features, per_step):
    return keras.Sequential([keras.Input((None, num_features)), layers.Dense(3), layers.Dropout(0.5)])

def with_statistics(num_features, per_step):
    return keras.Sequential([keras.Input((None, num_features)), layers.BatchNormalization()])

def flat(num_features, per_step):
    return keras.Sequential([keras.Input((None, num_features)), layers.GRU(3)])

def broken(num_features, per_step):
    raise KeyError("size")

def no_model(num_features, per_step):
    return 3
"""
SLOTS = (Slot("numbers", 3),)


@pytest.fixture(autouse=True)
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_networks.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(tmp_path)


def test_its_first_values_follow_from_the_seed_and_nothing_else_does() -> None:
    def first_values(seed: int) -> list[np.ndarray]:
        settings = ModelSettings(own="my_networks:masked")
        network: Any = models.build(settings, task="labelling", slots=SLOTS, num_classes=5, seed=seed)
        return list(network.weights())

    before = random.getstate()
    one, again, other = first_values(3), first_values(3), first_values(4)
    assert random.getstate() == before
    assert all((a == b).all() for a, b in zip(one, again, strict=True))
    assert any((a != b).any() for a, b in zip(one, other, strict=True))
    # The biases of an LSTM begin alike; what is drawn does not.
    assert all((a != b).any() for a, b in zip(one, other, strict=True) if a.ndim > 1)


@pytest.mark.parametrize("name", ["masked", "lengths"])
@pytest.mark.parametrize("task", ["labelling", "classification"])
def test_it_stands_between_embeddings_and_head(name: str, task: str, tmp_path: Path) -> None:
    settings = ModelSettings(own=f"my_networks:{name}", crf=task == "labelling")
    network: Any = models.build(settings, task=task, slots=SLOTS, num_classes=5, seed=0)
    x = tf.constant(np.random.default_rng(0).normal(size=(2, 6, 3)).astype(np.float32))
    lengths = tf.constant([6, 2], tf.int32)
    with tf.GradientTape() as tape:
        targets = tf.constant([[1] * 6, [2] * 6] if task == "labelling" else [1, 2])
        loss = tf.reduce_sum(network.losses(x, lengths, targets))
    variables = [variable.value for variable in network.variables]
    assert all(gradient is not None for gradient in tape.gradient(loss, variables))
    models.export(network, tmp_path / "model")
    loaded = tf.saved_model.load(str(tmp_path / "model"))
    found = loaded.signatures["serving_default"](x=x, length=lengths)
    for key, value in network.answers(x, lengths)._asdict().items():
        np.testing.assert_allclose(found[key], value, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("careless", "more padding"),
        ("with_state", "random numbers"),
        ("with_statistics", "moving_mean"),
        ("flat", r"expected \(B, T, U\)"),
        ("broken", "KeyError"),
        ("no_model", "is a int"),
        ("missing", "missing"),
    ],
)
def test_what_could_not_be_exact_is_refused(name: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        Own(f"my_networks:{name}", num_features=3, per_step=True, seed=0)
