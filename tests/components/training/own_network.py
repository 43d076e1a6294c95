"""A network as users write one (`model.own`), by a name that other processes can import too."""

import keras
from keras import layers


def build(num_features: int, per_step: bool) -> keras.Model:
    x = keras.Input((None, num_features))
    return keras.Model(x, layers.Bidirectional(layers.GRU(4, return_sequences=per_step))(x))
