"""The models: stacked recurrent layers, what stands before and beside them, and a head.

    x (B, T, W) ─ embeddings ─ step encoder ─┬─ dropout ─ front ─ [layer ─ dropout] x layers ─┐
                                             ├─ skip (labeller)                               │
                                             └─ branch ─ pool over time (classifier)          │
                   ┌──────────────────────────────────────────────────────────────────────────┘
                   ├─ readout, branch ─ dense ─ logits (B, C)                     classifier
                   └─ steps, skip     ─ dense ─ logits (B, T, C) ─ chain          labeller

Letters: B batch, T padded time, W numbers of a step, F features, C classes.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from components.networks import crf
from components.networks.convolutions import POOLS, Convolutions
from components.networks.embeddings import Embeddings
from components.networks.encoders import StepEncoder
from components.networks.layers import READOUTS, Attention, Direction, Noise, Tensor, dropout
from components.networks.losses import PLAIN, Criterion, sequence_losses
from components.networks.own import Own
from components.served.encoding import Slot
from conf.schema import ModelSettings

# Of random numbers, so that no two layers share any.
SEEDS_PER_LAYER = 10
ATTENTION_SEED, CONTEXT_SEED = 50_000, 60_000
FRONT_PLACE, BRANCH_PLACE, CONTEXT_PLACE = 3_000, 4_000, 5_000

# What train.precision is called by Keras: weights stay float32, sums are made in the other.
POLICIES = {"float32": "float32", "float16": "mixed_float16", "bfloat16": "mixed_bfloat16"}


class Answers(NamedTuple):
    """What a network says of sequences, padding included."""

    log_probabilities: Tensor  # (B, T, C) or (B, C) float32
    best: Tensor  # (B, T) or (B,) int32


class Carried:
    """The state of all layers, on its way from one stretch of a sequence to the next.

    Given as tensors (B, U) float32, taken by the layers in their order; `after` is what they left.
    """

    def __init__(self, state: Sequence[Tensor]) -> None:
        self.before = list(state)
        self.after: list[Tensor] = []

    def through(self, direction: Direction, x: Tensor, lengths: Tensor, noise: Noise | None) -> Tensor:
        """The direction's outputs, from its part of the state on."""
        mine = self.before[len(self.after) : len(self.after) + direction.num_states]
        y, after = direction.carry(x, lengths, noise, mine)
        self.after += after
        return y


class Recurrent(ABC):
    """Stacked recurrent layers over embeddings, every layer and direction with a fresh cell.

    Built in full by the constructor: variables exist, and are in a fixed order, before the first call.
    """

    per_step: bool

    def __init__(
        self,
        settings: ModelSettings,
        *,
        slots: Sequence[Slot],
        num_classes: int,
        seed: int,
        unroll: bool = False,
        precision: str = "float32",
        tables: Mapping[int, np.ndarray] | None = None,
    ) -> None:
        dtype = POLICIES[precision]
        self.rates, self.residual = settings.dropout, settings.residual
        self.compute_dtype = keras.DTypePolicy(dtype).compute_dtype
        self._add_embeddings(slots, settings.context, seed=seed, tables=tables)
        width = self.embeddings.width
        self.encoder = self.front = None
        if settings.encoder is not None:
            self.encoder = StepEncoder(settings.encoder, num_features=width, dtype=dtype, seed=seed)
            width = self.encoder.width
        self.step_width = width
        if settings.front is not None:
            self.front = Convolutions(
                settings.front, num_features=width, dtype=dtype, seed=seed, first_place=FRONT_PLACE
            )
            width = self.front.width
        self.layers: list[list[Direction]] = []
        self.own: Own | None = None
        if settings.own is not None:
            self.own = Own(settings.own, num_features=width, per_step=self.per_step, seed=seed)
            width = self.own.width
        else:
            width = self._add_layers(settings, width, dtype=dtype, unroll=unroll, seed=seed)
        self.width, self.units = width, settings.units
        self.num_features, self.num_classes = sum(slot.width for slot in slots), num_classes
        self.seed, self.dtype = seed, dtype
        self.beginning = self._initial_states() if settings.context == "state" else []

    def _add_embeddings(
        self, slots: Sequence[Slot], context: str, *, seed: int, tables: Mapping[int, np.ndarray] | None
    ) -> None:
        """What reads the steps, and what reads the context where that goes elsewhere."""
        own = [slot for slot in slots if context == "steps" or not slot.once]
        self.own_features = sum(slot.width for slot in own)
        self.embeddings = Embeddings(own, seed=seed, tables=tables)
        self.about = Embeddings(slots[len(own) :], seed=seed, first=len(own))
        self.read_width = self.about.width if context == "readout" else 0

    def _add_layers(self, settings: ModelSettings, width: int, *, dtype: str, unroll: bool, seed: int) -> int:
        """The recurrent layers over `width` features; the width of what they give."""
        directions = (False, True) if settings.bidirectional else (False,)
        for depth in range(settings.layers):
            self.layers.append(
                [
                    Direction(
                        settings.cell,
                        units=settings.units,
                        num_features=width,
                        reverse=reverse,
                        unroll=unroll,
                        drop=settings.dropout.recurrent,
                        normalise=settings.layer_norm,
                        dtype=dtype,
                        seed=seed + SEEDS_PER_LAYER * (depth + 1) + 2 * reverse,
                    )
                    for reverse in directions
                ]
            )
            width = settings.units * len(directions)
        return width

    def _initial_states(self) -> list[keras.layers.Layer]:
        """For each state of each direction, what makes it from the context."""
        made = []
        for index in range(self.num_states):
            initial = keras.initializers.GlorotUniform(self.seed + CONTEXT_SEED + index)
            layer = keras.layers.Dense(
                self.units, activation="tanh", kernel_initializer=initial, dtype=self.dtype
            )
            layer.build((None, self.about.width))
            made.append(layer)
        return made

    def _add_head(self, width: int) -> None:
        initial = keras.initializers.GlorotUniform(self.seed)
        self.head = keras.layers.Dense(self.num_classes, kernel_initializer=initial, dtype=self.dtype)
        self.head.build((None, width))

    def steps(self, x: Tensor, lengths: Tensor, noise: Noise | None) -> Tensor:
        """What is known of each step on its own, (B, T, F)."""
        x = tf.cast(self.embeddings(x[..., : self.own_features], noise), self.compute_dtype)
        return x if self.encoder is None else self.encoder(x, lengths, noise)

    def context(self, x: Tensor, noise: Noise | None) -> Tensor:
        """What is known of each sequence where it is not read with the steps, (B, F); F is 0 elsewhere."""
        found = self.about(x[:, :1, self.own_features :], noise)[:, 0]
        return tf.cast(found, self.compute_dtype)

    def outputs(
        self,
        x: Tensor,
        lengths: Tensor,
        noise: Noise | None,
        *,
        context: Tensor,
        carried: Carried | None = None,
    ) -> list[Tensor]:
        """The top layer's steps over those of `steps`, one (B, T, U) tensor per direction."""
        place, per = 0, self.rates.per
        begin = [layer(context) for layer in self.beginning]
        x = dropout(x, self.rates.input, noise and noise.at(place), per=per)
        if self.front is not None:
            x = self.front(x, lengths, noise)
        if self.own is not None:
            y = tf.cast(self.own(x, lengths, noise), x.dtype)
            return [dropout(y, self.rates.output, noise and noise.at(place + 1), per=per)]
        before: list[Tensor] = []
        for layer in self.layers:
            after = []
            for index, direction in enumerate(layer):
                place += 2
                at = noise and noise.at(place)
                if carried is None:
                    state, begin = begin[: direction.num_states], begin[direction.num_states :]
                    y = direction(x, lengths, at, state or None)
                else:
                    y = carried.through(direction, x, lengths, at)
                y = dropout(y, self.rates.output, noise and noise.at(place + 1), per=per)
                after.append(y + before[index] if self.residual and before else y)
            x = tf.concat(after, axis=-1) if len(after) > 1 else after[0]
            before = after
        return before

    @property
    def num_states(self) -> int:
        """How many tensors (B, U) a state of all layers is."""
        return sum(direction.num_states for layer in self.layers for direction in layer)

    @abstractmethod
    def logits(
        self, x: Tensor, lengths: Tensor, noise: Noise | None = None, carried: Carried | None = None
    ) -> Tensor:
        """Scores of the classes, (B, T, C) or (B, C) float32."""

    def losses(
        self,
        x: Tensor,
        lengths: Tensor,
        targets: Tensor,
        noise: Noise | None = None,
        criterion: Criterion = PLAIN,
        carried: Carried | None = None,
    ) -> Tensor:
        """Nats per sequence, summed over its real steps, (B,) float32."""
        return sequence_losses(self.logits(x, lengths, noise, carried), targets, lengths, criterion)

    def answers(self, x: Tensor, lengths: Tensor, carried: Carried | None = None) -> Answers:
        """Log probabilities of the classes, and the classes said."""
        log_probabilities = tf.nn.log_softmax(self.logits(x, lengths, carried=carried))
        return Answers(log_probabilities, tf.argmax(log_probabilities, axis=-1, output_type=tf.int32))

    @property
    def parts(self) -> list[Any]:
        """Everything with variables, in a fixed order."""
        recurrent = [part for layer in self.layers for direction in layer for part in direction.parts]
        before = [
            part for each in (self.encoder, self.front, self.own) if each is not None for part in each.parts
        ]
        embedded = [*self.embeddings.parts, *self.about.parts]
        return [*embedded, *before, *self.beginning, *recurrent, self.head]

    @property
    def variables(self) -> list[keras.Variable]:
        """Trainable variables: of the embeddings, of the layers in their order, of the head."""
        return [variable for part in self.parts for variable in part.trainable_variables]

    @property
    def num_parameters(self) -> int:
        """Trainable numbers."""
        return sum(int(np.prod(variable.shape)) for variable in self.variables)

    def weights(self) -> list[np.ndarray]:
        """Values of `variables`, in order."""
        return [variable.numpy() for variable in self.variables]

    def load(self, weights: list[np.ndarray]) -> None:
        """Set `variables` from values of the same order and shapes.

        Raises:
            ValueError: another number of values, or another shape.
        """
        for variable, value in zip(self.variables, weights, strict=True):
            variable.assign(value)


class Classifier(Recurrent):
    """One label per sequence: logits (B, C) from a length-aware readout.

    A branch of convolutions beside the recurrence is the idea of LSTM-FCN (Karim et al. 2018,
    doi:10.1109/ACCESS.2017.2779939).
    """

    per_step = False

    def __init__(
        self, settings: ModelSettings, *, allowed: crf.Allowed | None = None, **options: Any
    ) -> None:
        super().__init__(settings, **options)
        self.readout: Callable[[list[Tensor], Tensor], Tensor]
        self.beside: list[Any] = []
        if settings.readout == "attention":
            attention = Attention(num_features=self.width, dtype=self.dtype, seed=self.seed + ATTENTION_SEED)
            self.readout = attention
            self.beside += attention.parts
        else:
            self.readout = READOUTS[settings.readout]
        self.branch = None
        width = self.width + self.read_width
        if settings.branch is not None:
            self.branch = Convolutions(
                settings.branch,
                num_features=self.step_width,
                dtype=self.dtype,
                seed=self.seed,
                first_place=BRANCH_PLACE,
            )
            self.beside += self.branch.parts
            self.pool = POOLS[settings.branch.pool]
            width += self.branch.width * (2 if settings.branch.pool == "both" else 1)
        self._add_head(width)

    @property
    def parts(self) -> list[Any]:
        """Everything with variables, in a fixed order."""
        return [*super().parts, *self.beside]

    def logits(
        self, x: Tensor, lengths: Tensor, noise: Noise | None = None, carried: Carried | None = None
    ) -> Tensor:
        """Scores of the classes, (B, C) float32."""
        context, x = self.context(x, noise), self.steps(x, lengths, noise)
        outputs = self.outputs(x, lengths, noise, context=context, carried=carried)
        read = outputs[0] if outputs[0].shape.rank == 2 else self.readout(outputs, lengths)
        if self.branch is not None:
            found = self.pool(self.branch(x, lengths, noise), lengths)
            read = tf.concat([read, tf.cast(found, read.dtype)], axis=-1)
        if self.read_width:
            read = tf.concat([read, context], axis=-1)
        return tf.cast(self.head(read), tf.float32)


class Labeller(Recurrent):
    """One label per step: logits (B, T, C), the same layer shared over time, and a chain over them.

    The chain is a linear-chain conditional random field (`crf: true`), or rules alone that say which label
    may follow which (`constrained: true`).
    """

    per_step = True

    def __init__(
        self, settings: ModelSettings, *, allowed: crf.Allowed | None = None, **options: Any
    ) -> None:
        super().__init__(settings, **options)
        self.skip = settings.skip
        self._add_head(self.width + self.read_width + (self.step_width if self.skip else 0))
        rules = allowed if settings.constrained else None
        self.chain = crf.Chain(self.num_classes, allowed=rules) if settings.crf else None
        self.rules = crf.constraints(rules) if rules is not None else None

    @property
    def parts(self) -> list[Any]:
        """Everything with variables, in a fixed order."""
        return [*super().parts, *([] if self.chain is None else [self.chain])]

    def logits(
        self, x: Tensor, lengths: Tensor, noise: Noise | None = None, carried: Carried | None = None
    ) -> Tensor:
        """Scores of the classes at each step, (B, T, C) float32."""
        context, x = self.context(x, noise), self.steps(x, lengths, noise)
        read = tf.concat(self.outputs(x, lengths, noise, context=context, carried=carried), axis=-1)
        if self.skip:
            read = tf.concat([self._without_context(read, noise), tf.cast(x, read.dtype)], axis=-1)
        if self.read_width:
            shape = tf.stack([tf.shape(read)[0], tf.shape(read)[1], self.read_width])
            read = tf.concat([read, tf.broadcast_to(context[:, tf.newaxis], shape)], axis=-1)
        return tf.cast(self.head(read), tf.float32)

    def _without_context(self, x: Tensor, noise: Noise | None) -> Tensor:
        """The recurrence's outputs, while training all of them left out of some sequences.

        What stays is not scaled up: the head is to read either the step with its context or the step alone.
        """
        if noise is None or self.rates.context == 0.0:
            return x
        kept = noise.at(CONTEXT_PLACE).keep_mask(tf.stack([tf.shape(x)[0], 1, 1]), self.rates.context)
        return tf.where(kept > 0, x, 0.0)

    def losses(
        self,
        x: Tensor,
        lengths: Tensor,
        targets: Tensor,
        noise: Noise | None = None,
        criterion: Criterion = PLAIN,
        carried: Carried | None = None,
    ) -> Tensor:
        """Nats per sequence, (B,) float32: summed over its steps, or under a chain of the whole sequence."""
        if self.chain is None:
            return super().losses(x, lengths, targets, noise, criterion, carried)
        return -crf.log_likelihood(self.logits(x, lengths, noise), targets, lengths, self.chain.scores)

    def answers(self, x: Tensor, lengths: Tensor, carried: Carried | None = None) -> Answers:
        """Log probabilities of each step's classes (under a chain its marginals), and the classes said."""
        logits = self.logits(x, lengths, carried=carried)
        if self.chain is not None:
            scores = self.chain.scores
            return Answers(crf.log_marginals(logits, lengths, scores), crf.decode(logits, lengths, scores))
        log_probabilities = tf.nn.log_softmax(logits)
        if self.rules is not None:
            return Answers(log_probabilities, crf.decode(logits, lengths, self.rules))
        return Answers(log_probabilities, tf.argmax(log_probabilities, axis=-1, output_type=tf.int32))


MODELS: Mapping[str, Callable[..., Classifier | Labeller]] = {
    "classification": Classifier,
    "labelling": Labeller,
}


def build(
    settings: ModelSettings,
    *,
    task: str,
    slots: Sequence[Slot],
    num_classes: int,
    seed: int,
    unroll: bool = False,
    precision: str = "float32",
    allowed: crf.Allowed | None = None,
    tables: Mapping[int, np.ndarray] | None = None,
) -> Classifier | Labeller:
    """The network of these settings with freshly initialised weights; `slots` say what stands in x.

    `unroll` lays the steps out statically, which needs batches of a known length; the weights are the same
    either way. `allowed` says which labels may follow which; it counts only where the settings ask for it.
    `tables` are the first vectors of symbols, by slot.

    Raises:
        ValueError: the settings do not fit the numbers of a step.
    """
    return MODELS[task](
        settings,
        slots=slots,
        num_classes=num_classes,
        seed=seed,
        unroll=unroll,
        precision=precision,
        allowed=allowed,
        tables=tables,
    )


def why_not_stepwise(settings: ModelSettings, *, task: str, max_length: int | None) -> str | None:
    """Why a model of these settings cannot answer step after step as they come; None if it can."""
    reasons = {
        "its network is your own": settings.own,
        "it is bidirectional, so the first step's answer depends on the last step": settings.bidirectional,
        "its convolutions over time read steps that are still to come": settings.front or settings.branch,
        f"it reads windows of {max_length} steps (data.max_length)": max_length,
        "its first state is made from the context": settings.context == "state",
        "it decodes sequences as a whole": settings.crf or settings.constrained,
        f"its readout {settings.readout!r} is over the whole sequence": task == "classification"
        and settings.readout != "last",
    }
    return next((reason for reason, holds in reasons.items() if holds), None)


def export(network: Classifier | Labeller, folder: Path, *, stepwise: bool = False) -> None:
    """Write the network as a SavedModel of any batch size and length.

        serving_default   x, length                  ─▶ log_probabilities, best
        step              x, length, state_0, …      ─▶ the same of these steps, next_state_0, …
        sequences         x, length, n               ─▶ tags (B, n, T), log_probabilities (B, n); of a CRF

    Args:
        network: with trained weights.
        folder: made by this.
        stepwise: whether there is a signature `step`, with the state in and out.
    """
    x = tf.TensorSpec((None, None, network.num_features), tf.float32, name="x")
    length = tf.TensorSpec((None,), tf.int32, name="length")
    state = [
        tf.TensorSpec((None, network.units), tf.float32, name=f"state_{i}") for i in range(network.num_states)
    ]

    class Exported(tf.Module):
        @tf.function(autograph=False, input_signature=[x, length])
        def serve(self, x: Tensor, length: Tensor) -> dict[str, Tensor]:
            return network.answers(x, length)._asdict()

        @tf.function(autograph=False, input_signature=[x, length, *state])
        def step(self, x: Tensor, length: Tensor, *state: Tensor) -> dict[str, Tensor]:
            carried = Carried(state)
            answers = network.answers(x, length, carried)._asdict()
            return answers | {f"next_state_{i}": each for i, each in enumerate(carried.after)}

        @tf.function(autograph=False, input_signature=[x, length, tf.TensorSpec((), tf.int32, name="n")])
        def sequences(self, x: Tensor, length: Tensor, n: Tensor) -> dict[str, Tensor]:
            tags, log_probabilities = crf.n_best(network.logits(x, length), length, chain.scores, n)
            return {"tags": tags, "log_probabilities": log_probabilities}

    chain: Any = getattr(network, "chain", None)
    if chain is None:
        # Saving would trace it all the same.
        del Exported.sequences
    exported = Exported()
    # Only the variables are tracked: a SavedModel of Keras layers would need Keras to be opened.
    exported.weights = [variable.value for variable in (*network.variables, *network.embeddings.frozen)]
    signatures = {"serving_default": exported.serve}
    if stepwise:
        signatures["step"] = exported.step
    if chain is not None:
        signatures["sequences"] = exported.sequences
    tf.saved_model.save(exported, str(folder), signatures=signatures)
