"""Cross-entropy summed over real steps, against numpy."""

import numpy as np
import tensorflow as tf

from components.networks.losses import sequence_losses


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
