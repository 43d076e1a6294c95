"""Statistics of training rows, mergeable, and the encoding that follows from them.

    shard 0 ─ Statistics ─┐
    shard 1 ─ Statistics ─┴ merge, in order of shards ─ fit ─▶ NumericEncoding

A shard's rows and their order follow from the rows themselves, so the statistics are the same to the last
bit however the rows are spread over files and workers. Letters: S steps, F features.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np

from components.served.encoding import NumericEncoding

BLOCK_VALUES = 1 << 20
# A range below this share of a feature's size is rounding, not variation.
ROUNDING = 8 * np.finfo(np.float64).eps


@dataclass(frozen=True)
class Statistics:
    """Of each feature over steps, all (F,) float64 but the count."""

    count: int
    mean: np.ndarray
    squares: np.ndarray  # sum of squared differences from the mean
    low: np.ndarray
    high: np.ndarray

    @classmethod
    def of(cls, values: np.ndarray) -> "Statistics":
        """Of steps (S, F), at least one; block by block, which saves memory and digits."""
        size = max(1, BLOCK_VALUES // values.shape[1])
        return merged([cls._of_block(values[at : at + size]) for at in range(0, len(values), size)])

    @classmethod
    def _of_block(cls, values: np.ndarray) -> "Statistics":
        wide = values.astype(np.float64)
        low, high = wide.min(axis=0), wide.max(axis=0)
        # Rounding can take the mean of equal numbers off them.
        mean = np.clip(wide.mean(axis=0), low, high)
        return cls(len(wide), mean, np.square(wide - mean).sum(axis=0), low, high)

    def merge(self, other: "Statistics") -> "Statistics":
        """Of both sets of steps together (Chan, Golub & LeVeque 1983, doi:10.1080/00031305.1983.10483115)."""
        count = self.count + other.count
        shift = other.mean - self.mean
        low, high = np.minimum(self.low, other.low), np.maximum(self.high, other.high)
        return Statistics(
            count=count,
            mean=np.clip(self.mean + shift * (other.count / count), low, high),
            squares=self.squares + other.squares + shift**2 * (self.count * other.count / count),
            low=low,
            high=high,
        )

    @property
    def deviation(self) -> np.ndarray:
        """Standard deviation of the steps as they are, (F,)."""
        return np.sqrt(self.squares / self.count)

    @property
    def constant(self) -> np.ndarray:
        """Which features have one value only, up to rounding, (F,) bool."""
        return self.high - self.low <= ROUNDING * np.maximum(np.abs(self.low), np.abs(self.high))


def merged(statistics: Sequence[Statistics]) -> Statistics:
    """All of them together, in their order."""
    return reduce(Statistics.merge, statistics)


def fit(column: str, scale: str, statistics: Statistics) -> NumericEncoding:
    """The encoding of one input. A feature that is constant in training keeps its unit (spread 1)."""
    features = len(statistics.mean)
    if scale == "standard":
        center, spread = statistics.mean, statistics.deviation
    elif scale == "minmax":
        center, spread = statistics.low, statistics.high - statistics.low
    else:
        center, spread = np.zeros(features), np.ones(features)
    # A spread lost to rounding is as little use for dividing as that of a constant feature.
    usable = ~statistics.constant & (spread > np.finfo(np.float64).tiny)
    spread = np.where(usable, spread, 1.0) if scale != "none" else spread
    return NumericEncoding(column, features, scale, tuple(center.tolist()), tuple(spread.tolist()))
