"""The training step and the evaluation step, exact on any number of replicas.

    global batch ─ rows r*b .. (r+1)*b to replica r ─ sum(weights * loss) ─ gradients summed over replicas
                                                                          └ clipped once ─ optimizer

`Model.fit` averages the masked loss on each replica and then averages the replicas, which is wrong as
soon as they hold different numbers of real steps (keras#16285, tensorflow#34491). Here a row's weight
already holds one over the global count, so sums are all that is needed.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from components.data.batches import Batch
from components.networks.layers import Noise
from components.networks.losses import sequence_losses


@dataclass(frozen=True)
class Predicted:
    """What an evaluation step says of a batch, filler rows included."""

    labels: np.ndarray  # (B, T) or (B,) int32
    confidence: np.ndarray  # probability of `labels`, same shape, float32
    losses: np.ndarray  # (B,) float32 nats, summed over real steps


class Steps:
    """The two graph functions over one network. Build inside `strategy.scope()`, call outside."""

    def __init__(
        self,
        network: Any,
        optimizer: keras.Optimizer,
        *,
        strategy: tf.distribute.Strategy,
        clip_norm: float | None,
        seed: int,
        unrolled: bool = False,
    ) -> None:
        self.network, self.optimizer, self.strategy = network, optimizer, strategy
        self.clip_norm, self.seed = clip_norm, seed
        self.num_replicas = strategy.num_replicas_in_sync
        self.unrolled = unrolled
        optimizer.build(network.variables)
        self._graphs: dict[tuple[str, int | None], Callable[..., Any]] = {}

    def train(self, batch: Batch) -> tf.Tensor:
        """One optimizer step on a batch whose rows are a multiple of the replicas; returns its loss.

        The loss is the weighted sum over all replicas before the step, a float32 scalar left on the
        device: reading it waits for the step.
        """
        x, lengths, targets, weights = batch.x, batch.lengths, batch.targets, batch.weights
        return self._graph("train", self._train_step, batch)(x, lengths, targets, weights)

    def evaluate(self, batch: Batch) -> Predicted:
        """Labels, their probabilities and the loss per row, without dropout."""
        graph = self._graph("evaluate", self._evaluate_step, batch)
        labels, confidence, losses = graph(batch.x, batch.lengths, batch.targets)
        return Predicted(labels.numpy(), confidence.numpy(), losses.numpy())

    def _graph(self, name: str, step: Callable[..., Any], batch: Batch) -> Callable[..., Any]:
        """The step as a graph: one for all shapes, or one per padded length when unrolled."""
        length = batch.x.shape[1] if self.unrolled else None
        if (name, length) not in self._graphs:
            specs = [
                tf.TensorSpec((None, length, self.network.num_features), tf.float32),
                tf.TensorSpec((None,), tf.int32),
                tf.TensorSpec((None, length) if batch.targets.ndim == 2 else (None,), tf.int32),
                tf.TensorSpec((None,), tf.float32),
            ]
            self._graphs[name, length] = tf.function(
                step, input_signature=specs if name == "train" else specs[:3]
            )
        return self._graphs[name, length]

    def _train_step(
        self, x: tf.Tensor, lengths: tf.Tensor, targets: tf.Tensor, weights: tf.Tensor
    ) -> tf.Tensor:
        step = tf.cast(self.optimizer.iterations.value, tf.int32)
        noise_seed = tf.stack([tf.constant(self.seed, tf.int32), step])

        def on_replica(x: tf.Tensor, lengths: tf.Tensor, targets: tf.Tensor, weights: tf.Tensor) -> tf.Tensor:
            context = tf.distribute.get_replica_context()
            mine, first = self._slice(context, tf.shape(x)[0])
            variables = [variable.value for variable in self.network.variables]
            with tf.GradientTape() as tape:
                logits = self.network(x[mine], lengths[mine], Noise(noise_seed, first))
                losses = sequence_losses(logits, targets[mine], lengths[mine])
                loss = tf.reduce_sum(weights[mine] * losses)
            # A lookup's gradient names only the rows it read; sums and norms are those of whole tables.
            gradients = [tf.convert_to_tensor(gradient) for gradient in tape.gradient(loss, variables)]
            if self.num_replicas > 1:
                gradients = context.all_reduce(tf.distribute.ReduceOp.SUM, gradients)
            if self.clip_norm is not None:
                gradients, _ = tf.clip_by_global_norm(gradients, self.clip_norm)
            # Keras sums the gradients over replicas once more; they are whole already.
            self.optimizer.apply([g / self.num_replicas for g in gradients], self.network.variables)
            return loss

        losses = self.strategy.run(on_replica, args=(x, lengths, targets, weights))
        return self.strategy.reduce(tf.distribute.ReduceOp.SUM, losses, axis=None)

    def _evaluate_step(self, x: tf.Tensor, lengths: tf.Tensor, targets: tf.Tensor) -> tuple[tf.Tensor, ...]:
        def on_replica(x: tf.Tensor, lengths: tf.Tensor, targets: tf.Tensor) -> tuple[tf.Tensor, ...]:
            mine, _ = self._slice(tf.distribute.get_replica_context(), tf.shape(x)[0])
            logits = self.network(x[mine], lengths[mine])
            log_probabilities = tf.nn.log_softmax(logits)
            return (
                tf.argmax(log_probabilities, axis=-1, output_type=tf.int32),
                tf.exp(tf.reduce_max(log_probabilities, axis=-1)),
                sequence_losses(logits, targets[mine], lengths[mine]),
            )

        results = self.strategy.run(on_replica, args=(x, lengths, targets))
        return tuple(
            tf.concat(self.strategy.experimental_local_results(result), axis=0) for result in results
        )

    def _slice(
        self, context: tf.distribute.ReplicaContext, num_rows: tf.Tensor
    ) -> tuple[slice, tf.Tensor | int]:
        if self.num_replicas == 1:
            return slice(None), 0
        share = num_rows // self.num_replicas
        first = share * context.replica_id_in_sync_group
        return slice(first, first + share), first
