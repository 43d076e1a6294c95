"""Cross-entropy on logits, one sum per sequence: weighting is the caller's.

A batch's loss is `sum(weights * sequence_losses)`, where the weights already hold one over the global mass
of its rows: real steps, sequences, or their class weights. Partial sums therefore add up to the same loss
and gradient however the rows are spread over replicas and batches (docs/concepts/loss_weighting.md).
"""

from dataclasses import dataclass

import numpy as np
import tensorflow as tf


@dataclass(frozen=True)
class Criterion:
    """What a right answer is worth."""

    class_weights: np.ndarray | None = None  # (C,) float32; None: all count alike
    smoothing: float = 0.0  # share of the target that is spread over all classes


PLAIN = Criterion()


def sequence_losses(
    logits: tf.Tensor, targets: tf.Tensor, lengths: tf.Tensor, criterion: Criterion = PLAIN
) -> tf.Tensor:
    """Nats per sequence, summed over its real steps, each times the weight of its class, float32 (B,).

    Label smoothing mixes the target with the uniform distribution (Szegedy et al. 2016,
    doi:10.1109/CVPR.2016.308).

    Args:
        logits: (B, T, C) with targets (B, T), or (B, C) with targets (B,).
        targets: class indices; whatever stands beyond a sequence's length is ignored.
        lengths: real steps per sequence, (B,).
    """
    logits = tf.cast(logits, tf.float32)
    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(targets, logits)
    if criterion.smoothing:
        uniform = -tf.reduce_mean(tf.nn.log_softmax(logits), axis=-1)
        losses = (1.0 - criterion.smoothing) * losses + criterion.smoothing * uniform
    if criterion.class_weights is not None:
        losses *= tf.gather(tf.constant(criterion.class_weights, tf.float32), targets)
    if losses.shape.rank == 1:
        return losses
    real = tf.sequence_mask(lengths, tf.shape(losses)[1])
    return tf.reduce_sum(tf.where(real, losses, 0.0), axis=1)
