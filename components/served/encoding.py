"""From raw rows to the numbers a network takes, the same in training, in evaluation and in service.

    rows  [[[0, 255], [7, 3]], [[1, 1]]]      ragged: row, step, feature
      |   flatten_rows
    values (S, F), lengths (n,)               any real dtype
      |   Encoding.encode                     (float64(value) - center) / spread, inputs side by side
    x      (S, F) float32

Letters: n rows, S all steps, T steps of one row, F features.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class NumericEncoding:
    """How one numeric input becomes float32; fitted on training rows only."""

    column: str
    features: int
    scale: str  # none | standard | minmax
    center: tuple[float, ...]  # (F,)
    spread: tuple[float, ...]  # (F,), 1 for a feature that was constant in training

    def apply(self, values: np.ndarray) -> np.ndarray:
        """Scaled values, (S, F) float32. Raises ValueError for another number of features or an overflow."""
        if values.ndim != 2 or values.shape[1] != self.features:
            raise ValueError(
                f"input {self.column!r}: received an array of shape {values.shape},"
                f" expected (steps, {self.features})"
            )
        scaled = values.astype(np.float64)
        if self.scale != "none":
            scaled -= np.asarray(self.center)
            scaled /= np.asarray(self.spread)
        try:
            with np.errstate(over="raise"):
                return scaled.astype(np.float32)
        except FloatingPointError:
            step, feature = np.argwhere(np.abs(scaled) > np.finfo(np.float32).max)[0]
            raise ValueError(
                f"input {self.column!r}, feature {feature}: {values[step, feature]!s} is too large"
                f" for float32 after scaling"
            ) from None


@dataclass(frozen=True)
class Encoding:
    """Everything learnt from training rows that turns a raw row into numbers and a class into its label."""

    task: str  # classification | labelling
    inputs: tuple[NumericEncoding, ...]
    labels: tuple[str, ...]

    @property
    def num_features(self) -> int:
        """Features of a step over all inputs."""
        return sum(part.features for part in self.inputs)

    @property
    def num_classes(self) -> int:
        """Number of labels."""
        return len(self.labels)

    def encode(self, columns: Mapping[str, np.ndarray]) -> np.ndarray:
        """Inputs side by side in the order of `inputs`, (S, num_features) float32, from (S, F) each."""
        missing = [part.column for part in self.inputs if part.column not in columns]
        if missing:
            raise ValueError(f"missing inputs {missing}; received {sorted(columns)}")
        parts = [part.apply(columns[part.column]) for part in self.inputs]
        steps = {part.column: len(values) for part, values in zip(self.inputs, parts, strict=True)}
        if len(set(steps.values())) > 1:
            raise ValueError(f"inputs of one row must have the same number of steps, received {steps}")
        return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)

    def to_json(self) -> dict[str, Any]:
        """A JSON-able copy; floats survive to the last bit."""
        return asdict(self)

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> "Encoding":
        """What `to_json` gave, read back."""
        inputs = tuple(
            NumericEncoding(
                column=part["column"],
                features=part["features"],
                scale=part["scale"],
                center=tuple(part["center"]),
                spread=tuple(part["spread"]),
            )
            for part in stored["inputs"]
        )
        return cls(task=stored["task"], inputs=inputs, labels=tuple(stored["labels"]))


_LARGEST = float(np.finfo(np.float32).max)


def flatten_rows(rows: Sequence[Any], *, column: str, features: int) -> tuple[np.ndarray, np.ndarray]:
    """Raw ragged rows laid end to end: values (S, F) of any real dtype, lengths (n,) int64, at least 1.

    Args:
        rows: one item per row: T steps of F numbers, as lists, tuples or arrays; T plain numbers when F is 1.
        column: the input's name, for messages.
        features: F.

    Raises:
        ValueError: naming row, step and feature (counted from 0) of an empty, ragged, missing, textual or
            non-finite value.
    """
    parts = [_row_values(row, f"{column!r}, row {i}", features) for i, row in enumerate(rows)]
    if not parts:
        return np.zeros((0, features), np.float32), np.zeros(0, np.int64)
    values = np.concatenate(parts)
    lengths = np.array([len(part) for part in parts], np.int64)
    if not fits_float32(values):
        _raise_at_first_unfit(values, lengths, column)
    return values, lengths


def fits_float32(values: np.ndarray) -> bool:
    """Whether every value is finite and within the range of float32."""
    if values.dtype.kind in "biu" or not values.size:
        return True
    low, high = float(values.min()), float(values.max())
    return low >= -_LARGEST and high <= _LARGEST  # false for NaN, which min and max pass on


def _row_values(row: Any, place: str, features: int) -> np.ndarray:
    """One row as (T, F), T at least 1."""
    if not _is_list(row):
        raise ValueError(f"{place}: received {row!r}, expected a sequence of steps")
    if len(row) == 0:
        raise ValueError(f"{place}: empty sequence, expected at least 1 step")
    try:
        values = np.array(row if _is_plain(row) else list(row))
    except (ValueError, OverflowError):  # ragged, or integers beyond 64 bits
        values = np.array(None)
    if values.dtype.kind not in "biuf" or values.ndim not in (1, 2):
        values = _slowly(row, place)
    if values.ndim == 1 and features == 1:
        values = values[:, None]
    if values.ndim == 1:
        raise ValueError(f"{place}, step 0: received a single number, expected {features} features per step")
    if values.shape[1] != features:
        raise ValueError(f"{place}, step 0: received {values.shape[1]} features, expected {features}")
    return values


def _is_list(value: Any) -> bool:
    if isinstance(value, np.ndarray):
        return value.ndim > 0
    return hasattr(value, "__getitem__") and not isinstance(value, str | bytes | Mapping | np.generic)


def _is_plain(row: Any) -> bool:
    return isinstance(row, np.ndarray) and row.dtype != object


def _slowly(row: Any, place: str) -> np.ndarray:
    """The row as float64 value by value; raises at the first value or step that does not fit."""
    nested = _is_list(row[0])
    steps: list[list[float]] = []
    for t, step in enumerate(row):
        if nested and not _is_list(step):
            raise ValueError(f"{place}, step {t}: received {step!r}, expected a list of features")
        features = list(step) if nested else [step]
        if steps and len(features) != len(steps[0]):
            raise ValueError(
                f"{place}, step {t}: received {len(features)} features, step 0 has {len(steps[0])}"
            )
        steps.append([_number(value, f"{place}, step {t}, feature {f}") for f, value in enumerate(features)])
    values = np.array(steps, np.float64)
    return values if nested else values[:, 0]


def _number(value: Any, place: str) -> float:
    if isinstance(value, int | float | np.integer | np.floating | np.bool_):
        try:
            return float(value)
        except OverflowError:
            return float("inf")
    what = "a missing value" if value is None else repr(value)
    raise ValueError(f"{place}: received {what}, expected a number")


def _raise_at_first_unfit(values: np.ndarray, lengths: np.ndarray, column: str) -> None:
    step, feature = np.argwhere(~(np.abs(values) <= _LARGEST))[0]
    starts = np.cumsum(lengths) - lengths
    row = int(np.searchsorted(starts, step, side="right")) - 1
    raise ValueError(
        f"{column!r}, row {row}, step {step - starts[row]}, feature {feature}: received"
        f" {values[step, feature]!s}, expected a finite number within float32"
    )
