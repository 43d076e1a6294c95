"""Cross-entropy summed over real steps, against numpy."""

import numpy as np
import pytest
import tensorflow as tf

from components.networks.losses import Criterion, sequence_losses


def nats(logits: np.ndarray, target: int) -> float:
    return float(np.log(np.exp(logits).sum()) - logits[target])


def test_a_labellers_loss_is_the_sum_over_its_real_steps() -> None:
    rng = np.random.default_rng(0)
    logits, targets = rng.normal(size=(2, 4, 3)), rng.integers(0, 3, (2, 4))
    lengths = np.array([4, 2], np.int32)
    found = sequence_losses(tf.constant(logits, tf.float32), tf.constant(targets, tf.int32), lengths).numpy()
    for row, length in enumerate(lengths):
        expected = sum(nats(logits[row, step], targets[row, step]) for step in range(length))
        np.testing.assert_allclose(found[row], expected, rtol=1e-6)


def test_what_stands_beyond_a_sequence_is_ignored_even_if_infinite() -> None:
    logits = np.zeros((1, 3, 2), np.float32)
    logits[0, 1:] = np.inf
    found = sequence_losses(tf.constant(logits), tf.constant([[1, 0, 0]]), tf.constant([1])).numpy()
    np.testing.assert_allclose(found, [np.log(2)], rtol=1e-6)


def test_a_classifiers_loss_is_one_term() -> None:
    logits = np.array([[0.5, -1.0, 2.0]])
    found = sequence_losses(tf.constant(logits, tf.float32), tf.constant([2]), tf.constant([7])).numpy()
    np.testing.assert_allclose(found, [nats(logits[0], 2)], rtol=1e-6)


def test_certainty_of_the_wrong_class_stays_finite() -> None:
    found = sequence_losses(tf.constant([[1e4, -1e4]]), tf.constant([1]), tf.constant([1])).numpy()
    np.testing.assert_allclose(found, [2e4])


def by_hand(logits: np.ndarray, target: int, criterion: Criterion) -> float:
    """The cross-entropy to a smoothed target, times the weight of its class."""
    share = criterion.smoothing / len(logits)
    smoothed = np.full(len(logits), share)
    smoothed[target] += 1.0 - criterion.smoothing
    weight = 1.0 if criterion.class_weights is None else criterion.class_weights[target]
    return float(weight * sum(part * nats(logits, c) for c, part in enumerate(smoothed)))


WEIGHTS = np.array([0.5, 3.0, 1.0], np.float32)


@pytest.mark.parametrize(
    "criterion",
    [Criterion(WEIGHTS), Criterion(smoothing=0.2), Criterion(WEIGHTS, 0.2)],
    ids=["weights", "smoothing", "both"],
)
def test_weights_and_smoothing_are_those_of_each_real_step(criterion: Criterion) -> None:
    rng = np.random.default_rng(1)
    logits, targets = rng.normal(size=(3, 4, 3)), rng.integers(0, 3, (3, 4))
    lengths = np.array([4, 1, 2], np.int32)
    logits[np.arange(4) >= lengths[:, np.newaxis]] = np.nan
    tensors = tf.constant(logits, tf.float32), tf.constant(targets, tf.int32)
    of_steps = sequence_losses(*tensors, tf.constant(lengths), criterion).numpy()
    for row, length in enumerate(lengths):
        expected = sum(by_hand(logits[row, t], targets[row, t], criterion) for t in range(length))
        np.testing.assert_allclose(of_steps[row], expected, rtol=1e-5)
    first = [tensor[:, 0] for tensor in tensors]
    of_sequences = sequence_losses(*first, tf.constant(lengths), criterion).numpy()
    expected = [by_hand(logits[row, 0], targets[row, 0], criterion) for row in range(3)]
    np.testing.assert_allclose(of_sequences, expected, rtol=1e-5)


def test_under_smoothing_certainty_costs_more_than_the_smoothed_answer() -> None:
    smoothed = np.log([[0.9, 0.05, 0.05], [1.0 - 2e-9, 1e-9, 1e-9]])
    found = sequence_losses(
        tf.constant(smoothed, tf.float32), tf.constant([0, 0]), tf.constant([1, 1]), Criterion(smoothing=0.15)
    ).numpy()
    assert found[0] < found[1]


def test_half_precision_logits_have_float32_losses() -> None:
    found = sequence_losses(
        tf.constant([[[1.0, 2.0]] * 4000], tf.float16), tf.zeros((1, 4000), tf.int32), [4000]
    )
    assert found.dtype == tf.float32
    np.testing.assert_allclose(found.numpy(), [4000 * nats(np.array([1.0, 2.0]), 0)], rtol=1e-4)
