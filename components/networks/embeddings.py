"""From the numbers of a step to its features: numbers as they are, symbols and characters as learnt vectors.

    x (B, T, W) ─┬─ numbers ───────────────────────────────────────────────┬─ features (B, T, F)
                 ├─ symbol     (B, T, 1) ─ table ──────────────────────────┤
                 ├─ characters (B, T, L) ─ table ─ convolution ─ maximum ──┤
                 └─ spelling   (B, T, L) ─ table ─ recurrence ─ last state ┘

A table begins at random, or with vectors that were learnt elsewhere; those may be kept as they are.
Letters: B batch, T padded time, W numbers of a step, F features, L characters kept of a token.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

import keras
import numpy as np
import tensorflow as tf

from components.networks.layers import Direction, Noise, Tensor, last_step
from components.served.encoding import Slot
from components.served.symbols import PADDING, UNKNOWN, UNKNOWN_CHARACTER

# Of character vectors, of the stretch that a filter reads, and, unless settings say, how many filters.
CHARACTER_WIDTH, FILTER_WIDTH, FILTERS = 16, 3, 32
# Of character vectors that a recurrence reads, and, unless settings say, its units in each direction, as the
# paper below has them.
SPELLING_WIDTH, SPELLING_UNITS = 25, 25
# Word dropout (Bowman et al. 2016, arXiv:1511.06349) only so that the vector of the unknown is learnt: every
# symbol of the training rows is known. Rates that are to regularise are far higher, and settings give
# those of tokens.
UNKNOWN_RATE = 0.01
# Of random numbers: beyond those of 64 layers.
FIRST_SEED, SEEDS_PER_SLOT = 10_000, 10
FIRST_PLACE = 1_000


class _Numbers:
    """Numbers as they are."""

    def __init__(self, slot: Slot, seed: int, vectors: np.ndarray | None) -> None:
        self.width = slot.width
        self.parts: list[keras.Layer] = []

    def __call__(self, x: Tensor, noise: Noise | None) -> Tensor:
        return x


class _Symbol:
    """A vector for each symbol, (B, T, 1) to (B, T, embedding).

    Given vectors are those of the last symbols. Fixed ones lie in a table of their own, which is not trained;
    the vectors of all other symbols, and of the unknown, are learnt.
    """

    def __init__(self, slot: Slot, seed: int, vectors: np.ndarray | None) -> None:
        if slot.fixed and vectors is None:
            raise ValueError(f"{slot} has fixed vectors, but they are not given")
        self.width, self.once, self.unknown_rate = slot.embedding, slot.once, slot.unknown_rate
        self.num_learnt = slot.size - slot.fixed
        self.table = _table(self.num_learnt, slot.embedding, seed)
        self.parts = [self.table]
        if slot.fixed:
            self.fixed = _table(slot.fixed, slot.embedding, seed, trainable=False)
            self.fixed.embeddings.assign(vectors)
            self.parts.append(self.fixed)
        elif vectors is not None:
            drawn = self.table.embeddings.numpy()[: slot.size - len(vectors)]
            self.table.embeddings.assign(np.concatenate([drawn, vectors]))

    def __call__(self, x: Tensor, noise: Noise | None) -> Tensor:
        rate = UNKNOWN_RATE if self.unknown_rate is None else self.unknown_rate
        symbols = _some_unknown(tf.cast(x[..., 0], tf.int32), UNKNOWN, noise, rate=rate, once=self.once)
        if len(self.parts) == 1:
            return self.table(symbols)
        learnt = self.table(tf.minimum(symbols, self.num_learnt - 1))
        fixed = self.fixed(tf.maximum(symbols - self.num_learnt, 0))
        return tf.where((symbols < self.num_learnt)[..., tf.newaxis], learnt, fixed)


class _Characters:
    """What a token is spelt like, (B, T, L) to (B, T, width).

    A convolution over the vectors of its characters, and the maximum over these (Ma & Hovy 2016,
    doi:10.18653/v1/P16-1101; Chiu & Nichols 2016, doi:10.1162/tacl_a_00104). L has no say.
    """

    def __init__(self, slot: Slot, seed: int, vectors: np.ndarray | None) -> None:
        self.width = slot.units or FILTERS
        self.table = _table(slot.size, CHARACTER_WIDTH, seed)
        self.filters = keras.layers.Conv1D(
            self.width,
            FILTER_WIDTH,
            padding="same",
            kernel_initializer=keras.initializers.GlorotUniform(seed=seed + 1),
        )
        self.filters.build((None, slot.width, CHARACTER_WIDTH))
        self.parts = [self.table, self.filters]

    def __call__(self, x: Tensor, noise: Noise | None) -> Tensor:
        characters = _spelt(x, noise)
        real = (characters != PADDING)[..., tf.newaxis]
        vectors = tf.where(real, self.table(characters), 0.0)
        shape = tf.shape(characters)
        found = self.filters(tf.reshape(vectors, [-1, characters.shape[-1], CHARACTER_WIDTH]))
        found = tf.reshape(found, [shape[0], shape[1], characters.shape[-1], self.width])
        largest = tf.reduce_max(tf.where(real, found, found.dtype.min), axis=2)
        return tf.where(tf.reduce_any(real, axis=2), largest, 0.0)


class _Spelling:
    """What a token is spelt like, (B, T, L) to (B, T, width): the last states of a recurrence.

    It reads the token's characters from both ends (Lample et al. 2016, doi:10.18653/v1/N16-1030), L steps one
    after another, for every token of the padded batch: it takes longer than the convolution.
    """

    def __init__(self, slot: Slot, seed: int, vectors: np.ndarray | None) -> None:
        units = slot.units or SPELLING_UNITS
        self.width = 2 * units
        self.table = _table(slot.size, SPELLING_WIDTH, seed)
        self.directions = [
            Direction(
                "lstm",
                units=units,
                num_features=SPELLING_WIDTH,
                reverse=reverse,
                unroll=False,
                drop=0.0,
                seed=seed + 2 + 2 * reverse,
            )
            for reverse in (False, True)
        ]
        self.parts = [self.table, *(direction.rnn for direction in self.directions)]

    def __call__(self, x: Tensor, noise: Noise | None) -> Tensor:
        characters = _spelt(x, noise)
        shape = tf.shape(characters)
        flat = tf.reshape(characters, [-1, characters.shape[-1]])
        lengths = tf.reduce_sum(tf.cast(flat != PADDING, tf.int32), axis=1)
        # A token without characters has no last state; it counts as one step here, and as zeros in the end.
        steps, vectors = tf.maximum(lengths, 1), self.table(flat)
        found = last_step([direction(vectors, steps, noise) for direction in self.directions], steps)
        found = tf.where((lengths > 0)[:, tf.newaxis], found, 0.0)
        return tf.reshape(found, [shape[0], shape[1], self.width])


Reader: TypeAlias = _Numbers | _Symbol | _Characters | _Spelling

READERS: Mapping[str, Callable[[Slot, int, np.ndarray | None], Reader]] = {
    "numbers": _Numbers,
    "symbol": _Symbol,
    "characters": _Characters,
    "spelling": _Spelling,
}


class Embeddings:
    """Every slot of a step read its own way, side by side in their order.

    Args:
        slots: what the numbers of a step are.
        seed: of the vectors that begin at random.
        tables: by place of a slot of symbols: the vectors (n, embedding) that its last n symbols begin as.
        first: place of the first of these slots among those of a step.

    Raises:
        ValueError: a slot has fixed vectors, and there is no table for it.
    """

    def __init__(
        self,
        slots: Sequence[Slot],
        *,
        seed: int,
        tables: Mapping[int, np.ndarray] | None = None,
        first: int = 0,
    ) -> None:
        self.slots, tables, self.first_place = tuple(slots), tables or {}, FIRST_PLACE + first
        self.readers = [
            READERS[slot.kind](slot, seed + FIRST_SEED + SEEDS_PER_SLOT * place, tables.get(place))
            for place, slot in enumerate(slots, first)
        ]
        self.width = sum(reader.width for reader in self.readers)

    def __call__(self, x: Tensor, noise: Noise | None) -> Tensor:
        if not self.parts:
            return x
        stretches = tf.split(x, [slot.width for slot in self.slots], axis=-1)
        features = [
            reader(stretch, noise and noise.at(self.first_place + place))
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

    @property
    def frozen(self) -> list[keras.Variable]:
        """Variables that are not trained, in the order of the slots; an export needs them too."""
        return [variable for part in self.parts for variable in part.non_trainable_weights]


def _table(size: int, width: int, seed: int, *, trainable: bool = True) -> keras.layers.Embedding:
    uniform = keras.initializers.RandomUniform(-0.05, 0.05, seed=seed)
    table = keras.layers.Embedding(size, width, embeddings_initializer=uniform, trainable=trainable)
    table.build()
    return table


def _spelt(x: Tensor, noise: Noise | None) -> Tensor:
    """The numbers of characters, while training a few of them made unknown; padding stays."""
    characters = tf.cast(x, tf.int32)
    some = _some_unknown(characters, UNKNOWN_CHARACTER, noise, rate=UNKNOWN_RATE)
    return tf.where(characters != PADDING, some, PADDING)


def _some_unknown(
    numbers: Tensor, unknown: int, noise: Noise | None, *, rate: float, once: bool = False
) -> Tensor:
    """The numbers, while training a share of them made unknown; with `once` at all steps of a sequence."""
    if noise is None:
        return numbers
    shape = tf.stack([tf.shape(numbers)[0], 1]) if once else tf.shape(numbers)
    return tf.where(noise.keep_mask(shape, rate) > 0, numbers, unknown)
