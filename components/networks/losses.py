"""Cross-entropy on logits, one sum per sequence: weighting is the caller's.

A batch's loss is `sum(weights * sequence_losses)`, where the weights already hold one over the global
number of real steps (or sequences). Partial sums therefore add up to the same loss and gradient however
the rows are spread over replicas and batches (docs/concepts/loss_weighting.md).
"""

import tensorflow as tf


def sequence_losses(logits: tf.Tensor, targets: tf.Tensor, lengths: tf.Tensor) -> tf.Tensor:
    """Nats per sequence, summed over its real steps, float32 (B,).

    Args:
        logits: (B, T, C) with targets (B, T), or (B, C) with targets (B,).
        targets: class indices; whatever stands beyond a sequence's length is ignored.
        lengths: real steps per sequence, (B,).
    """
    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(targets, tf.cast(logits, tf.float32))
    if losses.shape.rank == 1:
        return losses
    real = tf.sequence_mask(lengths, tf.shape(losses)[1])
    return tf.reduce_sum(tf.where(real, losses, 0.0), axis=1)
