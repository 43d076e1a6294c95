"""Recurrent layers at random weights and biases: padding is nowhere, dropout is reproducible."""

import numpy as np
import pytest
import tensorflow as tf

from components.networks.layers import CELLS, READOUTS, Direction, Noise, dropout

LENGTHS = np.array([5, 1, 3], np.int32)


def direction(cell: str, *, reverse: bool, unroll: bool = False, drop: float = 0.0) -> Direction:
    """Random biases too: with zero biases an LSTM stays at zero over padding, and hides a missing mask."""
    built = Direction(cell, units=4, num_features=2, reverse=reverse, unroll=unroll, drop=drop, seed=1)
    rng = np.random.default_rng(0)
    for variable in built.rnn.trainable_variables:
        variable.assign(rng.normal(0.0, 0.7, variable.shape))
    return built


def noise(seed: int = 0, *, step: int = 0, first_row: int = 0, place: int = 0) -> Noise:
    return Noise(tf.constant([seed, step], tf.int32), first_row, place)


def sequences() -> np.ndarray:
    return np.random.default_rng(1).normal(size=(3, 5, 2)).astype(np.float32)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("reverse", [False, True])
def test_padding_and_what_stands_in_it_make_no_difference(cell: str, reverse: bool) -> None:
    layer, x = direction(cell, reverse=reverse), sequences()
    spoilt = np.full((3, 9, 2), 1e3, np.float32)
    for row, length in enumerate(LENGTHS):
        spoilt[row, :length] = x[row, :length]
    padded = layer(tf.constant(spoilt), tf.constant(LENGTHS), None).numpy()
    for row, length in enumerate(LENGTHS):
        alone = layer(tf.constant(x[row : row + 1, :length]), tf.constant([length], tf.int32), None).numpy()
        np.testing.assert_allclose(padded[row, :length], alone[0], atol=1e-5)


@pytest.mark.parametrize("cell", CELLS)
def test_backward_is_forward_over_the_reversed_real_steps(cell: str) -> None:
    forward, backward, x = direction(cell, reverse=False), direction(cell, reverse=True), sequences()
    there = backward(tf.constant(x), tf.constant(LENGTHS), None).numpy()
    for row, length in enumerate(LENGTHS):
        turned = np.ascontiguousarray(x[row : row + 1, :length][:, ::-1])
        back = forward(tf.constant(turned), tf.constant([length], tf.int32), None).numpy()
        np.testing.assert_allclose(there[row, :length], back[0, ::-1], atol=1e-6)


@pytest.mark.parametrize("drop", [0.0, 0.4])
def test_unrolled_equals_the_dynamic_loop(drop: float) -> None:
    x, lengths = tf.constant(sequences()), tf.constant(LENGTHS)
    outputs = [
        direction("gru", reverse=True, unroll=unroll, drop=drop)(x, lengths, noise()).numpy()
        for unroll in (False, True)
    ]
    np.testing.assert_allclose(*outputs, atol=1e-6)


def test_all_zero_steps_are_steps() -> None:
    layer = direction("lstm", reverse=False)
    with_zero = layer(tf.constant([[[1.0, 1], [0, 0], [1, 1]]]), tf.constant([3]), None).numpy()
    without = layer(tf.constant([[[1.0, 1], [1, 1]]]), tf.constant([2]), None).numpy()
    assert np.abs(with_zero[0, 2] - without[0, 1]).max() > 1e-3


def test_readouts_look_at_real_steps_only() -> None:
    rng = np.random.default_rng(2)
    forward, backward = (rng.normal(size=(3, 5, 4)).astype(np.float32) for _ in range(2))
    found = {
        name: readout([tf.constant(forward), tf.constant(backward)], tf.constant(LENGTHS)).numpy()
        for name, readout in READOUTS.items()
    }
    for row, length in enumerate(LENGTHS):
        both = np.concatenate([forward[row, :length], backward[row, :length]], axis=1)
        last = np.concatenate([forward[row, length - 1], backward[row, 0]])
        np.testing.assert_allclose(found["last"][row], last, atol=1e-6)
        np.testing.assert_allclose(found["mean"][row], both.mean(axis=0), atol=1e-6)
        np.testing.assert_allclose(found["max"][row], both.max(axis=0), atol=1e-6)


def test_dropout_is_off_without_noise_and_keeps_the_mean_with_it() -> None:
    x = tf.ones((200, 50))
    assert dropout(x, 0.3, None) is x
    assert dropout(x, 0.0, noise()) is x
    dropped = dropout(x, 0.3, noise()).numpy()
    assert set(np.unique(dropped)) == {np.float32(0), np.float32(1 / 0.7)}
    assert dropped.mean() == pytest.approx(1.0, abs=0.02)
    assert (dropped == 0).mean() == pytest.approx(0.3, abs=0.02)


def test_noise_follows_from_seed_step_place_and_row_alone() -> None:
    shape = tf.constant([6, 4])
    whole = noise().keep_mask(shape, 0.5).numpy()
    np.testing.assert_array_equal(whole, noise().keep_mask(shape, 0.5).numpy())
    for other in (noise(seed=1), noise(step=1), noise(place=1)):
        assert (other.keep_mask(shape, 0.5).numpy() != whole).any()
    share = noise(first_row=4).keep_mask(tf.constant([2, 4]), 0.5).numpy()
    np.testing.assert_array_equal(share, whole[4:])


def test_recurrent_dropout_uses_one_mask_for_all_steps_of_a_row() -> None:
    layer = direction("gru", reverse=False, drop=0.5)
    x, lengths = tf.constant(sequences()), tf.constant(LENGTHS)
    first, again = (layer(x, lengths, noise()).numpy() for _ in range(2))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - layer(x, lengths, noise(step=1)).numpy()).max() > 1e-3
    assert np.abs(first - layer(x, lengths, None).numpy()).max() > 1e-3
    masks = layer.cell.recurrent_masks  # type: ignore[union-attr]
    assert [tuple(mask.shape) for mask in masks] == [(3, 4)] * 3
