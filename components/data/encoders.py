"""Statistics of training rows, mergeable, and the encoding that follows from them.

    shard 0 ─ Statistics ─┐
    shard 1 ─ Statistics ─┴ merge, in order of shards ─ fit ─▶ NumericEncoding
    shard 0 ─ Counts ─────┐
    shard 1 ─ Counts ─────┴ merge ─ fit ─▶ TokenEncoding, CategoryEncoding

A shard's rows and their order follow from the rows themselves, so the statistics are the same to the last
bit however the rows are spread over files and workers. Letters: S steps, F features.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from components.errors import DataError, Problem
from components.served.encoding import InputEncoding
from components.served.numbers import NumericEncoding
from components.served.symbols import CategoryEncoding, TokenEncoding, normal_form
from conf.schema import CategoryContext, CategoryInput, NumericContext, NumericInput, TokenInput

BLOCK_VALUES = 1 << 20
# A range below this share of a feature's size is rounding, not variation.
ROUNDING = 8 * np.finfo(np.float64).eps
MAX_CHARACTERS = 24
MAX_ALPHABET = 1 << 12
EMBEDDING = 64

Setting: TypeAlias = NumericInput | TokenInput | CategoryInput | NumericContext | CategoryContext


@dataclass(frozen=True)
class Quantiles:
    """How often each value stands, values cut to the 12 highest bits of their float32 mantissa.

    Whole numbers up to 8,192 are exact, others to one part in 4,096. Counts of stretches simply add, unlike
    those of sampling sketches, so every way to merge gives the same.
    """

    keys: np.ndarray  # (K,) uint64, feature above the cut value's bits, sorted
    counts: np.ndarray  # (K,) int64

    @classmethod
    def of(cls, values: np.ndarray) -> "Quantiles":
        """Of steps (S, F); NaN does not count."""
        bits = (values.astype(np.float32) + np.float32(0.0)).view(np.uint32)
        # Float bits sort as whole numbers do once negative ones are turned round.
        ordered = np.where(bits >> 31, ~bits, bits | np.uint32(1 << 31)).astype(np.uint64)
        features = np.arange(values.shape[1], dtype=np.uint64) << np.uint64(32)
        keys = (ordered & np.uint64(0xFFFFF800)) | features
        found, counts = np.unique(keys[~np.isnan(values)], return_counts=True)
        return cls(found, counts.astype(np.int64))

    def merge(self, other: "Quantiles") -> "Quantiles":
        """Of both together."""
        keys, at = np.unique(np.concatenate([self.keys, other.keys]), return_inverse=True)
        counts = np.zeros(len(keys), np.int64)
        np.add.at(counts, at, np.concatenate([self.counts, other.counts]))
        return Quantiles(keys, counts)

    def at(self, share: float, *, features: int) -> np.ndarray:
        """The smallest value that at least this share of a feature's values do not exceed, (F,)."""
        found = np.zeros(features)
        owner = (self.keys >> np.uint64(32)).astype(np.int64)
        for feature in range(features):
            own = np.flatnonzero(owner == feature)
            if len(own):
                totals = np.cumsum(self.counts[own])
                place = own[np.searchsorted(totals, share * totals[-1])]
                found[feature] = _value(int(self.keys[place]) & 0xFFFFFFFF)
        return found


def _value(ordered: int) -> float:
    """The float32 of turned bits; the cut end is nearer to zero."""
    negative = not ordered >> 31
    bits = (~ordered & 0xFFFFFFFF if negative else ordered & 0x7FFFFFFF) & ~0x7FF
    return float(np.array(bits, np.uint32).view(np.float32))


@dataclass(frozen=True)
class Statistics:
    """Of each feature over the steps that have a value, all (F,)."""

    count: np.ndarray  # int64
    mean: np.ndarray
    squares: np.ndarray  # sum of squared differences from the mean
    low: np.ndarray
    high: np.ndarray
    missing: np.ndarray  # int64, steps without a value
    quantiles: Quantiles | None = None

    @classmethod
    def of(cls, values: np.ndarray, *, quantiles: bool = False) -> "Statistics":
        """Of steps (S, F), at least one, NaN where a value is missing; block by block.

        Blocks save memory and digits.
        """
        rows = max(1, BLOCK_VALUES // max(1, values.shape[1]))
        blocks = [values[at : at + rows] for at in range(0, len(values), rows)]
        return reduce(cls.merge, (cls._of_block(block, quantiles) for block in blocks))

    @classmethod
    def _of_block(cls, values: np.ndarray, quantiles: bool) -> "Statistics":
        wide = values.astype(np.float64)
        gaps = np.isnan(wide)
        missing = gaps.sum(axis=0)
        count = len(wide) - missing
        there = np.maximum(count, 1)
        low = np.where(gaps, np.inf, wide).min(axis=0)
        high = np.where(gaps, -np.inf, wide).max(axis=0)
        none = count == 0
        low, high = np.where(none, 0.0, low), np.where(none, 0.0, high)
        # Rounding can take the mean of equal numbers off them.
        mean = np.clip(np.where(gaps, 0.0, wide).sum(axis=0) / there, low, high)
        squares = np.square(np.where(gaps, 0.0, wide - mean)).sum(axis=0)
        sketch = Quantiles.of(wide) if quantiles else None
        return cls(count, mean, squares, low, high, missing, sketch)

    def merge(self, other: "Statistics") -> "Statistics":
        """Of both sets of steps together (Chan, Golub & LeVeque 1983, doi:10.1080/00031305.1983.10483115)."""
        count = self.count + other.count
        there = np.maximum(count, 1)
        # A feature without a value so far has no range, and the other's mean.
        mine, theirs = self.count > 0, other.count > 0
        low = np.where(mine & theirs, np.minimum(self.low, other.low), np.where(mine, self.low, other.low))
        high = np.where(
            mine & theirs, np.maximum(self.high, other.high), np.where(mine, self.high, other.high)
        )
        shift = other.mean - self.mean
        mean = np.where(mine, self.mean + shift * (other.count / there), other.mean)
        both = self.quantiles and other.quantiles
        return Statistics(
            count=count,
            mean=np.clip(mean, low, high),
            squares=self.squares + other.squares + shift**2 * (self.count * other.count / there),
            low=low,
            high=high,
            missing=self.missing + other.missing,
            quantiles=self.quantiles.merge(other.quantiles) if both else None,  # type: ignore[union-attr, arg-type]
        )

    @property
    def deviation(self) -> np.ndarray:
        """Standard deviation of the steps as they are, (F,)."""
        return np.sqrt(self.squares / np.maximum(self.count, 1))

    @property
    def constant(self) -> np.ndarray:
        """Which features have one value only, up to rounding, (F,) bool."""
        return self.high - self.low <= ROUNDING * np.maximum(np.abs(self.low), np.abs(self.high))


@dataclass(frozen=True)
class Counts:
    """How often each text stands among the steps."""

    numbers: Counter[str]

    @classmethod
    def of(cls, texts: pa.Array | pa.ChunkedArray) -> "Counts":
        """Of the texts of steps, (S,)."""
        found = pc.value_counts(texts)
        return cls(
            Counter(
                dict(zip(found.field("values").to_pylist(), found.field("counts").to_pylist(), strict=True))
            )
        )

    def merge(self, other: "Counts") -> "Counts":
        """Of both sets of steps together."""
        return Counts(self.numbers + other.numbers)

    def normalised(self, setting: TokenInput) -> Counter[str]:
        """How often each token stands once it has the form that the settings ask for."""
        numbers: Counter[str] = Counter()
        for text, count in self.numbers.items():
            numbers[normal_form(text, normalise=setting.normalise, lowercase=setting.lowercase)] += count
        return numbers


def needs_quantiles(setting: Setting) -> bool:
    """Whether the encoding follows from medians or quartiles."""
    if not isinstance(setting, NumericInput | NumericContext):
        return False
    return setting.scale == "robust" or setting.impute == "median"


def merged(statistics: Sequence[Statistics | Counts]) -> Statistics | Counts:
    """All of them together, in their order."""
    return reduce(lambda one, other: one.merge(other), statistics)  # type: ignore[arg-type]


def fit(setting: Setting, statistics: Statistics | Counts) -> InputEncoding:
    """The encoding of one input or context column.

    Raises:
        DataError: no token is frequent enough to be known.
    """
    if isinstance(statistics, Statistics):
        assert isinstance(setting, NumericInput | NumericContext)
        return _fit_numbers(setting, statistics)
    if isinstance(setting, TokenInput):
        return _fit_tokens(setting, statistics)
    assert isinstance(setting, CategoryInput | CategoryContext)
    return CategoryEncoding(setting.column, tuple(sorted(statistics.numbers)), setting.embedding)


def _fit_numbers(setting: NumericInput | NumericContext, statistics: Statistics) -> NumericEncoding:
    """A feature that is constant in training keeps its unit (spread 1)."""
    features = len(statistics.mean)
    center, spread = np.zeros(features), np.ones(features)
    if setting.scale == "standard":
        center, spread = statistics.mean, statistics.deviation
    elif setting.scale == "minmax":
        center, spread = statistics.low, statistics.high - statistics.low
    elif setting.scale == "robust":
        assert statistics.quantiles is not None
        low, center, high = (statistics.quantiles.at(share, features=features) for share in (0.25, 0.5, 0.75))
        # A feature that is the same in most steps has no interquartile range; its deviation has a unit too.
        spread = np.where(high > low, high - low, statistics.deviation)
    # A spread lost to rounding is as little use for dividing as that of a constant feature.
    usable = ~statistics.constant & (spread > np.finfo(np.float64).tiny)
    spread = np.where(usable, spread, 1.0) if setting.scale != "none" else spread
    fill: np.ndarray | None = None
    if setting.impute == "mean":
        fill = statistics.mean
    elif setting.impute == "median":
        assert statistics.quantiles is not None
        fill = statistics.quantiles.at(0.5, features=features)
    elif setting.impute == "zero":
        fill = np.zeros(features)
    return NumericEncoding(
        setting.column,
        features,
        setting.scale,
        tuple(center.tolist()),
        tuple(spread.tolist()),
        None if fill is None else tuple(fill.tolist()),
        setting.indicator,
    )


def _fit_tokens(setting: TokenInput, statistics: Counts) -> TokenEncoding:
    """Tokens in order of how often they stand, then of their text."""
    numbers = statistics.normalised(setting)
    known = [token for token, count in numbers.items() if count >= setting.min_count]
    known.sort(key=lambda token: (-numbers[token], token))
    known = known[: setting.max_size]
    if not known:
        message = f"no token stands {setting.min_count:,} times in the training rows; see min_count"
        problem = Problem(column=setting.column, message=message)
        raise DataError("The tokens cannot be used.", problems=[problem])
    characters: Counter[str] = Counter()
    for token, count in numbers.items() if setting.characters else ():
        for character in token:
            characters[character] += count
    alphabet = sorted(characters, key=lambda character: (-characters[character], character))[:MAX_ALPHABET]
    longest = max(map(len, numbers)) if setting.characters else 0
    return TokenEncoding(
        column=setting.column,
        tokens=tuple(known),
        embedding=setting.embedding or EMBEDDING,
        lowercase=setting.lowercase,
        normalise=setting.normalise,
        characters=tuple(alphabet),
        max_characters=min(longest, MAX_CHARACTERS),
        spelling="recurrent" if setting.characters == "recurrent" else "convolution",
        character_units=setting.character_units or 0,
        unknown_rate=setting.unknown_rate,
    )
