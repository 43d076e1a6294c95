"""Numeric inputs: raw ragged rows to flat values, values to float32.

    rows  [[[0, 255], [7, null]], [[1, 1]]]   ragged: row, step, feature
      |   flatten_rows
    values (S, F), lengths (n,)               any real dtype; NaN where a value is missing
      |   NumericEncoding.apply               (float64(value or fill) - center) / spread, then the indicators
    x      (S, W) float32                     W is F, or 2 F with indicators

Letters: n rows, S all steps, T steps of one row, F features.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

_LARGEST = float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class NumericEncoding:
    """How one numeric input becomes float32; fitted on training rows only."""

    column: str
    features: int
    scale: str  # none | standard | minmax | robust
    center: tuple[float, ...]  # (F,)
    spread: tuple[float, ...]  # (F,), 1 for a feature that was constant in training
    fill: tuple[float, ...] | None = None  # (F,) stands in for missing values; None: none may be missing
    indicator: bool = False  # whether 0 or 1 for each feature says that it was missing

    @property
    def width(self) -> int:
        """Numbers that a step has once it is encoded."""
        return self.features * (2 if self.indicator else 1)

    def apply(self, values: np.ndarray) -> np.ndarray:
        """Scaled values, (S, width) float32; NaN is a missing value.

        Raises:
            ValueError: another number of features, a value missing where none may be, or an overflow.
        """
        if values.ndim != 2 or values.shape[1] != self.features:
            raise ValueError(
                f"input {self.column!r}: received an array of shape {values.shape},"
                f" expected (steps, {self.features})"
            )
        scaled = values.astype(np.float64)
        missing = np.isnan(scaled)
        if missing.any():
            if self.fill is None:
                step, feature = np.argwhere(missing)[0]
                raise ValueError(f"input {self.column!r}, step {step}, feature {feature}: missing value")
            scaled = np.where(missing, np.asarray(self.fill), scaled)
        if self.scale != "none":
            scaled -= np.asarray(self.center)
            scaled /= np.asarray(self.spread)
        try:
            with np.errstate(over="raise"):
                numbers = scaled.astype(np.float32)
        except FloatingPointError:
            step, feature = np.argwhere(np.abs(scaled) > np.finfo(np.float32).max)[0]
            raise ValueError(
                f"input {self.column!r}, feature {feature}: {values[step, feature]!s} is too large"
                f" for float32 after scaling"
            ) from None
        return np.concatenate([numbers, missing.astype(np.float32)], axis=1) if self.indicator else numbers


def flatten_rows(
    rows: Sequence[Any], *, column: str, features: int, missing: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Raw ragged rows laid end to end: values (S, F) of any real dtype, lengths (n,) int64, at least 1.

    Args:
        rows: one item per row: T steps of F numbers, as lists, tuples or arrays; T plain numbers when F is 1.
        column: the input's name, for messages.
        features: F.
        missing: whether None and NaN are values that the model fills in, rather than mistakes.

    Raises:
        ValueError: naming row, step and feature (counted from 0) of an empty, ragged, missing, textual or
            non-finite value.
    """
    parts = [_row_values(row, f"{column!r}, row {i}", features, missing) for i, row in enumerate(rows)]
    if not parts:
        return np.zeros((0, features), np.float32), np.zeros(0, np.int64)
    values = np.concatenate(parts)
    lengths = np.array([len(part) for part in parts], np.int64)
    if not fits_float32(values):
        unfit = ~(np.abs(values) <= _LARGEST) & ~(missing & np.isnan(values))
        if unfit.any():
            _raise_at_first_unfit(values, lengths, column, unfit)
    return values, lengths


def row_numbers(values: Sequence[Any], *, column: str, missing: bool = False) -> np.ndarray:
    """One number for each row, (n,) float64; NaN is a missing one.

    Args:
        values: one item per row.
        column: the context's name, for messages.
        missing: whether None and NaN are values that the model fills in, rather than mistakes.

    Raises:
        ValueError: naming the row (counted from 0) of a missing, textual or non-finite value.
    """
    numbers = np.array(
        [_number(value, f"{column!r}, row {row}", missing) for row, value in enumerate(values)], np.float64
    )
    unfit = ~(np.abs(numbers) <= _LARGEST) & ~(missing & np.isnan(numbers))
    for row in np.flatnonzero(unfit)[:1]:
        raise ValueError(
            f"{column!r}, row {row}: received {numbers[row]!s}, expected a finite number within float32"
        )
    return numbers


def fits_float32(values: np.ndarray) -> bool:
    """Whether every value is finite and within the range of float32."""
    if values.dtype.kind in "biu" or not values.size:
        return True
    low, high = float(values.min()), float(values.max())
    return low >= -_LARGEST and high <= _LARGEST  # false for NaN, which min and max pass on


def _row_values(row: Any, place: str, features: int, missing: bool) -> np.ndarray:
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
        values = _slowly(row, place, missing)
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


def _slowly(row: Any, place: str, missing: bool) -> np.ndarray:
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
        places = (f"{place}, step {t}, feature {f}" for f in range(len(features)))
        steps.append([_number(value, at, missing) for value, at in zip(features, places, strict=True)])
    values = np.array(steps, np.float64)
    return values if nested else values[:, 0]


def _number(value: Any, place: str, missing: bool) -> float:
    if missing and is_missing(value):
        return float("nan")
    if isinstance(value, int | float | np.integer | np.floating | np.bool_):
        try:
            return float(value)
        except OverflowError:
            return float("inf")
    what = "a missing value" if value is None else repr(value)
    raise ValueError(f"{place}: received {what}, expected a number")


def _raise_at_first_unfit(values: np.ndarray, lengths: np.ndarray, column: str, unfit: np.ndarray) -> None:
    step, feature = np.argwhere(unfit)[0]
    starts = np.cumsum(lengths) - lengths
    row = int(np.searchsorted(starts, step, side="right")) - 1
    raise ValueError(
        f"{column!r}, row {row}, step {step - starts[row]}, feature {feature}: received"
        f" {values[step, feature]!s}, expected a finite number within float32"
    )


def is_missing(value: Any) -> bool:
    """Whether a value is None, or what pandas has in its place."""
    return value is None or type(value).__name__ in ("NAType", "NaTType")  # without importing pandas
