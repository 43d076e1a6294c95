"""Each step read alone, with the same weights at every step.

    x (B, T, F) ─ real steps (S, F) ─┬─ image (S, H, W, 1) ─ [convolution ─ halved] x filters ─┐
                                     └─ as it is ──────────────────────────────────────────────┤
    (B, T, U), zeros in the padding ─ back in their places (S, U) ─ [dense] x units ───────────┘

Letters: B batch, T padded time, F features, S real steps of the batch, H height, W width, U units.
"""

import keras
import tensorflow as tf

from components.networks.layers import Noise, Tensor
from conf.schema import EncoderSettings

# Of random numbers: beyond those of the recurrent layers and of the front.
FIRST_SEED, SEEDS_PER_LAYER = 20_000, 10
FIRST_PLACE = 2_000
SIDE = 3  # of the square that a filter reads


class StepEncoder:
    """Convolutions of the step as an image, if it is one, then dense layers: (B, T, F) to (B, T, width).

    Built in full by the constructor. `parts` are its layers in their order: convolutions, dense layers.
    """

    def __init__(self, settings: EncoderSettings, *, num_features: int, dtype: str, seed: int) -> None:
        """`dtype` names a Keras policy, such as "float32" or "mixed_bfloat16".

        Raises:
            ValueError: the image does not have as many numbers as a step.
        """
        self.rate, self.num_features = settings.dropout, num_features
        self.shape, self.width = settings.shape, num_features
        self.parts: list[keras.Layer] = []
        if self.shape is not None:
            self.width = self._add_convolutions(self.shape, settings.filters, dtype, seed)
        for units in settings.units:
            # Weights for rectified units after He et al. 2015, arXiv:1502.01852.
            weights = keras.initializers.HeUniform(self._next_seed(seed))
            layer = keras.layers.Dense(units, activation="relu", kernel_initializer=weights, dtype=dtype)
            layer.build((None, self.width))
            self.parts.append(layer)
            self.width = units

    def __call__(self, x: Tensor, lengths: Tensor, noise: Noise | None) -> Tensor:
        """(B, T, width) in the policy's compute type; zeros beyond the lengths, whatever x has there."""
        batch, time = tf.shape(x)[0], tf.shape(x)[1]
        # Padding is left out rather than masked: every step costs the same, and often most are padding.
        real = tf.where(tf.sequence_mask(lengths, time))
        steps = tf.reshape(tf.gather_nd(x, real), [-1, self.num_features])
        if self.shape is not None:
            steps = tf.reshape(steps, [-1, *self.shape, 1])
        for index, layer in enumerate(self.parts):
            is_image = isinstance(layer, keras.layers.Conv2D)
            steps = _halved(layer(steps)) if is_image else layer(_flat(steps))
            if noise is not None and self.rate:
                # Drawn for the padding too: a row's masks must not depend on the lengths of other rows.
                shape = tf.stack([batch, time, steps.shape[-1]])
                mask = tf.gather_nd(noise.at(FIRST_PLACE + index).keep_mask(shape, self.rate), real)
                if is_image:
                    # One number for all of a filter's image (spatial dropout, Tompson et al. 2015,
                    # arXiv:1411.4280): neighbouring pixels would tell what is dropped between them.
                    mask = mask[:, tf.newaxis, tf.newaxis]
                steps *= tf.cast(mask, steps.dtype)
        shape = tf.stack([batch, time, self.width])
        encoded = tf.scatter_nd(real, _flat(steps), tf.cast(shape, real.dtype))
        return tf.ensure_shape(encoded, [None, None, self.width])

    def _add_convolutions(
        self, shape: tuple[int, int], filters: tuple[int, ...], dtype: str, seed: int
    ) -> int:
        """How many numbers come out of them."""
        (height, width), channels = shape, 1
        if height * width != self.num_features:
            raise ValueError(
                f"encoder.shape is [{height}, {width}], that is {height * width} numbers; "
                f"a step has {self.num_features}"
            )
        for count in filters:
            weights = keras.initializers.HeUniform(self._next_seed(seed))
            layer = keras.layers.Conv2D(
                count, SIDE, padding="same", activation="relu", kernel_initializer=weights, dtype=dtype
            )
            layer.build((None, height, width, channels))
            self.parts.append(layer)
            height, width, channels = -(-height // 2), -(-width // 2), count
        return height * width * channels

    def _next_seed(self, seed: int) -> int:
        return seed + FIRST_SEED + SEEDS_PER_LAYER * len(self.parts)


def _halved(images: Tensor) -> Tensor:
    """The largest of every two by two pixels; an odd last row or column counts alone."""
    return tf.nn.max_pool2d(images, 2, 2, "SAME")


def _flat(steps: Tensor) -> Tensor:
    """(S, ...) to (S, numbers of a step)."""
    return tf.reshape(steps, [-1, steps.shape[1:].num_elements()])
