"""From the numbers of a step to its features: numbers as they are, symbols and characters as learnt vectors.

    x (B, T, W) ─┬─ numbers ───────────────────────────────────────────────┬─ features (B, T, F)
                 ├─ symbol     (B, T, 1) ─ table ──────────────────────────┤
                 └─ characters (B, T, L) ─ table ─ convolution ─ maximum ──┘

Letters: B batch, T padded time, W numbers of a step, F features, L characters kept of a token.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

import keras
import tensorflow as tf

from components.networks.layers import Noise, Tensor
from components.served.encoding import Slot
from components.served.symbols import PADDING, UNKNOWN, UNKNOWN_CHARACTER

# Of character vectors, of the stretch that a filter reads, and how many filters there are.
CHARACTER_WIDTH, FILTER_WIDTH, FILTERS = 16, 3, 32
# Word dropout (Bowman et al. 2016, arXiv:1511.06349) only so that the vector of the unknown is learnt: every
# symbol of the training rows is known. Rates that are to regularise are far higher.
UNKNOWN_RATE = 0.01
# Of random numbers: beyond those of 64 layers.
FIRST_SEED, SEEDS_PER_SLOT = 10_000, 10
FIRST_PLACE = 1_000


class _Numbers:
    """Numbers as they are."""

    def __init__(self, slot: Slot, seed: int) -> None:
        self.width = slot.width
        self.parts: list[keras.Layer] = []

    def __call__(self, x: Tensor, noise: Noise | None) -> Tensor:
        return x


class _Symbol:
    """A learnt vector for each symbol, (B, T, 1) to (B, T, embedding)."""

    def __init__(self, slot: Slot, seed: int) -> None:
        self.width = slot.embedding
        self.table = _table(slot.size, slot.embedding, seed)
        self.parts = [self.table]

    def __call__(self, x: Tensor, noise: Noise | None) -> Tensor:
        symbols = tf.cast(x[..., 0], tf.int32)
        return self.table(_some_unknown(symbols, UNKNOWN, noise))


class _Characters:
    """What a token is spelt like, (B, T, L) to (B, T, FILTERS).

    A convolution over the vectors of its characters, and the maximum over these (Ma & Hovy 2016,
    doi:10.18653/v1/P16-1101; Chiu & Nichols 2016, doi:10.1162/tacl_a_00104). L has no say.
    """

    width = FILTERS

    def __init__(self, slot: Slot, seed: int) -> None:
        self.table = _table(slot.size, CHARACTER_WIDTH, seed)
        self.filters = keras.layers.Conv1D(
            FILTERS,
            FILTER_WIDTH,
            padding="same",
            kernel_initializer=keras.initializers.GlorotUniform(seed=seed + 1),
        )
        self.filters.build((None, slot.width, CHARACTER_WIDTH))
        self.parts = [self.table, self.filters]

    def __call__(self, x: Tensor, noise: Noise | None) -> Tensor:
        characters = tf.cast(x, tf.int32)
        real = (characters != PADDING)[..., tf.newaxis]
        characters = tf.where(real[..., 0], _some_unknown(characters, UNKNOWN_CHARACTER, noise), PADDING)
        vectors = tf.where(real, self.table(characters), 0.0)
        shape = tf.shape(characters)
        found = self.filters(tf.reshape(vectors, [-1, characters.shape[-1], CHARACTER_WIDTH]))
        found = tf.reshape(found, [shape[0], shape[1], characters.shape[-1], FILTERS])
        largest = tf.reduce_max(tf.where(real, found, found.dtype.min), axis=2)
        return tf.where(tf.reduce_any(real, axis=2), largest, 0.0)


Reader: TypeAlias = _Numbers | _Symbol | _Characters

READERS: Mapping[str, Callable[[Slot, int], Reader]] = {
    "numbers": _Numbers,
    "symbol": _Symbol,
    "characters": _Characters,
}


class Front:
    """Every slot of a step read its own way, side by side in their order."""

    def __init__(self, slots: Sequence[Slot], *, seed: int) -> None:
        self.slots = tuple(slots)
        self.readers = [
            READERS[slot.kind](slot, seed + FIRST_SEED + SEEDS_PER_SLOT * place)
            for place, slot in enumerate(slots)
        ]
        self.width = sum(reader.width for reader in self.readers)

    def __call__(self, x: Tensor, noise: Noise | None) -> Tensor:
        if not self.parts:
            return x
        stretches = tf.split(x, [slot.width for slot in self.slots], axis=-1)
        features = [
            reader(stretch, noise and noise.at(FIRST_PLACE + place))
            for place, (reader, stretch) in enumerate(zip(self.readers, stretches, strict=True))
        ]
        return tf.concat(features, axis=-1)

    @property
    def parts(self) -> list[keras.Layer]:
        """Layers with variables, in the order of the slots."""
        return [part for reader in self.readers for part in reader.parts]

    @property
    def variables(self) -> list[keras.Variable]:
        """Trainable variables, in the order of the slots."""
        return [variable for part in self.parts for variable in part.trainable_variables]


def _table(size: int, width: int, seed: int) -> keras.layers.Embedding:
    uniform = keras.initializers.RandomUniform(-0.05, 0.05, seed=seed)
    table = keras.layers.Embedding(size, width, embeddings_initializer=uniform)
    table.build()
    return table


def _some_unknown(numbers: Tensor, unknown: int, noise: Noise | None) -> Tensor:
    """The numbers, while training a few of them made unknown."""
    if noise is None:
        return numbers
    return tf.where(noise.keep_mask(tf.shape(numbers), UNKNOWN_RATE) > 0, numbers, unknown)
