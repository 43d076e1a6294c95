"""Convolutions over time, right-padded sequences read as if they had no padding.

    x (B, T, F) ─ [convolution ─ normalisation ─ rectified ─ dropout] x filters ─ (B, T, C)
                                                   (B, C) ─ pool over real steps ─┘

Letters: B batch, T padded time, F features, C channels.
"""

from collections.abc import Callable, Mapping
from typing import ClassVar

import keras
import tensorflow as tf

from components.networks.layers import Noise, Tensor, dropout
from conf.schema import ConvolutionSettings

# Of random numbers: the place of a layer says which are its own.
SEEDS_PER_PLACE = 10
# Added to a variance.
EPSILON = 1e-3


class Normalisation(keras.layers.Layer):
    """Values (B, T, C) less their mean and over their deviation, then scaled and shifted by channel.

    What the mean and the deviation are of, real steps alone:

        step       the channels of a step (Ba et al. 2016, arXiv:1607.06450)
        sequence   all steps and channels of a sequence (Wu & He 2018, arXiv:1803.08494, with one group)
        channel    all steps of a channel of a sequence (Ulyanov et al. 2016, arXiv:1607.08022)

    Batch normalisation would make a row depend on what else is in the batch and on the number of replicas.
    """

    AXES: ClassVar[Mapping[str, tuple[int, ...]]] = {"step": (2,), "sequence": (1, 2), "channel": (1,)}

    def __init__(self, over: str) -> None:
        # Half precision cannot hold the sums, nor the squares; x comes as it is.
        super().__init__(dtype="float32", autocast=False)
        self.over = over

    def build(self, shape: tuple[int | None, ...]) -> None:
        """Make the variables of channels: what they are scaled with, and shifted by."""
        self.gamma = self.add_weight(shape=shape[-1:], initializer="ones", name="gamma")
        self.beta = self.add_weight(shape=shape[-1:], initializer="zeros", name="beta")

    def call(self, x: Tensor, lengths: Tensor) -> Tensor:
        """Of the type of x; what stands beyond the lengths, (B,), is not read."""
        values, axes = tf.cast(x, tf.float32), self.AXES[self.over]
        if self.over == "step":
            mean, variance = tf.nn.moments(values, axes, keepdims=True)
        else:
            real = tf.sequence_mask(lengths, tf.shape(x)[1])[..., tf.newaxis]
            steps = tf.cast(lengths, tf.float32)[:, tf.newaxis, tf.newaxis]
            count = steps * x.shape[-1] if self.over == "sequence" else steps
            mean = tf.reduce_sum(_only(real, values), axes, keepdims=True) / count
            squares = _only(real, tf.square(values - mean))
            variance = tf.reduce_sum(squares, axes, keepdims=True) / count
        scale = tf.math.rsqrt(variance + EPSILON) * self.gamma.value
        return tf.cast((values - mean) * scale + self.beta.value, x.dtype)


class Convolutions:
    """The convolutions of Wang et al. 2017, arXiv:1611.06455, normalised by step: (B, T, F) to (B, T, width).

    Built in full by the constructor. `parts` are its layers in their order: a convolution and its
    normalisation, again and again.
    """

    def __init__(
        self, settings: ConvolutionSettings, *, num_features: int, dtype: str, seed: int, first_place: int
    ) -> None:
        """`dtype` names a Keras policy, such as "float32" or "mixed_bfloat16".

        Noise and initial weights are those of `first_place` and of the places that follow, one a layer: two
        branches of one network need places of their own.
        """
        self.rate, self.first_place, self.width = settings.dropout, first_place, num_features
        self.layers: list[tuple[keras.layers.Conv1D, Normalisation]] = []
        for index, (filters, width) in enumerate(zip(settings.filters, settings.widths, strict=True)):
            # Weights for rectified units after He et al. 2015, arXiv:1502.01852.
            weights = keras.initializers.HeUniform(seed + SEEDS_PER_PLACE * (first_place + index))
            convolution = keras.layers.Conv1D(
                filters, width, padding="same", kernel_initializer=weights, dtype=dtype
            )
            convolution.build((None, None, self.width))
            norm = Normalisation(settings.norm)
            norm.build((None, None, filters))
            self.layers.append((convolution, norm))
            self.width = filters

    def __call__(self, x: Tensor, lengths: Tensor, noise: Noise | None) -> Tensor:
        """(B, T, width) in the policy's compute type; zeros beyond the lengths, whatever x has there."""
        real = tf.sequence_mask(lengths, tf.shape(x)[1])[..., tf.newaxis]
        x = _only(real, x)
        for index, (convolution, norm) in enumerate(self.layers):
            # Zeros are also what a convolution reads beyond the end of a sequence without padding.
            x = _only(real, tf.nn.relu(norm(convolution(x), lengths)))
            # One number for all steps of a channel (spatial dropout, Tompson et al. 2015,
            # arXiv:1411.4280): numbers of each step would cancel in the mean over time.
            x = dropout(x, self.rate, noise and noise.at(self.first_place + index), per="sequence")
        return x

    @property
    def parts(self) -> list[keras.Layer]:
        """Layers with variables, in their order."""
        return [part for layer in self.layers for part in layer]


def mean_over_time(x: Tensor, lengths: Tensor) -> Tensor:
    """Mean over real steps, (B, T, C) to (B, C), in the type of x.

    The pooling of LSTM-FCN (Karim et al. 2018, doi:10.1109/ACCESS.2017.2779939).
    """
    real = tf.sequence_mask(lengths, tf.shape(x)[1])[..., tf.newaxis]
    total = tf.reduce_sum(tf.cast(_only(real, x), tf.float32), axis=1)
    return tf.cast(total / tf.cast(lengths, tf.float32)[:, tf.newaxis], x.dtype)


def max_over_time(x: Tensor, lengths: Tensor) -> Tensor:
    """Largest value over real steps, (B, T, C) to (B, C)."""
    real = tf.sequence_mask(lengths, tf.shape(x)[1])[..., tf.newaxis]
    return tf.reduce_max(tf.where(real, x, x.dtype.min), axis=1)


def mean_and_max(x: Tensor, lengths: Tensor) -> Tensor:
    """Both, (B, T, C) to (B, 2 C)."""
    return tf.concat([mean_over_time(x, lengths), max_over_time(x, lengths)], axis=-1)


POOLS: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
    "mean": mean_over_time,
    "max": max_over_time,
    "both": mean_and_max,
}


def _only(real: Tensor, x: Tensor) -> Tensor:
    """Zeros where not `real`; not a product, which would keep what is not a number."""
    return tf.where(real, x, tf.zeros((), x.dtype))
