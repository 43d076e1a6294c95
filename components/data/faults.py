"""What is wrong with the values of one batch: at most one fault for each row and column.

    numbers, in this order   null row, empty, null step, ragged steps, too large, null value, NaN or infinity
    words                    null row, empty, too long, null step

Checks look at whole arrays; only faulty rows cost Python time.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from components.data.columns import Nested, Words
from components.served.numbers import fits_float32

MAX_STEPS = 1_000_000
MAX_FEATURES = 1 << 16
MAX_VALUES = 1 << 27


@dataclass(frozen=True)
class Fault:
    """What is wrong with one row of a batch, and at which step and feature first."""

    row: int
    step: int | None
    feature: int | None
    message: str


def where(mask: np.ndarray) -> list[int]:
    """Places where the mask is true."""
    return np.flatnonzero(mask).tolist()


def input_faults(values: Nested | Words) -> list[Fault]:
    """At most one fault for each row: the first kind, in the order above.

    NaN is only a fault where `values` calls it one: `columns.with_gaps` marks what is filled in later.
    """
    by_row: dict[int, Fault] = {}
    if isinstance(values, Words):
        found = [fault for check in WORD_CHECKS for fault in check(values)]
    else:
        found = [fault for find in CHECKS for fault in find(values)]
    for fault in found:
        by_row.setdefault(fault.row, fault)
    return list(by_row.values())


def _null_words(values: Words) -> Iterator[Fault]:
    missing = np.flatnonzero(values.values.is_null().to_numpy(zero_copy_only=False))
    ends = np.cumsum(values.lengths)
    for row, at in _first_in_each(missing, ends):
        yield Fault(row, _within(at, row, ends), None, "missing value")


def _long_rows(values: Words) -> Iterator[Fault]:
    for row in where(values.lengths > MAX_STEPS):
        yield Fault(row, None, None, f"{values.lengths[row]:,} steps, at most {MAX_STEPS:,} are taken")


def _null_rows(values: Nested | Words) -> Iterator[Fault]:
    for row in where(~values.valid):
        yield Fault(row, None, None, "missing value, expected a list of steps")


def _empty_rows(values: Nested | Words) -> Iterator[Fault]:
    for row in where(values.lengths == 0):
        yield Fault(row, None, None, "empty sequence, expected at least 1 step")


def _null_steps(values: Nested) -> Iterator[Fault]:
    for row, at in _first_in_each(np.flatnonzero(~values.step_valid), values.step_ends):
        yield Fault(row, _within(at, row, values.step_ends), None, "missing step")


def _ragged_steps(values: Nested) -> Iterator[Fault]:
    if not len(values.widths) or values.widths.min() == values.widths.max() > 0:
        return
    expected = np.repeat(values.row_widths, values.lengths)
    wrong = np.flatnonzero((values.widths != expected) | (values.widths == 0))
    for row, at in _first_in_each(wrong, values.step_ends):
        step, width = _within(at, row, values.step_ends), values.widths[at]
        yield Fault(row, step, None, f"{width} features" + (f", step 0 has {expected[at]}" if step else ""))


def _oversized_rows(values: Nested) -> Iterator[Fault]:
    widths = values.row_widths
    for row in where(values.lengths > MAX_STEPS):
        yield Fault(row, None, None, f"{values.lengths[row]:,} steps, at most {MAX_STEPS:,} are taken")
    for row in where(widths > MAX_FEATURES):
        yield Fault(row, None, None, f"{widths[row]:,} features, at most {MAX_FEATURES:,} are taken")
    for row in where(widths * values.lengths > MAX_VALUES):
        yield Fault(row, None, None, f"{widths[row] * values.lengths[row]:,} values, at most {MAX_VALUES:,}")


def _null_values(values: Nested) -> Iterator[Fault]:
    if not values.value_valid.all():
        yield from _value_faults(values, ~values.value_valid, "missing value")


def _unfit_values(values: Nested) -> Iterator[Fault]:
    if not fits_float32(values.values):
        unfit = ~(np.abs(values.values.astype(np.float64)) <= np.finfo(np.float32).max)
        if values.gaps:
            unfit &= ~np.isnan(values.values)
        yield from _value_faults(values, unfit, "{}, expected a finite number within float32")


def _value_faults(values: Nested, wrong: np.ndarray, message: str) -> Iterator[Fault]:
    for row, at in _first_in_each(np.flatnonzero(wrong), values.row_ends):
        step = int(np.searchsorted(values.value_ends, at, side="right"))
        feature = int(at - (values.value_ends[step] - values.widths[step]))
        yield Fault(row, _within(step, row, values.step_ends), feature, message.format(values.values[at]))


def length_faults(columns: Sequence[str], inputs: Sequence[Nested | Words]) -> Iterator[tuple[str, Fault]]:
    """Rows where an input has other steps than the first input, with that input's column."""
    for column, values in zip(columns[1:], inputs[1:], strict=True):
        for row in where((values.lengths != inputs[0].lengths) & values.valid & inputs[0].valid):
            own, other = values.lengths[row], inputs[0].lengths[row]
            yield column, Fault(row, None, None, f"{own} steps, but {columns[0]} has {other}")


def missing_faults(column: pa.Array) -> Iterator[Fault]:
    """Rows without a value."""
    for row in where(column.is_null().to_numpy(zero_copy_only=False)):
        yield Fault(row, None, None, "missing value")


def number_faults(
    values: np.ndarray, wrong: Sequence[int], column: pa.Array, *, gaps: bool
) -> Iterator[Fault]:
    """Rows whose one number is no number, missing where it may not be, or beyond float32."""
    for row in wrong:
        yield Fault(row, None, None, f"received {column[row].as_py()!r}, expected a number")
    told = set(wrong)
    for row in where(~(np.abs(values) <= np.finfo(np.float32).max)):
        if row in told or (gaps and np.isnan(values[row])):
            continue
        received = column[row].as_py()
        missing = received is None or (isinstance(received, str) and not received.strip())
        what = "missing value" if missing else f"{values[row]}, expected a finite number within float32"
        yield Fault(row, None, None, what)


def label_faults(
    target: pa.Array, labels: pa.Array, num_labels: np.ndarray, num_steps: np.ndarray
) -> Iterator[Fault]:
    """Rows whose list of labels does not go with their steps, or has a hole."""
    present = target.is_valid().to_numpy(zero_copy_only=False)
    wrong = (num_labels != num_steps) & present & (num_steps > 0)
    for row in where(wrong):
        yield Fault(row, None, None, f"{num_labels[row]} labels for {num_steps[row]} steps")
    holes = np.flatnonzero(labels.is_null().to_numpy(zero_copy_only=False))
    ends = np.cumsum(num_labels)
    for row, at in _first_in_each(holes, ends):
        if not wrong[row]:
            yield Fault(row, _within(at, row, ends), None, "missing label")


def _first_in_each(positions: np.ndarray, ends: np.ndarray) -> Iterator[tuple[int, int]]:
    """(row, position) of the first position within each row, rows ending at `ends`."""
    rows, first = np.unique(np.searchsorted(ends, positions, side="right"), return_index=True)
    yield from zip(rows.tolist(), np.asarray(positions)[first].tolist(), strict=True)


def _within(at: int, row: int, ends: np.ndarray) -> int:
    """A position counted from the start of its row."""
    return int(at - (ends[row - 1] if row else 0))


WORD_CHECKS = (_null_rows, _empty_rows, _long_rows, _null_words)
CHECKS = (
    _null_rows,
    _empty_rows,
    _null_steps,
    _ragged_steps,
    _oversized_rows,
    _null_values,
    _unfit_values,
)
