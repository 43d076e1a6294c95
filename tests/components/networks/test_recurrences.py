"""Packed recurrences say what Keras's layers say, forward and backward, and have their gradients."""

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from components.networks import recurrences
from components.networks.recurrences import CELLS, Packing

LAYERS = {"gru": keras.layers.GRU, "lstm": keras.layers.LSTM, "rnn": keras.layers.SimpleRNN}
LENGTHS = np.array([3, 6, 1, 4, 6], np.int32)
SHAPE = (5, 7, 3)


def layer(cell: str) -> keras.Layer:
    built = LAYERS[cell](4, return_sequences=True, return_state=True)
    built.build((None, None, SHAPE[2]))
    rng = np.random.default_rng(0)
    for variable in built.trainable_variables:
        variable.assign(rng.normal(0.0, 0.7, variable.shape))
    return built


def given(cell: str) -> tuple[tf.Tensor, list[tf.Tensor], tf.Tensor]:
    """Inputs, first states, and what each output counts in a loss."""
    rng = np.random.default_rng(1)
    states = [tf.constant(rng.normal(size=(5, 4)), tf.float32) for _ in range(CELLS[cell].num_states)]
    weights = rng.normal(size=(*SHAPE[:2], 4)) * tf.sequence_mask(LENGTHS, SHAPE[1]).numpy()[..., np.newaxis]
    return tf.constant(rng.normal(size=SHAPE), tf.float32), states, tf.constant(weights, tf.float32)


def by_keras(built: keras.Layer, x: tf.Tensor, states: list[tf.Tensor], *, reverse: bool) -> Any:
    read = tf.reverse_sequence(x, LENGTHS, seq_axis=1) if reverse else x
    y, *after = built(read, initial_state=states, mask=tf.sequence_mask(LENGTHS, SHAPE[1]))
    return tf.reverse_sequence(y, LENGTHS, seq_axis=1) if reverse else y, after


def packed(
    cell: str, built: keras.Layer, x: tf.Tensor, states: Any, lengths: Any = LENGTHS, *, reverse: bool = False
) -> Any:
    weights = [variable.value for variable in built.trainable_variables]
    return recurrences.run(cell, x, lengths, weights=weights, reverse=reverse, state=states)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("cell", CELLS)
def test_outputs_states_and_gradients_are_those_of_keras(cell: str, reverse: bool) -> None:
    built, (x, states, counts) = layer(cell), given(cell)
    found = []
    for read in (
        lambda: by_keras(built, x, states, reverse=reverse),
        lambda: packed(cell, built, x, states, reverse=reverse),
    ):

        def differentiate(read: Any = read) -> Any:
            with tf.GradientTape() as tape:
                tape.watch([x, *states])
                y, after = read()
                loss = tf.reduce_sum(counts * y * y)
            variables = [variable.value for variable in built.trainable_variables]
            gradients = tape.gradient(loss, [x, *states, *variables])
            return y, after, [tf.convert_to_tensor(gradient) for gradient in gradients]

        found.append(tf.function(differentiate, autograph=False)())
    real = tf.sequence_mask(LENGTHS, SHAPE[1])
    np.testing.assert_allclose(found[1][0][real], found[0][0][real], atol=1e-6)
    for after, expected in zip(found[1][1], found[0][1], strict=True):
        np.testing.assert_allclose(after, expected, atol=1e-6)
    for gradient, expected in zip(found[1][2], found[0][2], strict=True):
        np.testing.assert_allclose(gradient, expected, atol=1e-5)


@pytest.mark.parametrize("cell", CELLS)
def test_padding_is_never_read_and_comes_out_as_zeros(cell: str) -> None:
    built, (x, states, _) = layer(cell), given(cell)
    real = tf.sequence_mask(LENGTHS, SHAPE[1])
    spoilt = tf.where(real[..., tf.newaxis], x, np.nan)
    y, _ = packed(cell, built, spoilt, states)
    np.testing.assert_array_equal(y, packed(cell, built, x, states)[0])
    assert not y.numpy()[~real.numpy()].any()


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("lengths", [[2, 0, 7, 0, 1], [0, 0, 0, 0, 0]], ids=["some", "all"])
def test_rows_without_steps_keep_their_state(cell: str, lengths: list[int]) -> None:
    built, (x, states, _) = layer(cell), given(cell)
    with tf.GradientTape() as tape:
        tape.watch([x, *states])
        y, after = packed(cell, built, x, states, tf.constant(lengths))
        loss = tf.reduce_sum(y * y)
    for state, before in zip(after, states, strict=True):
        np.testing.assert_array_equal(state[1], before[1])
        np.testing.assert_array_equal(state[3], before[3])
    of_x, *of_states = map(tf.convert_to_tensor, tape.gradient(loss, [x, *states]))
    assert np.isfinite(of_x).all()
    assert not any(each.numpy()[[1, 3]].any() for each in of_states)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_low_precision_is_near(dtype: str) -> None:
    built, (x, _, _) = layer("gru"), given("gru")
    exact, _ = packed("gru", built, x, None)
    near, _ = packed("gru", built, tf.cast(x, dtype), None)
    assert near.dtype.name == dtype
    np.testing.assert_allclose(tf.cast(near, tf.float32), exact, atol=0.002 if dtype == "float16" else 0.03)


def test_steps_stand_by_time_the_longest_row_first() -> None:
    packing = Packing.of(tf.constant([1, 3, 2]), reverse=False)
    assert packing.order.numpy().tolist() == [1, 2, 0]
    assert packing.counts.numpy().tolist() == [3, 2, 1]
    assert packing.places.numpy().tolist() == [[1, 0], [2, 0], [0, 0], [1, 1], [2, 1], [1, 2]]
    assert packing.before.numpy().tolist() == [0, 1, 3]
    backwards = Packing.of(tf.constant([1, 3, 2]), reverse=True)
    assert backwards.places.numpy().tolist() == [[1, 2], [2, 1], [0, 0], [1, 1], [2, 0], [1, 0]]
