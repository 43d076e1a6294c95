"""Recurrent layers at random weights and biases: padding is nowhere, dropout is reproducible."""

from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from components.networks.layers import CELLS, READOUTS, Attention, Direction, Noise, dropout

LENGTHS = np.array([5, 1, 3], np.int32)


def direction(cell: str, *, reverse: bool, **options: Any) -> Direction:
    """Random biases too: with zero biases an LSTM stays at zero over padding, and hides a missing mask."""
    built = Direction(cell, units=4, num_features=2, reverse=reverse, seed=1, **options)
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
    real = np.arange(5) < LENGTHS[:, np.newaxis]
    np.testing.assert_allclose(outputs[0][real], outputs[1][real], atol=1e-6)


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


def test_dropout_per_sequence_leaves_the_same_features_out_at_every_step() -> None:
    x = tf.ones((200, 6, 10))
    dropped = dropout(x, 0.3, noise(), per="sequence").numpy()
    np.testing.assert_array_equal(dropped, np.repeat(dropped[:, :1], 6, axis=1))
    assert set(np.unique(dropped)) == {np.float32(0), np.float32(1 / 0.7)}
    assert (dropped == 0).mean() == pytest.approx(0.3, abs=0.04)
    assert len(np.unique(dropped[:, 0], axis=0)) > 100
    share = dropout(x[150:], 0.3, noise(first_row=150), per="sequence").numpy()
    np.testing.assert_array_equal(share, dropped[150:])
    longer = dropout(tf.ones((200, 9, 10)), 0.3, noise(), per="sequence").numpy()
    np.testing.assert_array_equal(longer[:, :6], dropped)


@pytest.mark.parametrize("drop", [0.0, 0.5])
def test_a_simple_cell_is_its_formula(drop: float) -> None:
    layer, x = direction("rnn", reverse=False, drop=drop), sequences()
    kernel, recurrent, bias = (variable.numpy() for variable in layer.rnn.trainable_variables)
    found = layer(tf.constant(x), tf.constant(LENGTHS), noise()).numpy()
    mask = layer.cell.recurrent_masks[0].numpy() if layer.cell is not None else 1.0
    state = np.zeros((3, 4), np.float32)
    for step in range(5):
        state = np.tanh(x[:, step] @ kernel + (state * mask) @ recurrent + bias)
        real = step < LENGTHS
        np.testing.assert_allclose(found[real, step], state[real], atol=1e-5)


@pytest.mark.parametrize("reverse", [False, True])
def test_normalised_outputs_have_mean_0_and_variance_1_at_each_step(reverse: bool) -> None:
    x, lengths = tf.constant(sequences()), tf.constant(LENGTHS)
    plain = direction("rnn", reverse=reverse)(x, lengths, None).numpy()
    layer = direction("rnn", reverse=reverse, normalise=True)
    found = layer(x, lengths, None).numpy()
    centred = plain - plain.mean(axis=-1, keepdims=True)
    expected = centred / np.sqrt(plain.var(axis=-1, keepdims=True) + 1e-3)
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert [tuple(variable.shape) for variable in layer.norm.trainable_variables] == [(4,), (4,)]
    assert layer.parts == [layer.rnn, layer.norm]


def test_attention_is_a_mean_under_weights_that_the_padding_has_no_share_in() -> None:
    attention = Attention(num_features=8, dtype="float32", seed=1)
    rng = np.random.default_rng(3)
    for part in attention.parts:
        for variable in part.trainable_variables:
            variable.assign(rng.normal(0.0, 0.7, variable.shape))
    inner, bias, outer = (v.numpy() for part in attention.parts for v in part.trainable_variables)
    outputs = [rng.normal(size=(3, 5, 4)).astype(np.float32) for _ in range(2)]
    for each in outputs:
        each[np.arange(5) >= LENGTHS[:, np.newaxis]] = 1e3
    found = attention([tf.constant(each) for each in outputs], tf.constant(LENGTHS)).numpy()
    for row, length in enumerate(LENGTHS):
        steps = np.concatenate([each[row, :length] for each in outputs], axis=1)
        weights = np.exp(np.tanh(steps @ inner + bias) @ outer)
        np.testing.assert_allclose(found[row], (weights * steps).sum(axis=0) / weights.sum(), atol=1e-5)


@pytest.mark.parametrize("cell", CELLS)
def test_recurrent_dropout_uses_one_mask_for_all_steps_of_a_row(cell: str) -> None:
    layer = direction(cell, reverse=False, drop=0.5)
    x, lengths = tf.constant(sequences()), tf.constant(LENGTHS)
    first, again = (layer(x, lengths, noise()).numpy() for _ in range(2))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - layer(x, lengths, noise(step=1)).numpy()).max() > 1e-3
    assert np.abs(first - layer(x, lengths, None).numpy()).max() > 1e-3
    masks = layer.cell.recurrent_masks  # type: ignore[union-attr]
    assert [tuple(mask.shape) for mask in masks] == [(3, 4)] * CELLS[cell].num_gates
