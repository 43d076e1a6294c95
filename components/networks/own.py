"""A Keras model of the user's own in place of the recurrent layers.

    def build(num_features: int, per_step: bool) -> keras.Model: ...

    x (B, T, F) ─ the model ─ (B, T, U) steps, or for a classifier also (B, U)

A model of one input is called with a mask of the real steps, one of two with the lengths (B,) beside x.
Embeddings, readout, head and chain stay Recurra's.
"""

import random
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from components.errors import ModelError
from components.lookup import find
from components.networks.layers import Noise, Tensor

# Of the two batches that must be answered alike: one without padding, one with.
STEPS, PADDED_STEPS, TOLERANCE = 5, 9, 1e-3
# What Keras calls the seeds that every recurrent layer has, whether it draws anything or not.
SEED = "seed_generator_state"


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Python's and NumPy's random numbers follow from the seed, and afterwards go on as if nothing had been.

    Keras draws the seeds of initializers that are given none from the first.
    """
    before = random.getstate(), np.random.get_state()
    random.seed(seed)
    np.random.seed(seed)
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])


class Own:
    """The model that the function named in the settings makes.

    Args:
        name: `package.module:function`.
        num_features: of a step.
        per_step: whether every step has a label.
        seed: of the first values of layers that have no seed of their own.

    Raises:
        ModelError: there is no such function, it makes no model, the model has variables that training would
            not keep, or its answers depend on padding.
    """

    def __init__(self, name: str, *, num_features: int, per_step: bool, seed: int) -> None:
        function: Any = find({}, name, kind="network")
        try:
            with _seeded(seed):
                model = function(num_features=num_features, per_step=per_step)
        except Exception as error:
            raise ModelError(
                f"The network {name} cannot be built: {type(error).__name__}: {error}."
            ) from error
        if not isinstance(model, keras.Model):
            raise ModelError(f"The network {name} is a {type(model).__name__}, expected a keras.Model.")
        self.name, self.model, self.per_step = name, model, per_step
        self.takes_lengths = len(model.inputs or [None]) == 2
        try:
            self._check_padding(num_features)
        except (ValueError, TypeError, tf.errors.InvalidArgumentError) as error:
            raise ModelError(f"The network {name} cannot be called: {error}") from error
        kept = [each.path for each in model.non_trainable_variables if SEED not in each.path]
        if self.is_random or kept:
            what = f"keeps {', '.join(kept[:3])}" if kept else "draws random numbers of its own"
            raise ModelError(
                f"The network {name} {what} in training.",
                hint="What BatchNormalization and Dropout keep would depend on batches and replicas: use "
                "LayerNormalization, and model.dropout.",
            )
        self.parts: list[Any] = [model]

    def __call__(self, x: Tensor, lengths: Tensor, noise: Noise | None) -> Tensor:
        training = noise is not None
        if self.takes_lengths:
            return self.model([x, lengths], training=training)
        real = tf.sequence_mask(lengths, tf.shape(x)[1])
        with warnings.catch_warnings():
            # That a layer passes no mask on is a fault only where padding then makes a difference.
            warnings.filterwarnings("ignore", message=".*does not support masking", category=UserWarning)
            return self.model(x, mask=real, training=training)

    def _check_padding(self, num_features: int) -> None:
        rng = np.random.default_rng(0)
        x = rng.normal(size=(2, PADDED_STEPS, num_features)).astype(np.float32)
        lengths = tf.constant([STEPS, STEPS - 2], tf.int32)
        long = np.asarray(self(tf.constant(x), lengths, None), np.float32)
        short = np.asarray(self(tf.constant(x[:, :STEPS]), lengths, None), np.float32)
        ranks = (3,) if self.per_step else (2, 3)
        if long.ndim not in ranks or (long.ndim == 3 and long.shape[1] != PADDED_STEPS):
            expected = "(B, T, U)" if self.per_step else "(B, U) or (B, T, U)"
            raise ModelError(f"The network {self.name} gives {long.shape}, expected {expected}.")
        if long.ndim == 3:
            real = np.arange(STEPS) < lengths.numpy()[:, np.newaxis]
            long, short = long[:, :STEPS][real], short[real]
        if (error := np.abs(long - short).max()) > TOLERANCE:
            raise ModelError(
                f"The network {self.name} answers otherwise with more padding, by up to {error:.3g}.",
                hint="Let its layers heed the mask, or give it a second input: the lengths.",
            )
        self.width = int(long.shape[-1])
        trained = [np.asarray(self(tf.constant(x), lengths, Noise(tf.constant([0, 0]), 0))) for _ in range(2)]
        self.is_random = bool((trained[0] != trained[1]).any())
