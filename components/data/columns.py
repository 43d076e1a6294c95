"""Arrow columns laid flat: numbers as NumPy arrays, words as one Arrow array of text.

    [[[1, 2], [3, 4]], null, [[5, 6]]]      row, step, feature
    valid    [ 1  0  1 ]                    (n,)
    lengths  [ 2  0  1 ]                    (n,)
    widths   [ 2  2  2 ]                    (S,) features of each step
    values   [ 1 2 3 4 5 6 ]                (V,) of the column's own dtype

Letters: n rows, S all steps, V all values.
"""

from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from components.data import extensions


@dataclass(frozen=True)
class Nested:
    """A column of sequences laid end to end; nulls have length, width or value 0."""

    valid: np.ndarray  # (n,) bool
    lengths: np.ndarray  # (n,) int64
    step_valid: np.ndarray  # (S,) bool
    widths: np.ndarray  # (S,) int64, 1 where steps are plain numbers
    value_valid: np.ndarray  # (V,) bool
    values: np.ndarray  # (V,)
    gaps: bool = False  # whether NaN is a value to be filled in

    @property
    def step_ends(self) -> np.ndarray:
        """Where each row's steps end in (S,), (n,) int64."""
        return np.cumsum(self.lengths)

    @property
    def value_ends(self) -> np.ndarray:
        """Where each step's values end in (V,), (S,) int64."""
        return np.cumsum(self.widths)

    @property
    def row_ends(self) -> np.ndarray:
        """Where each row's values end in (V,), (n,) int64."""
        return np.concatenate([[0], self.value_ends])[self.step_ends]

    @property
    def row_widths(self) -> np.ndarray:
        """Features of each row's first step, 0 where there is none, (n,) int64."""
        widths = np.zeros(len(self.lengths), np.int64)
        filled = self.lengths > 0
        widths[filled] = self.widths[(self.step_ends - self.lengths)[filled]]
        return widths


@dataclass(frozen=True)
class Words:
    """A column of sequences of text laid end to end; null rows have length 0."""

    valid: np.ndarray  # (n,) bool
    lengths: np.ndarray  # (n,) int64
    values: pa.StringArray  # (S,) null where a step has none

    @property
    def row_widths(self) -> np.ndarray:
        """One feature where there is a step, (n,) int64."""
        return (self.lengths > 0).astype(np.int64)


def words(column: pa.Array) -> Words:
    """A list column of texts, or a column of text that is cut at white space, laid end to end."""
    valid = _valid(column)
    if not is_list(column.type):
        trimmed = pc.utf8_trim_whitespace(texts(column))
        # Cutting an empty text would give one empty word.
        column = pc.utf8_split_whitespace(pc.if_else(pc.equal(trimmed, ""), None, trimmed))
    return Words(valid, list_lengths(column), texts(column.flatten()))


def with_gaps(values: Nested) -> Nested:
    """The same as float64 with NaN for what is missing, steps of a single number included."""
    missing = ~values.value_valid
    if np.issubdtype(values.values.dtype, np.floating):
        missing |= np.isnan(values.values)
    numbers = np.where(missing, np.nan, values.values.astype(np.float64))
    single = values.step_valid is values.value_valid
    everywhere = np.ones(len(numbers), bool)
    steps = everywhere if single else values.step_valid
    return replace(values, step_valid=steps, value_valid=everywhere, values=numbers, gaps=True)


def nested(column: pa.Array) -> Nested:
    """A list column of numbers, or of lists of numbers, laid end to end."""
    steps = column.flatten()
    lengths = list_lengths(column)
    if not is_list(steps.type):
        valid = _valid(steps)
        return Nested(_valid(column), lengths, valid, np.ones(len(steps), np.int64), valid, _numbers(steps))
    values = steps.flatten()
    return Nested(
        _valid(column), lengths, _valid(steps), list_lengths(steps), _valid(values), _numbers(values)
    )


def list_lengths(column: pa.Array) -> np.ndarray:
    """Items in each list, 0 for null, (n,) int64."""
    return pc.fill_null(pc.list_value_length(column), 0).to_numpy(zero_copy_only=False).astype(np.int64)


def texts(column: pa.Array) -> pa.StringArray:
    """Text, whole numbers and booleans as text exactly: 7 is `7`, true is `true`; nulls stay null."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    return column.cast(pa.string())


def instants(column: pa.Array) -> pa.StringArray:
    """Dates, times and numbers as text, in ISO 8601 where the type is one of time; nulls stay null."""
    if not is_time(column.type):
        return texts(column)
    return pc.replace_substring(column.cast(pa.string()), " ", "T")


def numeric_fault(kind: pa.DataType) -> str:
    """Why a column of this type cannot be a numeric input; empty when it can."""
    value, depth = innermost(kind)
    if is_extension(kind):
        return f"received {_shown(kind)}, expected a list of time steps; store plain lists"
    if depth == 0:
        return f"received {_shown(kind)}, expected a list of time steps in each row"
    if depth > 2:
        return f"received {_shown(kind)}, expected a list of steps, each a number or a list of numbers"
    if pa.types.is_decimal(value):
        return f"received {_shown(kind)}, expected numbers; cast decimals to double"
    if not _is_number(value) and not pa.types.is_null(value):
        return f"received {_shown(kind)}, expected numbers"
    return ""


def words_fault(kind: pa.DataType) -> str:
    """Why a column of this type cannot be an input of tokens or categories; empty when it can."""
    if is_extension(kind):
        return f"received {_shown(kind)}, expected a list of texts; store plain lists"
    if not is_list(kind):
        if text_kind(kind) in ("text", "null"):
            return ""
        return f"received {_shown(kind)}, expected a list with a text for each step, or text"
    return text_fault(kind.value_type)


def scalar_fault(kind: pa.DataType) -> str:
    """Why a column of this type cannot be one number for each row; empty when it can."""
    if pa.types.is_dictionary(kind):
        return scalar_fault(kind.value_type)
    if is_extension(kind) or is_list(kind):
        return f"received {_shown(kind)}, expected one number in each row"
    if pa.types.is_decimal(kind) or _is_number(kind) or text_kind(kind) in ("text", "null"):
        return ""
    return f"received {_shown(kind)}, expected a number"


def instant_fault(kind: pa.DataType) -> str:
    """Why a column of this type cannot say when; empty when it can."""
    if is_time(kind) or pa.types.is_floating(kind):
        return ""
    return text_fault(kind)


def is_time(kind: pa.DataType) -> bool:
    """Whether the type is a date or an instant."""
    return pa.types.is_timestamp(kind) or pa.types.is_date(kind)


def text_fault(kind: pa.DataType) -> str:
    """Why a column of this type has no exact text; empty when it has."""
    if is_extension(kind):
        return f"received {_shown(kind)}, expected text; store plain strings"
    if pa.types.is_dictionary(kind):
        return text_fault(kind.value_type)
    if pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        return f"received {kind}, expected text or whole numbers; cast fractions to text"
    if text_kind(kind) == "other":
        return f"received {_shown(kind)}, expected text, whole numbers or booleans; cast to text"
    return ""


def text_kind(kind: pa.DataType) -> str:
    """text, whole number, boolean, null (no value at all) or other."""
    if pa.types.is_dictionary(kind):
        return text_kind(kind.value_type)
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return "text"
    if pa.types.is_integer(kind):
        return "whole number"
    if pa.types.is_boolean(kind):
        return "boolean"
    return "null" if pa.types.is_null(kind) else "other"


def is_list(kind: pa.DataType) -> bool:
    """Whether the type is any of Arrow's lists."""
    return (
        pa.types.is_list(kind)
        or pa.types.is_large_list(kind)
        or pa.types.is_fixed_size_list(kind)
        or pa.types.is_list_view(kind)
        or pa.types.is_large_list_view(kind)
    )


def is_extension(kind: pa.DataType) -> bool:
    """Whether the type, or what its lists hold, is an extension type."""
    return isinstance(innermost(kind)[0], pa.BaseExtensionType)


def innermost(kind: pa.DataType) -> tuple[pa.DataType, int]:
    """What the lists hold in the end, and how deep they are."""
    depth = 0
    while is_list(kind):
        kind, depth = kind.value_type, depth + 1
    return kind, depth


def plain(kind: pa.DataType) -> pa.DataType:
    """The same values in Arrow's simplest layout: lists, strings, no dictionaries."""
    if is_list(kind):
        return pa.list_(plain(kind.value_type))
    if pa.types.is_dictionary(kind):
        return plain(kind.value_type)
    return pa.string() if text_kind(kind) == "text" else kind


def _is_number(kind: pa.DataType) -> bool:
    return pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)


def _shown(kind: pa.DataType) -> str:
    if is_extension(kind):
        return extensions.shown(innermost(kind)[0])
    return str(kind).replace("element: ", "").replace("item: ", "")


def _valid(column: pa.Array) -> np.ndarray:
    return column.is_valid().to_numpy(zero_copy_only=False)


def _numbers(column: pa.Array) -> np.ndarray:
    if pa.types.is_null(column.type):
        return np.zeros(len(column), np.float64)
    if column.null_count:
        # Arrow would turn whole numbers with nulls into doubles.
        column = pc.fill_null(column, pa.scalar(0, column.type))
    return column.to_numpy(zero_copy_only=False)
