"""Convolutions over time, right-padded sequences read as if they had no padding.

    x (B, T, F) ─ [convolution ─ normalisation ─ rectified ─ dropout] x filters ─ (B, T, C)
                                                   (B, C) ─ mean over real steps ─┘

Letters: B batch, T padded time, F features, C channels.
"""

import keras
import tensorflow as tf

from components.networks.layers import Noise, Tensor, dropout
from conf.schema import ConvolutionSettings

# Of random numbers: the place of a layer says which are its own.
SEEDS_PER_PLACE = 10


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
        self.layers: list[tuple[keras.layers.Conv1D, keras.layers.LayerNormalization]] = []
        for index, (filters, width) in enumerate(zip(settings.filters, settings.widths, strict=True)):
            # Weights for rectified units after He et al. 2015, arXiv:1502.01852.
            weights = keras.initializers.HeUniform(seed + SEEDS_PER_PLACE * (first_place + index))
            convolution = keras.layers.Conv1D(
                filters, width, padding="same", kernel_initializer=weights, dtype=dtype
            )
            convolution.build((None, None, self.width))
            # Of a step's channels (Ba et al. 2016, arXiv:1607.06450). Batch normalisation would make a row
            # depend on what else is in the batch, on the padding and on the number of replicas; over the
            # steps of a row, nothing would be left of a sequence of one. Keras makes the sums in float32.
            norm = keras.layers.LayerNormalization(dtype=dtype)
            norm.build((None, None, filters))
            self.layers.append((convolution, norm))
            self.width = filters

    def __call__(self, x: Tensor, lengths: Tensor, noise: Noise | None) -> Tensor:
        """(B, T, width) in the policy's compute type; zeros beyond the lengths, whatever x has there."""
        real = tf.sequence_mask(lengths, tf.shape(x)[1])[..., tf.newaxis]
        x = _only(real, x)
        for index, (convolution, norm) in enumerate(self.layers):
            # Zeros are also what a convolution reads beyond the end of a sequence without padding.
            x = _only(real, tf.nn.relu(norm(convolution(x))))
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


def _only(real: Tensor, x: Tensor) -> Tensor:
    """Zeros where not `real`; not a product, which would keep what is not a number."""
    return tf.where(real, x, tf.zeros((), x.dtype))
