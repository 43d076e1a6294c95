"""The training step and the evaluation step, exact on any number of replicas and workers.

    global batch ─ rows r*b .. (r+1)*b to replica r ─ sum(weights * loss) ─ gradients summed over replicas
                                                                          ├ of the step's other batches too
                                                                          └ clipped once ─ optimizer ─ mean

`Model.fit` averages the masked loss on each replica and then averages the replicas, which is wrong as
soon as they hold different numbers of real steps (keras#16285, tensorflow#34491). Here a row's weight
already holds one over the global mass, so sums are all that is needed.

Letters: B batch, T padded time, F numbers of a step, N batches.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from components.data.batches import Batch, Packed
from components.networks.layers import Noise
from components.networks.losses import PLAIN, Criterion
from components.networks.models import Carried
from components.training.workers import Workers

# Of float16 (Micikevicius et al. 2018, arXiv:1710.03740): doubled after that many steps without overflow.
FIRST_SCALE, STEPS_TO_DOUBLE = 2.0**15, 2_000
# How fast a moving average of weights starts to move slowly: after t steps its decay is at most
# (1 + t) / (10 + t), so the first weights, which are random, are soon forgotten.
EMA_START = 10.0


@dataclass(frozen=True)
class Predicted:
    """What an evaluation step says of a batch, filler rows included."""

    labels: np.ndarray  # (B, T) or (B,) int32
    confidence: np.ndarray  # probability of `labels`, same shape, float32
    losses: np.ndarray  # (B,) float32 nats, summed over real steps


class _Scaling:
    """What losses are multiplied with, so that small gradients do not vanish in float16."""

    def __init__(self) -> None:
        self.scale = _slot(tf.constant(FIRST_SCALE), "scale")
        self.since = _slot(tf.constant(0), "since")

    def update(self, finite: tf.Tensor) -> None:
        """Halve the scale after an overflow, double it after many steps without one."""
        since = tf.where(finite, self.since + 1, 0)
        grown = tf.where(since == STEPS_TO_DOUBLE, self.scale * 2.0, self.scale)
        self.scale.assign(tf.where(finite, grown, tf.maximum(self.scale / 2.0, 1.0)))
        self.since.assign(tf.where(since == STEPS_TO_DOUBLE, 0, since))


class Steps:
    """The graph functions over one network. Build inside `strategy.scope()`, call outside.

    Args:
        network: with `losses`, `answers` and `variables`.
        optimizer: moves them.
        strategy: that the network's variables live in.
        clip_norm: the longest gradient.
        seed: of dropout.
        criterion: what single answers count.
        accumulate: batches of one step.
        ema: decay of the average of weights.
        loss_scaling: whether gradients are computed at a scale, as float16 needs.
        unrolled: whether there is a graph for each padded length.
    """

    def __init__(
        self,
        network: Any,
        optimizer: keras.Optimizer,
        *,
        strategy: tf.distribute.Strategy,
        clip_norm: float | None,
        seed: int,
        criterion: Criterion = PLAIN,
        accumulate: int = 1,
        ema: float | None = None,
        loss_scaling: bool = False,
        unrolled: bool = False,
    ) -> None:
        self.network, self.optimizer, self.strategy = network, optimizer, strategy
        self.clip_norm, self.seed, self.criterion, self.ema = clip_norm, seed, criterion, ema
        self.num_replicas = strategy.num_replicas_in_sync
        self.workers = Workers.of(strategy)
        self.num_local = self.num_replicas // self.workers.count
        self.unrolled = unrolled
        optimizer.build(network.variables)
        variables = network.variables
        self.sums = [_slot(tf.zeros(v.shape), "sum") for v in variables] if accumulate > 1 else []
        self.averages = [_slot(v.value, "average") for v in variables] if ema is not None else []
        self.scaling = _Scaling() if loss_scaling else None
        self._graphs: dict[tuple[str, int | None], Any] = {}

    @property
    def state(self) -> list[Any]:
        """Variables beside the network's that a run needs to go on, in a fixed order."""
        scaling = [] if self.scaling is None else [self.scaling.scale, self.scaling.since]
        return [*self.optimizer.variables, *self.averages, *scaling]

    def train(self, batches: Sequence[Batch]) -> list[tf.Tensor]:
        """One optimizer step on batches whose rows are a multiple of the replicas; returns their losses.

        Each is the weighted sum over all replicas before the step, a float32 scalar left on the device:
        reading it waits for the step. The loss of the step is the sum of all. Of several workers each gives
        its part of the rows.
        """
        return [
            self._call("add" if place < len(batches) - 1 else "train", batch, place)[0]
            for place, batch in enumerate(batches)
        ]

    def train_packed(self, packed: Packed) -> tf.Tensor:
        """The optimizer steps on these batches, one after another, in one call of a graph.

        Returns the loss of each batch, (N,) float32, left on the device. Not for unrolled networks: what is
        looped over is one graph for all padded lengths.
        """
        graph = self._graph("packed", None)
        return graph(packed.x, packed.lengths, packed.targets, packed.weights, packed.layout)

    def train_stretches(self, stretches: Sequence[Batch]) -> list[tf.Tensor]:
        """An optimizer step on each stretch of the same rows, in their order; returns their losses.

        The state goes on from one to the next, the gradient does not (Williams & Peng 1990,
        doi:10.1162/neco.1990.2.4.490).
        """
        shape = (len(stretches[0].rows), self.network.units)
        state = [np.zeros(shape, np.float32)] * self.network.num_states
        losses = []
        for stretch in stretches:
            loss, *state = self._call("stretch", stretch, 0, *state)
            losses.append(loss)
        return losses

    def evaluate(self, batch: Batch) -> Predicted:
        """Labels, their probabilities and the loss per row, without dropout; each worker for itself."""
        graph = self._graph("evaluate", self._static_length(batch))
        labels, confidence, losses = graph(batch.x, batch.lengths, batch.targets)
        return Predicted(labels.numpy(), confidence.numpy(), losses.numpy())

    def averaged(self) -> list[np.ndarray]:
        """The weights to validate and to keep: the moving averages where there are any."""
        return [average.numpy() for average in self.averages] or self.network.weights()

    def training_graphs(self) -> list[tf.Graph]:
        """The graphs of training steps, as far as they are traced."""
        traced = [graph for (name, _), graph in self._graphs.items() if name != "evaluate"]
        return [graph.get_concrete_function().graph for graph in traced]

    def _call(self, name: str, batch: Batch, place: int, *state: Any) -> list[tf.Tensor]:
        graph = self._graph(name, self._static_length(batch))
        return graph(batch.x, batch.lengths, batch.targets, batch.weights, np.int32(place), *state)

    def _static_length(self, batch: Batch) -> int | None:
        return batch.x.shape[1] if self.unrolled else None

    def _graph(self, name: str, length: int | None) -> Callable[..., Any]:
        """The step as a graph: one for all shapes, or one per padded length when unrolled."""
        if (name, length) not in self._graphs:
            steps = {"evaluate": self._evaluate, "add": self._add, "packed": self._train_each}
            # No Python here depends on a tensor's value; to look for such places takes long.
            self._graphs[name, length] = tf.function(
                steps.get(name, self._train), input_signature=self._specs(name, length), autograph=False
            )
        return self._graphs[name, length]

    def _specs(self, name: str, length: int | None) -> list[tf.TensorSpec]:
        """What a graph is given."""
        width = self.network.num_features
        rows, weights = tf.TensorSpec((None,), tf.int32), tf.TensorSpec((None,), tf.float32)
        if name == "packed":
            x, layout = tf.TensorSpec((None, width), tf.float32), tf.TensorSpec((None, 4), tf.int32)
            return [x, rows, rows, weights, layout]
        x = tf.TensorSpec((None, length, width), tf.float32)
        targets = tf.TensorSpec((None, length), tf.int32) if self.network.per_step else rows
        if name == "evaluate":
            return [x, rows, targets]
        state = [tf.TensorSpec((None, self.network.units), tf.float32)] if name == "stretch" else []
        place = tf.TensorSpec((), tf.int32)
        return [x, rows, targets, weights, place, *state * self.network.num_states]

    def _train_each(
        self, x: tf.Tensor, lengths: tf.Tensor, targets: tf.Tensor, weights: tf.Tensor, layout: tf.Tensor
    ) -> tf.Tensor:
        """Cut each batch out again and train on it; the losses, (N,)."""

        def body(n: tf.Tensor, row: tf.Tensor, cell: tf.Tensor, losses: Any) -> tuple[Any, ...]:
            num_rows, length, place, is_last = tf.unstack(layout[n])
            next_row, next_cell = row + num_rows, cell + num_rows * length
            rows, cells = slice(row, next_row), slice(cell, next_cell)
            batch = (
                tf.reshape(x[cells], [num_rows, length, x.shape[1]]),
                lengths[rows],
                tf.reshape(targets[cells], [num_rows, length]) if self.network.per_step else targets[rows],
                weights[rows],
                place,
            )
            return n + 1, next_row, next_cell, losses.write(n, self._train_or_add(is_last, *batch))

        count, zero = tf.shape(layout)[0], tf.constant(0)
        losses = tf.TensorArray(tf.float32, count, element_shape=[])
        # One step reads what the one before it wrote.
        *_, losses = tf.while_loop(
            lambda n, *_: n < count, body, (zero, zero, zero, losses), parallel_iterations=1
        )
        return losses.stack()

    def _train_or_add(self, is_last: tf.Tensor, *batch: tf.Tensor) -> tf.Tensor:
        """The loss of a batch, which ends its step or is one of those before."""
        if not self.sums:
            return self._train(*batch)[0]
        return tf.cond(is_last > 0, lambda: self._train(*batch)[0], lambda: self._add(*batch)[0])

    def _train(self, *batch: tf.Tensor) -> list[tf.Tensor]:
        """Compute the gradient of the last batch of a step, add those before, and move the weights.

        Returns the loss, and the state that follows where one was given.
        """
        losses, gradients, norm, after = self.strategy.run(self._gradients, args=(True, *batch))
        if self.scaling is None:
            self._move(gradients)
        else:
            finite = tf.math.is_finite(self.strategy.experimental_local_results(norm)[0])
            tf.cond(finite, lambda: self._move(gradients), lambda: None)
            self.scaling.update(finite)
        for total in self.sums:
            total.assign(tf.zeros(total.shape))
        loss = self.strategy.reduce(tf.distribute.ReduceOp.SUM, losses, axis=None)
        return [loss, *map(self._whole, after)]

    def _add(self, *batch: tf.Tensor) -> list[tf.Tensor]:
        """Compute the gradient of a batch of a step, and keep it for the last one; returns the loss."""
        losses, gradients, *_ = self.strategy.run(self._gradients, args=(False, *batch))
        for total, gradient in zip(self.sums, gradients, strict=True):
            self.strategy.extended.update(total, lambda sum_, g: sum_.assign_add(g), args=(gradient,))
        return [self.strategy.reduce(tf.distribute.ReduceOp.SUM, losses, axis=None)]

    def _gradients(
        self,
        is_last: bool,
        x: tf.Tensor,
        lengths: tf.Tensor,
        targets: tf.Tensor,
        weights: tf.Tensor,
        place: tf.Tensor,
        *state: tf.Tensor,
    ) -> tuple[tf.Tensor, list[tf.Tensor], tf.Tensor, list[tf.Tensor]]:
        """On a replica: its share of the loss, the whole gradient, its length before clipping, the state."""
        context = tf.distribute.get_replica_context()
        mine, first = self._slice(context, tf.shape(x)[0])
        step = tf.cast(self.optimizer.iterations.value, tf.int32)
        # Seeds go up to 2**32 - 1, and wrap around here.
        seed = tf.stack([tf.constant(np.uint32(self.seed).astype(np.int32)), step])
        if self.sums:
            seed = tf.cast(tf.random.experimental.stateless_fold_in(seed, place), tf.int32)
        scale = tf.constant(1.0) if self.scaling is None else self.scaling.scale
        variables = [variable.value for variable in self.network.variables]
        carried = Carried([each[mine] for each in state]) if state else None
        with tf.GradientTape() as tape:
            losses = self.network.losses(
                x[mine], lengths[mine], targets[mine], Noise(seed, first), self.criterion, carried
            )
            loss = tf.reduce_sum(weights[mine] * losses)
            scaled = loss * scale
        # A lookup's gradient names only the rows it read; sums and norms are those of whole tables.
        gradients = [tf.convert_to_tensor(gradient) for gradient in tape.gradient(scaled, variables)]
        if self.num_replicas > 1:
            gradients = context.all_reduce(tf.distribute.ReduceOp.SUM, gradients)
        if self.scaling is not None:
            gradients = [gradient / scale for gradient in gradients]
        if not is_last:
            return loss, gradients, tf.constant(0.0), []
        if self.sums:
            gradients = [gradient + total for gradient, total in zip(gradients, self.sums, strict=True)]
        norm = tf.linalg.global_norm(gradients)
        if self.clip_norm is not None:
            gradients, _ = tf.clip_by_global_norm(gradients, self.clip_norm, use_norm=norm)
        return loss, gradients, norm, [] if carried is None else carried.after

    def _move(self, gradients: list[tf.Tensor]) -> None:
        """Let the optimizer take its step, and the averages follow."""

        def apply(gradients: list[tf.Tensor]) -> None:
            # Keras sums the gradients over replicas once more; they are whole already.
            share = 1 / self.num_replicas
            mine = gradients if share == 1 else [gradient * share for gradient in gradients]
            self.optimizer.apply(mine, self.network.variables)

        self.strategy.run(apply, args=(gradients,))
        if self.ema is None:
            return
        done = tf.cast(self.optimizer.iterations.value, tf.float32)
        decay = tf.minimum(self.ema, (1.0 + done) / (EMA_START + done))
        for average, variable in zip(self.averages, self.network.variables, strict=True):
            self.strategy.extended.update(
                average,
                lambda mean, value, decay: mean.assign(decay * mean + (1.0 - decay) * value),
                args=(variable.value, decay),
            )

    def _evaluate(self, x: tf.Tensor, lengths: tf.Tensor, targets: tf.Tensor) -> tuple[tf.Tensor, ...]:
        def on_replica(x: tf.Tensor, lengths: tf.Tensor, targets: tf.Tensor) -> tuple[tf.Tensor, ...]:
            mine, _ = self._slice(tf.distribute.get_replica_context(), tf.shape(x)[0])
            said = self.network.answers(x[mine], lengths[mine])
            places = said.best.shape.rank
            sure = tf.exp(tf.gather(said.log_probabilities, said.best, batch_dims=places))
            losses = -tf.gather(said.log_probabilities, targets[mine], batch_dims=places)
            if places == 2:
                real = tf.sequence_mask(lengths[mine], tf.shape(losses)[1])
                losses = tf.reduce_sum(tf.where(real, losses, 0.0), axis=1)
            return said.best, sure, losses

        results = self.strategy.run(on_replica, args=(x, lengths, targets))
        return tuple(map(self._whole, results))

    def _whole(self, rows: Any) -> tf.Tensor:
        """The rows of all replicas of this process in the order of its batch."""
        return tf.concat(self.strategy.experimental_local_results(rows), axis=0)

    def _slice(
        self, context: tf.distribute.ReplicaContext, num_rows: tf.Tensor
    ) -> tuple[slice, tf.Tensor | int]:
        """The replica's rows of this process's batch, and the place of the first in the whole batch."""
        if self.num_replicas == 1:
            return slice(None), 0
        share = num_rows // self.num_local
        replica = context.replica_id_in_sync_group
        first = share * (replica % self.num_local)
        return slice(first, first + share), share * replica


def _slot(value: tf.Tensor, name: str) -> tf.Variable:
    return tf.Variable(value, trainable=False, name=name)
