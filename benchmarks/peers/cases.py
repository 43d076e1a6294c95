"""What every contestant is given: one data set as flat arrays, one network, one way to train it.

    x        (S, F) float32     a token is one number, 0 for those that training has not seen
    offsets  (n + 1,)           row i is x[offsets[i] : offsets[i + 1]]
    y        (S,) of a labeller, (n,) of a classifier

Letters: S all steps, n sequences, F numbers of a step. NumPy alone is needed here: PyTorch has an
environment of its own.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

BACKWARD = 2  # products of the backward pass for each of the forward pass
GATES = {"gru": 3, "lstm": 4}


@dataclass(frozen=True)
class Part:
    """The rows that train, or those that choose."""

    x: np.ndarray
    offsets: np.ndarray
    y: np.ndarray

    @property
    def lengths(self) -> np.ndarray:
        """Steps of each row."""
        return np.diff(self.offsets)

    @property
    def per_step(self) -> bool:
        """Whether each step has a label of its own."""
        return len(self.y) == len(self.x)

    def rows(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """Steps and labels of each row."""
        bounds = list(zip(self.offsets[:-1], self.offsets[1:], strict=True))
        labels = [self.y[a:b] for a, b in bounds] if self.per_step else np.split(self.y, len(bounds))
        return [(self.x[a:b], label) for (a, b), label in zip(bounds, labels, strict=True)]

    def padded(self, length: int, fill: float) -> tuple[np.ndarray, np.ndarray]:
        """All rows at one length: x (n, length, F) and y (n, length) or (n,)."""
        x = np.full((len(self.offsets) - 1, length, self.x.shape[1]), fill, np.float32)
        real = np.arange(length) < self.lengths[:, np.newaxis]
        x[real] = self.x
        if not self.per_step:
            return x, self.y
        y = np.zeros(x.shape[:2], np.int32)
        y[real] = self.y
        return x, y

    def take(self, chosen: np.ndarray) -> "Part":
        """Some of the rows, in the order given."""
        kept = np.concatenate([np.arange(self.offsets[i], self.offsets[i + 1]) for i in chosen])
        offsets = np.concatenate([[0], np.cumsum(self.lengths[chosen])])
        return Part(self.x[kept], offsets, self.y[kept if self.per_step else chosen])


@dataclass(frozen=True)
class Case:
    """A data set, a network over it, and how it is trained."""

    name: str
    cell: Literal["gru", "lstm"]
    units: int
    bidirectional: bool
    classes: int
    longest: int  # steps of the longest row of the whole data set
    batch: int = 32
    rate: float = 1e-3
    clip_norm: float = 1.0
    seed: int = 0
    symbols: int = 0  # how many tokens there are; 0: x holds numbers
    embedding: int = 0
    validate: bool = False
    most_rows: int = 0  # of the rows that train; 0: all

    def flops(self, features: int) -> float:
        """Of one real step, forward and backward, the products of cells and head alone."""
        width = self.embedding or features
        directions = 1 + self.bidirectional
        cells = directions * 2 * (width + self.units) * GATES[self.cell] * self.units
        head = 2 * directions * self.units * self.classes
        return (1 + BACKWARD) * float(cells + head)


@dataclass(frozen=True)
class Epoch:
    """What one pass over the training rows took."""

    steps: int  # real ones
    cells: int  # that were computed: real steps and padding
    seconds: float  # of training alone
    wall: float  # with validation; of the first epoch what came after its first batch
    accuracy: float | None = None  # of real steps, or of rows


def save(path: Path, train: Part, valid: Part) -> None:
    """Both parts in one file."""
    parts = {"train": train, "valid": valid}
    arrays = {f"{name}_{key}": value for name, part in parts.items() for key, value in vars(part).items()}
    np.savez(path, **arrays)


def load(path: Path, case: Case) -> tuple[Part, Part]:
    """What `save` wrote; of the training rows a random draw of `most_rows`."""
    with np.load(path) as file:
        train, valid = (
            Part(*(file[f"{name}_{key}"] for key in ("x", "offsets", "y"))) for name in ("train", "valid")
        )
    if case.most_rows:
        chosen = np.random.default_rng(0).permutation(len(train.offsets) - 1)[: case.most_rows]
        train = train.take(chosen)
    return train, valid
