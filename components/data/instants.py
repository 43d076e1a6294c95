"""What puts steps in order: numbers, or instants; with or without a time zone, but not both.

    7   " 7.0"   1e3                 NUMBER   whole + rest, so that 2**53 + 1 follows 2**53
    2024-01-01T12:00:00.5+02:00      ZONED    seconds since 1970 in UTC, and nanoseconds
    2024-01-01   Arrow dates         LOCAL    the same of a clock that says no zone
    null   ""   "  "                 MISSING
    soon   nan   2024-02-30          OTHER

Letter: n values.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from components.data.columns import text_kind

SHORT_WHOLE = r"^[+-]?[0-9]{1,18}$"
LONG_WHOLE = r"^[+-]?[0-9]{19,}$"
NUMBER = r"^(?i:[+-]?(?:(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:e[+-]?[0-9]+)?|nan|inf(?:inity)?))$"
INSTANT = (
    r"^(?P<year>[0-9]{4})-(?P<month>[0-9]{2})-(?P<day>[0-9]{2})"
    r"(?:[Tt ](?P<hour>[0-9]{2}):(?P<minute>[0-9]{2})"
    r"(?::(?P<second>[0-9]{2})(?:\.(?P<fraction>[0-9]{1,9}))?)?"
    r"(?P<zone>[Zz]|[+-][0-9]{2}(?::?[0-9]{2})?)?)?$"
)
LIMITS = {"year": (1, 9999), "month": (1, 12), "day": (1, 31), "hour": (0, 23), "minute": (0, 59)}
LIMITS["second"] = LIMITS["minute"]
UNITS = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
NANOSECONDS = 10**9
# Up to here what a double leaves over of a whole number fits in 64 bits.
LARGEST = 2**113


class Kind(IntEnum):
    """What an order value is."""

    MISSING = 0
    NUMBER = 1
    ZONED = 2
    LOCAL = 3
    OTHER = 4


@dataclass(frozen=True)
class OrderValues:
    """Order values of one kind sort by `whole`, equal ones by `rest`; exactly, whatever their types were."""

    kinds: np.ndarray  # (n,) uint8, of Kind
    whole: np.ndarray  # (n,) float64, NaN where the kind is MISSING or OTHER
    rest: np.ndarray  # (n,) int64


def order_values(column: pa.Array) -> OrderValues:
    """The values of an order column of any type."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    kind = column.type
    if text_kind(kind) == "text" or pa.types.is_decimal(kind):
        return _of_texts(column.cast(pa.string()))
    if pa.types.is_integer(kind):
        return _at_valid(column, _of_integers)
    if pa.types.is_floating(kind):
        return _at_valid(column, _of_floats)
    if pa.types.is_date(kind):
        column = column.cast(pa.timestamp("ms"))
    if pa.types.is_timestamp(column.type):
        return _at_valid(column, _of_timestamps)
    return _at_valid(column, _others)


def parse_numbers(texts: pa.Array) -> tuple[pa.DoubleArray, np.ndarray]:
    """Numbers that texts spell, null where they are empty or spell none, and (n,) bool: which spell none."""
    trimmed = trimmed_texts(texts)
    fit = _matching(trimmed, NUMBER)
    wrong = ~fit & _valid(trimmed)
    if wrong.any():
        trimmed = pc.if_else(pa.array(fit), trimmed, None)
    return trimmed.cast(pa.float64()), wrong


def trimmed_texts(texts: pa.Array) -> pa.StringArray:
    """The texts without white space around them, null where nothing is left."""
    trimmed = pc.utf8_trim_whitespace(texts.cast(pa.string()))
    empty = pc.equal(trimmed, "")
    return pc.if_else(empty, None, trimmed) if pc.any(empty).as_py() else trimmed


def shown(kind: Kind, whole: float, rest: int) -> str:
    """An order value as a message names it."""
    if kind == Kind.NUMBER:
        exact = whole.is_integer() and abs(whole) < LARGEST
        return str(int(whole) + rest) if exact else repr(whole)
    text = str(np.datetime64(int(whole), "s"))
    if rest:
        text += f".{rest:09d}".rstrip("0")
    return text + "Z" if kind == Kind.ZONED else text.removesuffix("T00:00:00")


def _of_texts(texts: pa.StringArray) -> OrderValues:
    trimmed = trimmed_texts(texts)
    left = _valid(trimmed)
    found = _missing(len(texts))
    for pattern, read in READERS:
        if not left.any():
            break
        places = np.flatnonzero(left & _matching(trimmed, pattern))
        if len(places):
            _put(found, places, read(trimmed if len(places) == len(trimmed) else trimmed.take(places)))
            left[places] = False
    found.kinds[left] = Kind.OTHER
    return found


def _read_short(texts: pa.StringArray) -> OrderValues:
    return _of_integers(pc.replace_substring_regex(texts, r"^\+", "").cast(pa.int64()))


def _read_long(texts: pa.StringArray) -> OrderValues:
    found = _missing(len(texts))
    for place, text in enumerate(texts.to_pylist()):
        # Python refuses to read thousands of digits.
        number = int(text) if len(text.lstrip("+-0")) < 40 else LARGEST
        found.kinds[place] = Kind.NUMBER if abs(number) < LARGEST else Kind.OTHER
        if abs(number) < LARGEST:
            found.whole[place] = float(number)
            found.rest[place] = number - int(float(number))
    return found


def _read_numbers(texts: pa.StringArray) -> OrderValues:
    return _of_floats(texts.cast(pa.float64()))


def _read_instants(texts: pa.StringArray) -> OrderValues:
    parts = pc.extract_regex(texts, INSTANT)
    zones, fractions = parts.field("zone"), parts.field("fraction")
    numbers = {name: _digits(parts.field(name)) for name in LIMITS}
    offsets, valid = _offsets(zones)
    for name, (low, high) in LIMITS.items():
        valid &= (numbers[name] >= low) & (numbers[name] <= high)
    months = ((numbers["year"] - 1970) * 12 + numbers["month"] - 1).astype("datetime64[M]")
    days = months.astype("datetime64[D]").astype(np.int64) + numbers["day"] - 1
    valid &= days < (months + 1).astype("datetime64[D]").astype(np.int64)
    seconds = ((days * 24 + numbers["hour"]) * 60 + numbers["minute"] - offsets) * 60 + numbers["second"]
    has_zone = pc.not_equal(zones, "").to_numpy(zero_copy_only=False)
    kinds = np.where(valid, np.where(has_zone, Kind.ZONED, Kind.LOCAL), Kind.OTHER).astype(np.uint8)
    return OrderValues(kinds, np.where(valid, seconds, np.nan), _digits(pc.utf8_rpad(fractions, 9, "0")))


def _offsets(zones: pa.StringArray) -> tuple[np.ndarray, np.ndarray]:
    """Minutes that each zone is ahead of UTC, and whether there is such a zone."""
    plain = pc.replace_substring_regex(zones, "[:Zz]", "")
    hours, minutes = (_digits(pc.utf8_slice_codeunits(plain, at, at + 2)) for at in (1, 3))
    behind = pc.starts_with(plain, "-").to_numpy(zero_copy_only=False)
    return np.where(behind, -1, 1) * (hours * 60 + minutes), (hours <= 23) & (minutes <= 59)


def _digits(texts: pa.StringArray) -> np.ndarray:
    """Whole numbers, 0 for empty texts, (n,) int64."""
    return pc.if_else(pc.equal(texts, ""), "0", texts).cast(pa.int64()).to_numpy()


def _of_integers(column: pa.Array) -> OrderValues:
    numbers = column.to_numpy(zero_copy_only=False)
    if numbers.dtype != np.uint64:
        numbers = numbers.astype(np.int64)
    whole = numbers.astype(np.float64)
    rest = np.zeros(len(numbers), np.int64)
    large = np.abs(whole) >= 2.0**53
    if large.any():
        # A double next to 2**63 may be beyond the integers themselves; its half is not.
        half = (whole[large] / 2).astype(numbers.dtype)
        rest[large] = (numbers[large] - half - half).view(np.int64)
    return OrderValues(np.full(len(numbers), Kind.NUMBER, np.uint8), whole, rest)


def _of_floats(column: pa.Array) -> OrderValues:
    whole = column.to_numpy(zero_copy_only=False).astype(np.float64)
    finite = np.isfinite(whole)
    kinds = np.where(finite, Kind.NUMBER, Kind.OTHER).astype(np.uint8)
    return OrderValues(kinds, np.where(finite, whole, np.nan), np.zeros(len(whole), np.int64))


def _of_timestamps(column: pa.Array) -> OrderValues:
    per_second = UNITS[column.type.unit]
    seconds, rest = np.divmod(column.cast(pa.int64()).to_numpy(), per_second)
    kind = Kind.LOCAL if column.type.tz is None else Kind.ZONED
    kinds = np.full(len(column), kind, np.uint8)
    return OrderValues(kinds, seconds.astype(np.float64), rest * (NANOSECONDS // per_second))


def _others(column: pa.Array) -> OrderValues:
    found = _missing(len(column))
    found.kinds[:] = Kind.OTHER
    return found


def _at_valid(column: pa.Array, read: Callable[[pa.Array], OrderValues]) -> OrderValues:
    """What `read` makes of the values that are there."""
    if not column.null_count:
        return read(column)
    found = _missing(len(column))
    _put(found, np.flatnonzero(_valid(column)), read(column.drop_null()))
    return found


def _put(found: OrderValues, places: np.ndarray, values: OrderValues) -> None:
    found.kinds[places] = values.kinds
    found.whole[places] = values.whole
    found.rest[places] = values.rest


def _missing(num_values: int) -> OrderValues:
    kinds = np.full(num_values, Kind.MISSING, np.uint8)
    return OrderValues(kinds, np.full(num_values, np.nan), np.zeros(num_values, np.int64))


def _matching(texts: pa.StringArray, pattern: str) -> np.ndarray:
    return pc.fill_null(pc.match_substring_regex(texts, pattern), False).to_numpy(zero_copy_only=False)


def _valid(column: pa.Array) -> np.ndarray:
    return column.is_valid().to_numpy(zero_copy_only=False).copy()


# Each pattern is tried on what those before it did not match.
READERS = (
    (SHORT_WHOLE, _read_short),
    (LONG_WHOLE, _read_long),
    (NUMBER, _read_numbers),
    (INSTANT, _read_instants),
)
