"""Recurrent layers over right-padded sequences, exact without a mask.

    x (B, T, F), lengths (B,)
      └─ forward:  real steps never see the padding on their right
      └─ backward: the real steps reversed in place, run forward, reversed back

Letters: B batch, T padded time, F features, U units.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TypeAlias

import keras
import tensorflow as tf

Tensor: TypeAlias = tf.Tensor


@dataclass(frozen=True)
class Noise:
    """Where the random numbers of one training step come from.

    They are a pure function of the seed, the step, the place in the network and the row of the global
    batch: a resumed run draws the numbers it would have drawn, and a replica draws those of its rows only,
    so dropout does not depend on the number of replicas.
    """

    seed: Tensor  # (2,) int32: run seed and step
    first_row: Tensor | int  # of this replica's rows in the global batch
    place: int = 0

    def at(self, place: int) -> "Noise":
        """The same step's noise for another place in the network."""
        return replace(self, place=place)

    def keep_mask(self, shape: Tensor, rate: float) -> Tensor:
        """Values 0 or 1 / (1 - rate) of `shape`, whose first axis is this replica's rows."""
        key = tf.random.experimental.stateless_fold_in(self.seed, self.place)
        rows = tf.concat([[self.first_row + shape[0]], shape[1:]], axis=0)
        # Philox fills an array in order, so the first rows of a larger draw equal a smaller draw.
        uniform = tf.random.stateless_uniform(rows, key, alg="philox")[self.first_row :]
        return tf.cast(uniform >= rate, tf.float32) / (1.0 - rate)


def dropout(x: Tensor, rate: float, noise: Noise | None) -> Tensor:
    """`x` with elements dropped at `rate` and the rest scaled up; `x` itself when not training."""
    if noise is None or rate == 0.0:
        return x
    return x * noise.keep_mask(tf.shape(x), rate)


class _MaskedGRUCell(keras.layers.GRUCell):
    """A GRU cell whose recurrent dropout masks are given from outside (Gal & Ghahramani 2016)."""

    recurrent_masks: tuple[Tensor, ...] = ()

    def get_recurrent_dropout_mask(self, step_input: Tensor) -> tuple[Tensor, ...]:
        return self.recurrent_masks


class _MaskedLSTMCell(keras.layers.LSTMCell):
    """An LSTM cell whose recurrent dropout masks are given from outside."""

    recurrent_masks: tuple[Tensor, ...] = ()

    def get_recurrent_dropout_mask(self, step_input: Tensor) -> tuple[Tensor, ...]:
        return self.recurrent_masks


@dataclass(frozen=True)
class _Cell:
    fused: Callable[..., keras.Layer]
    masked: Callable[..., keras.Layer]
    num_gates: int


CELLS: Mapping[str, _Cell] = {
    "gru": _Cell(keras.layers.GRU, _MaskedGRUCell, 3),
    "lstm": _Cell(keras.layers.LSTM, _MaskedLSTMCell, 4),
}


class Direction:
    """One pass over time: (B, T, F) to (B, T, U), forward or backward.

    Without recurrent dropout it is Keras's own layer, which becomes one cuDNN kernel on a GPU; recurrent
    dropout needs the cell in a loop.
    """

    def __init__(
        self, cell: str, *, units: int, num_features: int, reverse: bool, unroll: bool, drop: float, seed: int
    ) -> None:
        kind = CELLS[cell]
        weights = {
            "kernel_initializer": keras.initializers.GlorotUniform(seed=seed),
            "recurrent_initializer": keras.initializers.Orthogonal(seed=seed + 1),
        }
        self.reverse, self.drop, self.num_gates = reverse, drop, kind.num_gates
        self.cell: keras.Layer | None = None
        if drop:
            self.cell = kind.masked(units, recurrent_dropout=drop, **weights)
            self.rnn = keras.layers.RNN(self.cell, return_sequences=True, unroll=unroll)
        else:
            self.rnn = kind.fused(units, return_sequences=True, unroll=unroll, **weights)
        self.rnn.build((None, None, num_features))
        self.units = units

    def __call__(self, x: Tensor, lengths: Tensor, noise: Noise | None) -> Tensor:
        if self.cell is not None and noise is not None:
            shape = tf.stack([tf.shape(x)[0], self.units * self.num_gates])
            mask = noise.keep_mask(shape, self.drop)
            # Not a Keras attribute: Keras would try to track the tensors of a finished graph.
            object.__setattr__(self.cell, "recurrent_masks", tuple(tf.split(mask, self.num_gates, axis=1)))
        if not self.reverse:
            return self.rnn(x, training=noise is not None)
        backward = self.rnn(tf.reverse_sequence(x, lengths, seq_axis=1), training=noise is not None)
        return tf.reverse_sequence(backward, lengths, seq_axis=1)


def last_step(outputs: list[Tensor], lengths: Tensor) -> Tensor:
    """Final state of each direction: the last real step going forward, the first step going backward."""
    forward = tf.gather(outputs[0], lengths - 1, axis=1, batch_dims=1)
    return tf.concat([forward, *(backward[:, 0] for backward in outputs[1:])], axis=-1)


def mean_step(outputs: list[Tensor], lengths: Tensor) -> Tensor:
    """Mean over real steps, (B, U)."""
    x = tf.concat(outputs, axis=-1)
    real = tf.sequence_mask(lengths, tf.shape(x)[1], dtype=x.dtype)[..., tf.newaxis]
    return tf.reduce_sum(x * real, axis=1) / tf.cast(lengths, x.dtype)[:, tf.newaxis]


def max_step(outputs: list[Tensor], lengths: Tensor) -> Tensor:
    """Largest value over real steps, (B, U)."""
    x = tf.concat(outputs, axis=-1)
    real = tf.sequence_mask(lengths, tf.shape(x)[1])[..., tf.newaxis]
    return tf.reduce_max(tf.where(real, x, x.dtype.min), axis=1)


READOUTS: Mapping[str, Callable[[list[Tensor], Tensor], Tensor]] = {
    "last": last_step,
    "mean": mean_step,
    "max": max_step,
}
