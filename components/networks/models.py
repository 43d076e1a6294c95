"""The models: stacked recurrent layers under a softmax per sequence or per step.

    x (B, T, W) ─ front (B, T, F) ─ dropout ─ [layer ─ dropout] x layers
                   ┌────────────────────────────────────────────────────┘
                   ├─ readout ─ dense ─ logits (B, C)                       classifier
                   └─ dense at every step ─ logits (B, T, C)                labeller

Letters: B batch, T padded time, W numbers of a step, F features, C classes.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from components.networks.embeddings import Front
from components.networks.layers import READOUTS, Direction, Noise, Tensor, dropout
from components.served.encoding import Slot
from conf.schema import ModelSettings

SEEDS_PER_LAYER = 10


class Recurrent:
    """Stacked recurrent layers over a front, every layer and direction with a fresh cell.

    Built in full by the constructor: variables exist, and are in a fixed order, before the first call.
    """

    def __init__(
        self, settings: ModelSettings, *, slots: Sequence[Slot], num_classes: int, seed: int, unroll: bool
    ) -> None:
        self.rates = settings.dropout
        self.front = Front(slots, seed=seed)
        self.layers: list[list[Direction]] = []
        directions = (False, True) if settings.bidirectional else (False,)
        width = self.front.width
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
                        seed=seed + SEEDS_PER_LAYER * (depth + 1) + 2 * reverse,
                    )
                    for reverse in directions
                ]
            )
            width = settings.units * len(directions)
        self.head = keras.layers.Dense(num_classes, kernel_initializer=keras.initializers.GlorotUniform(seed))
        self.head.build((None, width))
        self.num_features, self.num_classes = sum(slot.width for slot in slots), num_classes

    def outputs(self, x: Tensor, lengths: Tensor, noise: Noise | None) -> list[Tensor]:
        """Top layer's steps, one (B, T, U) tensor per direction."""
        place = 0
        x = dropout(self.front(x, noise), self.rates.input, noise and noise.at(place))
        steps = [x]
        for layer in self.layers:
            x = tf.concat(steps, axis=-1) if len(steps) > 1 else steps[0]
            steps = []
            for direction in layer:
                place += 2
                y = direction(x, lengths, noise and noise.at(place))
                steps.append(dropout(y, self.rates.output, noise and noise.at(place + 1)))
        return steps

    @property
    def parts(self) -> list[keras.Layer]:
        recurrent = [direction.rnn for layer in self.layers for direction in layer]
        return [*self.front.parts, *recurrent, self.head]

    @property
    def variables(self) -> list[keras.Variable]:
        """Trainable variables: of the front, of the layers in their order, of the head."""
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
    """One label per sequence: logits (B, C) from a length-aware readout."""

    def __init__(self, settings: ModelSettings, **sizes: Any) -> None:
        super().__init__(settings, **sizes)
        self.readout = READOUTS[settings.readout]

    def __call__(self, x: Tensor, lengths: Tensor, noise: Noise | None = None) -> Tensor:
        return self.head(self.readout(self.outputs(x, lengths, noise), lengths))


class Labeller(Recurrent):
    """One label per step: logits (B, T, C), the same softmax layer shared over time."""

    def __call__(self, x: Tensor, lengths: Tensor, noise: Noise | None = None) -> Tensor:
        return self.head(tf.concat(self.outputs(x, lengths, noise), axis=-1))


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
) -> Classifier | Labeller:
    """The network of these settings with freshly initialised weights; `slots` say what stands in x.

    `unroll` lays the steps out statically, which needs batches of a known length; the weights are the same
    either way.
    """
    return MODELS[task](settings, slots=slots, num_classes=num_classes, seed=seed, unroll=unroll)


def export(network: Classifier | Labeller, folder: Path) -> None:
    """Write the network as a SavedModel: (x, length) to log_probabilities, any batch size and length."""

    class Exported(tf.Module):
        @tf.function(
            input_signature=[
                tf.TensorSpec((None, None, network.num_features), tf.float32, name="x"),
                tf.TensorSpec((None,), tf.int32, name="length"),
            ]
        )
        def serve(self, x: Tensor, length: Tensor) -> dict[str, Tensor]:
            return {"log_probabilities": tf.nn.log_softmax(network(x, length))}

    exported = Exported()
    # Only the variables are tracked: a SavedModel of Keras layers would need Keras to be opened.
    exported.weights = [variable.value for variable in network.variables]
    tf.saved_model.save(exported, str(folder), signatures=exported.serve)
