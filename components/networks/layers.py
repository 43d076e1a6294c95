"""Recurrent layers over right-padded sequences, exact without a mask.

    x (B, T, F), lengths (B,)
      └─ forward:  real steps never see the padding on their right
      └─ backward: the real steps reversed in place, run forward, reversed back

Letters: B batch, T padded time, F features, U units.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import keras
import tensorflow as tf

from components.networks import recurrences

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


def dropout(x: Tensor, rate: float, noise: Noise | None, *, per: str = "step") -> Tensor:
    """`x` (B, T, F) with elements dropped at `rate` and the rest scaled up; `x` itself when not training.

    `per="sequence"` leaves the same features out at every step of a sequence (Gal & Ghahramani 2016,
    arXiv:1512.05287).
    """
    if noise is None or rate == 0.0:
        return x
    shape = tf.shape(x)
    if per == "sequence":
        shape = tf.stack([shape[0], 1, shape[2]])
    return x * tf.cast(noise.keep_mask(shape, rate), x.dtype)


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


class _MaskedRNNCell(keras.layers.SimpleRNNCell):
    """A simple cell whose recurrent dropout mask is given from outside."""

    recurrent_masks: tuple[Tensor, ...] = ()

    def get_recurrent_dropout_mask(self, step_input: Tensor) -> Tensor | None:
        return self.recurrent_masks[0] if self.recurrent_masks else None


@dataclass(frozen=True)
class _Cell:
    fused: Callable[..., keras.Layer]
    masked: Callable[..., keras.Layer]
    num_gates: int


CELLS: Mapping[str, _Cell] = {
    "gru": _Cell(keras.layers.GRU, _MaskedGRUCell, 3),
    "lstm": _Cell(keras.layers.LSTM, _MaskedLSTMCell, 4),
    "rnn": _Cell(keras.layers.SimpleRNN, _MaskedRNNCell, 1),
}


class Direction:
    """One pass over time: (B, T, F) to (B, T, U), forward or backward.

    The weights are those of a Keras layer. Beside a GPU that layer computes, as one cuDNN kernel; unrolled
    and under recurrent dropout it does so too. Everywhere else `recurrences` is faster.
    """

    def __init__(
        self,
        cell: str,
        *,
        units: int,
        num_features: int,
        reverse: bool,
        unroll: bool = False,
        drop: float = 0.0,
        normalise: bool = False,
        dtype: str = "float32",
        seed: int,
    ) -> None:
        kind = CELLS[cell]
        weights = {
            "dtype": dtype,
            "kernel_initializer": keras.initializers.GlorotUniform(seed=seed),
            "recurrent_initializer": keras.initializers.Orthogonal(seed=seed + 1),
        }
        self.name, self.reverse, self.unroll = cell, reverse, unroll
        self.drop, self.num_gates = drop, kind.num_gates
        self.num_states = recurrences.CELLS[cell].num_states
        self.cell: keras.Layer | None = None
        if drop:
            self.cell = kind.masked(units, recurrent_dropout=drop, **weights)
            self.rnn = keras.layers.RNN(
                self.cell, return_sequences=True, return_state=True, unroll=unroll, dtype=dtype
            )
        else:
            self.rnn = kind.fused(units, return_sequences=True, return_state=True, unroll=unroll, **weights)
        self.rnn.build((None, None, num_features))
        self.parts: list[keras.Layer] = [self.rnn]
        self.norm: keras.Layer | None = None
        if normalise:
            self.norm = keras.layers.LayerNormalization(dtype=dtype)
            self.norm.build((None, None, units))
            self.parts.append(self.norm)
        self.units = units

    def __call__(
        self, x: Tensor, lengths: Tensor, noise: Noise | None, state: Sequence[Tensor] | None = None
    ) -> Tensor:
        if self._is_of_keras(noise):
            y = self._by_keras(x, lengths, noise, state)
        else:
            y, _ = recurrences.run(
                self.name, x, lengths, weights=self.weights, reverse=self.reverse, state=state
            )
        return y if self.norm is None else self.norm(y)

    @property
    def weights(self) -> list[Tensor]:
        """Of the inputs, of the state, and biases."""
        return [variable.value for variable in self.rnn.trainable_variables]

    def _is_of_keras(self, noise: Noise | None) -> bool:
        has_cudnn = getattr(self.rnn, "use_cudnn", False) and tf.config.list_logical_devices("GPU")
        return self.unroll or bool(self.drop and noise is not None) or bool(has_cudnn)

    def _by_keras(
        self, x: Tensor, lengths: Tensor, noise: Noise | None, state: Sequence[Tensor] | None
    ) -> Tensor:
        self._set_masks(tf.shape(x)[0], noise)
        begin = {"initial_state": None if state is None else list(state), "training": noise is not None}
        if not self.reverse:
            return self.rnn(x, **begin)[0]
        backward = self.rnn(tf.reverse_sequence(x, lengths, seq_axis=1), **begin)[0]
        return tf.reverse_sequence(backward, lengths, seq_axis=1)

    def carry(
        self, x: Tensor, lengths: Tensor, noise: Noise | None, state: Sequence[Tensor]
    ) -> tuple[Tensor, list[Tensor]]:
        """Go on from a state, forward: the outputs, and the state after each row's last real step.

        Args:
            x: (B, T, F).
            lengths: real steps of each row, (B,); 0 leaves a row's state as it was.
            noise: of a training step.
            state: `num_states` tensors (B, U) float32.
        """
        if self.drop and noise is not None:
            self._set_masks(tf.shape(x)[0], noise)
            real = tf.sequence_mask(lengths, tf.shape(x)[1])
            y, *after = self.rnn(x, mask=real, initial_state=list(state), training=True)
        else:
            y, after = recurrences.run(self.name, x, lengths, weights=self.weights, state=state)
        return y if self.norm is None else self.norm(y), [tf.cast(each, tf.float32) for each in after]

    def _set_masks(self, num_rows: Tensor, noise: Noise | None) -> None:
        if self.cell is None or noise is None:
            return
        shape = tf.stack([num_rows, self.units * self.num_gates])
        mask = tf.cast(noise.keep_mask(shape, self.drop), self.cell.compute_dtype)
        # Not a Keras attribute: Keras would try to track the tensors of a finished graph.
        object.__setattr__(self.cell, "recurrent_masks", tuple(tf.split(mask, self.num_gates, axis=1)))


def last_step(outputs: list[Tensor], lengths: Tensor) -> Tensor:
    """Final state of each direction: the last real step going forward, the first step going backward."""
    # Of a row that has ended there may be no step here: whatever stands first then, as it must be a place.
    forward = tf.gather(outputs[0], tf.maximum(lengths - 1, 0), axis=1, batch_dims=1)
    return tf.concat([forward, *(backward[:, 0] for backward in outputs[1:])], axis=-1)


def mean_step(outputs: list[Tensor], lengths: Tensor) -> Tensor:
    """Mean over real steps, (B, U)."""
    x = tf.concat(outputs, axis=-1)
    real = tf.sequence_mask(lengths, tf.shape(x)[1], dtype=tf.float32)[..., tf.newaxis]
    # Many numbers of float16 do not add up to their sum in float16.
    mean = tf.reduce_sum(tf.cast(x, tf.float32) * real, axis=1) / tf.cast(lengths, tf.float32)[:, tf.newaxis]
    return tf.cast(mean, x.dtype)


def max_step(outputs: list[Tensor], lengths: Tensor) -> Tensor:
    """Largest value over real steps, (B, U)."""
    x = tf.concat(outputs, axis=-1)
    real = tf.sequence_mask(lengths, tf.shape(x)[1])[..., tf.newaxis]
    return tf.reduce_max(tf.where(real, x, x.dtype.min), axis=1)


class Attention:
    """Mean over real steps under learnt weights, (B, U): softmax over time of `v . tanh(W y)`.

    Raffel & Ellis 2015, arXiv:1512.08756; Yang et al. 2016, doi:10.18653/v1/N16-1174.
    """

    def __init__(self, *, num_features: int, dtype: str, seed: int) -> None:
        self.inner = keras.layers.Dense(
            num_features,
            activation="tanh",
            dtype=dtype,
            kernel_initializer=keras.initializers.GlorotUniform(seed=seed),
        )
        self.outer = keras.layers.Dense(
            1, use_bias=False, dtype=dtype, kernel_initializer=keras.initializers.GlorotUniform(seed=seed + 1)
        )
        self.inner.build((None, None, num_features))
        self.outer.build((None, None, num_features))
        self.parts = [self.inner, self.outer]

    def __call__(self, outputs: list[Tensor], lengths: Tensor) -> Tensor:
        x = tf.concat(outputs, axis=-1)
        real = tf.sequence_mask(lengths, tf.shape(x)[1])
        scores = tf.cast(self.outer(self.inner(x))[..., 0], tf.float32)
        weights = tf.nn.softmax(tf.where(real, scores, scores.dtype.min), axis=1)
        return tf.einsum("bt,btu->bu", tf.cast(weights, x.dtype), tf.where(real[..., tf.newaxis], x, 0.0))


READOUTS: Mapping[str, Callable[[list[Tensor], Tensor], Tensor]] = {
    "last": last_step,
    "mean": mean_step,
    "max": max_step,
}
